"""The flow's estimator: which way to move the frames, from one time to another (s3gen/decoder.py, s3gen/matcha).

A U-Net of one level: stages of one residual block, where the time enters, and a few transformer blocks. All its
convolutions look back only, so of a padded batch only attention needs to know the lengths.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from tts_engine.chatterbox.flow_layers import FrameConv, stack_projections

STEP_TIMES = ((0.0, 0.5), (0.5, 1.0))
"From and to which time each of the two steps goes; 0 is noise, 1 is speech."


class Attention(nn.Module):
    def __init__(self, channels: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * inner, bias=False)
        stack_projections(self, ("to_q", "to_k", "to_v"), "qkv")
        self.to_out = nn.Sequential(nn.Linear(inner, channels))

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, T, d)
        attended = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=bias)
        out: torch.Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return out


class Gelu(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.proj(x))


class FeedForward(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        # Where only parameters have names, Identity keeps the released numbering (here of a dropout).
        self.net = nn.Sequential(Gelu(channels, hidden), nn.Identity(), nn.Linear(hidden, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)
        return out


class TransformerBlock(nn.Module):
    def __init__(self, channels: int, heads: int, inner: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads, inner)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, hidden)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        x = x + self.attn1(self.norm1(x), bias)
        out: torch.Tensor = x + self.ff(self.norm3(x))
        return out


class CausalBlock(nn.Module):
    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(FrameConv(inputs, channels, 3), nn.Identity(), nn.LayerNorm(channels), nn.Mish())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block(x)
        return out


class Resnet(nn.Module):
    def __init__(self, inputs: int, channels: int, time_width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_width, channels))
        self.block1 = CausalBlock(inputs, channels)
        self.block2 = CausalBlock(channels, channels)
        self.res_conv = FrameConv(inputs, channels)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """(B, T, inputs) and what `mlp` makes of the time, (channels,), to (B, T, channels)."""
        out: torch.Tensor = self.block2(self.block1(x) + time) + self.res_conv(x)
        return out


class Stage(nn.ModuleList):
    """A residual block, transformer blocks and, at the ends of the U-Net, a convolution that the caller applies."""

    def __init__(self, resnet: Resnet, blocks: list[TransformerBlock], conv: FrameConv | None = None) -> None:
        super().__init__([resnet, nn.ModuleList(blocks), *([conv] if conv else [])])

    @property
    def resnet(self) -> Resnet:
        resnet = self[0]
        assert isinstance(resnet, Resnet)  # noqa: S101
        return resnet

    def forward(self, x: torch.Tensor, time: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        x = self[0](x, time)
        for block in self[1]:  # type: ignore[attr-defined]
            x = block(x, bias)
        return x


class TimeMlp(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.linear_2 = nn.Linear(width, width)


class Estimator(nn.Module):
    """Names below `flow.decoder.estimator.` in the released file."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        channels: int,
        time_width: int,
        heads: int,
        inner: int,
        hidden: int,
        mid_blocks: int,
        transformers: int,
    ) -> None:
        super().__init__()

        def stage(stage_inputs: int, *, conv: bool = False) -> Stage:
            blocks = [TransformerBlock(channels, heads, inner, hidden) for _ in range(transformers)]
            end = FrameConv(channels, channels, 3) if conv else None
            return Stage(Resnet(stage_inputs, channels, time_width), blocks, end)

        self.inputs = inputs
        self.time_mlp = TimeMlp(inputs, time_width)
        self.time_embed_mixer = nn.Linear(2 * time_width, time_width, bias=False)
        self.down_blocks = nn.ModuleList([stage(inputs, conv=True)])
        self.mid_blocks = nn.ModuleList(stage(channels) for _ in range(mid_blocks))
        self.up_blocks = nn.ModuleList([stage(2 * channels, conv=True)])
        self.final_block = CausalBlock(channels, channels)
        self.final_proj = FrameConv(channels, outputs)
        self._times: torch.Tensor | None = None
        self.register_load_state_dict_post_hook(_forget_times)  # type: ignore[no-untyped-call]

    def times(self) -> torch.Tensor:
        """(2 steps, residual blocks, channels): what the time of each step adds in each residual block.

        Constants of the weights: computed at the first call, in float32, and kept until the module is loaded or moved.
        """
        weight = self.time_embed_mixer.weight
        if self._times is None or self._times.device != weight.device or self._times.dtype != weight.dtype:
            self._times = self._compute_times()
        return self._times

    def forward(self, x: torch.Tensor, time: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, inputs) = [frames | mu | speaker | prompt], times()[step], key_bias or None, to (B, T, outputs).

        The result is change per unit of time. Without a bias no row is padded and any attention kernel will do;
        with one, the result at padding means nothing.
        """
        down, up = self.down_blocks[0], self.up_blocks[0]
        skip = down(x, time[0], bias)
        x = down[2](skip)  # type: ignore[index]
        for at, stage in enumerate(self.mid_blocks, 1):
            x = stage(x, time[at], bias)
        x = up(torch.cat((x, skip), dim=-1), time[-1], bias)
        out: torch.Tensor = self.final_proj(self.final_block(up[2](x)))  # type: ignore[index]
        return out

    @torch.no_grad()
    def _compute_times(self) -> torch.Tensor:
        mlp, mixer = self.time_mlp, self.time_embed_mixer
        times = torch.tensor(STEP_TIMES, device=mixer.weight.device)
        hidden = F.silu(_in_float32(mlp.linear_1, _sinusoids(times, self.inputs)))
        mixed = _in_float32(mixer, _in_float32(mlp.linear_2, hidden).flatten(1))
        stages = [*self.down_blocks, *self.mid_blocks, *self.up_blocks]
        added = [_in_float32(stage.resnet.mlp[1], F.mish(mixed)) for stage in stages]
        return torch.stack(added, dim=1).to(mixer.weight.dtype)


def _forget_times(estimator: nn.Module, _: Any) -> None:
    if isinstance(estimator, Estimator):
        estimator._times = None


def _in_float32(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, linear.weight.float(), None if linear.bias is None else linear.bias.float())


def _sinusoids(times: torch.Tensor, width: int) -> torch.Tensor:
    """(...) to (..., width): sines, then cosines, of a thousand times the time at falling frequencies."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=times.device) * (-math.log(10000.0) / (half - 1)))
    angles = 1000.0 * times[..., None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=-1)
