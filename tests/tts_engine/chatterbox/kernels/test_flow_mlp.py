from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.tts_engine.chatterbox import triton_interpreter
from tests.tts_engine.chatterbox.flow_modules import liven
from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, ROUNDING

pytestmark = triton_interpreter.NEEDED
triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from tts_engine.chatterbox.kernels.flow_mlp import feed_forward, gelu, norm_project  # noqa: E402
from tts_engine.chatterbox.kernels.flow_tiles import Tile  # noqa: E402

TILE = Tile(16, 16, 4, 1)


class Layer(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))

    def fused(self, x: torch.Tensor, shift: torch.Tensor, tile: Tile | None = TILE) -> torch.Tensor:
        norm, up, down = self.norm, self.up, self.down
        weights = (norm.weight, norm.bias, up.weight, up.bias, down.weight, down.bias)
        with torch.no_grad():
            return feed_forward(x, shift, *weights, norm.eps, tile)

    def projected(self, x: torch.Tensor, shift: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            return norm_project(x, shift, self.norm.weight, self.norm.bias, self.up.weight, bias, self.norm.eps, TILE)


def layer(width: int = 32, hidden: int = 48) -> Layer:
    return liven(Layer(width, hidden), seed=int(torch.randint(1 << 30, ()))).to(DEVICE).requires_grad_(False)


def relative(out: torch.Tensor, expected: torch.Tensor) -> float:
    return float((out - expected).norm() / expected.norm())


@triton.jit
def gelu_kernel(x, out, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, gelu(tl.load(x + at)))


def test_gelu_is_the_exact_one() -> None:
    x = torch.cat((torch.linspace(-12, 12, 8000), torch.tensor([-1e4, -100.0, -30.0, 0.0, 30.0, 100.0, 1e4]))).to(
        DEVICE
    )
    x = F.pad(x, (0, 8192 - len(x)))
    out = torch.full_like(x, torch.nan)
    gelu_kernel[(1,)](x, out, 8192)
    error = (out - F.gelu(x.double())).abs()
    assert error.max() < 1.3e-6  # the tanh form is off by 5e-4
    assert relative(out[x.abs() < 5], F.gelu(x.double())[x.abs() < 5]) < 1e-6


@pytest.mark.parametrize("count", [1, 16, 41])
def test_a_feed_forward_layer_in_place(count: int) -> None:
    mlp, x, shift = layer(), torch.randn(count, 32, device=DEVICE), torch.randn(32, device=DEVICE)
    expected = mlp.double()(x.double() + shift).float()
    buffer = torch.full((count + 3, 32), torch.nan, device=DEVICE)
    buffer[:count] = x
    out = mlp.float().fused(buffer[:count], shift)
    assert out.data_ptr() == buffer.data_ptr()
    assert relative(out, expected) < 1e-6
    assert buffer[count:].isnan().all()


def test_frames_do_not_meet() -> None:
    mlp, x, shift = layer(), torch.randn(20, 32, device=DEVICE), torch.zeros(32, device=DEVICE)
    x[7] = torch.nan
    out = mlp.fused(x.clone(), shift)
    assert out[7].isnan().all()
    rest = torch.arange(20, device=DEVICE) != 7
    with torch.no_grad():
        assert relative(out[rest], mlp(x[rest])) < 1e-6


@pytest.mark.parametrize("tile", [Tile(32, 32, 4, 1), None])
def test_tiles_decide_nothing(tile: Tile | None) -> None:
    mlp, x, shift = layer(64, 96), torch.randn(37, 64, device=DEVICE), torch.randn(64, device=DEVICE)
    with torch.no_grad():
        expected = mlp(x + shift)
    assert relative(mlp.fused(x, shift, tile), expected) < 2e-6


def test_feed_forward_in_bfloat16() -> None:
    mlp, x, shift = layer().bfloat16(), torch.randn(20, 32, device=DEVICE).bfloat16(), torch.randn(32, device=DEVICE)
    out = mlp.fused(x.clone(), shift)
    assert out.dtype == torch.bfloat16
    assert relative(out, mlp.double()(x.double() + shift)) < 6e-3 * ROUNDING


@pytest.mark.parametrize("outputs", [16, 48, 192])
@pytest.mark.parametrize("activated", [False, True])
def test_norm_and_projection(outputs: int, activated: bool) -> None:
    mlp, x, shift = layer(32, outputs), torch.randn(21, 32, device=DEVICE), torch.randn(32, device=DEVICE)
    with torch.no_grad():
        expected = F.linear(mlp.norm(x + shift), mlp.up.weight, mlp.up.bias if activated else None)
        expected = F.gelu(expected) if activated else expected
    before = x.clone()
    assert relative(mlp.projected(x, shift, mlp.up.bias if activated else None), expected) < 2e-6
    assert torch.equal(x, before)


def test_norm_and_projection_in_bfloat16() -> None:
    mlp, x, shift = layer().bfloat16(), torch.randn(20, 32, device=DEVICE).bfloat16(), torch.randn(32, device=DEVICE)
    out = mlp.projected(x, shift, mlp.up.bias)
    exact = mlp.double()
    assert relative(out, F.gelu(exact.up(exact.norm(x.double() + shift)))) < 8e-3 * ROUNDING


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 6e-3)])
def test_real_sizes(dtype: torch.dtype, bound: float) -> None:
    mlp, shift = layer(256, 1024).to(dtype), torch.randn(256, device=DEVICE)
    x = torch.randn(1301, 256, device=DEVICE).to(dtype)
    out = mlp.fused(x.clone(), shift, None)
    assert relative(out, mlp.double()(x.double() + shift)) < bound
