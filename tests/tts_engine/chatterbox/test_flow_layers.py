from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tests.tts_engine.chatterbox.flow_modules import liven
from tts_engine.chatterbox.flow_layers import MASKED, FrameConv, key_bias, stack_projections, within


class Stacked(nn.Module):
    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 15, bias=bias)
        stack_projections(self, ("to_q", "to_k", "to_v"), "qkv")


def separate(*, bias: bool = True) -> nn.ModuleDict:
    return liven(nn.ModuleDict({name: nn.Linear(4, 5, bias=bias) for name in ("to_q", "to_k", "to_v")}))


def test_within() -> None:
    assert within(torch.tensor([2, 0, 3]), 3).tolist() == [
        [True, True, False],
        [False, False, False],
        [True, True, True],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_masked_keys_weigh_nothing(dtype: torch.dtype) -> None:
    bias = key_bias(torch.tensor([3, 5]), 5, dtype)
    assert bias.shape == (2, 1, 1, 5)
    assert bias.dtype == dtype
    assert torch.isfinite(bias).all()
    scores = torch.full((2, 1, 4, 5), -200.0, dtype=dtype) + bias
    weights = scores.softmax(-1)
    assert weights[0, 0, :, 3:].tolist() == [[0, 0]] * 4
    assert torch.allclose(weights[0, 0, :, :3], torch.tensor(1 / 3, dtype=dtype))
    assert torch.allclose(weights[1], torch.tensor(0.2, dtype=dtype))


def test_a_row_of_nothing_has_no_nan() -> None:
    bias = key_bias(torch.tensor([0]), 3, torch.float16)
    assert bias.flatten().tolist() == [MASKED] * 3
    assert bias.softmax(-1).isfinite().all()


def test_rows_of_the_bias_are_aligned() -> None:
    for size in (1, 7, 16):
        assert key_bias(torch.tensor([1, 1]), size, torch.float16).stride(0) % 16 == 0


@settings(deadline=None, max_examples=40)
@given(kernel=st.integers(1, 5), ahead=st.integers(0, 4), size=st.integers(1, 7), batch=st.integers(1, 3))
def test_frame_conv_is_a_padded_convolution(kernel: int, ahead: int, size: int, batch: int) -> None:
    ahead = min(ahead, kernel - 1)
    reference = liven(nn.Conv1d(3, 4, kernel))
    conv = FrameConv(3, 4, kernel, ahead=ahead)
    conv.load_state_dict(reference.state_dict())
    x = torch.randn(batch, size, 3, generator=torch.Generator().manual_seed(size))
    with torch.no_grad():
        expected = reference(F.pad(x.transpose(1, 2), (kernel - 1 - ahead, ahead))).transpose(1, 2)
        torch.testing.assert_close(conv(x), expected, atol=1e-6, rtol=1e-5)


def test_frame_conv_keeps_the_released_shape_in_its_state_dict() -> None:
    reference = liven(nn.Conv1d(3, 4, 5))
    conv = FrameConv(3, 4, 5)
    conv.load_state_dict(reference.state_dict(), assign=True)
    state = conv.state_dict()
    assert set(state) == {"weight", "bias"}
    assert torch.equal(state["weight"], reference.weight)
    again = FrameConv(3, 4, 5)
    again.load_state_dict(state)
    assert torch.equal(again.weight, conv.weight)


def test_frame_conv_refuses_another_kernel() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        FrameConv(3, 4, 3).load_state_dict(nn.Conv1d(3, 4, 5).state_dict())


def test_frame_conv_reports_a_missing_weight() -> None:
    with pytest.raises(RuntimeError, match="weight"):
        FrameConv(3, 4, 3).load_state_dict({"bias": torch.zeros(4)})


@pytest.mark.parametrize("bias", [True, False])
def test_stacked_projections_load_and_save_as_their_parts(bias: bool) -> None:
    parts = separate(bias=bias)
    stacked = Stacked(bias=bias)
    given_state = parts.state_dict()
    stacked.load_state_dict(given_state, assign=True)
    assert set(given_state) == set(parts.state_dict()), "the caller's dict is not changed"
    x = torch.randn(2, 4)
    with torch.no_grad():
        expected = torch.cat([parts[name](x) for name in ("to_q", "to_k", "to_v")], dim=-1)
        torch.testing.assert_close(stacked.qkv(x), expected, atol=1e-6, rtol=1e-5)
    state = stacked.state_dict()
    assert set(state) == set(given_state)
    assert all(torch.equal(state[name], given_state[name]) for name in state)


def test_stacked_projections_below_others() -> None:
    outer = nn.ModuleDict({"a": Stacked(), "b": Stacked()})
    state = {f"{at}.{name}": tensor for at in "ab" for name, tensor in separate().state_dict().items()}
    state["b.to_k.bias"] = state["b.to_k.bias"] + 1
    outer.load_state_dict(state)
    assert set(outer.state_dict()) == set(state)
    difference = outer["b"].qkv.bias - outer["a"].qkv.bias
    torch.testing.assert_close(difference, torch.tensor([0.0] * 5 + [1.0] * 5 + [0.0] * 5))


def test_a_missing_part_is_an_error() -> None:
    state = separate().state_dict()
    del state["to_k.weight"]
    with pytest.raises(RuntimeError, match="Missing key"):
        Stacked().load_state_dict(state)


def test_on_meta_the_state_dict_has_released_shapes() -> None:
    with torch.device("meta"):
        stacked, conv = Stacked(), FrameConv(3, 4, 5)
    assert {name: tuple(tensor.shape) for name, tensor in stacked.state_dict().items()} == {
        name: tuple(tensor.shape) for name, tensor in separate().state_dict().items()
    }
    assert conv.state_dict()["weight"].shape == (4, 3, 5)


def test_copies_load_and_save_too() -> None:
    stacked = copy.deepcopy(Stacked())
    stacked.load_state_dict(separate().state_dict())
    assert set(stacked.state_dict()) == set(separate().state_dict())
