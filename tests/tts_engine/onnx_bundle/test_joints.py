"""Chunks that are joined: nothing lost where decodes agree, no click and no dip where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.onnx_bundle.joints import (
    FADE_SAMPLES,
    HELD_TOKENS,
    SEARCH_SAMPLES,
    ChunkJoiner,
    best_shift,
    fade_in,
    speakable_samples,
)

RATE = 24000
TOKEN = 960

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=6)


def cuts_of(sizes: list[int]) -> list[int]:
    """Tokens at which chunks are decoded; the first has some to speak."""
    cuts = list(np.cumsum([HELD_TOKENS + sizes[0], *sizes[1:]]))
    return [int(cut) for cut in cuts]


def join(decodes: list[np.ndarray], cuts: list[int]) -> list[np.ndarray]:
    """Decodes of that many tokens, and a final one."""
    joiner = ChunkJoiner()
    parts = [joiner.take(decode, speakable_samples(cut)) for decode, cut in zip(decodes, cuts, strict=False)]
    return [*parts, joiner.take(decodes[-1], len(decodes[-1]))]


@settings(deadline=None, max_examples=30)
@given(LENGTHS, st.integers(0, 2**32), st.sampled_from(["noise", "speech", "silence", "tone"]))
def test_decodes_that_agree_join_to_the_last_one(sizes: list[int], seed: int, kind: str) -> None:
    cuts = cuts_of(sizes)
    length = (cuts[-1] + 3) * TOKEN
    whole = signal(kind, length, seed)
    parts = join([*(whole[: cut * TOKEN] for cut in cuts), whole], cuts)
    # a (1 - r) + a r rounds.
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)
    assert [len(part) for part in parts[:-1]] == list(np.diff([0, *(speakable_samples(cut) for cut in cuts)]))


@settings(deadline=None, max_examples=30)
@given(LENGTHS, st.integers(0, 2**32), st.floats(80, 400))
def test_a_tone_of_another_phase_in_each_decode(sizes: list[int], seed: int, pitch: float) -> None:
    """What unaligned joints of voiced speech sound like: no step at the joint, and no hole in the level."""
    cuts = cuts_of(sizes)
    generator = np.random.default_rng(seed)
    lengths = [*(cut * TOKEN for cut in cuts), (cuts[-1] + 3) * TOKEN]
    phases = generator.uniform(0, 2 * np.pi, len(lengths))
    decodes = [tone(length, pitch, phase) for length, phase in zip(lengths, phases, strict=True)]
    joined = np.concatenate(join(decodes, cuts))
    steepest = 2 * np.pi * pitch / RATE
    assert np.abs(np.diff(joined)).max() <= 1.1 * steepest + 1e-3
    period = round(RATE / pitch)
    levels = np.sqrt(np.convolve(np.square(joined, dtype=np.float64), np.ones(period) / period, mode="valid"))
    assert levels.min() > 0.9 * np.sqrt(0.5)
    # A joint moves what follows it by the shift of its alignment, but the next one starts from where it should.
    assert abs(len(joined) - lengths[-1]) <= SEARCH_SAMPLES * len(cuts)


@settings(deadline=None, max_examples=30)
@given(LENGTHS, st.integers(0, 2**32))
def test_noise_that_differs_never_gets_louder(sizes: list[int], seed: int) -> None:
    cuts = cuts_of(sizes)
    lengths = [*(cut * TOKEN for cut in cuts), (cuts[-1] + 3) * TOKEN]
    decodes = [signal("noise", length, seed + index) for index, length in enumerate(lengths)]
    peak = max(np.abs(decode).max() for decode in decodes)
    assert np.abs(np.concatenate(join(decodes, cuts))).max() <= peak + 1e-6


def signal(kind: str, length: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    at = np.arange(length) / RATE
    if kind == "silence":
        return np.zeros(length, np.float32)
    if kind == "tone":
        return tone(length, 137.0, 0.3)
    if kind == "noise":
        return generator.normal(0, 0.2, length).astype(np.float32)
    pitch = np.cumsum(120 + 30 * np.sin(3 * at + seed)) / RATE
    voiced = sum(np.sin(2 * np.pi * h * pitch) / h for h in range(1, 12))
    return (0.2 * voiced * (0.5 + 0.5 * np.sin(8 * np.pi * at)) + generator.normal(0, 0.003, length)).astype(np.float32)


def tone(length: int, pitch: float, phase: float) -> np.ndarray:
    return np.sin(2 * np.pi * pitch * np.arange(length) / RATE + phase).astype(np.float32)


@settings(deadline=None)
@given(st.integers(-SEARCH_SAMPLES, SEARCH_SAMPLES), st.integers(0, 2**32))
def test_a_shift_is_found(shift: int, seed: int) -> None:
    wave = signal("noise", 4000, seed)
    position = 1500
    tail = 0.7 * wave[position + shift : position + shift + FADE_SAMPLES]
    assert best_shift(tail, wave, position) == shift


def test_where_nothing_tells_there_is_no_shift() -> None:
    noise = signal("noise", 4000, 1)
    assert best_shift(np.zeros(FADE_SAMPLES, np.float32), noise, 1500) == 0
    assert best_shift(np.zeros(0, np.float32), noise, 1500) == 0
    assert best_shift(noise[:FADE_SAMPLES], noise[:100], 90) == 0
    assert best_shift(noise[:FADE_SAMPLES], np.zeros(4000, np.float32), 1500) == 0


def test_the_end_may_be_shorter_than_a_fade() -> None:
    whole = signal("speech", 40 * TOKEN, 1)
    joiner = ChunkJoiner()
    first = joiner.take(whole, 39 * TOKEN)
    last = joiner.take(whole[: 39 * TOKEN + 100], 39 * TOKEN + 100)
    np.testing.assert_allclose(np.concatenate([first, last]), whole[: 39 * TOKEN + 100], atol=1e-6)


def test_the_callers_arrays_are_left_alone() -> None:
    one, other = signal("noise", 40 * TOKEN, 1), signal("noise", 60 * TOKEN, 2)
    kept = one.copy(), other.copy()
    joiner = ChunkJoiner()
    joiner.take(one, 20 * TOKEN)
    joiner.take(other, 50 * TOKEN)
    assert (one == kept[0]).all()
    assert (other == kept[1]).all()


@pytest.mark.parametrize("until", [0, 960, 961 * 40])
def test_there_must_be_something_new(until: int) -> None:
    joiner = ChunkJoiner()
    wave = signal("noise", 40 * TOKEN, 1)
    joiner.take(wave, 960)
    with pytest.raises(ValueError, match="sample"):
        joiner.take(wave, until)


def test_the_last_tokens_of_an_unfinished_utterance_are_held() -> None:
    assert speakable_samples(HELD_TOKENS) == speakable_samples(0) == 0
    assert speakable_samples(HELD_TOKENS + 2) == 2 * TOKEN
    assert HELD_TOKENS * TOKEN > FADE_SAMPLES + SEARCH_SAMPLES  # the next joint's tail is there


def test_fades_are_complementary() -> None:
    rising = fade_in(480)
    np.testing.assert_allclose(rising + rising[::-1], 1, atol=1e-6)
    assert (np.diff(rising) > 0).all()
    assert len(fade_in(0)) == 0
