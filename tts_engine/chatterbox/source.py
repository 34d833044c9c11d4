"""The vocoder's excitation: nine sines over F0, noise where there is no voice (hifigan.py SineGen, SourceModuleHnNSF).

F0 is constant within a frame, so the phase is summed per frame and is a straight line inside it. The reference sums
sample by sample in float32, where a sum of thousands of cycles keeps only three or four decimals of the phase; ours
keeps the fraction alone, in fixed point, and so does not wear out with the length of the utterance.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from tts_engine.chatterbox.constants import HARMONICS, SAMPLE_RATE, SAMPLES_PER_FRAME

SINE_AMPLITUDE = 0.1
VOICED_NOISE = 0.003
UNVOICED_NOISE = SINE_AMPLITUDE / 3
VOICED_THRESHOLD = 10.0  # Hz

_CYCLE = 1 << 24  # the most that float32 counts in ones


def _steps(f0: torch.Tensor) -> torch.Tensor:
    """(B, T) Hz to (B, 9, T) cycles a sample of each harmonic, rounded as the reference rounds them."""
    harmonics = torch.arange(1, HARMONICS + 1, device=f0.device, dtype=f0.dtype)
    return f0[:, None] * harmonics[:, None] / SAMPLE_RATE


def frame_phases(f0: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    """Phase at the start of each frame, in cycles.

    f0 (B, T) Hz, phase (B, 9) before the first sample, to (B, 9, T + 1) in [0, 1): the last is the phase after the
    last sample. A frame of 0 Hz leaves the phase where it is.
    """
    # 480 = 32 x 15: the first product and both fractions are exact in floating point.
    advance = torch.frac(torch.frac(_steps(f0) * 32) * (SAMPLES_PER_FRAME // 32))
    # Summed in fixed point: the same sum in one piece or in chunks, to the last bit, and no error that grows.
    ticks = (torch.cat([phase[..., None], advance], dim=-1) * _CYCLE).round().long()
    return torch.remainder(torch.cumsum(ticks, dim=-1), _CYCLE).float() / _CYCLE


class HarmonicSource(nn.Module):
    """Nine sines and noise, mixed to one excitation. float32 always."""

    def __init__(self) -> None:
        super().__init__()
        self.l_linear = nn.Linear(HARMONICS, 1)

    def forward(
        self, f0: torch.Tensor, phases: torch.Tensor, offsets: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """From f0 (B, T) Hz, phases (B, 9, T) cycles, offsets (B, 9) radians, noise (B, 9, 480 T), to (B, 1, 480 T)."""
        batch, frames = f0.shape
        voiced = (f0 > VOICED_THRESHOLD).to(f0.dtype)[:, None, :, None]
        # The reference's sum includes the sample it is at: the first sample is one step on.
        ticks = torch.arange(1, SAMPLES_PER_FRAME + 1, device=f0.device, dtype=f0.dtype)
        start = phases * math.tau + offsets.float()[..., None]
        sines = torch.addcmul(start[..., None], (_steps(f0) * math.tau)[..., None], ticks).sin_()
        noise_amplitude = UNVOICED_NOISE + (VOICED_NOISE - UNVOICED_NOISE) * voiced
        sines = sines.mul_(SINE_AMPLITUDE * voiced)
        sines = sines.addcmul_(noise.float().view(batch, HARMONICS, frames, SAMPLES_PER_FRAME), noise_amplitude)
        mixed = torch.matmul(self.l_linear.weight, sines.view(batch, HARMONICS, frames * SAMPLES_PER_FRAME))
        return torch.tanh(mixed + self.l_linear.bias[:, None])
