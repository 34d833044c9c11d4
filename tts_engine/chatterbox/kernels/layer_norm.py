"""LayerNorm together with what stands before it: the residual add, or the embeddings of a step (Triton)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

EPSILON = 1e-5
"GPT-2's."


@triton.jit
def _normalised(x, there, weight, bias, lanes, width, EPSILON: tl.constexpr):
    """One row in float32, as a two-pass LayerNorm: `x` is 0 where not `there`."""
    mean = tl.sum(x, 0) / width
    centred = tl.where(there, x - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / width + EPSILON)
    gain = tl.load(weight + lanes, mask=there, other=0.0).to(tl.float32)
    offset = tl.load(bias + lanes, mask=there, other=0.0).to(tl.float32)
    return centred * scale * gain + offset


@triton.jit
def _layer_norm(x, added, weight, bias, out, width, ADD: tl.constexpr, EPSILON: tl.constexpr, BLOCK: tl.constexpr):
    """One row: x += added, then out = LN(x) of what was stored, as the plain modules round it."""
    row = tl.program_id(0).to(tl.int64) * width
    lanes = tl.arange(0, BLOCK)
    there = lanes < width
    hidden = tl.load(x + row + lanes, mask=there, other=0.0)
    if ADD:
        total = hidden.to(tl.float32) + tl.load(added + row + lanes, mask=there, other=0.0).to(tl.float32)
        hidden = total.to(hidden.dtype)
        tl.store(x + row + lanes, hidden, mask=there)
    normed = _normalised(hidden.to(tl.float32), there, weight, bias, lanes, width, EPSILON)
    tl.store(out + row + lanes, normed.to(out.dtype.element_ty), mask=there)


# `positions` and `slots` are what a service is set to; the others are the model's.
@triton.jit(do_not_specialize=["positions", "slots"])
def _begin_step(
    rows,
    last,
    lengths,
    voice,
    prefix_lengths,
    speech,
    places,
    weight,
    bias,
    hidden,
    normed,
    at_out,
    voice_out,
    positions,
    slots,
    width,
    EPSILON: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row of a step: where it stands, its token's and position's embeddings, and the first block's LN of them."""
    index = tl.program_id(0)
    row = tl.load(rows + index)
    state = row % slots
    at = tl.minimum(tl.load(lengths + row), positions - 1)
    # The idle row, its twin too, stays empty: its steps cost nothing.
    tl.store(lengths + row, tl.where(state == slots - 1, 0, at + 1))
    speaker = tl.load(voice + row)
    tl.store(at_out + index, at)
    tl.store(voice_out + index, speaker)
    token = tl.load(last + state).to(tl.int64)
    place = (at + tl.load(prefix_lengths + speaker)).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    there = lanes < width
    total = tl.load(speech + token * width + lanes, mask=there, other=0.0).to(tl.float32)
    total += tl.load(places + place * width + lanes, mask=there, other=0.0).to(tl.float32)
    x = total.to(hidden.dtype.element_ty)
    tl.store(hidden + index * width + lanes, x, mask=there)
    first = _normalised(x.to(tl.float32), there, weight, bias, lanes, width, EPSILON)
    tl.store(normed + index * width + lanes, first.to(normed.dtype.element_ty), mask=there)


def _warps(width: int) -> int:
    """About 8 numbers a thread."""
    return int(max(1, min(8, triton.next_power_of_2(width) // 256)))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None = None) -> Tensor:
    """LN of `x` (N, width), contiguous; with `added` of the same shape x += added first, in place."""
    rows, width = x.shape
    out = torch.empty_like(x)
    block, warps = triton.next_power_of_2(width), _warps(width)
    _layer_norm[(rows,)](
        x, x if added is None else added, weight, bias, out, width, added is not None, EPSILON, block, num_warps=warps
    )
    return out


@dataclass(frozen=True)
class Step:
    """A step's rows as it begins: hidden and normed (B, width); at (B,) and voice (B,) int32."""

    hidden: Tensor
    normed: Tensor
    at: Tensor
    voice: Tensor


def begin_step(
    rows: Tensor,
    last: Tensor,
    lengths: Tensor,
    voice: Tensor,
    prefix_lengths: Tensor,
    speech: Tensor,
    places: Tensor,
    weight: Tensor,
    bias: Tensor,
    positions: int,
) -> Step:
    """Rows (B,) int32 of the cache, whose token chosen last is last[row % slots], to the stream's start.

    `lengths`, `voice`: all rows of the cache; lengths count up in place. `last` (slots,) int32, the last slot is idle;
    `speech` and `places` are the embedding tables; `weight`, `bias` the first block's LN; `positions`: a row's most.
    """
    batch, width = len(rows), speech.shape[1]
    hidden = torch.empty(batch, width, dtype=speech.dtype, device=speech.device)
    normed = torch.empty_like(hidden)
    at, speakers = torch.empty_like(rows), torch.empty_like(rows)
    _begin_step[(batch,)](
        rows,
        last,
        lengths,
        voice,
        prefix_lengths,
        speech,
        places,
        weight,
        bias,
        hidden,
        normed,
        at,
        speakers,
        positions,
        len(last),
        width,
        EPSILON,
        triton.next_power_of_2(width),
        num_warps=_warps(width),
    )
    return Step(hidden, normed, at, speakers)
