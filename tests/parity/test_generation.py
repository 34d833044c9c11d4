"""Seeded generation against the reference's `inference_turbo`, its random draws replaced by the same uniforms."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.reference import reference_t3
from tests.parity.test_t3 import Case, ours
from tts_engine.chatterbox.constants import START_TOKEN, STOP_TOKEN
from tts_engine.chatterbox.decoder import TokenDecoder
from tts_engine.chatterbox.generation import TokenGenerator
from tts_engine.chatterbox.guards import EndReason, TokenGuard
from tts_engine.chatterbox.sampling import invert_cdf
from tts_engine.chatterbox.sampling_settings import SamplingSettings


def reference_tokens(
    case: Case, text: Tensor, uniforms: list[float], count: int, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> list[int]:
    """What the reference gives, at most `count` tokens, without STOP; those beyond 6560 dropped as its caller does."""
    draws = iter(uniforms)

    def multinomial(probabilities: Tensor, num_samples: int) -> Tensor:
        assert num_samples == 1
        return invert_cdf(probabilities, torch.tensor([next(draws)], dtype=torch.float64))[:, None]

    monkeypatch.setattr(torch, "multinomial", multinomial)
    tokens = reference_t3(4).inference_turbo(
        t3_cond=case.conditioning(), text_tokens=text[None], max_gen_len=count - 1, **settings
    )
    monkeypatch.undo()
    return [token for token in tokens[0].tolist() if token < START_TOKEN]


def our_tokens(
    case: Case, text: Tensor, uniforms: list[float], count: int, **settings: Any
) -> tuple[list[int], EndReason | None]:
    t3 = ours(reference_t3(4))
    with torch.inference_mode():
        prefix = t3.prefix(case.speaker, case.prompt)
    guard = TokenGuard(0, limit=count, min_tokens=0)
    decoder = TokenDecoder(t3, prefix, len(text) + 1 + count, SamplingSettings(**settings))
    generator = TokenGenerator(decoder, text.tolist(), uniforms.__getitem__, guard)
    return list(generator), generator.end_reason


@pytest.mark.parametrize(
    ("seed", "settings"),
    [(1, {}), (2, {"temperature": 1.3, "top_k": 0, "top_p": 0.8, "repetition_penalty": 2.0}), (3, {"top_k": 40})],
)
def test_the_same_draws_give_the_references_tokens(
    seed: int, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, count = Case(prompt=80), 40
    draw = random.Random(seed)
    uniforms = [draw.random() for _ in range(count)]
    expected = reference_tokens(case, case.texts[3], uniforms, count, monkeypatch, **settings)
    got, reason = our_tokens(case, case.texts[3], uniforms, count, **settings)
    assert len(set(expected)) > 20
    assert got == expected
    assert reason is EndReason.TOO_LONG


def test_stop_and_tokens_beyond_sound_are_treated_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """With START and STOP, the last of the vocabulary, made likely: STARTs are fed back and dropped, STOP ends."""
    case, before_stop = Case(prompt=20), 25
    bias = reference_t3(4).speech_head.bias
    kept = bias.detach().clone()
    draw = random.Random(8)
    uniforms = [*(0.9 * draw.random() for _ in range(before_stop)), 0.999999, 0.1]
    with torch.no_grad():
        bias[START_TOKEN] += 6.5
        bias[STOP_TOKEN] += 4.0
    try:
        expected = reference_tokens(case, case.texts[1], uniforms, 40, monkeypatch)
        got, reason = our_tokens(case, case.texts[1], uniforms, 40)
    finally:
        with torch.no_grad():
            bias.copy_(kept)
    assert 2 < len(expected) < before_stop
    assert got == expected
    assert reason is EndReason.STOPPED
