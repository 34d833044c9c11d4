"""The loop of one utterance, on a small random model; equality with the reference is tests/parity's matter."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from tests.tts_engine.chatterbox.test_t3 import small_t3, voice
from tts_engine.chatterbox.constants import SPEECH_TOKENS, STOP_TOKEN
from tts_engine.chatterbox.decoder import TokenDecoder
from tts_engine.chatterbox.generation import TokenGenerator
from tts_engine.chatterbox.guards import EndReason, TokenGuard
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.chatterbox.t3 import T3
from tts_engine.errors import SynthesisError

TEXT = [3, 14, 15, 9]


def seeded(seed: int) -> Callable[[int], float]:
    return lambda step: random.Random(seed * 1000 + step).random()


def generator(
    t3: T3,
    *,
    seed: int = 1,
    limit: int = 30,
    min_tokens: int = 5,
    cfg_scale: float = 0.0,
    text: list[int] | None = None,
) -> TokenGenerator:
    guard = TokenGuard(0, limit=limit, min_tokens=min_tokens)
    text = TEXT if text is None else text
    return TokenGenerator(decoder(t3, cfg_scale), text, seeded(seed), guard)


def decoder(t3: T3, cfg_scale: float = 0.0, capacity: int = 40) -> TokenDecoder:
    return TokenDecoder(t3, voice(t3), capacity, SamplingSettings(), cfg_scale)


def with_stop(bias: float) -> T3:
    t3 = small_t3()
    t3.speech_head.bias[STOP_TOKEN] += bias
    return t3


def test_the_same_draws_give_the_same_tokens_and_others_do_not() -> None:
    t3 = small_t3()
    first = list(generator(t3))
    assert len(first) > 20
    assert all(0 <= token < SPEECH_TOKENS for token in first)
    assert list(generator(t3)) == first
    assert list(generator(t3, seed=2)) != first


def test_tokens_come_one_by_one() -> None:
    asked: list[int] = []

    def uniforms(step: int) -> float:
        asked.append(step)
        return 0.5 + step / 100

    t3 = small_t3()
    tokens = TokenGenerator(decoder(t3), TEXT, uniforms, TokenGuard(0, limit=30))
    assert tokens.end_reason is None
    assert asked == []
    next(tokens)
    assert asked == [0]
    next(tokens)
    assert asked == [0, 1]
    assert tokens.end_reason is None
    assert not torch.is_inference_mode_enabled()


def test_it_ends_at_the_limit() -> None:
    tokens = generator(small_t3(), limit=12)
    assert len(list(tokens)) <= 12
    assert tokens.end_reason is EndReason.TOO_LONG
    assert list(tokens) == []


def test_stop_ends_it_but_not_before_something_is_said() -> None:
    tokens = generator(with_stop(100.0))
    assert len(list(tokens)) == 5
    assert tokens.end_reason is EndReason.STOPPED
    tokens = generator(with_stop(100.0), min_tokens=0)
    assert list(tokens) == []
    assert tokens.end_reason is EndReason.STOPPED


def test_two_generators_in_turn_do_not_disturb_each_other() -> None:
    t3 = small_t3()
    alone = [list(generator(t3, seed=seed, limit=10)) for seed in (1, 2)]
    first, second = generator(t3, seed=1, limit=10), generator(t3, seed=2, limit=10)
    heard: list[list[int]] = [[], []]
    for _ in range(10):
        heard[0] += [token for token in [next(first, None)] if token is not None]
        heard[1] += [token for token in [next(second, None)] if token is not None]
    assert heard == alone


def test_guidance_changes_what_is_said_and_vanishes_at_nought() -> None:
    t3 = small_t3()
    plain = list(generator(t3))
    assert list(generator(t3, cfg_scale=1e-9)) == plain
    assert list(generator(t3, cfg_scale=3.0)) != plain


def test_guidance_without_a_text_changes_nothing() -> None:
    t3 = small_t3()
    assert list(generator(t3, cfg_scale=5.0, text=[])) == list(generator(t3, text=[]))


def test_numbers_that_overflow_are_an_error_not_a_sound() -> None:
    t3 = small_t3()
    t3.speech_head.bias[10] = torch.nan
    with pytest.raises(SynthesisError, match="overflowed"):
        list(generator(t3))


def test_a_decoder_forgets_the_utterance_before() -> None:
    t3 = small_t3()
    shared = decoder(t3)
    alone = [list(generator(t3, seed=seed)) for seed in (1, 2)]
    again = [list(TokenGenerator(shared, TEXT, seeded(seed), TokenGuard(0, limit=30))) for seed in (1, 2)]
    assert again == alone


def test_a_sequence_over_the_capacity_is_an_error() -> None:
    tokens = TokenGenerator(decoder(small_t3(), capacity=10), TEXT, seeded(1), TokenGuard(0, limit=30))
    heard = []
    with pytest.raises(SynthesisError, match="10 positions"):
        heard += [token for _ in range(30) for token in [next(tokens)]]
    assert tokens.end_reason is None


def test_a_text_over_the_capacity_is_an_error() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        decoder(small_t3(), capacity=3).begin(TEXT)
