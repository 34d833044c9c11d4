"""The vocoder's Fourier transforms (chatterbox/istft.py) over packed rows: 120 columns a frame, hop 4, 16 points."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 120
BINS = 9
WIDTH = 32
"Channels of the source's spectrum: 9 real, 9 imaginary parts and zeros."

_STFT_BLOCK = 64
_ISTFT_BLOCK = 128
"Columns a program; in the interpreter, all in one."


@triton.jit(do_not_specialize=["slots"])
def _stft(
    source, kernel, bounds, spectrum, slots, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.minimum(column // COLUMNS, slots - 1)
    low, high = tl.load(bounds + slot), tl.load(bounds + slots + slot)
    valid = (high > low) & (column <= high * COLUMNS) & (column < slots * COLUMNS)
    if tl.max(valid.to(tl.int32), 0) == 0:
        return
    point = tl.arange(0, 16)
    # Reflected at both ends of the row.
    at = tl.abs((column - low * COLUMNS)[:, None] * 4 + point[None, :] - 8)
    end = ((high - low) * (COLUMNS * 4) - 1)[:, None]
    at = tl.where(at > end, 2 * end - at, at) + (low * (COLUMNS * 4))[:, None]
    signal = tl.load(source + at, mask=valid[:, None], other=0.0)
    lane = tl.arange(0, WIDTH)
    basis = tl.load(kernel + point[:, None] * WIDTH + lane[None, :])
    parts = tl.dot(signal, basis, input_precision="ieee")
    tl.store(
        spectrum + column[:, None] * WIDTH + lane[None, :], parts.to(spectrum.dtype.element_ty), mask=valid[:, None]
    )


@triton.jit(do_not_specialize=["slots"])
def _istft(
    spectrum, kernel, left, right, bounds, wave, slots, COLUMNS: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Four samples of each column: they are in its own frame, the one before and the two after."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.minimum(column // COLUMNS, slots - 1)
    low, high = tl.load(bounds + slot), tl.load(bounds + slots + slot)
    row = tl.load(bounds + 2 * slots + slot)
    first, last = low * COLUMNS, high * COLUMNS
    valid = (column < last) & (column < slots * COLUMNS)
    if tl.max(valid.to(tl.int32), 0) == 0:
        return
    phase = tl.arange(0, 4)
    total = tl.zeros((BLOCK, 4), tl.float32)
    for frame in tl.static_range(4):
        at = column + frame - 1
        inside = valid & (at >= first) & (at <= last)
        for part in range(2 * BINS):
            value = tl.load(spectrum + part * slots * COLUMNS + at, mask=inside, other=0.0)
            basis = tl.load(kernel + part * 16 + 12 - 4 * frame + phase)
            total += value[:, None] * basis[None, :]
    sample = (column - first)[:, None] * 4 + phase[None, :]
    from_end = ((last - first) * 4)[:, None] - sample
    # Three frames cover the first and the last four samples, and four all others.
    total *= tl.where(sample < 4, tl.load(left + phase)[None, :], 1.0)
    total *= tl.load(right + tl.maximum(tl.minimum(from_end, 5), 0))
    total = tl.where(total > 0.99, 0.99, tl.where(total < -0.99, -0.99, total))  # not-a-number stays
    tl.store(wave + (column - row * COLUMNS)[:, None] * 4 + phase[None, :], total, mask=valid[:, None])


def stft(source: Tensor, kernel: Tensor, bounds: Tensor, dtype: torch.dtype) -> Tensor:
    """(slots * 480,) float32 to (slots * 120, 32) in dtype; kernel (16, 32). Rows have a column more than frames."""
    slots = bounds.shape[1]
    columns = slots * COLUMNS
    spectrum = torch.empty(columns, WIDTH, dtype=dtype, device=source.device)
    block = _STFT_BLOCK if source.is_cuda else triton.next_power_of_2(columns)
    _stft[(triton.cdiv(columns, block),)](source, kernel, bounds, spectrum, slots, COLUMNS, WIDTH, block)
    return spectrum


def istft(spectrum: Tensor, kernel: Tensor, left: Tensor, right: Tensor, bounds: Tensor, frames: int) -> Tensor:
    """(18, slots * 120) float32 to (frames * 480,) as packed, limited to 0.99, zero in padding.

    kernel (18, 16), left (4,) and right (6,) as chatterbox/istft.py has them.
    """
    slots = bounds.shape[1]
    wave = torch.zeros(frames * COLUMNS * 4, dtype=torch.float32, device=spectrum.device)
    block = _ISTFT_BLOCK if spectrum.is_cuda else triton.next_power_of_2(slots * COLUMNS)
    grid = (triton.cdiv(slots * COLUMNS, block),)
    _istft[grid](spectrum, kernel, left, right, bounds, wave, slots, COLUMNS, BINS, block)
    return wave
