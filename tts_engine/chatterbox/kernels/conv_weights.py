"""Weights of PyTorch's convolutions as the matrices that kernels/conv.py multiplies with.

Channels are padded with zeros to a power of two of at least 16, the least a tensor core multiplies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from tts_engine.chatterbox.kernels.conv import BINS, Layer, Shape

DILATED = 30
"A rate that all pairs of columns 1, 3 and 5 apart divide into: no pair spans two rows."
_NARROW = 64


def padded(channels: int) -> int:
    """Channels as they are stored."""
    return max(16, 1 << (channels - 1).bit_length())


def _pad(x: Tensor, *sizes: int) -> Tensor:
    out = x.new_zeros(sizes)
    out[tuple(slice(0, size) for size in x.shape)] = x
    return out


def _bias(*convolutions: nn.Conv1d | nn.ConvTranspose1d) -> Tensor:
    given = [(conv.bias, padded(conv.out_channels)) for conv in convolutions]
    return torch.stack([_pad(bias.detach().float(), channels) for bias, channels in given if bias is not None])


def _table(sizes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """From (taps, centre) of each branch."""
    rows, before = [], 0
    for taps, centre in sizes:
        rows.append((taps, centre, before))
        before += taps
    return torch.tensor(rows, dtype=torch.int32, device=device)


def _matrix(conv: nn.Conv1d, inputs: int) -> Tensor:
    """(taps, inputs, channels)."""
    return _pad(conv.weight.detach().permute(2, 1, 0), conv.kernel_size[0], inputs, padded(conv.out_channels))


def _paired(matrix: Tensor) -> Tensor:
    """For two columns of output: the second reads a tap further."""
    taps, inputs, channels = matrix.shape
    pair = matrix.new_zeros(taps + 1, inputs, 2 * channels)
    pair[:taps, :, :channels] = matrix
    pair[1:, :, channels:] = matrix
    return pair


def plain(
    conv: nn.Conv1d, rate: int, inputs: int | None = None, *, edge: bool = False, out_edge: bool = False
) -> Layer:
    """One convolution, strided or not. rate, edge: of its input, whose channels are padded to `inputs`."""
    inputs = inputs or padded(conv.in_channels)
    channels = padded(conv.out_channels)
    shape = Shape(inputs, channels, channels, rate, edge, out_edge, conv.stride[0])
    table = _table([(conv.kernel_size[0], int(conv.padding[0]))], conv.weight.device)
    return Layer(shape, _matrix(conv, inputs).contiguous(), _bias(conv), table)


def branches(convolutions: Sequence[nn.Conv1d], rate: int, *, edge: bool, joined: bool = False) -> Layer:
    """Convolutions of one width and dilation and different lengths, each over its own input, or summed (`joined`)."""
    width, dilation = padded(convolutions[0].in_channels), convolutions[0].dilation[0]
    group = 2 if rate % DILATED == 0 and width <= _NARROW else 1
    shape = Shape(width, group * width, width, rate, edge, edge, 1, group, len(convolutions) if joined else 1)
    matrices = [_matrix(conv, width) for conv in convolutions]
    if group > 1:
        matrices = [_paired(matrix) for matrix in matrices]
    sizes = [(len(matrix), conv.kernel_size[0] // 2) for matrix, conv in zip(matrices, convolutions, strict=True)]
    bias = _bias(*convolutions)
    if joined:
        bias = bias.sum(0, keepdim=True)
    return Layer(shape, torch.cat(matrices).contiguous(), bias, _table(sizes, bias.device), dilation)


def transposed(conv: nn.ConvTranspose1d, rate: int) -> Layer:
    """A transposed convolution by `stride`, as three taps for as many columns side by side."""
    stride, kernel, padding = conv.stride[0], conv.kernel_size[0], int(conv.padding[0])
    inputs, channels = padded(conv.in_channels), padded(conv.out_channels)
    weight = conv.weight.detach()  # (in, out, kernel)
    matrix = weight.new_zeros(3, inputs, stride, channels)
    for tap in range(3):
        for column in range(stride):
            at = stride * (1 - tap) + column + padding
            if 0 <= at < kernel:
                matrix[tap, : conv.in_channels, column, : conv.out_channels] = weight[..., at]
    shape = Shape(inputs, stride * channels, channels, rate)
    return Layer(shape, matrix.flatten(2).contiguous(), _bias(conv), _table([(3, 1)], weight.device))


def polar(conv: nn.Conv1d, rate: int) -> Layer:
    """The last convolution: log magnitudes and angles, each bin's two side by side."""
    layer = plain(conv, rate, edge=True, out_edge=True)
    order = torch.arange(2 * BINS, device=conv.weight.device).view(2, BINS).T.flatten()
    bias, weight = layer.bias.clone(), layer.weight.clone()
    bias[:, : 2 * BINS], weight[..., : 2 * BINS] = layer.bias[:, order], layer.weight[..., order]
    return replace(layer, bias=bias, weight=weight)


def snakes(alphas: Sequence[Tensor]) -> Tensor:
    """(n, 2, channels) float32: a and 1 / a; ones for channels that are padding."""
    scale = torch.ones(len(alphas), padded(len(alphas[0])), device=alphas[0].device)
    for row, alpha in zip(scale, alphas, strict=True):
        row[: len(alpha)] = alpha.detach().float()
    return torch.stack((scale, 1 / (scale + 1e-9)), 1).contiguous()
