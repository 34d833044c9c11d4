from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tests.tts_engine.chatterbox.flow_modules import liven, random
from tts_engine.chatterbox.encoder import (
    Encoder,
    EncoderLayer,
    LookAhead,
    RelativeAttention,
    Upsample,
    by_query_and_key,
    relative_positions,
)
from tts_engine.chatterbox.flow_layers import key_bias

WIDTH, HEADS = 16, 2


def small_encoder() -> Encoder:
    return liven(Encoder(WIDTH, HEADS, 24, layers=2, up_layers=2, look_ahead=3))


@lru_cache(maxsize=1)
def shared_encoder() -> Encoder:
    return small_encoder()


def test_relative_positions_are_sines_of_distances() -> None:
    table = relative_positions(3, 8, torch.empty(0))
    assert table.shape == (7, 8)
    for row, distance in enumerate((3, 2, 1, 0, -1, -2, -3)):
        for octave in range(4):
            angle = distance * 10000.0 ** (-octave / 4)
            assert table[row, 2 * octave].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[row, 2 * octave + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_a_longer_table_holds_the_shorter_in_its_middle() -> None:
    assert torch.equal(relative_positions(8, 6, torch.empty(0))[4:13], relative_positions(4, 6, torch.empty(0)))


def test_positions_are_rounded_only_at_the_end() -> None:
    half = relative_positions(2000, 8, torch.empty(0, dtype=torch.bfloat16))
    assert torch.equal(half, relative_positions(2000, 8, torch.empty(0)).bfloat16())


@given(size=st.integers(1, 9))
def test_by_query_and_key_picks_the_distance(size: int) -> None:
    scores = random(2, 3, size, 2 * size + 1)
    picked = by_query_and_key(scores)
    assert picked.shape == (2, 3, size, size)
    for query in range(size):
        for key in range(size):
            assert torch.equal(picked[..., query, key], scores[..., query, size - (query - key)])


def test_by_query_and_key_copies_nothing() -> None:
    scores = random(2, 3, 5, 11)
    assert by_query_and_key(scores.transpose(0, 1)).untyped_storage().data_ptr() == scores.untyped_storage().data_ptr()


def attention_in_words(attention: RelativeAttention, x: torch.Tensor, length: int) -> torch.Tensor:
    """Transformer-XL's formula, one score at a time."""
    size, width = x.shape
    head = width // attention.heads
    query, key, value = attention.qkv(x).view(size, 3, attention.heads, head).unbind(1)
    out = torch.zeros(size, attention.heads, head)
    for h in range(attention.heads):
        u, v = attention.pos_bias_u[h], attention.pos_bias_v[h]
        for i in range(size):
            scores = []
            for j in range(length):
                angles = (i - j) * 10000.0 ** (-torch.arange(0, width, 2) / width)
                position = torch.stack((angles.sin(), angles.cos()), -1).flatten()
                projected = attention.linear_pos(position).view(attention.heads, head)[h]
                scores.append(((query[i, h] + u) @ key[j, h] + (query[i, h] + v) @ projected) / head**0.5)
            out[i, h] = torch.stack(scores).softmax(0) @ value[:length, h]
    return attention.linear_out(out.flatten(1))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_attention_is_transformer_xls(size: int) -> None:
    attention = liven(RelativeAttention(WIDTH, HEADS))
    x = random(3, size, WIDTH)
    with torch.no_grad():
        out = attention(x, relative_positions(size, WIDTH, x), None)
        for row in range(3):
            torch.testing.assert_close(out[row], attention_in_words(attention, x[row], size), atol=1e-5, rtol=1e-4)


def test_attention_reads_no_padding() -> None:
    attention = liven(RelativeAttention(WIDTH, HEADS))
    x = random(2, 6, WIDTH)
    lengths = torch.tensor([4, 6])
    with torch.no_grad():
        out = attention(x, relative_positions(6, WIDTH, x), key_bias(lengths, 6, x.dtype))
        for row, length in enumerate(lengths.tolist()):
            expected = attention_in_words(attention, x[row], length)
            torch.testing.assert_close(out[row], expected, atol=1e-5, rtol=1e-4)


def test_a_layer_normalises_before() -> None:
    layer = liven(EncoderLayer(WIDTH, HEADS, 24))
    x = random(1, 5, WIDTH)
    positions = relative_positions(5, WIDTH, x)
    with torch.no_grad():
        attended = x + layer.self_attn(layer.norm_mha(x), positions, None)
        hidden = F.silu(layer.feed_forward.w_1(layer.norm_ff(attended)))
        torch.testing.assert_close(layer(x, positions, None), attended + layer.feed_forward.w_2(hidden))


def reach(module: nn.Module, size: int, at: int) -> list[int]:
    """Which outputs change with the input at one place."""
    x = random(1, size, WIDTH)
    changed = x.clone()
    changed[0, at] += 1
    with torch.no_grad():
        difference = (module(x) - module(changed)).abs().amax(-1)[0]
    return difference.nonzero().flatten().tolist()


def test_look_ahead_reaches_three_tokens_back_from_the_future() -> None:
    assert reach(liven(LookAhead(WIDTH, 3)), 12, 6) == [3, 4, 5, 6, 7, 8]


def test_upsample_reaches_two_tokens_ahead() -> None:
    assert reach(liven(Upsample(WIDTH)), 8, 3) == [6, 7, 8, 9, 10, 11]


def test_upsample_is_nearest_neighbour_and_convolution() -> None:
    upsample = liven(Upsample(WIDTH))
    x = random(2, 5, WIDTH)
    with torch.no_grad():
        doubled = F.pad(F.interpolate(x.transpose(1, 2), scale_factor=2.0, mode="nearest"), (4, 0))
        state = upsample.state_dict()
        expected = F.conv1d(doubled, state["conv.weight"], state["conv.bias"]).transpose(1, 2)
        torch.testing.assert_close(upsample(x), expected, atol=1e-5, rtol=1e-4)


@settings(deadline=None, max_examples=12)
@given(lengths=st.lists(st.integers(1, 11), min_size=1, max_size=4), extra=st.integers(0, 3))
def test_a_padded_batch_equals_single_rows(lengths: list[int], extra: int) -> None:
    encoder = shared_encoder()
    x = random(len(lengths), max(lengths) + extra, WIDTH)
    with torch.no_grad():
        batch = encoder(x, torch.tensor(lengths))
        assert batch.shape == (len(lengths), 2 * x.shape[1], WIDTH)
        for row, length in enumerate(lengths):
            alone = encoder(x[row : row + 1, :length])
            torch.testing.assert_close(batch[row, : 2 * length], alone[0], atol=2e-5, rtol=1e-4)


def test_what_lies_in_the_padding_does_not_matter() -> None:
    encoder = small_encoder()
    x = random(2, 9, WIDTH)
    other = x.clone()
    other[0, 5:] = 100.0
    lengths = torch.tensor([5, 9])
    with torch.no_grad():
        one, two = encoder(x, lengths), encoder(other, lengths)
    assert torch.equal(one[0, :10], two[0, :10])
    assert torch.equal(one[1], two[1])


def test_a_free_slot_leaves_its_neighbours_alone() -> None:
    encoder = small_encoder()
    x = random(2, 6, WIDTH)
    with torch.no_grad():
        batch = encoder(x, torch.tensor([0, 6]))
        torch.testing.assert_close(batch[1], encoder(x[1:])[0], atol=2e-5, rtol=1e-4)
    assert batch.isfinite().all()


def test_the_whole_utterance_is_heard_everywhere() -> None:
    assert reach(small_encoder(), 9, 8) == list(range(18))
    assert reach(small_encoder(), 9, 0) == list(range(18))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.2), (torch.float16, 0.02)])
def test_half_precision(dtype: torch.dtype, bound: float) -> None:
    x = random(2, 9, WIDTH)
    lengths = torch.tensor([9, 4])
    with torch.no_grad():
        exact = small_encoder()(x, lengths)
        half = small_encoder().to(dtype)(x.to(dtype), lengths)
    assert half.dtype == dtype
    assert (half[0].float() - exact[0]).abs().max() < bound
    assert (half[1, :8].float() - exact[1, :8]).abs().max() < bound


def test_made_on_meta_then_loaded() -> None:
    encoder = small_encoder()
    with torch.device("meta"):
        empty = Encoder(WIDTH, HEADS, 24, layers=2, up_layers=2, look_ahead=3)
    empty.load_state_dict(encoder.state_dict(), assign=True)
    x = random(1, 4, WIDTH)
    with torch.no_grad():
        assert torch.equal(empty(x), encoder(x))
