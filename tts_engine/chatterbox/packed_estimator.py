"""The flow's estimator over packed rows (packing.py), equal to estimator.Estimator row by row.

Between the layers goes one buffer, the residual stream, updated in place. Biases of the products that add to it wait
until a kernel reads it: `pending` is what the stream still lacks. That leaves the additions to cuBLAS (beta = 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tts_engine.chatterbox.estimator import CausalBlock, Estimator, Resnet, Stage, TransformerBlock
from tts_engine.chatterbox.flow_layers import FrameConv
from tts_engine.chatterbox.kernels.flow_attention import attend
from tts_engine.chatterbox.kernels.flow_mlp import feed_forward, norm_project, widen
from tts_engine.chatterbox.kernels.flow_norm import layer_norm, layer_norm_mish
from tts_engine.chatterbox.kernels.flow_taps import gather_taps
from tts_engine.chatterbox.kernels.flow_tiles import FEW
from tts_engine.chatterbox.packing import Packing

TAPS = 3


@dataclass(frozen=True)
class Tuning:
    """Ways to compute the same; which is fastest depends on the GPU (benchmarks/packed_flow.py)."""

    mlp: Literal["fused", "split", "widened"] = "widened"
    """One kernel; two: LayerNorm to GELU and a product; or three: LayerNorm, a product with GELU and another, but two
    where frames are few.
    """
    qkv: Literal["fused", "split"] = "split"
    "LayerNorm in the product's kernel, or before cuBLAS's."


class _Norm:
    def __init__(self, norm: nn.LayerNorm) -> None:
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def __call__(self, x: Tensor, pending: Tensor) -> Tensor:
        out: Tensor = layer_norm(x, pending, self.weight, self.bias, self.eps)
        return out


class _Block:
    """A transformer block. `pending`: of the stream that it is given; `leaves`: of the stream that it leaves."""

    def __init__(self, block: TransformerBlock, pending: Tensor, tuning: Tuning) -> None:
        self._tuning = tuning
        self._heads = block.attn1.heads
        self._norm_1, self._norm_3 = _Norm(block.norm1), _Norm(block.norm3)
        self._qkv = block.attn1.qkv.weight
        out, up, down = block.attn1.to_out[0], block.ff.net[0].proj, block.ff.net[2]
        assert isinstance(out, nn.Linear) and isinstance(up, nn.Linear) and isinstance(down, nn.Linear)  # noqa: S101
        self._out, self._up, self._down = out, up, down
        self._pending = pending
        self._between = pending + out.bias.float()
        self.leaves = torch.zeros_like(pending) if tuning.mlp == "fused" else self._between + down.bias.float()

    def __call__(self, x: Tensor, packing: Packing) -> Tensor:
        x.addmm_(self._attended(x, packing), self._out.weight.t())
        norm, up, down = self._norm_3, self._up, self._down
        if self._tuning.mlp == "fused":
            weights = (norm.weight, norm.bias, up.weight, up.bias, down.weight, down.bias)
            feed_forward(x, self._between, *weights, norm.eps)
            return x
        few = len(x) <= FEW and self._tuning.mlp == "widened"
        if few or self._tuning.mlp == "split":
            hidden = norm_project(x, self._between, norm.weight, norm.bias, up.weight, up.bias, norm.eps)
        else:
            hidden = widen(norm(x, self._between), up.weight, up.bias)
        return x.addmm_(hidden, down.weight.t())

    def _attended(self, x: Tensor, packing: Packing) -> Tensor:
        norm = self._norm_1
        if self._tuning.qkv == "fused":
            projected = norm_project(x, self._pending, norm.weight, norm.bias, self._qkv, None, norm.eps)
        else:
            projected = norm(x, self._pending) @ self._qkv.t()
        attended: Tensor = attend(projected, packing.starts, packing.lengths, packing.most, self._heads)
        return attended


class _Conv:
    """A convolution of TAPS frames of the past, whose bias the caller adds."""

    def __init__(self, conv: FrameConv) -> None:
        self.bias = conv.bias.float()
        self._weight = conv.weight

    def __call__(self, x: Tensor, pending: Tensor, packing: Packing) -> Tensor:
        sides = x.new_empty(len(x), TAPS * x.shape[1])
        return self.of_gathered(gather_taps(x, pending, packing.position, packing.left, sides, taps=TAPS))

    def of_gathered(self, sides: Tensor) -> Tensor:
        return sides @ self._weight.t()


class _Causal:
    """Convolution, LayerNorm and Mish."""

    def __init__(self, block: CausalBlock) -> None:
        conv, norm = block.block[0], block.block[2]
        assert isinstance(conv, FrameConv) and isinstance(norm, nn.LayerNorm)  # noqa: S101
        self.conv, self._norm = _Conv(conv), _Norm(norm)

    def finish(self, x: Tensor, after: Tensor) -> Tensor:
        """LayerNorm and Mish of what the convolution gave, in place, and `after` added."""
        norm = self._norm
        out: Tensor = layer_norm_mish(x, self.conv.bias, norm.weight, norm.bias, norm.eps, after)
        return out


class _Resnet:
    def __init__(self, resnet: Resnet) -> None:
        self._first, self._second = _Causal(resnet.block1), _Causal(resnet.block2)
        self._straight = resnet.res_conv.weight
        self._zeros = torch.zeros_like(self._first.conv.bias)
        self.leaves = resnet.res_conv.bias.float()

    def __call__(self, sides: Tensor, time: Tensor, packing: Packing) -> Tensor:
        """Of the gathered input (N, 3 C): the frame itself is the last tap."""
        x = self._first.finish(self._first.conv.of_gathered(sides), time)
        x = self._second.finish(self._second.conv(x, self._zeros, packing), self._zeros)
        return x.addmm_(sides[:, -self._straight.shape[1] :], self._straight.t())


class _Stage:
    def __init__(self, stage: Stage, tuning: Tuning) -> None:
        self._resnet = _Resnet(stage.resnet)
        self.leaves = self._resnet.leaves
        self._blocks = []
        for block in stage[1]:  # type: ignore[attr-defined]
            self._blocks.append(_Block(block, self.leaves, tuning))
            self.leaves = self._blocks[-1].leaves

    def __call__(self, sides: Tensor, time: Tensor, packing: Packing) -> Tensor:
        x = self._resnet(sides, time, packing)
        for block in self._blocks:
            x = block(x, packing)
        return x


class PackedEstimator:
    """Takes the estimator's parameters as they are (device, dtype). Convolutions look back only: `inside` is not read,
    and what a row's look-ahead or the padding holds stays there.
    """  # fmt: skip

    def __init__(self, estimator: Estimator, tuning: Tuning) -> None:
        down, up = estimator.down_blocks[0], estimator.up_blocks[0]
        assert isinstance(down, Stage) and isinstance(up, Stage)  # noqa: S101
        self._down, self._up = _Stage(down, tuning), _Stage(up, tuning)
        self._mid = [_Stage(stage, tuning) for stage in estimator.mid_blocks]  # type: ignore[arg-type]
        self._down_conv, self._up_conv = _Conv(down[2]), _Conv(up[2])  # type: ignore[arg-type]
        self._final, self._final_proj = _Causal(estimator.final_block), estimator.final_proj
        self._times = estimator.times()
        self._inputs = estimator.inputs
        self._zeros = torch.zeros(max(estimator.inputs, len(self._final.conv.bias)), device=self._times.device)

    def gather_conditions(self, conditions: Tensor, packing: Packing) -> Tensor:
        """(N, 240) [mu | speaker | prompt] to what the first convolution reads, (N, 3 x 320), without the frames."""
        count, width = conditions.shape
        sides = conditions.new_empty(count, TAPS * self._inputs)
        self._gather(conditions, self._zeros, sides, packing, column=self._inputs - width)
        return sides

    def __call__(self, frames: Tensor, sides: Tensor, step: int, packing: Packing) -> Tensor:
        """(N, 80) change per unit of time, in the parameters' dtype, of frames (N, 80) float32.

        sides: of gather_conditions(), into which the frames are written. step: which of STEP_TIMES.
        """
        time = self._times[step]
        self._gather(frames, self._zeros, sides, packing)
        skip = self._down(sides, time[0], packing)
        x, pending = self._down_conv(skip, self._down.leaves, packing), self._down_conv.bias
        for at, stage in enumerate(self._mid, 1):
            both = x.new_empty(len(x), TAPS * x.shape[1])
            x = stage(self._gather(x, pending, both, packing), time[at], packing)
            pending = stage.leaves
        both = x.new_empty(len(x), TAPS * 2 * x.shape[1])
        self._gather(x, pending, both, packing)
        self._gather(skip, self._down.leaves, both, packing, column=x.shape[1])
        x = self._up_conv(self._up(both, time[-1], packing), self._up.leaves, packing)
        x = self._final.finish(self._final.conv(x, self._up_conv.bias, packing), self._zeros)
        out: Tensor = self._final_proj(x)
        return out

    @staticmethod
    def _gather(x: Tensor, pending: Tensor, sides: Tensor, packing: Packing, column: int = 0) -> Tensor:
        gather_taps(x, pending, packing.position, packing.left, sides, taps=TAPS, column=column)
        return sides
