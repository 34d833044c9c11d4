"""Packed frames for the vocoder's kernels: where rows begin and end, and what the F0 predictor reads.

A row of T frames takes T + 1 slots, in which it is followed by one of no sound: the last step of the vocoder has a
column more than its frames. `bounds` (3, slots) int32 holds of each slot its row's first slot, the slot after the row's
last frame, and the row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 16


@triton.jit(do_not_specialize=["slots", "rows"])
def _place(
    mel, starts, bounds, taps, packed, slots, rows,
    BINS: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    every = tl.arange(0, ROWS)
    begins = tl.load(starts + every, mask=every < rows, other=1 << 30) + every
    row = tl.sum((begins[None, :] <= slot[:, None]).to(tl.int32), 1) - 1
    low = tl.load(starts + row) + row
    high = tl.load(starts + row + 1) + row
    there = slot < slots
    tl.store(bounds + slot, low, mask=there)
    tl.store(bounds + slots + slot, high, mask=there)
    tl.store(bounds + 2 * slots + slot, row, mask=there)
    lane = tl.arange(0, LANES)[None, :]
    live = (slot < high) & there
    for tap in tl.static_range(3):
        at = slot + tap - 1
        inside = live & (at >= low) & (at < high)
        value = tl.load(mel + (at - row)[:, None] * BINS + lane, mask=inside[:, None] & (lane < BINS), other=0.0)
        tl.store(taps + (slot * 3 + tap)[:, None] * BINS + lane, value, mask=there[:, None] & (lane < BINS))
        if tap == 1:
            narrow = value.to(packed.dtype.element_ty)
            tl.store(packed + slot[:, None] * WIDTH + lane, narrow, mask=there[:, None] & (lane < WIDTH))


@triton.jit
def _elu(x):
    return tl.where(x > 0, x, tl.exp(x) - 1.0)


@triton.jit(do_not_specialize=["slots"])
def _spread(y, bounds, taps, slots, WIDTH: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr):
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, LANES)[None, :]
    there = slot < slots
    low = tl.load(bounds + slot, mask=there, other=0)
    high = tl.load(bounds + slots + slot, mask=there, other=0)
    for tap in tl.static_range(3):
        at = slot + tap - 1
        inside = (slot < high) & (at >= low) & (at < high)
        value = tl.load(y + at[:, None] * WIDTH + lane, mask=inside[:, None] & (lane < WIDTH), other=0.0)
        tl.store(taps + (slot * 3 + tap)[:, None] * WIDTH + lane, _elu(value), mask=there[:, None] & (lane < WIDTH))


@triton.jit(do_not_specialize=["slots"])
def _pitch(
    y, bounds, weight, bias, known_f0, known, f0, slots,
    WIDTH: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, LANES)
    there = slot < slots
    low = tl.load(bounds + slot, mask=there, other=0)
    high = tl.load(bounds + slots + slot, mask=there, other=0)
    row = tl.load(bounds + 2 * slots + slot, mask=there, other=0)
    live = there & (slot < high)
    wide = lane < WIDTH
    value = tl.load(y + slot[:, None] * WIDTH + lane[None, :], mask=live[:, None] & wide[None, :], other=0.0)
    mixed = tl.sum(_elu(value) * tl.load(weight + lane, mask=wide, other=0.0)[None, :], 1)
    hertz = tl.abs(mixed + tl.load(bias))
    given = live & (slot - low < tl.load(known + row))
    hertz = tl.where(given, tl.load(known_f0 + slot - row, mask=given, other=0.0), hertz)
    tl.store(f0 + slot - row, hertz, mask=live)


def place(mel: Tensor, starts: Tensor, slots: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """From mel (M, bins) float32 and starts (R + 1,): bounds; each slot's three neighbours side by side (slots, 3 bins)
    float32, zeros where a row has none; and (slots, width) in dtype, zeros where there is no frame or bin.
    """
    rows, bins = len(starts) - 1, mel.shape[1]
    bounds = torch.empty(3, slots, dtype=torch.int32, device=mel.device)
    taps = torch.empty(slots, 3 * bins, dtype=torch.float32, device=mel.device)
    packed = torch.empty(slots, width, dtype=dtype, device=mel.device)
    lanes = triton.next_power_of_2(max(bins, width))
    grid = (triton.cdiv(slots, _BLOCK),)
    every = triton.next_power_of_2(rows)
    _place[grid](mel, starts, bounds, taps, packed, slots, rows, bins, lanes, width, every, _BLOCK)
    return bounds, taps, packed


def spread(y: Tensor, bounds: Tensor) -> Tensor:
    """elu(y) of each slot's three neighbours side by side: (slots, width) to (slots, 3 width), zeros beyond a row."""
    slots, width = y.shape
    taps = torch.empty(slots, 3 * width, dtype=y.dtype, device=y.device)
    grid = (triton.cdiv(slots, _BLOCK),)
    _spread[grid](y, bounds, taps, slots, width, triton.next_power_of_2(width), _BLOCK)
    return taps


def pitch(
    y: Tensor, bounds: Tensor, weight: Tensor, bias: Tensor, known_f0: Tensor, known: Tensor, frames: int
) -> Tensor:
    """|elu(y) weight + bias|, (frames,) Hz as they were packed, zero in padding; the first `known` (R,) of each row
    are known_f0's.
    """
    slots, width = y.shape
    f0 = torch.zeros(frames, dtype=torch.float32, device=y.device)
    grid = (triton.cdiv(slots, _BLOCK),)
    lanes = triton.next_power_of_2(width)
    _pitch[grid](y, bounds, weight, bias, known_f0, known, f0, slots, width, lanes, _BLOCK)
    return f0
