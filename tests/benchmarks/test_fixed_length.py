"""Utterances as long as their texts say."""

from __future__ import annotations

import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.texts import sentence
from benchmarks.model.fixed_length import FixedLengthGuard, token_count
from tts_engine.chatterbox.constants import SPEECH_TOKENS, START_TOKEN, STOP_TOKEN
from tts_engine.chatterbox.guards import EndReason, TokenGuard


@given(st.lists(st.integers(0, START_TOKEN), min_size=1, max_size=60))
def test_ends_after_its_tokens_and_drops_what_is_no_sound(sampled: list[int]) -> None:
    guard = FixedLengthGuard(len(sampled))
    given_out: list[int] = []
    for at, token in enumerate(sampled, 1):
        assert guard.forbid_stop
        verdict = guard.accept(token)
        given_out += verdict.tokens
        assert (verdict.end is not None) == (at == len(sampled))

    assert verdict.end is EndReason.STOPPED
    assert given_out == [token for token in sampled if token < SPEECH_TOKENS]


def test_the_same_token_for_ever_is_no_fault() -> None:
    """Random weights do that; a TokenGuard ends it."""
    ours, strict = FixedLengthGuard(500), TokenGuard(100, limit=500)
    assert all(ours.accept(7).end is None for _ in range(499))
    assert any(strict.accept(7).end is EndReason.REPETITION for _ in range(100))


def test_stop_ends_it_all_the_same() -> None:
    guard = FixedLengthGuard(10)

    assert guard.accept(STOP_TOKEN).end is EndReason.STOPPED


@pytest.mark.parametrize(("seconds", "tokens"), [(2.0, 50), (5.0, 125), (8.0, 200)])
def test_length_follows_the_text(seconds: float, tokens: int) -> None:
    guard = FixedLengthGuard.for_text(sentence(random.Random(1), round(15 * seconds)))

    assert guard.limit == guard.min_tokens == tokens


def test_bounds() -> None:
    assert token_count("") == 1
    assert token_count("x" * 10_000) == 1000


def test_can_be_sent_to_a_worker_in_another_process() -> None:
    assert pickle.loads(pickle.dumps(FixedLengthGuard.for_text))("x" * 15).limit == 25
