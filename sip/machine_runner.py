"""Wakes pure machines at their deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from .timers import TimedMachine


class Clock(Protocol):
    """The part of an event loop that timers need."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], object]) -> asyncio.TimerHandle: ...


class MachineRunner:
    """Wakes one machine, from one timer of the loop; `after` is called whenever it has been woken."""

    def __init__(self, machine: TimedMachine, clock: Clock, after: Callable[[], None]) -> None:
        self._machine = machine
        self._clock = clock
        self._after = after
        self._handle: asyncio.TimerHandle | None = None
        self._at: float | None = None
        self.reschedule()

    def close(self) -> None:
        """The machine has come to its end: nothing is called any more."""
        self.reschedule()
        self._after = _nothing

    def reschedule(self) -> None:
        """To be called whenever the machine has been given something."""
        at = self._machine.next_timeout()
        if at == self._at:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._at = at
        self._handle = None if at is None else self._clock.call_at(at, self._wake)

    def _wake(self) -> None:
        self._handle = self._at = None
        # The loop may wake a trifle early: its clock has the resolution that it has.
        deadline = self._machine.next_timeout()
        try:
            self._machine.handle_timeout(max(self._clock.time(), deadline or 0.0))
        finally:
            self.reschedule()
            self._after()


def _nothing() -> None:
    pass
