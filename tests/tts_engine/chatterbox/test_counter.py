"""Whether the hash's numbers can pass for random: distribution, and no trace of the neighbours that it was fed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.chatterbox import counter

COUNT = 200_000
STREAMS = (counter.UNIFORM, counter.PROMPT, counter.FLOW, counter.PHASE, counter.SOURCE)
WORDS = st.integers(-(2**63), 2**63 - 1)
MASK = 2**64 - 1


def by_definition(key: int, index: int) -> int:
    """SplitMix64 in Python's integers (Steele, Lea, Flood 2014, figure 17; Vigna's splitmix64.c)."""
    word = (key + index * 0x9E3779B97F4A7C15) & MASK
    word = ((word ^ word >> 30) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ word >> 27) * 0x94D049BB133111EB) & MASK
    return word ^ word >> 31


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten().double(), other.flatten().double()]))[0, 1])


def test_the_published_sequence() -> None:
    """splitmix64.c of seed 1234567: its first numbers."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [word % 2**64 for word in counter.bits(1234567, torch.arange(1, 5)).tolist()] == published


@settings(max_examples=50, deadline=None)
@given(key=WORDS, indices=st.lists(WORDS, min_size=1, max_size=20))
def test_bits_are_those_of_the_definition(key: int, indices: list[int]) -> None:
    expected = [by_definition(key, index) for index in indices]
    index = torch.tensor(indices)
    assert [word % 2**64 for word in counter.bits(key, index).tolist()] == expected
    assert [word % 2**64 for word in counter.bits(torch.tensor(key), index).tolist()] == expected


@given(seed=st.integers(0, 2**64 - 1), stream=st.sampled_from(STREAMS))
def test_a_key_is_a_number_of_the_seed(seed: int, stream: int) -> None:
    key = counter.key(seed, stream)
    assert -(2**63) <= key < 2**63
    assert key % 2**64 == by_definition(seed, stream + 1)


def test_keys_differ() -> None:
    keys = {counter.key(seed, stream) for seed in range(2000) for stream in STREAMS}
    assert len(keys) == 2000 * len(STREAMS)


def test_each_bit_is_a_fair_coin_and_changes_with_each_bit_of_the_index() -> None:
    index = torch.arange(20_000)
    words = counter.bits(counter.key(1, counter.FLOW), index)
    shifts = torch.arange(64)
    ones = (words[:, None] >> shifts & 1).double().mean(0)
    assert (ones - 0.5).abs().max() < 5 * 0.5 / math.sqrt(len(index))
    for bit in range(0, 40, 3):
        flipped = words ^ counter.bits(counter.key(1, counter.FLOW), index ^ (1 << bit))
        changed = (flipped[:, None] >> shifts & 1).double().mean(0)
        assert (changed - 0.5).abs().max() < 5 * 0.5 / math.sqrt(len(index))


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_uniforms_are_even(seed: int) -> None:
    uniforms = counter.uniform(counter.key(seed, counter.UNIFORM), torch.arange(COUNT))
    assert uniforms.dtype == torch.float32
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    assert torch.equal(uniforms * 2**24, (uniforms * 2**24).round())
    bins = 256
    counts = torch.histc(uniforms, bins, 0, 1).double()
    chi_squared = float(((counts - COUNT / bins) ** 2 / (COUNT / bins)).sum())
    assert abs(chi_squared - (bins - 1)) < 5 * math.sqrt(2 * (bins - 1))
    ordered = uniforms.sort().values.double()
    steps = torch.arange(1, COUNT + 1) / COUNT
    assert (ordered - steps).abs().max() * math.sqrt(COUNT) < 2  # Kolmogorov and Smirnov: once in 1500


@pytest.mark.parametrize("stream", STREAMS)
def test_normals_are_normal(stream: int) -> None:
    normals = counter.normal(counter.key(3, stream), torch.arange(COUNT)).double()
    error = 5 / math.sqrt(COUNT)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((normals**power).mean()) - moment) < error * math.sqrt(variance)
    assert 4 < normals.abs().max() < 6.8
    ordered = normals.sort().values
    expected = torch.special.ndtr(ordered)
    steps = torch.arange(1, COUNT + 1) / COUNT
    assert (expected - steps).abs().max() * math.sqrt(COUNT) < 2


def test_the_farthest_that_normals_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words of all zeros and all ones: finite, and no more than 6.7."""
    words = torch.tensor([0, -1, 0xFFFFFFFF, -(1 << 32), 1 << 63 - 1])
    monkeypatch.setattr(counter, "bits", lambda _key, _index: words)
    normals = counter.normal(0, words)
    assert normals.isfinite().all()
    assert normals.abs().max() < 6.8


@pytest.mark.parametrize("lag", [1, 2, 9, 80, 480, 65536])
def test_neighbouring_positions_are_independent(lag: int) -> None:
    normals = counter.normal(counter.key(5, counter.SOURCE), torch.arange(COUNT + lag))
    for one, other in ((normals, normals), (normals**2, normals**2), (normals.abs(), normals)):
        assert abs(correlation(one[:-lag], other[lag:])) < 5 / math.sqrt(COUNT)


@pytest.mark.parametrize("apart", [1, 2, 1 << 32, 1 << 62, counter.GOLDEN % 2**64])
def test_neighbouring_seeds_are_independent(apart: int) -> None:
    """Seeds of a row are what callers give: 1, 2, 3..."""
    for stream in (counter.FLOW, counter.SOURCE):
        one, other = (counter.normal(counter.key(7 + by, stream), torch.arange(COUNT)) for by in (0, apart))
        for power in (1, 2):
            assert abs(correlation(one**power, other**power)) < 5 / math.sqrt(COUNT)


def test_neighbouring_keys_and_streams_are_independent() -> None:
    index = torch.arange(COUNT)
    noises = [counter.normal(counter.key(9, stream), index) for stream in STREAMS]
    noises.append(counter.normal(counter.key(9, counter.FLOW) + 1, index))
    for at, one in enumerate(noises):
        for other in noises[at + 1 :]:
            assert abs(correlation(one, other)) < 5 / math.sqrt(COUNT)


def test_the_two_halves_of_a_word_are_independent() -> None:
    """A normal's radius is made of one, its angle of the other."""
    words = counter.bits(counter.key(4, counter.FLOW), torch.arange(COUNT))
    high, low = (words >> 32 & 0xFFFFFFFF).double(), (words & 0xFFFFFFFF).double()
    assert abs(correlation(high, low)) < 5 / math.sqrt(COUNT)


def test_keys_and_positions_broadcast() -> None:
    keys = torch.tensor([counter.key(seed, counter.FLOW) for seed in range(3)])
    together = counter.normal(keys[:, None], torch.arange(5))
    assert together.shape == (3, 5)
    for row, key in enumerate(keys.tolist()):
        assert torch.equal(together[row], counter.normal(key, torch.arange(5)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same() -> None:
    key, index = counter.key(1, counter.SOURCE), torch.arange(COUNT)
    assert torch.equal(counter.bits(key, index.cuda()).cpu(), counter.bits(key, index))
    assert torch.equal(counter.uniform(key, index.cuda()).cpu(), counter.uniform(key, index))
    torch.testing.assert_close(counter.normal(key, index.cuda()).cpu(), counter.normal(key, index), atol=2e-6, rtol=0)
