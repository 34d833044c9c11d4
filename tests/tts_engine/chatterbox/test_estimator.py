from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.tts_engine.chatterbox.flow_modules import liven, random
from tts_engine.chatterbox.estimator import (
    Attention,
    CausalBlock,
    Estimator,
    Resnet,
    TransformerBlock,
    _sinusoids,
)
from tts_engine.chatterbox.flow_layers import key_bias

INPUTS, OUTPUTS, CHANNELS = 12, 3, 10


def small_estimator(seed: int = 1, *, mid_blocks: int = 2) -> Estimator:
    estimator = Estimator(
        INPUTS,
        OUTPUTS,
        channels=CHANNELS,
        time_width=14,
        heads=2,
        inner=16,
        hidden=20,
        mid_blocks=mid_blocks,
        transformers=2,
    )
    return liven(estimator, seed)


@lru_cache(maxsize=1)
def shared_estimator() -> Estimator:
    return small_estimator()


def test_attention_is_softmax_of_scaled_products() -> None:
    attention = liven(Attention(CHANNELS, 2, 16))
    x = random(2, 5, CHANNELS)
    state = attention.state_dict()
    lengths = [5, 3]
    with torch.no_grad():
        out = attention(x, key_bias(torch.tensor(lengths), 5, x.dtype))
        for row, length in enumerate(lengths):
            query, key, value = (F.linear(x[row], state[f"to_{part}.weight"]).view(5, 2, 8) for part in "qkv")
            heads = [(query[:, h] @ key[:length, h].T / math.sqrt(8)).softmax(-1) @ value[:length, h] for h in range(2)]
            expected = F.linear(torch.cat(heads, -1), state["to_out.0.weight"], state["to_out.0.bias"])
            torch.testing.assert_close(out[row], expected, atol=1e-5, rtol=1e-4)


def test_a_transformer_block_normalises_before() -> None:
    block = liven(TransformerBlock(CHANNELS, 2, 16, 20))
    x = random(1, 4, CHANNELS)
    state = block.state_dict()
    with torch.no_grad():
        attended = x + block.attn1(block.norm1(x), None)
        hidden = F.gelu(F.linear(block.norm3(attended), state["ff.net.0.proj.weight"], state["ff.net.0.proj.bias"]))
        expected = attended + F.linear(hidden, state["ff.net.2.weight"], state["ff.net.2.bias"])
        torch.testing.assert_close(block(x, None), expected)


def test_a_residual_block_is_convolutions_with_the_time_between() -> None:
    resnet = liven(Resnet(INPUTS, CHANNELS, 14))
    x, time = random(2, 6, INPUTS), random(CHANNELS, seed=6)
    state = resnet.state_dict()

    def conv(at: str, y: torch.Tensor) -> torch.Tensor:
        weight = state[f"{at}.weight"]
        padded = F.pad(y.transpose(1, 2), (weight.shape[-1] - 1, 0))
        return F.conv1d(padded, weight, state[f"{at}.bias"]).transpose(1, 2)

    def block(at: str, y: torch.Tensor) -> torch.Tensor:
        normed = F.layer_norm(
            conv(f"{at}.block.0", y), (CHANNELS,), state[f"{at}.block.2.weight"], state[f"{at}.block.2.bias"]
        )
        return F.mish(normed)

    with torch.no_grad():
        expected = block("block2", block("block1", x) + time) + conv("res_conv", x)
        torch.testing.assert_close(resnet(x, time), expected, atol=1e-5, rtol=1e-4)


def test_convolutions_look_back_only() -> None:
    block = liven(CausalBlock(CHANNELS, CHANNELS))
    x = random(1, 8, CHANNELS)
    changed = x.clone()
    changed[0, 4] += 1
    with torch.no_grad():
        difference = (block(x) - block(changed)).abs().amax(-1)[0]
    assert difference.nonzero().flatten().tolist() == [4, 5, 6]


def test_sinusoids() -> None:
    out = _sinusoids(torch.tensor([0.0, 0.25]), 6)
    assert out[0].tolist() == [0, 0, 0, 1, 1, 1]
    for at, frequency in enumerate((1.0, 0.01, 0.0001)):
        assert out[1, at].item() == pytest.approx(math.sin(250 * frequency), abs=1e-4)
        assert out[1, 3 + at].item() == pytest.approx(math.cos(250 * frequency), abs=1e-4)


def test_times_mix_where_a_step_begins_and_ends() -> None:
    estimator = small_estimator()
    times = estimator.times()
    assert times.shape == (2, 4, CHANNELS)
    state = estimator.state_dict()

    def linear(at: str, y: torch.Tensor) -> torch.Tensor:
        return F.linear(y, state[f"{at}.weight"], state.get(f"{at}.bias"))

    def embedded(time: float) -> torch.Tensor:
        return linear("time_mlp.linear_2", F.silu(linear("time_mlp.linear_1", _sinusoids(torch.tensor(time), INPUTS))))

    blocks = ("down_blocks.0", "mid_blocks.0", "mid_blocks.1", "up_blocks.0")
    for step, (start, end) in enumerate(((0.0, 0.5), (0.5, 1.0))):
        mixed = F.mish(linear("time_embed_mixer", torch.cat((embedded(start), embedded(end)))))
        for at, block in enumerate(blocks):
            torch.testing.assert_close(times[step, at], linear(f"{block}.0.mlp.1", mixed), atol=1e-5, rtol=1e-4)


