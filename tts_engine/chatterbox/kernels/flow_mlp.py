"""The estimator's feed-forward layer and its projections, with the LayerNorm before them in the same kernel (Triton).

The channels are few (256), so a tile of frames stays on chip from the residual stream in to the residual stream out.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from tts_engine.chatterbox.kernels.flow_norm import layer_norm_tile
from tts_engine.chatterbox.kernels.flow_tiles import FEW, Table, Tile, choose, divisor

MLP_TILES: Table = {
    ("large", True): Tile(128, 64, 8, 2),
    ("large", False): Tile(32, 32, 8, 1),
    ("small", True): Tile(64, 32, 8, 2),
    ("small", False): Tile(16, 16, 4, 1),
}
PROJECT_TILES: Table = {
    ("large", True): Tile(64, 64, 4, 2),
    ("large", False): Tile(32, 32, 4, 2),
    ("small", True): Tile(64, 64, 4, 2),
    ("small", False): Tile(16, 32, 4, 1),
}
WIDEN_TILES: Table = {
    ("large", True): Tile(64, 128, 4, 3),
    ("large", False): Tile(32, 32, 4, 2),
    ("small", True): Tile(64, 64, 4, 3),
    ("small", False): Tile(16, 32, 4, 1),
}
FEW_PROJECT_TILES: Table = {**PROJECT_TILES, ("large", True): Tile(32, 128, 4, 2)}
_PARTS = 4
"Programs that share the outputs of a tile of frames in `norm_project`: enough to fill a large GPU."


@triton.jit
def gelu(x):
    """The exact one to 1.2e-6: x Phi(x) = max(x, 0) - |x| Phi(-|x|).

    log2 Phi(-a) is nearly a parabola: a polynomial of degree 5 gives Phi to 3.5e-7 (least squares, reweighted to even
    out the error), so erf to 7e-7, in a third of the instructions of erf itself. That is what this kernel waits for.
    """
    a = tl.abs(x)
    log_tail = -0.0005188731011003256 * a + 0.007387277204543352
    log_tail = log_tail * a - 0.052538156509399414
    log_tail = log_tail * a - 0.45927658677101135
    log_tail = log_tail * a - 1.15108323097229
    log_tail = log_tail * a - 1.0000008344650269
    return tl.maximum(x, 0.0) - a * tl.exp2(log_tail)


@triton.jit(do_not_specialize=["count"])
def _feed_forward(
    stream,
    shift,
    norm_weight,
    norm_bias,
    weight_1,
    bias_1,
    weight_2,
    bias_2,
    count,
    eps,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lanes = tl.arange(0, WIDTH)
    units = tl.arange(0, COLUMNS)
    there = (rows < count)[:, None]
    at = stream + rows.to(tl.int64)[:, None] * WIDTH + lanes[None, :]
    values = tl.load(at, mask=there, other=0.0)
    dtype = values.dtype
    values = values.to(tl.float32) + tl.load(shift + lanes).to(tl.float32)[None, :]
    normed = layer_norm_tile(values, norm_weight, norm_bias, eps, WIDTH).to(dtype)
    mixed = tl.zeros((ROWS, WIDTH), tl.float32)
    for chunk in range(0, HIDDEN, COLUMNS):
        up = tl.load(weight_1 + (chunk + units)[:, None] * WIDTH + lanes[None, :])
        hidden = tl.dot(normed, tl.trans(up), input_precision="ieee")
        hidden = gelu(hidden + tl.load(bias_1 + chunk + units).to(tl.float32)[None, :]).to(dtype)
        down = tl.load(weight_2 + lanes[:, None] * HIDDEN + (chunk + units)[None, :])
        mixed = tl.dot(hidden, tl.trans(down), mixed, input_precision="ieee")
    # Read again (from L2): kept all along, it would cost the loop its registers.
    values = tl.load(at, mask=there, other=0.0).to(tl.float32)
    added = tl.load(shift + lanes).to(tl.float32) + tl.load(bias_2 + lanes).to(tl.float32)
    tl.store(at, (mixed + values + added[None, :]).to(dtype), mask=there)


def feed_forward(
    stream: Tensor,
    shift: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight_1: Tensor,
    bias_1: Tensor,
    weight_2: Tensor,
    bias_2: Tensor,
    eps: float,
    tile: Tile | None = None,
) -> Tensor:
    """Give x + W2 gelu(W1 LayerNorm(x) + b1) + b2 for x = stream + shift, in place of the stream, which is returned.

    stream (N, C) contiguous; weight_1 (hidden, C), weight_2 (C, hidden) as nn.Linear has them; C a power of two,
    hidden a multiple of 16.
    """
    count, width = stream.shape
    hidden = len(weight_1)
    tile = tile or choose(MLP_TILES, stream)
    _feed_forward[(triton.cdiv(count, tile.rows),)](
        stream,
        shift,
        norm_weight,
        norm_bias,
        weight_1,
        bias_1,
        weight_2,
        bias_2,
        count,
        eps,
        WIDTH=width,
        HIDDEN=hidden,
        ROWS=tile.rows,
        COLUMNS=divisor(tile.columns, hidden),
        **tile.options,
    )
    return stream


@triton.jit(do_not_specialize=["count"])
def _norm_project(
    stream,
    shift,
    norm_weight,
    norm_bias,
    weight,
    bias,
    out,
    count,
    eps,
    WIDTH: tl.constexpr,
    OUTPUTS: tl.constexpr,
    SHARE: tl.constexpr,
    GELU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(0) * SHARE
    lanes = tl.arange(0, WIDTH)
    there = (rows < count)[:, None]
    rows = rows.to(tl.int64)[:, None]
    values = tl.load(stream + rows * WIDTH + lanes[None, :], mask=there, other=0.0)
    dtype = values.dtype
    values = values.to(tl.float32) + tl.load(shift + lanes).to(tl.float32)[None, :]
    normed = layer_norm_tile(values, norm_weight, norm_bias, eps, WIDTH).to(dtype)
    for chunk in range(first, first + SHARE, COLUMNS):
        columns = chunk + tl.arange(0, COLUMNS)
        part = tl.load(weight + columns[:, None] * WIDTH + lanes[None, :])
        result = tl.dot(normed, tl.trans(part), input_precision="ieee")
        if GELU:
            result = gelu(result + tl.load(bias + columns).to(tl.float32)[None, :])
        tl.store(out + rows * OUTPUTS + columns[None, :], result.to(dtype), mask=there)


def norm_project(
    stream: Tensor,
    shift: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    gelu_bias: Tensor | None,
    eps: float,
    tile: Tile | None = None,
) -> Tensor:
    """W LayerNorm(stream + shift), (N, outputs); with a bias, gelu(that + bias).

    stream (N, C) contiguous; weight (outputs, C), outputs a multiple of 16; C a power of two.
    """
    count, width = stream.shape
    outputs = len(weight)
    tile = tile or choose(FEW_PROJECT_TILES if count <= FEW else PROJECT_TILES, stream)
    columns = divisor(tile.columns, outputs)
    parts = divisor(_PARTS, outputs // columns)
    out = stream.new_empty(count, outputs)
    _norm_project[(parts, triton.cdiv(count, tile.rows))](
        stream,
        shift,
        norm_weight,
        norm_bias,
        weight,
        norm_bias if gelu_bias is None else gelu_bias,
        out,
        count,
        eps,
        WIDTH=width,
        OUTPUTS=outputs,
        SHARE=outputs // parts,
        GELU=gelu_bias is not None,
        ROWS=tile.rows,
        COLUMNS=columns,
        **tile.options,
    )
    return out


@triton.jit(do_not_specialize=["count"])
def _widen(
    x,
    weight,
    bias,
    out,
    count,
    WIDTH: tl.constexpr,
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    # Neighbouring programs share a tile of x, which then comes from L2.
    column_tiles: tl.constexpr = OUTPUTS // COLUMNS
    program = tl.program_id(0)
    rows = (program // column_tiles) * ROWS + tl.arange(0, ROWS)
    columns = (program % column_tiles) * COLUMNS + tl.arange(0, COLUMNS)
    lanes = tl.arange(0, DEPTH)
    there = (rows < count)[:, None]
    rows = rows.to(tl.int64)[:, None]
    result = tl.zeros((ROWS, COLUMNS), tl.float32)
    for at in range(0, WIDTH, DEPTH):
        part = tl.load(x + rows * WIDTH + (at + lanes)[None, :], mask=there, other=0.0)
        up = tl.load(weight + columns[:, None] * WIDTH + (at + lanes)[None, :])
        result = tl.dot(part, tl.trans(up), result, input_precision="ieee")
    result = gelu(result + tl.load(bias + columns).to(tl.float32)[None, :])
    tl.store(out + rows * OUTPUTS + columns[None, :], result.to(out.dtype.element_ty), mask=there)


def widen(x: Tensor, weight: Tensor, bias: Tensor, tile: Tile | None = None) -> Tensor:
    """gelu(W x + b), (N, outputs): x (N, C) contiguous, weight (outputs, C); C and outputs multiples of 64."""
    count, width = x.shape
    outputs = len(weight)
    tile = tile or choose(WIDEN_TILES, x)
    columns = divisor(tile.columns, outputs)
    out = x.new_empty(count, outputs)
    _widen[(triton.cdiv(count, tile.rows) * (outputs // columns),)](
        x,
        weight,
        bias,
        out,
        count,
        WIDTH=width,
        OUTPUTS=outputs,
        ROWS=tile.rows,
        COLUMNS=columns,
        DEPTH=divisor(64, width),
        **tile.options,
    )
    return out
