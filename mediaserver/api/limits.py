"""How much anybody may ask, and how many are served at once."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict

BURST_S = 2.0
"What a quiet sender may ask at once: what it may in so many seconds."

MAX_KEYS = 10_000
"Senders remembered; beyond them the one that asked longest ago is forgotten."


class RateLimiter:
    """A token bucket for each sender; time is given, so nothing here waits."""

    def __init__(self, per_s: float, burst: float | None = None) -> None:
        """per_s: of each sender, on average; 0 for no limit. burst: at once; by default that of BURST_S, at least 1."""
        self._per_s = per_s
        self._burst = max(1.0, per_s * BURST_S) if burst is None else burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, now: float) -> float:
        """Count one request at `now`, in monotonic seconds: 0.0 if it may be, else in how many seconds one may."""
        if not self._per_s:
            return 0.0
        left, when = self._buckets.pop(key, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - when) * self._per_s)
        wait = 0.0 if left >= 1.0 else (1.0 - left) / self._per_s
        self._buckets[key] = (left if wait else left - 1.0, now)
        if len(self._buckets) > MAX_KEYS:
            self._buckets.popitem(last=False)
        return wait


class Turns:
    """Gives each who comes a moment of its own."""

    def __init__(self, per_s: float, burst: int) -> None:
        """per_s: turns that begin a second. burst: that may at once after a quiet time."""
        self._step = 1 / per_s
        self._saved = (burst - 1) * self._step
        self._next = -math.inf
        self._queue = asyncio.Lock()  # lets in who came first

    async def wait(self) -> None:
        """Returns when it is the caller's turn. Who is cancelled before leaves the queue: the others wait no longer
        for it, and a crowd that gives up and comes again does not wait behind its own ghosts.
        """
        async with self._queue:
            unused = self._next
            try:
                await asyncio.sleep(self.take(time.monotonic()))
            except asyncio.CancelledError:
                self._next = unused
                raise

    def take(self, now: float) -> float:
        """In how many seconds it is the turn of one who comes at `now`, in monotonic seconds."""
        turn = max(self._next, now - self._saved)
        self._next = turn + self._step
        return max(0.0, turn - now)
