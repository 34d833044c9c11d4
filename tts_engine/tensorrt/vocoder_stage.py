"""The vocoder's stage: everything from mel to waveform, all draws being inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tts_engine.chatterbox.constants import HARMONICS, MEL_BINS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.vocoder import Vocoder
from tts_engine.tensorrt.flow_stages import random_lengths
from tts_engine.tensorrt.ports import Inputs, Port, Stage, Trial


class VocoderModule(nn.Module):
    """`Vocoder.render` of padded rows."""

    def __init__(self, vocoder: Vocoder) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(
        self,
        mel: Tensor,
        phase: Tensor,
        offsets: Tensor,
        noise: Tensor,
        lengths: Tensor,
        known_f0: Tensor,
        known: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See Vocoder.render; all float32, `lengths` and `known` (B,) int32."""
        wave, f0, phases = self.vocoder.render(mel, phase, offsets, noise, lengths, known_f0, known)
        return wave, f0, phases


def vocoder_stage(vocoder: Vocoder) -> Stage:
    """`vocoder`: sizes vary in `rows` and `frames`."""

    def example(dims: Mapping[str, int], generator: torch.Generator) -> Inputs:
        rows, longest = dims["rows"], dims["frames"]

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator)

        lengths = random_lengths(rows, longest, generator)
        return {
            "mel": torch.randn(rows, MEL_BINS, longest, generator=generator) * 2 - 4,
            "phase": uniform(rows, HARMONICS),
            "offsets": (2 * uniform(rows, HARMONICS) - 1) * math.pi,
            "noise": torch.randn(rows, HARMONICS, SAMPLES_PER_FRAME * longest, generator=generator),
            "lengths": lengths,
            "known_f0": 80 + 200 * uniform(rows, longest),
            "known": (uniform(rows) * lengths).int(),
        }

    def trials(example: Inputs) -> tuple[Trial, ...]:
        # The phase sums the F0 of all frames before: its rounding, of 1e-6, becomes an error of 1e-2 in the wave of
        # twenty seconds. So the sound is judged with the F0 given, and the F0 by itself.
        return (
            ({**example, "known": torch.zeros_like(example["known"])}, ("f0",)),
            ({**example, "known": example["lengths"]}, ("wave", "phases")),
        )

    samples = f"{SAMPLES_PER_FRAME}*frames"
    return Stage(
        "vocoder",
        VocoderModule(vocoder).eval(),
        (
            Port("mel", "float32", ("rows", MEL_BINS, "frames")),
            Port("phase", "float32", ("rows", HARMONICS)),
            Port("offsets", "float32", ("rows", HARMONICS)),
            Port("noise", "float32", ("rows", HARMONICS, samples)),
            Port("lengths", "int32", ("rows",)),
            Port("known_f0", "float32", ("rows", "frames")),
            Port("known", "int32", ("rows",)),
        ),
        (
            Port("wave", "float32", ("rows", samples)),
            Port("f0", "float32", ("rows", "frames")),
            Port("phases", "float32", ("rows", HARMONICS, "frames")),
        ),
        example,
        trials,
    )
