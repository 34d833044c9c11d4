"""Convolution over packed rows: the frames that a position reads laid side by side, for a matrix product (Triton)."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 4096


@triton.jit(do_not_specialize=["count"])
def _gather(
    source,
    shift,
    position,
    left,
    out,
    count,
    WIDTH: tl.constexpr,
    PITCH: tl.constexpr,
    COLUMN: tl.constexpr,
    TAPS: tl.constexpr,
    AHEAD: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = rows < count
    before = tl.load(position + rows, mask=there, other=0)
    after = tl.load(left + rows, mask=there, other=0)
    lanes = tl.arange(0, LANES)
    known = lanes < WIDTH
    added = tl.load(shift + lanes, mask=known, other=0.0).to(tl.float32)
    rows = rows.to(tl.int64)
    for tap in tl.static_range(TAPS):
        step = tap - (TAPS - 1 - AHEAD)
        seen = (there & (before + step >= 0) & (after >= step))[:, None] & known[None, :]
        values = tl.load(source + (rows + step)[:, None] * WIDTH + lanes[None, :], mask=seen, other=0.0)
        values = tl.where(seen, values.to(tl.float32) + added[None, :], 0.0)
        at = rows[:, None] * (TAPS * PITCH) + tap * PITCH + COLUMN + lanes[None, :]
        tl.store(out + at, values.to(out.dtype.element_ty), mask=there[:, None] & known[None, :])


def gather_taps(
    source: Tensor,
    shift: Tensor,
    position: Tensor,
    left: Tensor,
    out: Tensor,
    *,
    taps: int,
    ahead: int = 0,
    column: int = 0,
) -> Tensor:
    """Write source + shift of the `taps` frames around each, `ahead` of them to come, into `out`, which is returned.

    source (N, C) contiguous, of any float dtype; shift (C,); position, left (N,): see packing.Packing.
    out (N, taps * P): tap t of the frame goes to columns t P + column .. + C, and 0 to where its row has no frame.
    """
    count, width = source.shape
    lanes = triton.next_power_of_2(width)
    rows = max(1, _ELEMENTS // lanes)
    _gather[(triton.cdiv(count, rows),)](
        source,
        shift,
        position,
        left,
        out,
        count,
        WIDTH=width,
        PITCH=out.shape[1] // taps,
        COLUMN=column,
        TAPS=taps,
        AHEAD=ahead,
        ROWS=rows,
        LANES=lanes,
        num_warps=4,
    )
    return out
