"""The timers of RFC 3261 table 4, and machines that are driven by time given to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimerValues:
    """Base values in seconds; the lettered timers follow from them for an unreliable transport."""

    t1: float = 0.5
    "Round-trip estimate."
    t2: float = 4.0
    "Longest interval between retransmissions of non-INVITE requests and INVITE responses."
    t4: float = 5.0
    "Longest time that a message stays in the network."
    trying: float = 0.2
    "Section 17.2.1: a 100 is sent if the transaction user has not answered an INVITE by then."

    @property
    def timeout(self) -> float:
        """Timers B, F, H, J, L and M: 64 x T1."""
        return 64 * self.t1

    @property
    def d(self) -> float:
        """Timer D: at least 32 s with the default T1."""
        return max(64 * self.t1, 32.0 if self.t1 >= 0.5 else 0.0)


class TimedMachine(ABC):
    """A state machine whose timers are data: who drives it asks when, and says that it is time."""

    def __init__(self) -> None:
        self._deadlines: dict[str, float] = {}

    def next_timeout(self) -> float | None:
        """The time at which handle_timeout() is to be called; None for never."""
        return min(self._deadlines.values(), default=None)

    def handle_timeout(self, now: float) -> None:
        """Fire every timer that is due, earliest first."""
        while (due := self._next_due(now)) is not None:
            del self._deadlines[due]
            self._timer_fired(due, now)

    def clear_timers(self) -> None:
        """Nothing more happens by itself."""
        self._deadlines.clear()

    def _next_due(self, now: float) -> str | None:
        due = [(deadline, name) for name, deadline in self._deadlines.items() if deadline <= now]
        return min(due)[1] if due else None

    @abstractmethod
    def _timer_fired(self, name: str, now: float) -> None: ...

    def _start_timer(self, name: str, at: float) -> None:
        self._deadlines[name] = at

    def _stop_timers(self, *names: str) -> None:
        for name in names or tuple(self._deadlines):
            self._deadlines.pop(name, None)
