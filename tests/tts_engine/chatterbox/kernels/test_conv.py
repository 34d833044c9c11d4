from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, NEEDED

pytestmark = NEEDED


def bounds_of(frames: Sequence[int], padding: int = 1) -> Tensor:
    """(3, slots) int32, as kernels/frames.py gives them."""
    columns, low = [], 0
    for row, count in enumerate(frames):
        columns += [(low, low + count, row)] * (count + 1)
        low += count + 1
    columns += [columns[-1]] * padding
    return torch.tensor(columns, dtype=torch.int32, device=DEVICE).T.contiguous()


def rows_of(bounds: Tensor, rate: int, edge: bool = False) -> list[slice]:
    """The columns of each row that has any."""
    found = {(low, high): None for low, high, _ in bounds.T.tolist() if high > low}
    return [slice(low * rate, high * rate + edge) for low, high in found]


def packed(bounds: Tensor, rate: int, width: int, used: int, edge: bool = False, count: int = 1) -> Tensor:
    """(count, columns, width), not a number outside of rows, zero from channel `used` on."""
    x = torch.full((count, bounds.shape[1] * rate, width), torch.nan, device=DEVICE)
    for row in rows_of(bounds, rate, edge):
        x[:, row] = torch.randn(count, row.stop - row.start, width, device=DEVICE)
        x[:, row, used:] = 0
    return x


def snake(x: Tensor, alpha: Tensor) -> Tensor:
    return x + (x * alpha).sin() ** 2 / alpha


