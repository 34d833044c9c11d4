"""LayerNorm of packed frames with what stands before and after it, one read and one write (Triton)."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 4096
"Of a tile: enough loads in flight for each of a multiprocessor's warps."


@triton.jit
def layer_norm_tile(x, weight, bias, eps, WIDTH: tl.constexpr):
    """(rows, WIDTH) float32, normalised along WIDTH; two passes in registers, for the variance's sake."""
    mean = tl.sum(x, 1) / WIDTH
    centred = x - mean[:, None]
    variance = tl.sum(centred * centred, 1) / WIDTH
    lanes = tl.arange(0, WIDTH)
    scale = tl.load(weight + lanes).to(tl.float32)
    offset = tl.load(bias + lanes).to(tl.float32)
    return centred * tl.rsqrt(variance + eps)[:, None] * scale[None, :] + offset[None, :]


@triton.jit
def mish(x):
    """Mish: x tanh(softplus(x)) = x n / (n + 2) with n = e^x (e^x + 2): no difference of nearly equal numbers."""
    power = tl.exp(tl.minimum(x, 20.0))  # beyond, n / (n + 2) is 1 in float32
    n = power * (power + 2.0)
    return x * (n / (n + 2.0))


@triton.jit(do_not_specialize=["count"])
def _normalise(
    x, shift, weight, bias, after, out, count, eps, WIDTH: tl.constexpr, MISH: tl.constexpr, ROWS: tl.constexpr
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lanes = tl.arange(0, WIDTH)
    there = (rows < count)[:, None]
    at = rows.to(tl.int64)[:, None] * WIDTH + lanes[None, :]
    values = tl.load(x + at, mask=there, other=0.0).to(tl.float32) + tl.load(shift + lanes).to(tl.float32)[None, :]
    values = layer_norm_tile(values, weight, bias, eps, WIDTH)
    if MISH:
        values = mish(values) + tl.load(after + lanes).to(tl.float32)[None, :]
    tl.store(out + at, values.to(out.dtype.element_ty), mask=there)


def _launch(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float, after: Tensor | None, out: Tensor
) -> Tensor:
    count, width = x.shape
    rows = max(1, _ELEMENTS // width)
    _normalise[(triton.cdiv(count, rows),)](
        x,
        shift,
        weight,
        bias,
        weight if after is None else after,
        out,
        count,
        eps,
        WIDTH=width,
        MISH=after is not None,
        ROWS=rows,
        num_warps=4,
    )
    return out


def layer_norm(x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm of x + shift: x (N, C) contiguous, C a power of two, the others (C,)."""
    return _launch(x, shift, weight, bias, eps, None, x.new_empty(x.shape))


def layer_norm_mish(x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float, after: Tensor) -> Tensor:
    """Give mish(LayerNorm(x + shift)) + after in place of x, which is returned."""
    return _launch(x, shift, weight, bias, eps, after, x)
