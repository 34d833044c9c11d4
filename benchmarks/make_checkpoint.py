"""Write a checkpoint in the released layout with seeded random weights: to run and measure without the hub.

    python benchmarks/make_checkpoint.py DIR [--flavour nano] [--layers N] [--mid-blocks N] [--dtype bfloat16] ...

What it says is noise (see random_weights.py).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.random_weights import Tensor, random_conditionals, s3gen_tensors, t3_tensors
from benchmarks.synthetic_tokenizer import write_tokenizer
from tts_engine.chatterbox.checkpoint import CONDS_FILE, S3GEN_FILE, T3_FILES, VOICE_ENCODER_FILE, Flavour
from tts_engine.chatterbox.flow import FlowSizes
from tts_engine.chatterbox.t3 import T3Sizes
from tts_engine.chatterbox.tensor_file import DTYPES
from tts_engine.chatterbox.vocoder import VocoderSizes

RANDOM_NOTE = "RANDOM_WEIGHTS.txt"
"Beside the released names: nobody should take these files for a model."


@dataclass(frozen=True)
class Sizes:
    """Of all three modules."""

    t3: T3Sizes
    flow: FlowSizes
    vocoder: VocoderSizes


def released_sizes(flavour: Flavour, layers: int | None = None, mid_blocks: int | None = None) -> Sizes:
    """Turbo's or Nano's; T3 and the estimator cut to a depth if one is given."""
    t3 = T3Sizes(24, 1024, 16) if flavour == "turbo" else T3Sizes(12, 768, 12)
    flow = FlowSizes() if mid_blocks is None else FlowSizes(mid_blocks=mid_blocks)
    return Sizes(t3 if layers is None else replace(t3, layers=layers), flow, VocoderSizes())


def small_sizes() -> Sizes:
    """A few million parameters behind the released interfaces and vocabularies: for tests, loads in a moment."""
    flow = FlowSizes(
        width=64,
        heads=2,
        feed_forward=128,
        layers=2,
        up_layers=1,
        channels=64,
        time_width=64,
        estimator_heads=1,
        estimator_feed_forward=128,
        mid_blocks=2,
        transformers=1,
    )
    return Sizes(T3Sizes(2, 64, 1, positions=2048), flow, VocoderSizes(64, 64))


def write_checkpoint(
    directory: Path,
    *,
    flavour: Flavour = "turbo",
    sizes: Sizes | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    unread: bool = True,
    enrolment: bool = False,
) -> None:
    """Write all files of a model; the same arguments give the same files. Takes memory for one tensor at a time.

    `unread`: with T3's two tables that inference does not use. `enrolment`: with the encoders that enrolment uses, in
    float32; their architecture is that of the reference package, which must be installed for it.
    """
    sizes = sizes or released_sizes(flavour)
    generator = torch.Generator().manual_seed(seed)
    directory.mkdir(parents=True, exist_ok=True)
    write_tokenizer(directory)
    write_safetensors(directory / T3_FILES[flavour], t3_tensors(sizes.t3, generator, dtype, unread=unread), dtype)
    s3gen = s3gen_tensors(sizes.flow, sizes.vocoder, generator, dtype)
    encoders = _encoders(seed) if enrolment else {}
    write_safetensors(directory / S3GEN_FILE, chain(s3gen, encoders.pop("s3gen", ())), dtype)
    if enrolment:
        write_safetensors(directory / VOICE_ENCODER_FILE, encoders["voice_encoder"], dtype)
    torch.save(random_conditionals(generator), directory / CONDS_FILE)
    (directory / RANDOM_NOTE).write_text(f"Random weights of seed {seed}: what they say is noise.\n", encoding="utf-8")


def _encoders(seed: int) -> dict[str, list[Tensor]]:
    """The reference's encoders as it initialises them, by file. ImportError without the package."""
    from chatterbox.models.s3gen.xvector import CAMPPlus  # noqa: PLC0415
    from chatterbox.models.s3tokenizer import S3Tokenizer  # noqa: PLC0415
    from chatterbox.models.voice_encoder import VoiceEncoder  # noqa: PLC0415

    def tensors(module: Any, prefix: str) -> Iterator[Tensor]:
        for name, tensor in module.state_dict().items():
            yield Tensor(prefix + name, tuple(tensor.shape), lambda tensor=tensor: tensor, tensor.dtype)

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        s3gen = (
            *tensors(S3Tokenizer("speech_tokenizer_v2_25hz"), "tokenizer."),
            *tensors(CAMPPlus(), "speaker_encoder."),
        )
        return {"s3gen": list(s3gen), "voice_encoder": list(tensors(VoiceEncoder(), ""))}


def write_safetensors(path: Path, tensors: Iterable[Tensor], dtype: torch.dtype) -> None:
    """Tensors one after the other, each drawn when it is written: the library's writer wants all at once."""
    planned = list(tensors)
    names = {known: name for name, known in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in planned:
        start, end = end, end + math.prod(tensor.shape) * (tensor.dtype or dtype).itemsize
        header[tensor.name] = {
            "dtype": names[tensor.dtype or dtype],
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in planned:
            values = tensor.draw().to(tensor.dtype or dtype).contiguous().view(-1)
            if values.shape != (math.prod(tensor.shape),):
                raise ValueError(f"{tensor.name} was drawn with {len(values)} values, planned is {tensor.shape}")
            file.write(values.view(torch.uint8).numpy().data)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--flavour", choices=T3_FILES, default="turbo")
    parser.add_argument("--layers", type=int, help="blocks of T3 (24 in Turbo, 12 in Nano)")
    parser.add_argument("--mid-blocks", type=int, help="of the estimator (12)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--enrolment", action="store_true", help="with the encoders; wants the reference package")
    arguments = parser.parse_args()
    start = time.monotonic()
    write_checkpoint(
        arguments.directory,
        flavour=arguments.flavour,
        sizes=released_sizes(arguments.flavour, arguments.layers, arguments.mid_blocks),
        seed=arguments.seed,
        dtype=getattr(torch, arguments.dtype),
        enrolment=arguments.enrolment,
    )
    size = sum(path.stat().st_size for path in arguments.directory.iterdir() if path.is_file())
    print(f"{arguments.directory}: {size / 1e9:.2f} GB in {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
