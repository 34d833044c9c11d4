"""One virtual listener: speech that arrives is played at once, on real time, without a gap as long as there is any."""

from __future__ import annotations

import math


class Listener:
    """Takes the time (seconds, monotonic) as an argument.

    `runs_out` is the moment at which all audio received has been played: audio received minus audio played is how far
    off it is. A chunk that comes later than that, while the listener waits for more, is an underrun.
    """

    def __init__(self) -> None:
        self.runs_out = -math.inf
        self._expecting = False

    def begin(self, now: float) -> None:
        """An utterance was asked for. If the last one still plays, this one is to follow it without a gap."""
        self._expecting = now < self.runs_out

    def hear(self, now: float, seconds: float) -> float:
        """A chunk of audio came; returns for how long the listener had run dry before it: 0 unless it was late."""
        gap = self.starved(now)
        self.runs_out = max(now, self.runs_out) + seconds
        self._expecting = True
        return gap

    def end(self) -> None:
        """The utterance has been received to its end: silence after it is no underrun."""
        self._expecting = False

    def starved(self, now: float) -> float:
        """For how long the listener has been waiting, by now, in the middle of speech."""
        return max(0.0, now - self.runs_out) if self._expecting else 0.0

    def buffered(self, now: float) -> float:
        """Seconds of audio received and not yet played."""
        return max(0.0, self.runs_out - now)
