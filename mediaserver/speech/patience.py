"""How long a text in the middle of a call waits for an engine that has no room, and when it asks again."""

from __future__ import annotations

import random

FIRST_PAUSE_S = 0.025
LONGEST_PAUSE_S = 0.2
"Many calls may be waiting: each asks no more than about 7 times a second."
_SPREAD = 0.25
"A pause is varied by up to this share, so that those who were refused together do not ask together."


class Patience:
    """The wait of one utterance. Pure: the time is an argument, in seconds on any clock."""

    def __init__(self, limit_s: float, now: float) -> None:
        self._deadline = now + limit_s
        self._pause = FIRST_PAUSE_S

    def pause(self, now: float) -> float | None:
        """Seconds until the engine should be asked again, the last time at the limit; None when it is over."""
        left = self._deadline - now
        if left <= 0:
            return None
        pause = self._pause * random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311  # no secret
        self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
        return min(left, pause)
