"""The flow's encoder over packed rows (packing.py), equal to encoder.Encoder row by row.

As in packed_estimator.py, biases of what is added to the residual stream wait until it is read.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN
from tts_engine.chatterbox.encoder import Embed, Encoder, EncoderLayer, LookAhead, relative_positions
from tts_engine.chatterbox.kernels.flow_attention import HEAD, LOG2_E, attend
from tts_engine.chatterbox.kernels.flow_norm import layer_norm
from tts_engine.chatterbox.kernels.flow_taps import gather_taps
from tts_engine.chatterbox.packing import Packing

_ALIGNED = 8  # columns: what cuBLAS's fast kernels want of a row


class _Layer:
    """An EncoderLayer. `pending`: what the stream that it is given lacks; `leaves`: that of the stream it leaves."""

    def __init__(self, layer: EncoderLayer, pending: Tensor) -> None:
        attention = layer.self_attn
        self._layer, self._attention, self._heads = layer, attention, attention.heads
        width = attention.qkv.out_features // 3
        # [query + u | key | value | query + v]: the second query, which meets the distances, costs a quarter more
        # of this product and saves a pass over memory.
        weight, bias = attention.qkv.weight, attention.qkv.bias.float()
        u, v = attention.pos_bias_u.float().flatten(), attention.pos_bias_v.float().flatten()
        self._weight = torch.cat((weight, weight[:width]))
        self._bias = torch.cat((bias[:width] + u, bias[width:], bias[:width] + v)).to(weight.dtype)
        self._pending = pending
        self._between = pending + attention.linear_out.bias.float()
        self.leaves = self._between + layer.feed_forward.w_2.bias.float()
        self._distances: dict[int, Tensor] = {}

    def prepare(self, most: int, positions: Tensor) -> None:
        """Project the distances `most` .. 1 - most, positions (2 most, width) float32, once for all rows and graphs."""
        if most in self._distances:
            return
        projected = positions @ self._attention.linear_pos.weight.float().t() * (LOG2_E * HEAD**-0.5)
        by_head = projected.view(len(projected), self._heads, HEAD).transpose(0, 1)
        padded = F.pad(by_head, (0, 0, 0, -by_head.shape[1] % _ALIGNED))
        self._distances[most] = padded.to(self._weight.dtype).contiguous()  # (heads, columns, 64)

    def __call__(self, x: Tensor, packing: Packing) -> Tensor:
        layer, feed_forward = self._layer, self._layer.feed_forward
        projected = F.linear(_norm(layer.norm_mha, x, self._pending), self._weight, self._bias)
        query = projected.view(len(projected), 4, self._heads, HEAD)[:, 3].transpose(0, 1)
        scores = query @ self._distances[packing.most].transpose(1, 2)  # (heads, N, columns)
        attended = attend(projected, packing.starts, packing.lengths, packing.most, self._heads, scores)
        x.addmm_(attended, self._attention.linear_out.weight.t())
        hidden = F.silu(feed_forward.w_1(_norm(layer.norm_ff, x, self._between)), inplace=True)
        return x.addmm_(hidden, feed_forward.w_2.weight.t())


class _Stack:
    def __init__(self, layers: nn.ModuleList, pending: Tensor) -> None:
        self.layers: list[_Layer] = []
        self.leaves = pending
        for layer in layers:
            assert isinstance(layer, EncoderLayer)  # noqa: S101
            self.layers.append(_Layer(layer, self.leaves))
            self.leaves = self.layers[-1].leaves

    def __call__(self, x: Tensor, packing: Packing) -> Tensor:
        for layer in self.layers:
            x = layer(x, packing)
        return x


class _Embed:
    """Linear, LayerNorm, times the root of the width, which is in the norm's weights here."""

    def __init__(self, embed: Embed, pending: Tensor | None = None) -> None:
        linear, norm = embed.out[0], embed.out[1]
        assert isinstance(linear, nn.Linear) and isinstance(norm, nn.LayerNorm)  # noqa: S101
        self._linear, self._eps = linear, norm.eps
        root = math.sqrt(linear.in_features)
        self._norm_weight, self._norm_bias = norm.weight.float() * root, norm.bias.float() * root
        self._shift = linear.bias.float()
        if pending is not None:
            self._shift = self._shift + linear.weight.float() @ pending

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = layer_norm(
            x @ self._linear.weight.t(), self._shift, self._norm_weight, self._norm_bias, self._eps
        )
        return out


