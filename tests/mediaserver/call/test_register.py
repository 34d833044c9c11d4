"""Running calls, and those that have ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mediaserver.call.events import EventHub
from mediaserver.call.register import KEPT, KEPT_S, CallRegister
from mediaserver.call.reporter import CallReporter


@pytest.fixture(autouse=True)
def _views_of_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mediaserver.call.handle.view_of", lambda leg: leg.view())


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def leg(name: str, sip_call_id: str = "") -> Any:
    made = SimpleNamespace(id=name, over=False, profile=SimpleNamespace(sip_call_id=sip_call_id))
    made.reporter = CallReporter(EventHub(), name)
    made.view = lambda: SimpleNamespace(id=name, sip_call_id=sip_call_id, over=made.over)
    return made


def test_calls_are_found_by_either_id() -> None:
    register = CallRegister(Clock())
    first, second = leg("CA1", "a@x"), leg("CA2", "b@x")
    handles = [register.add(first), register.add(second)]
    assert register.legs == (first, second)
    assert register.running == tuple(handles)
    assert register.find("CA2") is handles[1]
    assert register.find("a@x") is handles[0]
    assert register.find("c@x") is None


def test_a_running_call_is_found_before_an_ended_one() -> None:
    register = CallRegister(Clock())
    first, second = leg("CA1", "a@x"), leg("CA2", "a@x")
    register.add(first)
    register.end(first)
    running = register.add(second)
    assert register.find("a@x") is running


def test_ended_calls_are_kept_for_a_while() -> None:
    clock = Clock()
    register = CallRegister(clock)
    for name in ("CA1", "CA2"):
        made = leg(name, f"{name}@x")
        register.add(made)
        clock.now += 10
        made.over = True
        assert register.end(made)
        assert not register.end(made), "once"
    assert [view.id for view in register.ended()] == ["CA2", "CA1"]
    found = register.find("CA1@x")
    assert found is not None
    assert found.over
    clock.now = 10 + KEPT_S + 1
    assert [view.id for view in register.ended()] == ["CA2"]
    assert register.find("CA1") is None


def test_there_are_never_more_than_the_bound() -> None:
    register = CallRegister(Clock())
    for number in range(KEPT + 5):
        made = leg(f"CA{number}")
        register.add(made)
        register.end(made)
    assert len(register.ended()) == KEPT
    assert register.find("CA4") is None
    assert register.find("CA5") is not None
    assert len(register) == 0