@torch.no_grad()
def test_a_strided_convolution_with_edges_and_its_snake() -> None:
    from tts_engine.chatterbox.kernels import conv_weights
    from tts_engine.chatterbox.kernels.conv import convolve

    conv = nn.Conv1d(18, 20, 6, 3, padding=1).to(DEVICE)
    alpha = 0.5 + torch.rand(20, device=DEVICE)
    bounds = bounds_of([2, 0, 1])
    layer = conv_weights.plain(conv, 120, 32, edge=True)
    x = packed(bounds, 120, 32, 18, edge=True)
    out, activated = (torch.full((1, bounds.shape[1] * 40, 32), torch.nan, device=DEVICE) for _ in range(2))
    convolve(layer, x, bounds, out=out, activated=activated, scales=conv_weights.snakes([alpha]))
    ins, outs = rows_of(bounds, 120, edge=True), rows_of(bounds, 40)
    assert len(outs) == 2
    for source, target in zip(ins, outs, strict=True):
        expected = conv(x[0, source, :18].T).T
        torch.testing.assert_close(out[0, target, :20], expected, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(activated[0, target, :20], snake(expected, alpha), atol=2e-5, rtol=1e-4)
        assert not out[0, target, 20:].any()
        out[0, target] = torch.nan
    assert out.isnan().all(), "a column of no row was written"


@torch.no_grad()
@pytest.mark.parametrize("reflect", [False, True])
def test_a_transposed_convolution_beside_another_tensor(reflect: bool) -> None:
    """With the last step's mirrored first column, and three activations of one result."""
    from tts_engine.chatterbox.kernels import conv_weights
    from tts_engine.chatterbox.kernels.conv import convolve

    rate, before, kernel, padding = (3, 40, 7, 2) if reflect else (8, 1, 16, 4)
    up = nn.ConvTranspose1d(16, 8, kernel, rate, padding=padding).to(DEVICE)
    bounds = bounds_of([1, 3, 0])
    x = packed(bounds, before, 16, 16)
    beside = packed(bounds, before * rate, 16, 8, edge=reflect)
    alphas = [0.5 + torch.rand(8, device=DEVICE) for _ in range(3)]
    out = torch.full_like(beside, torch.nan)
    activated = torch.full((3, *beside.shape[1:]), torch.nan, device=DEVICE)
    layer, scales = conv_weights.transposed(up, before), conv_weights.snakes(alphas)
    convolve(layer, x, bounds, residual=beside, out=out, activated=activated, scales=scales, reflect=reflect)
    outs = rows_of(bounds, before * rate, edge=reflect)
    for source, target in zip(rows_of(bounds, before), outs, strict=True):
        expected = up(x[0, source].T)
        if reflect:
            expected = functional.pad(expected[None], (1, 0), mode="reflect")[0]
        expected = expected.T + beside[0, target, :8]
        torch.testing.assert_close(out[0, target, :8], expected, atol=2e-5, rtol=1e-4)
        for alpha, got in zip(alphas, activated, strict=True):
            torch.testing.assert_close(got[target, :8], snake(expected, alpha), atol=2e-5, rtol=1e-4)
        out[0, target] = torch.nan
    assert out.isnan().all()


@torch.no_grad()
@pytest.mark.parametrize(("rate", "dilation"), [(8, 3), (120, 1), (120, 5)])
def test_branches_of_several_lengths_apart_and_summed(rate: int, dilation: int) -> None:
    """At 120 columns a frame two columns share a row of the product."""
    from tts_engine.chatterbox.kernels import conv_weights
    from tts_engine.chatterbox.kernels.conv import convolve

    edge = rate == 120
    kernels = (7, 3)
    convolutions = [
        nn.Conv1d(12, 12, size, dilation=dilation, padding=dilation * (size // 2)).to(DEVICE) for size in kernels
    ]
    bounds = bounds_of([1, 0, 2])
    x = packed(bounds, rate, 16, 12, edge, count=2)
    shared = packed(bounds, rate, 16, 12, edge)
    own = packed(bounds, rate, 16, 12, edge, count=2)
    apart = conv_weights.branches(convolutions, rate, edge=edge)
    summed = conv_weights.branches(convolutions, rate, edge=edge, joined=True)
    assert apart.shape.group == summed.shape.group == (2 if edge else 1)
    each, mean, leaky = torch.full_like(x, torch.nan), torch.full_like(shared, torch.nan), torch.empty_like(shared)
    convolve(apart, x, bounds, residual=shared, out=each)
    convolve(summed, x, bounds, residual=own, out=mean, activated=leaky, slope=0.1)
    for row in rows_of(bounds, rate, edge):
        heard = [conv(y[row, :12].T).T for conv, y in zip(convolutions, x, strict=True)]
        for number, expected in enumerate(heard):
            torch.testing.assert_close(each[number, row, :12], expected + shared[0, row, :12], atol=2e-5, rtol=1e-4)
        expected = (heard[0] + heard[1] + own[0, row, :12] + own[1, row, :12]) / 2
        torch.testing.assert_close(mean[0, row, :12], expected, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(leaky[0, row, :12], functional.leaky_relu(expected, 0.1), atol=2e-5, rtol=1e-4)
        each[:, row] = torch.nan
    assert each.isnan().all()


@torch.no_grad()
def test_the_last_convolution_gives_a_spectrum() -> None:
    from tts_engine.chatterbox.kernels import conv_weights
    from tts_engine.chatterbox.kernels.conv import convolve

    conv = nn.Conv1d(16, 18, 7, padding=3).to(DEVICE)
    conv.bias[0] = 9.0  # beyond the limit of 100
    bounds = bounds_of([1, 1])
    x = packed(bounds, 120, 16, 16, edge=True)
    spectrum = torch.full((18, bounds.shape[1] * 120), torch.nan, device=DEVICE)
    convolve(conv_weights.polar(conv, 120), x, bounds, out=spectrum, polar=True)
    for row in rows_of(bounds, 120, edge=True):
        raw = conv(x[0, row].T)
        magnitude, angle = raw[:9].exp().clamp(max=100), raw[9:].sin()
        assert magnitude.max() == 100
        expected = torch.cat((magnitude * angle.cos(), magnitude * angle.sin()))
        torch.testing.assert_close(spectrum[:, row], expected, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_half_precision_rounds_its_results_only() -> None:
    from tts_engine.chatterbox.kernels import conv_weights
    from tts_engine.chatterbox.kernels.conv import Tile, convolve

    conv = nn.Conv1d(64, 64, 7, padding=3).to(DEVICE, torch.bfloat16)
    bounds = bounds_of([3, 1])
    x = packed(bounds, 120, 64, 64, edge=True).bfloat16()
    scales = conv_weights.snakes([torch.ones(64, device=DEVICE)])
    for tile in (None, Tile(64, 64, 64, 4, 4), Tile(128, 128, 32, 8, 2))[: 3 if DEVICE == "cuda" else 1]:
        out, activated = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)
        layer = conv_weights.branches([conv], 120, edge=True)
        convolve(layer, x, bounds, out=out, activated=activated, scales=scales, tile=tile)
        for row in rows_of(bounds, 120, edge=True):
            expected = functional.conv1d(x[0, row].T.float(), conv.weight.float(), conv.bias.float(), padding=3).T
            assert out[0, row].sub(expected).abs().max() < 0.02
            assert activated[0, row].sub(snake(expected, torch.ones(64, device=DEVICE))).abs().max() < 0.02


@pytest.mark.parametrize("capability", [8, 9])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", [400, 700_000])
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(96, 512), (512, 2048), (32, 256), (256, 640), (128, 192), (64, 32), (128, 128)]
)
def test_tiles_divide_what_they_cut_and_fit_into_shared_memory(
    capability: int, dtype: torch.dtype, rows: int, inputs: int, outputs: int
) -> None:
    from tts_engine.chatterbox.kernels.conv import Shape, tile_for

    tile = tile_for(Shape(inputs, outputs, 64, 8), rows, 3, dtype, capability)
    assert inputs % tile.inputs == 0
    assert outputs % tile.outputs == 0
    size = (tile.rows + tile.outputs) * tile.inputs * (4 if dtype == torch.float32 else 2)
    assert size * tile.stages <= 99 * 1024
