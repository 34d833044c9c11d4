"""A 2xx that waits for its ACK: RFC 3261 section 13.3.1.4."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sip.await_ack import AckTimer
from sip.timers import TimerValues


def run(timers: TimerValues, step: float = 0.05) -> tuple[list[float], list[float]]:
    """When it was sent again, and when given up."""
    now = 0.0
    sent: list[float] = []
    missing: list[float] = []
    machine = AckTimer(timers, now, lambda: sent.append(round(now, 2)), lambda: missing.append(round(now, 2)))
    while now < 2 * timers.timeout:
        now += step
        machine.handle_timeout(now)
    assert machine.next_timeout() is None
    return sent, missing


def test_the_intervals_of_the_rfc() -> None:
    sent, missing = run(TimerValues(), 0.5)
    assert sent == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert missing == [32.0]


def test_it_stops_when_the_ack_has_come() -> None:
    sent: list[int] = []
    machine = AckTimer(TimerValues(), 0.0, lambda: sent.append(1), lambda: sent.append(2))
    machine.clear_timers()
    machine.handle_timeout(100.0)
    assert sent == []


@given(t1=st.floats(0.05, 1.0), t2=st.floats(1.0, 8.0))
def test_whatever_the_timers_it_ends_once(t1: float, t2: float) -> None:
    timers = TimerValues(t1=t1, t2=t2)
    sent, missing = run(timers, timers.timeout / 200)
    assert len(missing) == 1
    assert sent == sorted(sent)
    assert not sent or sent[-1] <= missing[0]
