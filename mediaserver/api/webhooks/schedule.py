"""Which call's next event is posted when. Pure: time is an argument, in seconds of any clock that only goes forward."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 300.0
"Between two attempts of one call's event."
MAX_PAUSE_S = 60.0
"Between two attempts of any, while the application is away."
AWAY_AFTER = 3
"So many failures in a row, of any calls, and the application is taken to be away."


@dataclass(slots=True)
class _Lane:
    """The events of one call: in order, so one at a time."""

    due: float
    ticket: int
    "Of its entry in the heap that counts; others are stale."
    failures: int = 0
    in_flight: bool = False
    more: bool = False
    "Events have been added since it was taken."


def backoff(failures: int, most: float, draw: float) -> float:
    """Seconds to wait after so many failures in a row: twice as long each time, the upper half of it drawn by lot.

    draw: from 0 to 1. Without a lot all that failed together would come back together.
    """
    whole = min(most, FIRST_RETRY_S * 2.0 ** min(failures - 1, 60))
    return float(whole * (0.5 + draw / 2))


class DeliverySchedule:
    """Lanes of calls that have events waiting, and how the application is doing."""

    def __init__(self, slots: int, draw: Callable[[], float] = random.random) -> None:
        """slots: deliveries at once."""
        self._slots = slots
        self._draw = draw
        self._lanes: dict[str, _Lane] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._tickets = itertools.count()
        self._in_flight = 0
        self._failures = 0
        "Of the application, in a row."
        self._paused_until = 0.0

    @property
    def waiting(self) -> int:
        """Calls with events that are not delivered."""
        return len(self._lanes)

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def away(self) -> bool:
        """The application takes nothing: it is tried with one event at a time."""
        return self._failures >= AWAY_AFTER

    def add(self, call_id: str, now: float) -> None:
        """The call has one more event."""
        lane = self._lanes.get(call_id)
        if lane is not None:
            lane.more = True
            return
        lane = self._lanes[call_id] = _Lane(now, 0)
        self._push(call_id, lane, now)

    def take(self, now: float) -> list[str]:
        """Calls whose first event is to be posted now; each is in flight until one of the next three is told."""
        taken: list[str] = []
        slots = 1 if self.away else self._slots
        while self._heap and self._in_flight < slots and now >= self._paused_until:
            due, ticket, call_id = self._heap[0]
            lane = self._lanes.get(call_id)
            if lane is None or lane.ticket != ticket or lane.in_flight:
                heapq.heappop(self._heap)
                continue
            if due > now:
                break
            heapq.heappop(self._heap)
            lane.in_flight, lane.more = True, False
            self._in_flight += 1
            taken.append(call_id)
        return taken

    def delivered(self, call_id: str, now: float, *, empty: bool) -> None:
        """The application has taken the event, or refused it for good. empty: no other of this call was waiting."""
        if self.away:
            self._back(now)
        self._failures = 0
        self._paused_until = 0.0
        self.skipped(call_id, now, empty=empty)

    def skipped(self, call_id: str, now: float, *, empty: bool) -> None:
        """The event is gone without the application: it was too old, or had to make room."""
        lane = self._land(call_id)
        if empty and not lane.more:
            del self._lanes[call_id]
            return
        lane.failures = 0
        self._push(call_id, lane, now)

    def failed(self, call_id: str, now: float, *, away: bool, retry_after_s: float | None = None) -> None:
        """To be tried again. away: not for this event's sake; then the others wait too."""
        lane = self._land(call_id)
        lane.failures += 1
        self._push(call_id, lane, now + backoff(lane.failures, MAX_RETRY_S, self._draw()))
        if away:
            self._failures += 1
            if retry_after_s is not None:
                self._paused_until = max(self._paused_until, now + retry_after_s)
            elif self.away:
                pause = backoff(self._failures - AWAY_AFTER + 1, MAX_PAUSE_S, self._draw())
                self._paused_until = max(self._paused_until, now + pause)
            if self.away:
                # Whose turn it is to try does not depend on how often it failed before.
                self._push(call_id, lane, now)

    def next_due(self) -> float | None:
        """When to ask take() again, unless something else happens before; None if nothing waits or no slot is free."""
        if self._in_flight >= (1 if self.away else self._slots):
            return None
        while self._heap:
            due, ticket, call_id = self._heap[0]
            lane = self._lanes.get(call_id)
            if lane is not None and lane.ticket == ticket and not lane.in_flight:
                return max(due, self._paused_until)
            heapq.heappop(self._heap)
        return None

    def _back(self, now: float) -> None:
        """The application is back: what failed meanwhile need not wait any longer."""
        for call_id, lane in self._lanes.items():
            if not lane.in_flight and lane.due > now:
                self._push(call_id, lane, now)

    def _land(self, call_id: str) -> _Lane:
        lane = self._lanes[call_id]
        lane.in_flight = False
        self._in_flight -= 1
        return lane

    def _push(self, call_id: str, lane: _Lane, due: float) -> None:
        lane.due, lane.ticket = due, next(self._tickets)
        heapq.heappush(self._heap, (due, lane.ticket, call_id))