class _LookAhead:
    def __init__(self, look_ahead: LookAhead, zeros: Tensor) -> None:
        self._first, self._second, self._zeros = look_ahead.conv1, look_ahead.conv2, zeros
        self.leaves = look_ahead.conv2.bias.float()

    def __call__(self, x: Tensor, packing: Packing) -> Tensor:
        ahead = F.leaky_relu(self._first_conv(x, packing), inplace=True)
        return x.addmm_(_sides(ahead, self._zeros, packing, self._second.kernel), self._second.weight.t())

    def _first_conv(self, x: Tensor, packing: Packing) -> Tensor:
        conv = self._first
        return F.linear(_sides(x, self._zeros, packing, conv.kernel, conv.ahead), conv.weight, conv.bias)


class PackedEncoder:
    """Takes the encoder's parameters as they are (device, dtype)."""

    def __init__(self, encoder: Encoder) -> None:
        self._norm = encoder.after_norm
        width = self._norm.normalized_shape[0]
        zeros = torch.zeros(width, device=self._norm.weight.device)
        self._embed, self._look_ahead = _Embed(encoder.embed), _LookAhead(encoder.pre_lookahead_layer, zeros)
        self._stack = _Stack(encoder.encoders, self._look_ahead.leaves)
        conv = encoder.up_layer.conv
        self._up_weight = _folded(conv.weight)
        self._up_embed = _Embed(encoder.up_embed, conv.bias.float())
        self._up_stack = _Stack(encoder.up_encoders, zeros)

    @torch.no_grad()
    def prepare(self, most: int) -> None:
        """Compute what rows of up to `most` tokens need and keep it. Must not happen inside of a graph."""
        weight = self._norm.weight
        for stack, size in ((self._stack, most), (self._up_stack, FRAMES_PER_TOKEN * most)):
            like = torch.empty(0, device=weight.device)
            positions = relative_positions(size, weight.shape[0], like)[: 2 * size]
            for layer in stack.layers:
                layer.prepare(size, positions)

    def __call__(self, x: Tensor, tokens: Packing, frames: Packing) -> Tensor:
        """(N, C) embedded tokens to (2N, C), of the packings of tokens and of their frames; prepared for `most`."""
        x = self._look_ahead(self._embed(x), tokens)
        x = self._stack(x, tokens)
        x = _sides(x, self._stack.leaves, tokens, 3) @ self._up_weight.t()
        x = self._up_embed(x.view(FRAMES_PER_TOKEN * len(x), -1))
        return _norm(self._norm, self._up_stack(x, frames), self._up_stack.leaves)


def _norm(norm: nn.LayerNorm, x: Tensor, pending: Tensor) -> Tensor:
    out: Tensor = layer_norm(x, pending, norm.weight, norm.bias, norm.eps)
    return out


def _sides(x: Tensor, pending: Tensor, packing: Packing, taps: int, ahead: int = 0) -> Tensor:
    out = x.new_empty(len(x), taps * x.shape[1])
    gather_taps(x, pending, packing.position, packing.left, out, taps=taps, ahead=ahead)
    return out


def _folded(weight: Tensor) -> Tensor:
    """Upsample's convolution of five frames, each token twice, as one of three tokens with two frames out.

    (out, 5 in) to (2 out, 3 in): frame 2t reads the tokens t-2, t-2, t-1, t-1, t; frame 2t+1 t-2, t-1, t-1, t, t.
    """
    taps = weight.float().view(len(weight), 2 * FRAMES_PER_TOKEN + 1, -1).unbind(1)
    even = (taps[0] + taps[1], taps[2] + taps[3], taps[4])
    odd = (taps[0], taps[1] + taps[2], taps[3] + taps[4])
    return torch.cat((torch.cat(even, 1), torch.cat(odd, 1))).to(weight.dtype)
