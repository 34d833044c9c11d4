"""Convolutions over packed rows, channels last: implicit matrix products with everything pointwise after them.

Every tensor is (columns, channels). A packing has `slots` frames; each row has one slot more than frames, so that the
one column more of the vocoder's last step has room. At `rate` columns a frame, a row of slots low..high - 1 owns
columns low * rate .. high * rate - 1 (one more with `edge`); what a tap reads beyond them is zero, as at the edges of
a row alone. Columns that belong to no row are neither read nor written.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
from torch import Tensor

from tts_engine.chatterbox.kernels.conv_kernel import convolve_tile

BINS = 9
"Of the spectrum that the last convolution gives."


@dataclass(frozen=True)
class Shape:
    """What one compiled kernel is for."""

    inputs: int
    "Channels read: a multiple of 16 (of 32 in half precision)."
    outputs: int
    "Outputs of a row of the product: `channels`, or several columns of them side by side."
    channels: int
    rate: int
    "Columns a frame of the input."
    edge: bool = False
    "Whether the input has the last column."
    out_edge: bool = False
    "Whether the rows of the product have it."
    stride: int = 1
    group: int = 1
    joined: int = 1


@dataclass(frozen=True)
class Tile:
    """How a kernel is cut up: rows, outputs and inputs at once, warps, loads in flight, and registers of a thread."""

    rows: int
    outputs: int
    inputs: int
    warps: int
    stages: int
    registers: int | None = None


@dataclass
class Layer:
    """Weights of one convolution, or of several of the same shape over different inputs."""

    shape: Shape
    weight: Tensor
    "(taps of all, inputs, outputs), in the dtype of the input."
    bias: Tensor
    "(branches, channels) float32."
    table: Tensor
    "(branches, 3) int32: taps, the tap that reads its own column, taps of the branches before."
    dilation: int = 1

    @property
    def branches(self) -> int:
        """How many outputs there are."""
        return len(self.bias)


@cache
def _capability(device: torch.device) -> int:
    return 0 if device.type == "cpu" else torch.cuda.get_device_capability(device)[0]


def tile_for(shape: Shape, rows: int, branches: int, dtype: torch.dtype, capability: int) -> Tile:
    """The tile for a product of `rows` rows. Small products are cut smaller, so that all multiprocessors have some.

    capability: the GPU's first number; those before 9 have less shared memory; 0 is the interpreter.
    """
    inputs = _divisor(shape.inputs, 64)
    if capability == 0:
        return Tile(
            min(4096, triton.next_power_of_2(rows)), _divisor(shape.outputs, 2048), _divisor(shape.inputs, 512), 4, 1
        )
    if dtype == torch.float32:
        return Tile(64, _divisor(shape.outputs, 64), min(32, inputs), 4, 2)
    outputs = _divisor(shape.outputs, 128)
    if rows * shape.outputs * branches < _SMALL:
        return Tile(64, min(64, outputs), inputs, 4, 4)
    if outputs < 128:
        return Tile(128, outputs, inputs, 4, 3)
    # Two programs to a multiprocessor, where their loads find room beside each other; three activations want registers.
    narrow = capability >= 9 and shape.outputs == shape.group * shape.channels
    return Tile(128, outputs, inputs, 8, 3, 128 if narrow else None)


def _divisor(size: int, most: int) -> int:
    """The greatest power of two that divides it, up to `most`."""
    return min(most, size & -size)


_SMALL = 128 * 128 * 200


def convolve(
    layer: Layer,
    x: Tensor,
    bounds: Tensor,
    *,
    out: Tensor | None = None,
    residual: Tensor | None = None,
    activated: Tensor | None = None,
    scales: Tensor | None = None,
    slope: float = 0.0,
    reflect: bool = False,
    polar: bool = False,
    tile: Tile | None = None,
) -> None:
    """Convolve x (branches or joined, slots * rate, inputs) and write any of:

    out (branches, columns, channels): convolution + bias + residual, the mean of joined ones;
    activated (n, columns, channels): that after a leaky ReLU of `slope`, or, with scales (n, 2, channels) float32
    (a and 1 / a), after Snake: one of each branch, or several of the only one.

    residual: one tensor for each branch (or joined input), or one that all share, as `out`. reflect: the result is
    one column longer, its first column mirrored. polar: out (18, columns) float32 is a spectrum, of outputs that are
    log magnitude and angle of a bin side by side.
    """
    shape, slots = layer.shape, bounds.shape[1]
    rows = slots * (shape.rate // shape.stride) // shape.group
    tile = tile or tile_for(shape, rows, layer.branches, x.dtype, _capability(x.device))
    shared = residual is not None and len(residual) < max(layer.branches, shape.joined)
    grid = (triton.cdiv(rows, tile.rows) * (shape.outputs // tile.outputs), layer.branches)
    convolve_tile[grid](
        x,
        layer.weight,
        layer.bias,
        layer.table,
        residual,
        out,
        activated,
        scales,
        bounds,
        slots,
        layer.dilation,
        shape.inputs,
        shape.outputs,
        shape.channels,
        shape.rate,
        int(shape.edge),
        shape.stride,
        int(shape.out_edge),
        shape.group,
        shape.joined,
        0 if residual is None else 1 if shared else 2,
        out is not None and not polar,
        0 if activated is None else len(activated) // layer.branches,
        slope,
        reflect,
        polar,
        x.is_cuda and x.dtype != torch.float32,
        tile.rows,
        tile.outputs,
        tile.inputs,
        num_warps=tile.warps,
        num_stages=tile.stages,
        maxnreg=tile.registers,
    )
