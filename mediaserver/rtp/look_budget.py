"""What the close looks of all legs of one media thread may cost together (barge_in.py)."""

from __future__ import annotations

import itertools

LOOK_MS = 2.0
"What one look is taken to cost; an echo path fitted to 300 ms and the search for a pitch take that on one core."
_BURST = 2  # looks that may be saved up
_LAPSE_MS = 60
"A leg that is to be next, and has not asked for that long, has no candidate any more. The longest ptime is not longer."


class LookBudget:
    """A token bucket for looks, in the time of the ticks; at most one look a tick. One media thread's.

    Who was refused is remembered by nobody but itself: each leg asks again, with the same `due_ms`. Of those that
    asked since the last look, the one that is due first is next, and the others are refused until it came or lapsed.
    As a leg keeps its `due_ms` while it waits, each comes to be the first.
    """

    __slots__ = ("_capacity", "_first", "_first_asked_ms", "_first_due_ms", "_left", "_looked_ms", "_now_ms", "_share")

    def __init__(self, share: float = 0.08) -> None:
        """share: of the thread's time, that looks may take. Raises ValueError unless it is within 0 and 1."""
        if not 0 < share <= 1:
            raise ValueError(f"the share of close looks is {share}, not within 0 and 1")
        self._share = share
        self._capacity = _BURST * LOOK_MS
        self._left = self._capacity  # milliseconds; below 0 if a look cost more than was left
        self._now_ms: int | None = None
        self._looked_ms: int | None = None
        self._first = 0  # the leg that is next; 0 is none
        self._first_due_ms = 0
        self._first_asked_ms = 0

    def take(self, leg: int, due_ms: int, at_ms: int) -> bool:
        """Whether `leg`, a number from new_leg(), may take a look in the tick of at_ms; it is then paid for."""
        now = self._now_ms
        if now is None or at_ms > now:
            if now is not None:
                self._left = min(self._capacity, self._left + (at_ms - now) * self._share)
            self._now_ms = now = at_ms
        first = self._first
        if leg != first and first and due_ms >= self._first_due_ms and now - self._first_asked_ms <= _LAPSE_MS:
            return False
        if self._left >= LOOK_MS and at_ms != self._looked_ms:
            self._left -= LOOK_MS
            self._looked_ms = at_ms
            self._first = 0
            return True
        self._first, self._first_due_ms, self._first_asked_ms = leg, due_ms, now
        return False

    def charge(self) -> None:
        """A look cost as much again."""
        self._left -= LOOK_MS


_numbers = itertools.count(1)


def new_leg() -> int:
    """A number by which a leg asks."""
    return next(_numbers)