def test_times_are_computed_once() -> None:
    estimator = small_estimator()
    assert estimator.times() is estimator.times()


def test_times_follow_the_weights() -> None:
    estimator, other = small_estimator(1), small_estimator(2)
    before = estimator.times()
    estimator.load_state_dict(other.state_dict())
    assert not torch.allclose(estimator.times(), before)
    assert torch.equal(estimator.times(), other.times())


def test_times_follow_a_load_of_what_is_around() -> None:
    outer, other = torch.nn.ModuleDict({"e": small_estimator(1)}), small_estimator(2)
    outer["e"].times()
    outer.load_state_dict({f"e.{name}": tensor for name, tensor in other.state_dict().items()}, assign=True)
    assert torch.equal(outer["e"].times(), other.times())


def test_times_follow_the_dtype() -> None:
    estimator = small_estimator()
    exact = estimator.times()
    assert estimator.bfloat16().times().dtype == torch.bfloat16
    assert (estimator.times().float() - exact).abs().max() < 0.02


def test_steps_differ() -> None:
    estimator = small_estimator()
    x = random(1, 5, INPUTS)
    first, second = estimator.times()
    with torch.no_grad():
        assert not torch.allclose(estimator(x, first), estimator(x, second), atol=1e-3)


def test_stages_follow_one_another() -> None:
    estimator = small_estimator(mid_blocks=1)
    x, time = random(1, 5, INPUTS), estimator.times()[0]
    down, mid, up = estimator.down_blocks[0], estimator.mid_blocks[0], estimator.up_blocks[0]
    with torch.no_grad():
        skip = down[1][1](down[1][0](down[0](x, time[0]), None), None)
        y = mid(down[2](skip), time[1], None)
        y = up[2](up(torch.cat((y, skip), -1), time[2], None))
        torch.testing.assert_close(estimator(x, time), estimator.final_proj(estimator.final_block(y)))


@settings(deadline=None, max_examples=12)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4), extra=st.integers(0, 3))
def test_a_padded_batch_equals_single_rows(lengths: list[int], extra: int) -> None:
    estimator = shared_estimator()
    size = max(lengths) + extra
    x, time = random(len(lengths), size, INPUTS), estimator.times()[1]
    with torch.no_grad():
        batch = estimator(x, time, key_bias(torch.tensor(lengths), size, x.dtype))
        assert batch.shape == (len(lengths), size, OUTPUTS)
        for row, length in enumerate(lengths):
            alone = estimator(x[row : row + 1, :length], time)
            torch.testing.assert_close(batch[row, :length], alone[0], atol=2e-5, rtol=1e-4)


def test_a_bias_that_masks_nothing_changes_nothing() -> None:
    estimator = small_estimator()
    x, time = random(2, 7, INPUTS), estimator.times()[0]
    with torch.no_grad():
        free = estimator(x, time)
        biased = estimator(x, time, key_bias(torch.tensor([7, 7]), 7, x.dtype))
    torch.testing.assert_close(free, biased, atol=1e-5, rtol=1e-4)


def test_names_are_the_released_ones() -> None:
    names = set(small_estimator().state_dict())
    assert {
        "time_mlp.linear_1.weight",
        "time_embed_mixer.weight",
        "down_blocks.0.0.block1.block.0.weight",
        "down_blocks.0.0.block1.block.2.bias",
        "down_blocks.0.0.res_conv.weight",
        "down_blocks.0.0.mlp.1.bias",
        "down_blocks.0.1.1.attn1.to_q.weight",
        "down_blocks.0.1.1.attn1.to_out.0.bias",
        "down_blocks.0.2.weight",
        "mid_blocks.1.1.0.ff.net.0.proj.weight",
        "up_blocks.0.1.0.norm3.weight",
        "final_block.block.0.weight",
        "final_proj.weight",
    } <= names
    assert not any("qkv" in name for name in names)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.2), (torch.float16, 0.03)])
def test_half_precision(dtype: torch.dtype, bound: float) -> None:
    x = random(2, 9, INPUTS)
    lengths = torch.tensor([9, 4])
    exact, half = small_estimator(), small_estimator().to(dtype)
    with torch.no_grad():
        expected = exact(x, exact.times()[0], key_bias(lengths, 9, x.dtype))
        out = half(x.to(dtype), half.times()[0], key_bias(lengths, 9, dtype))
    assert out.dtype == dtype
    assert (out[0].float() - expected[0]).abs().max() < bound
    assert (out[1, :4].float() - expected[1, :4]).abs().max() < bound


def test_traces_for_any_batch_and_length() -> None:
    # Exported means: no reading back of values, no shape burnt in.
    estimator = small_estimator()
    times = estimator.times()
    batch, size = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("size", min=2, max=4096)
    example = (random(2, 7, INPUTS), times[0], key_bias(torch.tensor([7, 4]), 7, torch.float32).contiguous())
    shapes = ({0: batch, 1: size}, None, {0: batch, 3: size})
    program = torch.export.export(estimator, example, dynamic_shapes=shapes).module()
    x, bias = random(3, 11, INPUTS), key_bias(torch.tensor([11, 5, 8]), 11, torch.float32).contiguous()
    with torch.no_grad():
        torch.testing.assert_close(program(x, times[1], bias), estimator(x, times[1], bias))
