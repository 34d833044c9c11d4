from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.serving.admission import AdmissionPolicy, Load

POLICY = AdmissionPolicy(max_streams=200, max_first_audio_seconds=0.2, first_chunk_tokens=20)
IDLE = Load(
    streams=0,
    waiting=0,
    decoding=0,
    slots=256,
    pages_free=2000,
    pages_a_sequence=6,
    tokens_a_sequence=125,
    prefill_seconds=0.003,
    prefill_rows=16,
    step_seconds=0.002,
    chunk_backlog_tokens=0,
    chunk_seconds_a_token=4.5e-6,
    chunk_fixed_seconds=0.003,
    slack=None,
)


def _predicted(**changes: Any) -> float:
    return POLICY.predicted_first_audio(replace(IDLE, **changes))


def test_alone_it_is_a_prefill_twenty_steps_and_a_chunk() -> None:
    assert _predicted() == pytest.approx(0.003 + 20 * 0.002 * 1.01 + 0.003 + 270 * 4.5e-6)
    assert POLICY.refusal(IDLE) is None


def test_who_waits_is_prefilled_before_and_decoded_before() -> None:
    more = _predicted(waiting=32) - _predicted()
    assert more == pytest.approx(2 * 0.003 + 20 * 0.002 * 0.32 + 32 * 270 * 4.5e-6)


def test_a_step_grows_with_the_batch_from_what_was_measured() -> None:
    alone, busy = _predicted(), _predicted(decoding=100, step_seconds=0.004)
    assert busy - alone == pytest.approx(20 * (0.004 * 201 / 200 - 0.002 * 101 / 100))


def test_without_a_slot_somebody_has_to_end() -> None:
    free, full = _predicted(decoding=255), _predicted(decoding=256)
    # The step does not grow, as no row joins before one has left: 0.1 ms less.
    assert full - free == pytest.approx(125 * 0.002 / 256 - 20 * 0.002 / 356, abs=1e-6)


def test_backlog_is_waited_for() -> None:
    assert _predicted(chunk_backlog_tokens=10_000) - _predicted() == pytest.approx(0.045)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"streams": 200}, "all 200 streams are taken"),
        ({"slack": -1.25}, "a listener has waited 1.2 s for audio"),
        ({"decoding": 10, "pages_free": 15}, "KV cache has 15 pages free where 16 are needed"),
        ({"decoding": 10, "pages_free": 27, "waiting": 2}, "KV cache has 27 pages free where 28 are needed"),
        ({"chunk_backlog_tokens": 50_000}, "first audio would take 2[67]. ms, above 200"),
        ({"step_seconds": 0.01}, "first audio would take 2.. ms, above 200"),
    ],
)
def test_a_refusal_says_why_and_when_to_come_again(changes: dict[str, Any], words: str) -> None:
    refusal = POLICY.refusal(replace(IDLE, **changes))
    assert refusal is not None
    assert re.search(words, refusal.reason)
    assert 1 <= refusal.retry_after_seconds <= 60


@pytest.mark.parametrize(
    "changes",
    [
        {"streams": 199},
        {"slack": -0.2},
        {"slack": 5.0},
        {"decoding": 10, "pages_free": 16},
        {"chunk_backlog_tokens": 30_000},
    ],
)
def test_what_can_be_served_is_let_in(changes: dict[str, Any]) -> None:
    assert POLICY.refusal(replace(IDLE, **changes)) is None


def test_nobody_decoding_there_is_nothing_to_wait_for() -> None:
    """A cache that is too small for a typical sequence serves one at a time."""
    assert POLICY.refusal(replace(IDLE, pages_free=2, pages_a_sequence=6)) is None


def test_the_worse_it_is_the_later_to_come_again() -> None:
    waits = []
    for late in (0.6, 2.0, 4.0, 100.0):
        refusal = POLICY.refusal(replace(IDLE, slack=-late))
        assert refusal is not None
        waits.append(refusal.retry_after_seconds)
    assert waits == [6, 20, 40, 60]


loads = st.builds(
    Load,
    streams=st.integers(0, 400),
    waiting=st.integers(0, 400),
    decoding=st.integers(0, 256),
    slots=st.just(256),
    pages_free=st.integers(0, 4000),
    pages_a_sequence=st.floats(1, 40),
    tokens_a_sequence=st.floats(1, 1000),
    prefill_seconds=st.floats(0, 1),
    prefill_rows=st.integers(1, 64),
    step_seconds=st.floats(0, 1),
    chunk_backlog_tokens=st.integers(0, 10**6),
    chunk_seconds_a_token=st.floats(0, 1e-3),
    chunk_fixed_seconds=st.floats(0, 0.1),
    slack=st.none() | st.floats(-100, 100),
)


@given(loads, st.sampled_from(["waiting", "chunk_backlog_tokens", "streams"]))
def test_more_load_never_helps(load: Load, name: str) -> None:
    heavier = replace(load, **{name: getattr(load, name) + 1})
    assert POLICY.predicted_first_audio(heavier) >= POLICY.predicted_first_audio(load) >= 0
    refusal = POLICY.refusal(load)
    if refusal is not None:
        assert POLICY.refusal(heavier) is not None
        assert 1 <= refusal.retry_after_seconds <= 60
