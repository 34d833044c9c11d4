"""A press that is told by more than one source is reported once."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.rtp.dtmf_event import DtmfEvent
from mediaserver.rtp.dtmf_gate import WINDOW_S, DigitGate

Source = Literal["rfc4733", "info", "inband"]


def started(digit: str, source: Source = "rfc4733") -> DtmfEvent:
    return DtmfEvent("started", digit, 0, source)


def ended(digit: str, source: Source = "rfc4733") -> DtmfEvent:
    return DtmfEvent("ended", digit, 100, source)


def press(gate: DigitGate, digit: str, at: float, source: Source = "rfc4733") -> bool:
    """A press of 100 ms; whether it was reported, both its events alike."""
    first = gate.admit(started(digit, source), at)
    assert gate.admit(ended(digit, source), at + 0.1) is first
    return first


@pytest.mark.parametrize("source", ["rfc4733", "inband"])
def test_one_source_is_never_silenced(source: Source) -> None:
    gate = DigitGate()
    assert all(press(gate, "5", at / 10, source) for at in (0, 2, 4))
    assert gate.repeated == 0


def test_info_alone_is_never_silenced() -> None:
    gate = DigitGate()
    assert [gate.admit(ended("5", "info"), at / 100) for at in range(5)] == [True] * 5


@pytest.mark.parametrize("at", [0.0, 0.05, 0.1, 0.1 + WINDOW_S["info"]])
def test_an_info_about_a_press_that_was_told(at: float) -> None:
    gate = DigitGate()
    assert gate.admit(started("5"), 0.0)
    told_early = at < 0.1 and gate.admit(ended("5", "info"), at)
    assert gate.admit(ended("5"), 0.1)
    assert not told_early
    if at >= 0.1:
        assert not gate.admit(ended("5", "info"), at)
    assert gate.repeated == 1


def test_an_info_much_later_or_of_another_digit_is_news() -> None:
    gate = DigitGate()
    assert press(gate, "5", 0.0)
    assert gate.admit(ended("6", "info"), 0.1)
    assert gate.admit(ended("5", "info"), 0.11 + WINDOW_S["info"])


def test_an_event_after_its_info() -> None:
    gate = DigitGate()
    assert gate.admit(ended("5", "info"), 0.0)
    assert not press(gate, "5", 0.1)
    assert press(gate, "5", 0.3), "another press: the INFO told one"


def test_quick_presses_of_one_key_told_twice_are_as_many() -> None:
    gate = DigitGate()
    told = [press(gate, "5", 0.0), press(gate, "5", 0.15), press(gate, "5", 0.3)]
    told += [gate.admit(ended("5", "info"), at) for at in (0.41, 0.42, 0.43)]
    assert told == [True] * 3 + [False] * 3


def test_a_tone_that_is_told_too_even_in_pieces() -> None:
    gate = DigitGate()
    assert gate.admit(started("5"), 0.0)
    assert not gate.admit(started("5", "inband"), 0.1)
    assert not gate.admit(ended("5", "inband"), 0.15)
    assert gate.admit(ended("5"), 0.3)
    assert not press(gate, "5", 0.4, "inband")
    assert press(gate, "5", 0.5 + WINDOW_S["inband"] + 0.01, "inband")


def test_a_tone_before_its_event() -> None:
    gate = DigitGate()
    assert gate.admit(started("5", "inband"), 0.0)
    assert not gate.admit(started("5"), 0.02)
    assert gate.admit(ended("5", "inband"), 0.05)
    assert not gate.admit(ended("5"), 0.2)


def test_three_sources() -> None:
    gate = DigitGate()
    assert press(gate, "#", 0.0)
    assert not press(gate, "#", 0.1, "inband")
    assert not gate.admit(ended("#", "info"), 0.2)


def test_memory_is_bounded() -> None:
    gate = DigitGate()
    for n in range(1000):
        press(gate, "5", n / 10)
    assert len(gate._presses) <= 16


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from("123"), st.integers(50, 400), st.integers(40, 500)), min_size=1, max_size=15),
    st.data(),
)
def test_presses_told_by_events_and_infos_are_reported_once(
    presses: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    """Whatever the delay of each INFO, within the window, and whatever the tempo: as many reports as presses."""
    reports: list[tuple[float, int, DtmfEvent]] = []
    at = 0.0
    for digit, down, up in presses:
        delay = data.draw(st.floats(0.0, WINDOW_S["info"] - 0.01))
        reports.append((at, len(reports), started(digit)))
        at += down / 1000
        reports.append((at, len(reports), ended(digit)))
        reports.append((at + delay, len(reports), ended(digit, "info")))
        at += up / 1000
    gate = DigitGate()
    admitted = [event for when, _, event in sorted(reports) if gate.admit(event, when)]
    assert [event.digit for event in admitted if event.kind == "started"] == [digit for digit, _, _ in presses]
    assert all(event.source == "rfc4733" for event in admitted)
