"""Packets that a call should have had and has not: what loss cannot show, as a stream that ends loses nothing.

Asked of a server that sends all the time, silence too, a packet every 20 ms. Pure: times in, counts out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PACKETS_A_SECOND = 50
EDGE_PACKETS = 5
"A call may be so many short, once: the first comes after the answer, the last few are late, and clocks differ."


def of_call(begin_ns: int, end_ns: int, received: int) -> int:
    """Of a call that was up from one time to the other; 0 of one that never was (a time is 0)."""
    if not begin_ns or not end_ns:
        return 0
    expected = (end_ns - begin_ns) * PACKETS_A_SECOND // 1_000_000_000
    return max(0, expected - received - EDGE_PACKETS)


class Expected:
    """How many packets each call should have had. Times in seconds, all on one clock."""

    def __init__(self, calls: int) -> None:
        self._begin = np.full(calls, np.inf)
        self._end = np.full(calls, np.inf)

    def begin(self, call: int, now: float) -> None:
        """The call is up."""
        self._begin[call] = now

    def end(self, call: int, now: float) -> None:
        """The call is over; of several times the first holds."""
        self._end[call] = min(self._end[call], now)

    def by(self, now: float) -> NDArray[np.int64]:
        up = np.minimum(now, self._end) - self._begin
        return (np.maximum(up, 0.0) * PACKETS_A_SECOND).astype(np.int64)


class Shortfall:
    """What is missing, stretch by stretch.

    Counted on what each call was ever behind, so that a packet read a little before or after the end of a stretch
    is no fault of either.
    """

    def __init__(self, expected: Expected, calls: int) -> None:
        self._expected = expected
        self._worst = np.full(calls, EDGE_PACKETS, np.int64)

    def take(self, now: float, received: NDArray[np.int64]) -> NDArray[np.int64]:
        """By how many packets each call has fallen further behind than ever before, since the last time."""
        behind = self._expected.by(now) - received
        further: NDArray[np.int64] = np.maximum(behind - self._worst, 0)
        self._worst += further
        return further
