"""When Python's cycle collector may look at everything: not while calls are up, as far as that can be helped.

A full collection holds the interpreter lock for all of its time: with 200 calls up some 80 ms were measured, four
frames of every call. What a call leaves behind is freed by reference counts alone (a test sees to that), so there is
little for the collector to find, and it can wait for a moment without calls.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

IDLE_S = 2.0
"So long without a call before a full collection."
LONGEST_S = 4 * 3600.0
"At the latest so long after the one before, calls or not: were something to leave cycles behind, memory is bounded."
_NEVER = 1_000_000_000


def settle() -> None:
    """What is loaded stays: the collector need not look at it again; nor, by itself, at what has grown old since."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)


class FullCollections:
    """Decides when one is due. Pure; times in seconds on any clock."""

    def __init__(self, now: float, collect: Callable[[], object] = gc.collect) -> None:
        self._collect = collect
        self._last = now
        self._idle_since: float | None = now
        self._served = False  # calls since the last collection

    def look(self, now: float, calls: int) -> None:
        """To be called every now and then with the number of calls; collects if it is time."""
        if calls:
            self._served, self._idle_since = True, None
        elif self._idle_since is None:
            self._idle_since = now
        idle = self._idle_since is not None and now - self._idle_since >= IDLE_S
        if (self._served and idle) or now - self._last >= LONGEST_S:
            self._collect()
            self._last = now
            self._served = False
