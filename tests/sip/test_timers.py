"""Timer values and the base of all timed machines."""

from __future__ import annotations

from sip.timers import TimedMachine, TimerValues


class Machine(TimedMachine):
    def __init__(self) -> None:
        super().__init__()
        self.fired: list[tuple[str, float]] = []

    def start(self, name: str, at: float) -> None:
        self._start_timer(name, at)

    def stop(self, *names: str) -> None:
        self._stop_timers(*names)

    def _timer_fired(self, name: str, now: float) -> None:
        self.fired.append((name, now))
        if name == "again" and len(self.fired) < 4:
            self._start_timer("again", now)


def test_defaults_are_those_of_rfc_3261() -> None:
    timers = TimerValues()
    assert (timers.t1, timers.t2, timers.t4, timers.timeout, timers.d) == (0.5, 4.0, 5.0, 32.0, 32.0)


def test_all_due_timers_fire_earliest_first() -> None:
    machine = Machine()
    machine.start("b", 2.0)
    machine.start("a", 1.0)
    machine.start("c", 3.0)
    assert machine.next_timeout() == 1.0
    machine.handle_timeout(2.5)
    assert machine.fired == [("a", 2.5), ("b", 2.5)]
    assert machine.next_timeout() == 3.0


def test_a_timer_started_when_fired_is_seen() -> None:
    machine = Machine()
    machine.start("again", 1.0)
    machine.handle_timeout(1.0)
    assert len(machine.fired) == 4


def test_stop() -> None:
    machine = Machine()
    for name in "abc":
        machine.start(name, 1.0)
    machine.stop("a", "nothing")
    machine.handle_timeout(1.0)
    assert [name for name, _ in machine.fired] == ["b", "c"]
    machine.start("d", 2.0)
    machine.stop()
    assert machine.next_timeout() is None
    machine.start("e", 2.0)
    machine.clear_timers()
    assert machine.next_timeout() is None
