from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.tts_engine.chatterbox import triton_interpreter
from tests.tts_engine.chatterbox.triton_interpreter import DEVICE

pytestmark = triton_interpreter.NEEDED
pytest.importorskip("triton")

from tts_engine.chatterbox.kernels.flow_norm import layer_norm, layer_norm_mish  # noqa: E402


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE)


@pytest.mark.parametrize(("count", "width"), [(1, 16), (131, 32), (17, 256), (9, 512)])
def test_layer_norm_of_what_is_pending(count: int, width: int) -> None:
    x, shift, weight, bias = randn(count, width) * 3 + 1, randn(width), randn(width), randn(width)
    before = x.clone()
    out = layer_norm(x, shift, weight, bias, 1e-5)
    torch.testing.assert_close(out, F.layer_norm(x + shift, (width,), weight, bias), atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before)


def test_eps_counts() -> None:
    x, one, zero = 1e-4 * randn(3, 32), torch.ones(32, device=DEVICE), torch.zeros(32, device=DEVICE)
    for eps in (1e-5, 1e-12):
        out = layer_norm(x, zero, one, zero, eps)
        torch.testing.assert_close(out, F.layer_norm(x, (32,), eps=eps), atol=1e-6, rtol=1e-4)


def test_a_large_mean_does_not_cost_the_variance() -> None:
    x, one, zero = randn(5, 64) + 1000, torch.ones(64, device=DEVICE), torch.zeros(64, device=DEVICE)
    expected = F.layer_norm(x.double(), (64,)).float()
    torch.testing.assert_close(layer_norm(x, zero, one, zero, 1e-5), expected, atol=2e-3, rtol=1e-3)


def test_mish_and_time_in_place() -> None:
    x, shift, weight, bias, time = randn(70, 32), randn(32), randn(32), randn(32), randn(32)
    expected = F.mish(F.layer_norm(x + shift, (32,), weight, bias)) + time
    out = layer_norm_mish(x, shift, weight, bias, 1e-5, time)
    assert out.data_ptr() == x.data_ptr()
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_mish_is_stable(scale: float) -> None:
    x, zero = randn(16, 64), torch.zeros(64, device=DEVICE)
    weight = torch.full((64,), scale, device=DEVICE)
    expected = F.mish(scale * F.layer_norm(x.double(), (64,))).float()
    out = layer_norm_mish(x, zero, weight, zero, 1e-5, zero)
    torch.testing.assert_close(out, expected, atol=1e-6 * scale, rtol=1e-4)
    assert (expected < 0).any()  # both sides were there


def test_rows_do_not_meet() -> None:
    x, one, zero = randn(150, 32), torch.ones(32, device=DEVICE), torch.zeros(32, device=DEVICE)
    expected = F.layer_norm(x, (32,))
    x[::2] = torch.nan
    out = layer_norm(x, zero, one, zero, 1e-5)
    assert out[::2].isnan().all()
    torch.testing.assert_close(out[1::2], expected[1::2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mish", [False, True])
def test_bfloat16_is_rounded_once(mish: bool) -> None:
    x = randn(33, 64).bfloat16()
    weight, bias = randn(64).bfloat16(), randn(64).bfloat16()
    shift = randn(64)
    expected = F.layer_norm(x.double() + shift, (64,), weight.double(), bias.double())
    if mish:
        time = randn(64).bfloat16()
        expected = F.mish(expected) + time
        out = layer_norm_mish(x, shift, weight, bias, 1e-5, time)
    else:
        out = layer_norm(x, shift, weight, bias, 1e-5)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected.bfloat16(), atol=1e-3, rtol=2**-7)
