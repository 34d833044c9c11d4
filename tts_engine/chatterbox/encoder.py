"""The flow's encoder: speech tokens at 25 Hz become frames at 50 Hz (s3gen/transformer/upsample_encoder.py).

A conformer without its convolutions: pre-norm attention with relative positions (Transformer-XL, arXiv 1901.02860,
appendix B) and feed-forward layers; before them a convolution that looks three tokens ahead, and between the two
stacks an upsampling by two. Attention sees the whole utterance both ways.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN
from tts_engine.chatterbox.flow_layers import FrameConv, key_bias, stack_projections, within


def relative_positions(size: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """(2 size + 1, width): sines (even columns) and cosines (odd) of the distances size, size - 1, ... -size."""
    distances = torch.arange(size, -size - 1, -1, device=like.device, dtype=torch.float32)
    octaves = torch.arange(0, width, 2, device=like.device, dtype=torch.float32)
    angles = distances[:, None] * torch.exp(octaves * (-math.log(10000.0) / width))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).to(like.dtype)


def by_query_and_key(scores: torch.Tensor) -> torch.Tensor:
    """(..., T, 2T + 1) scores by query and distance T ... -T, to (..., T, T) by query and key: a view.

    Key j of query i is at distance i - j, in column T - i + j: going down a row is one column to the left, so in the
    flattened matrix the rows that we want start T in and lie 2T apart.
    """
    size = scores.shape[-2]
    flat = scores.flatten(-2)[..., size : size + 2 * size * size]
    return flat.view(*flat.shape[:-1], size, 2 * size)[..., :size]


class RelativeAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        stack_projections(self, ("linear_q", "linear_k", "linear_v"), "qkv")
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, width // heads))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, width // heads))

    def forward(self, x: torch.Tensor, positions: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """(B, T, C), relative_positions(T), key_bias or None, to (B, T, C)."""
        batch, size, _ = x.shape
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)  # (B, T, heads, d) each

        # Position scores for all queries of the batch in one product a head: the positions are the same for all rows.
        head = query.shape[-1]
        distance = self.linear_pos(positions).unflatten(-1, (self.heads, head)).permute(1, 2, 0) * head**-0.5
        by_position = (query + self.pos_bias_v).flatten(0, 1).transpose(0, 1) @ distance  # (heads, B T, 2T + 1)
        scores = by_query_and_key(by_position.unflatten(1, (batch, size)).transpose(0, 1))
        if bias is not None:
            scores = scores + bias

        attended = F.scaled_dot_product_attention(
            (query + self.pos_bias_u).transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=scores
        )
        out: torch.Tensor = self.linear_out(attended.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, hidden)
        self.w_2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.w_2(F.silu(self.w_1(x)))
        return out


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_mha = nn.LayerNorm(width, eps=1e-12)
        self.self_attn = RelativeAttention(width, heads)
        self.norm_ff = nn.LayerNorm(width, eps=1e-12)
        self.feed_forward = FeedForward(width, hidden)

    def forward(self, x: torch.Tensor, positions: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        x = x + self.self_attn(self.norm_mha(x), positions, bias)
        out: torch.Tensor = x + self.feed_forward(self.norm_ff(x))
        return out


class Embed(nn.Module):
    """What enters a stack of layers: projected, normalised, and scaled by the root of the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width, eps=1e-5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(x) * math.sqrt(x.shape[-1])
        return out


class LookAhead(nn.Module):
    """Mixes in the `ahead` tokens to come; what follows is the reason to hold back the last tokens of a stream."""

    def __init__(self, width: int, ahead: int) -> None:
        super().__init__()
        self.conv1 = FrameConv(width, width, ahead + 1, ahead=ahead)
        self.conv2 = FrameConv(width, width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.conv2(F.leaky_relu(self.conv1(x)))
        return out


class Upsample(nn.Module):
    """(B, T, C) to (B, 2T, C): every frame twice, then smoothed over two tokens of the past."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = FrameConv(width, width, 2 * FRAMES_PER_TOKEN + 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(x.unsqueeze(2).expand(-1, -1, FRAMES_PER_TOKEN, -1).flatten(1, 2))
        return out


class Encoder(nn.Module):
    """Names below `flow.encoder.` in the released file."""

    def __init__(self, width: int, heads: int, hidden: int, layers: int, up_layers: int, look_ahead: int) -> None:
        super().__init__()
        self.embed = Embed(width)
        self.pre_lookahead_layer = LookAhead(width, look_ahead)
        self.encoders = nn.ModuleList(EncoderLayer(width, heads, hidden) for _ in range(layers))
        self.up_layer = Upsample(width)
        self.up_embed = Embed(width)
        self.up_encoders = nn.ModuleList(EncoderLayer(width, heads, hidden) for _ in range(up_layers))
        self.after_norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, C) embedded tokens to (B, 2T, C).

        lengths (B,): tokens of each row; the rest is padding, neither read nor meaningful in the result. None: no row
        is padded, and nothing is spent on masks.
        """
        size = x.shape[1]
        positions = relative_positions(FRAMES_PER_TOKEN * size, x.shape[-1], x)  # T's lie in the middle of 2T's
        bias, up_bias = None, None
        x = self.embed(x)
        if lengths is not None:
            # The look-ahead is the one convolution that reads to the right; alone, a row would have zeros there.
            x = x.masked_fill(~within(lengths, size)[..., None], 0)
            bias = key_bias(lengths, size, x.dtype)
            up_bias = key_bias(FRAMES_PER_TOKEN * lengths, FRAMES_PER_TOKEN * size, x.dtype)

        x = self.pre_lookahead_layer(x)
        for layer in self.encoders:
            x = layer(x, positions[size : 3 * size + 1], bias)
        x = self.up_embed(self.up_layer(x))
        for layer in self.up_encoders:
            x = layer(x, positions, up_bias)
        out: torch.Tensor = self.after_norm(x)
        return out
