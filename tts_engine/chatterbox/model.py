"""A whole model in memory, loaded from a directory in the released layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from tts_engine.chatterbox.checkpoint import (
    CONDS_FILE,
    S3GEN_FILE,
    T3_FILES,
    CheckpointError,
    Flavour,
    flavours,
    missing_files,
    named,
    tokenizer_files,
)
from tts_engine.chatterbox.conds import CondsError, read_conds
from tts_engine.chatterbox.flow import Flow, FlowSizes
from tts_engine.chatterbox.t3 import T3, T3Sizes
from tts_engine.chatterbox.tensor_file import TensorFile, TensorFileError
from tts_engine.chatterbox.tokenizer import TextTokenizer, TokenizerError
from tts_engine.chatterbox.vocoder import Vocoder, VocoderSizes
from tts_engine.chatterbox.voice import Voice
from tts_engine.chatterbox.weights import Match, below, fill, match
from tts_engine.errors import EngineError

UNREAD_T3 = ("tfmr.wte.weight", "text_head.weight")
"In the file, but of no use to inference: GPT-2's own embedding and the head that predicts text; 206 MB each."
FLOW, VOCODER = "flow.", "mel2wav."
UNREAD_S3GEN = ("speaker_encoder.", "tokenizer.")
"Prefixes of what only enrolment uses."

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_Shapes = Mapping[str, tuple[int, ...]]
_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class Chatterbox:
    """All that turns text and a voice into speech."""

    flavour: Flavour
    t3: T3
    flow: Flow
    vocoder: Vocoder
    tokenizer: TextTokenizer
    default_voice: Voice | None
    "The voice that came with the model, float32 on its device; None if none did."
    device: torch.device
    dtype: torch.dtype

    @property
    def sizes(self) -> T3Sizes:
        return self.t3.sizes


def load(directory: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Chatterbox:
    """Read a model's files, every tensor straight into `dtype` on `device`; sizes come from the tensors' shapes.

    dtype: float32, bfloat16 or float16; the vocoder's F0 and source stay float32 in any. Raises CheckpointError, which
    lists all that is wrong with the files, before anything large is read; EngineError if the device has no room.
    """
    device = device_of(device)
    if dtype not in _DTYPES:
        raise ValueError(f"{dtype} is not one of {', '.join(map(str, _DTYPES))}")
    problems = missing_files(directory)
    if not directory.is_dir():
        raise CheckpointError(directory, problems)
    with ExitStack() as files:
        flavour = _flavour(directory, problems)
        t3_file = _open(directory / T3_FILES[flavour], files, problems)
        s3gen_file = _open(directory / S3GEN_FILE, files, problems)
        t3 = _t3(t3_file, problems) if t3_file else None
        flow = _planned(_flow, s3gen_file, FLOW, problems) if s3gen_file else None
        vocoder = _planned(_vocoder, s3gen_file, VOCODER, problems) if s3gen_file else None
        if s3gen_file:
            known = (FLOW, VOCODER, *UNREAD_S3GEN)
            if unexpected := [name for name in s3gen_file.shapes if not name.startswith(known)]:
                problems.append(f"{S3GEN_FILE} has unexpected {named(unexpected)}")
        tokenizer = _tokenizer(directory, problems)
        voice = _voice(directory, problems)
        if problems or not (t3_file and s3gen_file and t3 and flow and vocoder and tokenizer):
            raise CheckpointError(directory, problems)
        _fill(*t3, t3_file, device, dtype, directory)
        _fill(*flow, s3gen_file, device, dtype, directory)
        _fill(*vocoder, s3gen_file, device, dtype, directory, Vocoder.FLOAT32_PREFIXES)
    return Chatterbox(
        flavour,
        t3[0],
        flow[0],
        vocoder[0],
        tokenizer,
        voice.to(device, torch.float32) if voice else None,
        device,
        dtype,
    )


def device_of(name: torch.device | str) -> torch.device:
    """The device of that name. Raises EngineError if there is none."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise EngineError(f"{name!r} is not the name of a device; known are cpu, cuda, cuda:1 ...") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EngineError(f"there is no device {device}: PyTorch sees {torch.cuda.device_count()} CUDA devices here")
    return device


def _flavour(directory: Path, problems: list[str]) -> Flavour:
    found = flavours(directory)
    if len(found) > 1:
        problems.append(f"{' and '.join(T3_FILES[flavour] for flavour in found)}: one directory is for one model")
    return found[0] if found else "turbo"


def _open(path: Path, files: ExitStack, problems: list[str]) -> TensorFile | None:
    """The file, to be closed with `files`; None, and a problem if it is not merely missing, if it cannot be read."""
    if not path.exists():
        return None
    try:
        return files.enter_context(TensorFile(path))
    except TensorFileError as error:
        problems.append(str(error))
        return None


def _t3(file: TensorFile, problems: list[str]) -> tuple[T3, Match] | None:
    if any(name.startswith("tfmr.layers.") for name in file.shapes):
        problems.append(
            f"{file.path.name} is the original Chatterbox (or its multilingual sister), whose T3 is a Llama: "
            f"this engine speaks with Turbo and Nano only"
        )
        return None
    return _planned(lambda shapes: T3(T3Sizes.from_shapes(shapes)), file, "", problems, UNREAD_T3)


def _flow(shapes: _Shapes) -> Flow:
    return Flow(FlowSizes.from_shapes(shapes))


def _vocoder(shapes: _Shapes) -> Vocoder:
    return Vocoder(VocoderSizes.from_shapes(shapes))


def _planned(
    make: Callable[[_Shapes], _Module],
    file: TensorFile,
    prefix: str,
    problems: list[str],
    unread: tuple[str, ...] = (),
) -> tuple[_Module, Match] | None:
    """The module, on the meta device, and where its tensors are; None and a problem if they make none."""
    try:
        with torch.device("meta"):
            module = make(below(file.shapes, prefix))
    except (ValueError, IndexError) as error:
        problems.append(f"{file.path.name}: {error}")
        return None
    found = match(module, file, prefix, unread)
    problems += found.problems
    return module, found


def _fill(
    module: nn.Module,
    found: Match,
    file: TensorFile,
    device: torch.device,
    dtype: torch.dtype,
    directory: Path,
    float32_prefixes: tuple[str, ...] = (),
) -> None:
    try:
        fill(
            module,
            file,
            found,
            dtype=dtype,
            device=device,
            keep_float32=lambda name: bool(float32_prefixes) and name.startswith(float32_prefixes),
        )
    except TensorFileError as error:
        raise CheckpointError(directory, [str(error)]) from None
    except torch.OutOfMemoryError:
        raise EngineError(f"{device} has no room for the model in {directory}") from None


def _tokenizer(directory: Path, problems: list[str]) -> TextTokenizer | None:
    if not all((directory / name).is_file() for name in tokenizer_files(directory)):
        return None  # listed among the missing files
    try:
        return TextTokenizer(directory)
    except TokenizerError as error:
        problems.append(str(error))
        return None


def _voice(directory: Path, problems: list[str]) -> Voice | None:
    path = directory / CONDS_FILE
    if not path.exists():
        return None
    try:
        return read_conds(path)
    except CondsError as error:
        problems.append(str(error))
        return None
