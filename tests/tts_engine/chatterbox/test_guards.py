"""Faults of a speech model are cut; ordinary speech passes whole and in order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.chatterbox.constants import SILENCE_TOKEN, START_TOKEN, STOP_TOKEN
from tts_engine.chatterbox.guards import (
    LONGEST_CYCLE,
    MIN_TOKENS,
    REPEATED_KEPT,
    REPEATED_LIMIT,
    REPEATS_LIMIT,
    SILENCE_KEPT,
    SILENCE_LIMIT,
    EndReason,
    TokenGuard,
    max_tokens,
)


def feed(guard: TokenGuard, tokens: list[int]) -> tuple[list[int], EndReason | None, int]:
    """What a listener hears, why it ended, how many tokens were taken."""
    heard: list[int] = []
    for at, token in enumerate(tokens):
        verdict = guard.accept(token)
        heard += verdict.tokens
        if verdict.end is not None:
            return heard, verdict.end, at + 1
    return heard, None, len(tokens)


def speech(count: int, seed: int = 0) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(SILENCE_TOKEN) for _ in range(count)]


def long_guard() -> TokenGuard:
    return TokenGuard(300, limit=1000)


def test_speech_passes_at_once_up_to_stop() -> None:
    guard, tokens = long_guard(), speech(200)
    for token in tokens:
        verdict = guard.accept(token)
        assert verdict.tokens == (token,)
        assert verdict.end is None
    verdict = guard.accept(STOP_TOKEN)
    assert (verdict.tokens, verdict.end) == ((), EndReason.STOPPED)


def test_tokens_beyond_sound_are_dropped_but_counted() -> None:
    guard = TokenGuard(0, limit=6, min_tokens=0)
    assert feed(guard, [1, START_TOKEN, 2, 6562 + 1, 3, 4, 5]) == ([1, 2, 3, 4], EndReason.TOO_LONG, 6)


def test_stop_is_forbidden_for_the_first_few_tokens() -> None:
    guard = long_guard()
    for token in speech(MIN_TOKENS):
        assert guard.forbid_stop
        guard.accept(token)
    assert not guard.forbid_stop
    assert not TokenGuard(10, min_tokens=0).forbid_stop


@pytest.mark.parametrize("pause", [1, SILENCE_KEPT, SILENCE_KEPT + 1, SILENCE_LIMIT - 1])
def test_a_pause_within_the_limit_is_heard_whole(pause: int) -> None:
    tokens = speech(30) + [SILENCE_TOKEN] * pause + speech(30, seed=1)
    assert feed(long_guard(), [*tokens, STOP_TOKEN]) == (tokens, EndReason.STOPPED, len(tokens) + 1)


def test_silence_before_stop_is_left_as_it_is() -> None:
    tokens = speech(30) + [SILENCE_TOKEN] * (SILENCE_LIMIT - 1)
    assert feed(long_guard(), [*tokens, STOP_TOKEN])[0] == tokens


def test_endless_silence_is_cut_and_a_pause_of_it_stays() -> None:
    tokens = speech(30) + [SILENCE_TOKEN] * 500
    heard, end, taken = feed(long_guard(), tokens)
    assert heard == speech(30) + [SILENCE_TOKEN] * SILENCE_KEPT
    assert end is EndReason.ENDLESS_SILENCE
    assert taken == 30 + SILENCE_LIMIT


@pytest.mark.parametrize("period", range(1, LONGEST_CYCLE + 1))
def test_an_endless_cycle_is_cut_after_its_second_round(period: int) -> None:
    start = [SILENCE_TOKEN + 1 + token for token in range(20)]
    cycle = speech(period, seed=period)
    heard, end, taken = feed(long_guard(), start + cycle * 400)
    assert end is EndReason.REPETITION
    assert taken == 20 + max(REPEATED_LIMIT, REPEATS_LIMIT * period)
    assert heard == (start + cycle * 400)[: 20 + max(REPEATED_KEPT, 2 * period)]


@pytest.mark.parametrize("period", range(2, LONGEST_CYCLE + 1))
def test_a_word_said_five_times_is_speech(period: int) -> None:
    tokens = speech(10, seed=1) + speech(period, seed=2) * (REPEATS_LIMIT - 1) + speech(40, seed=3)
    if period * (REPEATS_LIMIT - 1) + 1 < REPEATED_LIMIT or period > 9:
        assert feed(long_guard(), [*tokens, STOP_TOKEN])[:2] == (tokens, EndReason.STOPPED)


def test_a_held_vowel_is_speech() -> None:
    tokens = speech(10) + [77] * (REPEATED_LIMIT - 1) + speech(10, seed=1)
    assert feed(long_guard(), [*tokens, STOP_TOKEN])[:2] == (tokens, EndReason.STOPPED)


def test_blips_in_silence_are_a_cycle_too() -> None:
    heard, end, _ = feed(long_guard(), speech(20) + ([SILENCE_TOKEN] * 15 + [9]) * 60)
    assert end is EndReason.REPETITION
    assert len(heard) <= 20 + 15 + 2 * 16


def test_too_long_is_cut_at_the_limit() -> None:
    heard, end, taken = feed(TokenGuard(10), speech(2000))
    assert (len(heard), end, taken) == (100, EndReason.TOO_LONG, 100)


def test_a_limit_reached_in_a_suspicious_run_drops_the_run() -> None:
    heard, end, _ = feed(TokenGuard(10, limit=60), speech(30) + [SILENCE_TOKEN] * 100)
    assert heard == speech(30) + [SILENCE_TOKEN] * SILENCE_KEPT
    assert end is EndReason.TOO_LONG


@given(
    pieces=st.lists(
        st.tuples(st.lists(st.integers(0, 6562 - 1), min_size=1, max_size=6), st.integers(1, 12)),
        min_size=1,
        max_size=30,
    ),
    stop=st.booleans(),
)
def test_what_is_heard_is_a_prefix_of_what_was_said(pieces: list[tuple[list[int], int]], stop: bool) -> None:
    tokens = [token for piece, times in pieces for token in piece * times] + [STOP_TOKEN] * stop
    heard, end, taken = feed(long_guard(), tokens)
    sound = [token for token in tokens[:taken] if token < START_TOKEN]
    assert heard == sound[: len(heard)]
    if end is EndReason.STOPPED:
        assert heard == sound
    if end is EndReason.REPETITION:
        assert len(heard) < len(sound) or START_TOKEN in tokens


@pytest.mark.parametrize("seed", range(20))
def test_speech_like_sequences_never_trip(seed: int) -> None:
    """Tokens that last one to eight positions, pauses up to 1.5 s, a small inventory: more repetitive than speech."""
    draw = random.Random(seed)
    tokens: list[int] = []
    while len(tokens) < 800:
        if draw.random() < 0.03:
            tokens += [SILENCE_TOKEN] * draw.randint(5, 38)
        tokens += [draw.randrange(60)] * draw.choice([1, 1, 1, 1, 2, 2, 3, 8])
    assert feed(long_guard(), [*tokens, STOP_TOKEN])[:2] == (tokens, EndReason.STOPPED)


SLOWEST = 10.0  # characters a second, slower than the slowest readers


@pytest.mark.parametrize("chars", [1, 40, 120, 240, 300])
def test_plain_text_fits_even_when_read_slowly(chars: int) -> None:
    text = ("some words of a sentence " * 20)[:chars]
    assert max_tokens(text) >= 25 * chars / SLOWEST
    assert TokenGuard(chars).limit == max_tokens(text)


def test_the_bound_stays_between_4_and_40_seconds() -> None:
    assert max_tokens("") == max_tokens("hi") == 100
    assert max_tokens("a" * 10000) == TokenGuard(10000).limit == 1000


def test_digits_symbols_and_capitals_take_longer_than_letters() -> None:
    digits = "4111 1111 1111 1111, 0800 123 4567"
    assert max_tokens(digits) >= 25 * 0.5 * sum(char.isdigit() for char in digits)
    assert max_tokens("A" * 60) > max_tokens("a" * 60)


def test_a_tag_is_a_sound_not_letters() -> None:
    text = "well " * 12
    assert max_tokens(text + "[laugh]" * 2) == max_tokens(text) + 100
    assert max_tokens(text + "[sigh]") == max_tokens(text + "[clear throat]")


def test_for_text_bounds_by_the_text() -> None:
    text = "Call 0800 123 4567 now. [laugh]"
    assert TokenGuard.for_text(text).limit == max_tokens(text) > TokenGuard(len(text)).limit


@pytest.mark.parametrize(("limit", "least"), [(5, 5), (0, 0), (10, -1), (3, 4)])
def test_a_guard_that_could_not_end_or_begin_is_refused(limit: int, least: int) -> None:
    with pytest.raises(ValueError, match="min_tokens"):
        TokenGuard(10, limit=limit, min_tokens=least)
