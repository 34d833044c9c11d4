"""The reference's ChatterboxTurboTTS and our Chatterbox, loaded from one directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import perth
import torch

from benchmarks.make_checkpoint import released_sizes, write_checkpoint
from benchmarks.random_weights import F0_MEAN
from tests.parity.reference import MID_BLOCKS, fewer_blocks
from tts_engine.chatterbox.model import Chatterbox, load

# After tests.parity.reference, which puts a stand-in where these look for torchaudio.
from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS  # isort: skip
from chatterbox.tts_turbo import ChatterboxTurboTTS  # isort: skip

LAYERS = 2
"Of T3 with random weights; the widths are the released ones."
CALM = 0.4


@dataclass(frozen=True)
class Pair:
    """Both, on the CPU in float32."""

    reference: Any
    ours: Chatterbox
    released: bool
    "Whether the weights are Resemble AI's own."


class Unmarked:
    """In place of the watermarker, which is not compared here (test_watermark.py does)."""

    def apply_watermark(self, wav: Any, sample_rate: int) -> Any:
        assert sample_rate == 24000
        return wav


@contextmanager
def _cut() -> Iterator[None]:
    """The reference's modules with fewer blocks."""
    medium = LLAMA_CONFIGS["GPT2_medium"] | {"n_layer": LAYERS}
    with fewer_blocks(), mock.patch.dict(LLAMA_CONFIGS, {"GPT2_medium": medium}):
        yield


def write_random(directory: Path) -> None:
    """A checkpoint of released widths, with the encoders that the reference wants too."""
    with _cut():
        sizes = released_sizes("turbo", LAYERS, MID_BLOCKS)
        write_checkpoint(directory, sizes=sizes, dtype=torch.bfloat16, enrolment=True)


def load_pair(directory: Path, *, released: bool) -> Pair:
    """The reference by its own loader, strict for all modules, and ours."""
    with (
        nullcontext() if released else _cut(),
        mock.patch.object(perth, "PerthImplicitWatermarker", Unmarked),
        # Weights about to be overwritten need no drawing.
        mock.patch.multiple(torch.nn.init, uniform_=_undrawn, normal_=_undrawn, kaiming_uniform_=_undrawn),
    ):
        reference = ChatterboxTurboTTS.from_local(directory, "cpu")
    ours = load(directory)
    if not released:
        for predictor in (reference.s3gen.mel2wav.f0_predictor, ours.vocoder.f0_predictor):
            _calm(predictor.classifier)
    return Pair(reference, ours, released)


def _undrawn(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return tensor


@torch.no_grad()
def _calm(classifier: torch.nn.Linear) -> None:
    """An intonation as wide as speech's, about 30 Hz: rounding of the mel shows in F0 by as much less."""
    classifier.weight *= CALM
    classifier.bias.lerp_(torch.full_like(classifier.bias, F0_MEAN), 1 - CALM)
