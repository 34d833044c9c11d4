"""Which engine a call gets."""

from __future__ import annotations

import pytest

from mediaserver.call.engines import CallEngines
from tests.mediaserver.fake_engine import FakeEngine
from tts_engine.errors import EngineBusyError, EngineError, EngineNotReadyError


@pytest.fixture
def primary() -> FakeEngine:
    return FakeEngine("primary", ("heart", "anna"))


@pytest.fixture
def overflow() -> FakeEngine:
    return FakeEngine("overflow", ("heart", "slow"))


def test_the_configured_one_while_it_has_room(primary: FakeEngine, overflow: FakeEngine) -> None:
    for engines in (CallEngines(primary), CallEngines(primary, overflow)):
        given = engines.choose()
        assert (given.engine, given.overflow) == (primary, None)
        engines.count(given)
        assert engines.overflowed == {}


def test_alone_it_says_why_not(primary: FakeEngine) -> None:
    engines = CallEngines(primary)
    primary.busy, primary.retry_after = True, 2.5
    with pytest.raises(EngineBusyError, match="primary engine is busy") as raised:
        engines.choose()
    assert raised.value.retry_after == 2.5
    primary.ready = False
    with pytest.raises(EngineNotReadyError, match="primary engine is starting again"):
        engines.choose()
    primary.ready, primary.busy = True, False
    assert engines.choose().engine is primary


def test_overflow(primary: FakeEngine, overflow: FakeEngine) -> None:
    engines = CallEngines(primary, overflow)
    primary.busy = True
    given = engines.choose()
    assert given.engine is overflow
    assert str(given.overflow) == "the primary engine is busy"
    assert engines.overflowed == {}, "nothing is counted before the call is taken"
    engines.count(given)
    primary.ready = False
    engines.count(engines.choose())
    engines.count(engines.choose())
    assert engines.overflowed == {"busy": 1, "not_ready": 2}
    primary.ready, primary.busy = True, False
    assert engines.choose().engine is primary


@pytest.mark.parametrize("problem", ["busy", "not ready"])
def test_both_full(primary: FakeEngine, overflow: FakeEngine, problem: str) -> None:
    """What is told is the configured engine's reason."""
    engines = CallEngines(primary, overflow)
    primary.busy = True
    overflow.busy, overflow.ready = problem == "busy", problem != "not ready"
    with pytest.raises(EngineError, match="primary engine is busy"):
        engines.choose()


def test_voices(primary: FakeEngine, overflow: FakeEngine) -> None:
    """Only for overflow a voice is replaced: to the configured engine an unknown one is an error of the caller's."""
    engines = CallEngines(primary, overflow)
    assert [engines.choose().voice(name) for name in (None, "anna", "nobody")] == [None, "anna", "nobody"]
    primary.busy = True
    given = engines.choose()
    assert [given.voice(name) for name in (None, "heart", "slow", "anna", "nobody")] == [
        None,
        "heart",
        "slow",
        None,
        None,
    ]


def test_how_long_callers_wait_is_kept_for_each_engine(primary: FakeEngine, overflow: FakeEngine) -> None:
    engines = CallEngines(primary, overflow)
    engines.choose().measures.first_pcm(0.1, queued=False)
    primary.busy = True
    engines.choose().measures.first_pcm(0.1, queued=False)
    engines.choose().measures.first_pcm(0.1, queued=False)
    counts = {
        (measure.labels["engine"], measure.name): measure.count
        for measure in engines.speech_measures
        if measure.labels["queued"] == "no"
    }
    assert counts == {
        ("primary", "speech_first_pcm_seconds"): 1,
        ("primary", "speech_first_packet_seconds"): 0,
        ("overflow", "speech_first_pcm_seconds"): 2,
        ("overflow", "speech_first_packet_seconds"): 0,
    }
    assert engines.all == (primary, overflow)
    assert CallEngines(primary).all == (primary,)
