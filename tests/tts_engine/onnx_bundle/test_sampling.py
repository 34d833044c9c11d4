"""The sampler is that of the PyTorch engine, in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.chatterbox import sampling as reference
from tts_engine.chatterbox.constants import START_TOKEN, STOP_TOKEN
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.errors import SynthesisError
from tts_engine.onnx_bundle.sampling import TokenSampler, pick, process

VOCABULARY = 6563

SETTINGS = st.builds(
    SamplingSettings,
    temperature=st.sampled_from([0.3, 0.8, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 7, 1000, VOCABULARY, 10_000]),
    top_p=st.sampled_from([0.01, 0.5, 0.95, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.2, 2.0]),
)


def drawn(seed: int, spread: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, VOCABULARY).astype(np.float32)


def at_the_edge(logits: np.ndarray, chosen: SamplingSettings) -> np.ndarray:
    """Tokens of which float32's rounding decides whether top-p cuts them."""
    scaled = logits.astype(np.float64) / chosen.temperature
    if 0 < chosen.top_k < len(scaled):
        scaled[scaled < np.sort(scaled)[-chosen.top_k]] = -np.inf
    order = np.argsort(scaled, kind="stable")
    probabilities = np.exp(scaled[order] - scaled.max())
    cumulative = np.cumsum(probabilities / probabilities.sum())
    edge = np.zeros(len(logits), np.bool_)
    edge[order[np.abs(cumulative - (1 - chosen.top_p)) < 1e-5]] = True
    return edge


@settings(deadline=None, max_examples=30)
@given(SETTINGS, st.integers(0, 2**32), st.sampled_from([0.5, 3.0, 12.0]))
def test_processes_as_the_reference(chosen: SamplingSettings, seed: int, spread: float) -> None:
    logits = drawn(seed, spread)
    seen = np.random.default_rng(seed + 1).random(VOCABULARY) < 0.1
    ours = process(logits.astype(np.float64), seen, chosen)
    theirs = reference.process(torch.from_numpy(logits)[None], torch.from_numpy(seen)[None], chosen)
    sure = ~at_the_edge(logits, chosen)
    np.testing.assert_allclose(ours[sure], theirs[0].numpy()[sure], rtol=1e-5)
    assert np.isfinite(ours).any()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.one_of(st.floats(0, 1, exclude_max=True), st.just(float(np.nextafter(1, 0)))))
def test_picks_as_the_reference(seed: int, draw: float) -> None:
    processed = drawn(seed, 3.0).astype(np.float64)
    processed[np.random.default_rng(seed).random(VOCABULARY) < 0.9] = -np.inf
    processed[seed % VOCABULARY] = 1.0
    token = pick(processed, draw)
    assert np.isfinite(processed[token])
    theirs = reference.pick(torch.from_numpy(processed)[None], torch.tensor([draw], dtype=torch.float64))
    assert token == int(theirs)


def test_equal_logits_at_the_boundary_of_top_k_all_stay() -> None:
    logits = np.zeros(10)
    logits[3] = 1.0
    kept = process(logits, np.zeros(10, np.bool_), SamplingSettings(1.0, 2, 1.0, 1.0))
    assert np.isfinite(kept).all()


def test_top_p_keeps_one_token() -> None:
    kept = process(np.arange(10.0), np.zeros(10, np.bool_), SamplingSettings(1.0, 0, 1e-9, 1.0))
    assert list(np.flatnonzero(np.isfinite(kept))) == [9]


def test_an_utterance_is_sampled_as_by_the_reference() -> None:
    """The penalty counts START at the first step only, and each token from its own step on."""
    chosen = SamplingSettings()
    sampler = TokenSampler(chosen, seed=7)
    draws = np.random.default_rng(7)
    seen = reference.first_seen(1, VOCABULARY)
    same = 0
    for step in range(60):
        # Few likely tokens, so that the penalty matters; START among them at first.
        logits = drawn(step, 1.0)
        logits[[5, 6, 7, START_TOKEN]] += 8
        token = sampler(logits, forbid_stop=step < 5)
        tensor = torch.from_numpy(logits)[None]
        if step < 5:
            tensor = reference.forbid_stop(tensor, torch.tensor([True]))
        processed = reference.process(tensor, seen, chosen)
        theirs = reference.pick(processed, torch.tensor([draws.random()], dtype=torch.float64))
        same += token == int(theirs)
        reference.see(seen, torch.tensor([token]), first=step == 0)
    assert same == 60


def test_start_is_forgotten_after_the_first_step() -> None:
    logits = np.full(VOCABULARY, -50.0)
    logits[START_TOKEN], logits[1] = 10.0, 9.0
    greedy = SamplingSettings(1.0, 0, 1.0, 1.2)
    counts = {True: 0, False: 0}
    for seed in range(200):
        sampler = TokenSampler(greedy, seed)
        counts[sampler(logits) == START_TOKEN] += 1
    # 10 / 1.2 against 9: the penalty has made START the less likely one.
    assert counts[True] < counts[False]
    other = np.full(VOCABULARY, -50.0)
    other[2] = 10.0
    after = 0
    for seed in range(200):
        sampler = TokenSampler(greedy, seed)
        sampler(other)
        after += sampler(logits) == START_TOKEN
    assert after > 120  # e : 1, unpenalised


def test_stop_can_be_forbidden() -> None:
    logits = np.full(VOCABULARY, -20.0, np.float32)
    logits[STOP_TOKEN], logits[3] = 30.0, 0.0
    assert TokenSampler(SamplingSettings(), 0)(logits) == STOP_TOKEN
    assert TokenSampler(SamplingSettings(), 0)(logits, forbid_stop=True) == 3
    assert logits[STOP_TOKEN] == 30.0  # the caller's array is left alone


def test_the_seed_decides() -> None:
    def tokens(seed: int) -> list[int]:
        sampler = TokenSampler(SamplingSettings(), seed)
        return [sampler(drawn(step, 1.0)) for step in range(20)]

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_overflowed(bad: float) -> None:
    logits = drawn(0, 1.0)
    logits[17] = bad
    with pytest.raises(SynthesisError, match="precision"):
        TokenSampler(SamplingSettings(), 0)(logits)
