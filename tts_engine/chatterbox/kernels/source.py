"""The vocoder's excitation (chatterbox/source.py), from F0 to samples without a tensor of nine harmonics.

Phases are summed in the same fixed point, so that they are the plain module's on a CPU to the last bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tts_engine.chatterbox.kernels.counter import counter_normal

FRAME = 480  # samples
_HARMONICS = 9
_BLOCK = 64


@triton.jit
def _step(f0, harmonic):
    """Cycles a sample, rounded twice, as the plain module does."""
    return tl.div_rn(f0 * harmonic, 24000.0)


@triton.jit
def _ticks(cycles):
    """2^24ths of a cycle, halves to even: from 2^23 on there are none, below it the sum has no room for them."""
    scaled = cycles * 16777216.0
    return tl.where(scaled < 8388608.0, (scaled + 8388608.0) - 8388608.0, scaled).to(tl.int32)


@triton.jit
def _phases(f0, starts, phase, phases, HARMONICS: tl.constexpr, BLOCK: tl.constexpr):
    """One row. Sums wrap at 2^32, of which 2^24 is a divisor."""
    row = tl.program_id(0)
    harmonic = tl.arange(0, 16)
    real = harmonic < HARMONICS
    begin, end = tl.load(starts + row), tl.load(starts + row + 1)
    carry = _ticks(tl.load(phase + row * HARMONICS + harmonic, mask=real, other=0.0))
    for first in range(begin, end, BLOCK):
        frame = first + tl.arange(0, BLOCK)
        inside = frame < end
        hertz = tl.load(f0 + frame, mask=inside, other=0.0)
        advance = _step(hertz[:, None], (harmonic + 1).to(tl.float32)[None, :]) * 32.0
        advance = (advance - tl.floor(advance)) * 15.0  # 480 = 32 x 15
        ticks = _ticks(advance - tl.floor(advance))
        before = carry[None, :] + tl.cumsum(ticks, 0) - ticks
        cycles = (before & 0xFFFFFF).to(tl.float32) * 5.9604644775390625e-08
        tl.store(phases + frame[:, None] * HARMONICS + harmonic[None, :], cycles, mask=inside[:, None] & real[None, :])
        carry += tl.sum(ticks, 0)


@triton.jit(do_not_specialize=["slots"])
def _excite(
    f0, phases, offsets, keys, first_frame, bounds, mixer, bias, source, slots,
    HARMONICS: tl.constexpr, FRAME: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One frame."""
    slot = tl.program_id(0)
    low, high = tl.load(bounds + slot), tl.load(bounds + slots + slot)
    row = tl.load(bounds + 2 * slots + slot)
    if slot >= high:
        return
    frame = slot - row
    hertz = tl.load(f0 + frame)
    voiced = hertz > 10.0
    loudness = tl.where(voiced, 0.1, 0.0)
    noise = tl.where(voiced, 0.003, 0.1 / 3)
    key = tl.load(keys + row)
    sample = tl.arange(0, BLOCK)
    tick = (sample + 1).to(tl.float32)
    index = ((tl.load(first_frame + row) + slot - low).to(tl.int64) * FRAME + sample) * HARMONICS
    total = tl.zeros((BLOCK,), tl.float32) + tl.load(bias)
    for harmonic in range(HARMONICS):
        step = _step(hertz, (harmonic + 1) * 1.0)
        cycles = tl.load(phases + frame * HARMONICS + harmonic) + step * tick
        angle = (cycles - tl.floor(cycles)) * 6.283185307179586 + tl.load(offsets + row * HARMONICS + harmonic)
        drawn = counter_normal(key, index + harmonic)
        total += tl.load(mixer + harmonic) * (tl.sin(angle) * loudness + drawn * noise)
    total = 1.0 - 2.0 / (tl.exp(2.0 * total) + 1.0)  # tanh
    tl.store(source + slot * FRAME + sample, total, mask=sample < FRAME)


def frame_phases(f0: Tensor, starts: Tensor, phase: Tensor) -> Tensor:
    """Cycles before each frame (M, 9), from f0 (M,) and phase (R, 9) before each row's first; zero in padding."""
    phases = torch.zeros(len(f0), _HARMONICS, dtype=torch.float32, device=f0.device)
    # Products and the sums after them are rounded apart.
    _phases[(len(starts) - 1,)](f0, starts, phase, phases, _HARMONICS, _BLOCK, enable_fp_fusion=False)
    return phases


def excitation(
    f0: Tensor,
    phases: Tensor,
    offsets: Tensor,
    keys: Tensor,
    first_frame: Tensor,
    bounds: Tensor,
    mixer: Tensor,
    bias: Tensor,
) -> Tensor:
    """Samples (slots * 480,) float32; those of no frame are not written.

    f0 (M,) and phases (M, 9) as packed; of each row: offsets (R, 9) radians, keys (R,) int64 of the noise, first_frame
    (R,), counted in its sequence; mixer (9,) and bias (1,) of the source's linear layer.
    """
    slots = bounds.shape[1]
    source = torch.empty(slots * FRAME, dtype=torch.float32, device=f0.device)
    _excite[(slots,)](
        f0, phases, offsets, keys, first_frame, bounds, mixer, bias, source, slots, _HARMONICS, FRAME, 512
    )  # fmt: skip
    return source
