"""An engine that goes down and comes up again is told of once each, in one line."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from mediaserver.call.engines import CallEngines
from mediaserver.engine_watch import EngineWatch
from tests.mediaserver.fake_engine import FakeEngine
from tts_engine.errors import EngineNotReadyError

SERVING = "Serving SIP on 127.0.0.1:5060"


def test_all_is_well() -> None:
    with capture_logs() as logs:
        watch = EngineWatch(CallEngines(FakeEngine()), SERVING, 0.0)
        assert watch.status == SERVING
        assert not watch.look(1.0)
    assert logs == []


def test_down_and_up_again() -> None:
    engine = FakeEngine("chatterbox")
    watch = EngineWatch(CallEngines(engine), SERVING, 0.0)
    engine.ready = False
    with capture_logs() as logs:
        assert watch.look(10.0)
        assert watch.status == f"{SERVING}; the chatterbox engine is down: the chatterbox engine is starting again"
        assert not watch.look(11.0), "told already"
        assert not watch.look(15.0)
        engine.ready = True
        assert watch.look(17.25)
        assert watch.status == SERVING
        assert not watch.look(18.0)
    assert logs == [
        {
            "event": "engine_down",
            "engine": "chatterbox",
            "reason": "the chatterbox engine is starting again",
            "log_level": "error",
        },
        {"event": "engine_up", "engine": "chatterbox", "down_s": 7.2, "log_level": "info"},
    ]


def test_a_busy_engine_is_not_down() -> None:
    engine = FakeEngine()
    watch = EngineWatch(CallEngines(engine), SERVING, 0.0)
    engine.busy = True
    assert not watch.look(1.0)
    assert watch.status == SERVING


def test_two_engines() -> None:
    primary, overflow = FakeEngine("chatterbox"), FakeEngine("embedded")
    watch = EngineWatch(CallEngines(primary, overflow), SERVING, 0.0)
    overflow.ready = False
    assert watch.look(1.0)
    assert watch.status == f"{SERVING}; the embedded engine is down: the embedded engine is starting again"
    primary.ready = False
    assert watch.look(2.0)
    assert "the chatterbox engine is down" in watch.status
    assert "the embedded engine is down" in watch.status
    primary.ready = overflow.ready = True
    assert watch.look(3.0)
    assert watch.status == SERVING


def test_a_reason_that_changes_is_told_to_systemd_but_not_logged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    watch = EngineWatch(CallEngines(engine), SERVING, 0.0)
    engine.ready = False
    watch.look(1.0)
    monkeypatch.setattr(engine, "available", lambda: EngineNotReadyError("it could not be started again"))
    with capture_logs() as logs:
        assert watch.look(2.0)
    assert watch.status.endswith("it could not be started again")
    assert logs == []


def test_the_status_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's messages have several; to systemd what follows a line break is an assignment of its own."""
    engine = FakeEngine()
    watch = EngineWatch(CallEngines(engine), SERVING, 0.0)
    engine.ready = False
    monkeypatch.setattr(engine, "available", lambda: EngineNotReadyError("CUDA error\nMAINPID=1\r\n  compile with X"))
    watch.look(1.0)
    assert watch.status == f"{SERVING}; the fake engine is down: CUDA error MAINPID=1 compile with X"


def test_an_engine_that_comes_up_while_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    engine.ready = False
    monkeypatch.setattr(engine, "available", lambda: None)
    watch = EngineWatch(CallEngines(engine), SERVING, 0.0)
    assert watch.status == f"{SERVING}; the fake engine is down"
