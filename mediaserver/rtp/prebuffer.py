"""How much of an utterance is to be there before it is played: nothing at first, more after it has run dry.

Waiting costs the caller time, an underrun costs the caller a word: so the depth follows what the engine does. It has no
clock: calm is counted in seconds of speech played.
"""

from __future__ import annotations

from math import inf

FIRST_S = 0.06
"The depth after a first underrun; each further one doubles it."
MAX_S = 0.5
"Longer than this a caller who has stopped talking takes for a dead line."
SAFETY_S = 0.04
"Audio that comes with less than this left to play has come only just in time: two packets at ptime=20ms."
CALM_S = 20.0
"Speech played without an underrun after which half the depth is tried, if it would have been enough."
FAR_MAX_S = 0.06
"The most that the far end's reports add up to: three packets at ptime=20ms."
_FAR_JITTER_S = 0.01  # what any receiver takes in its stride


class Prebuffer:
    """The depth for one call. Belongs to one thread; `depth_s` may be read from any."""

    __slots__ = ("_at_start", "_calm", "_far", "_least", "_own", "depth_s")

    def __init__(self) -> None:
        self.depth_s = 0.0
        "Seconds of an utterance to be there before it begins, or goes on after a gap."
        self._own = 0.0  # for our engine's sake
        self._far = 0.0  # for the far end's
        self._at_start = 0.0  # _own when the utterance began
        self._calm = 0.0
        self._least = inf  # the least margin in that time

    def started(self) -> None:
        """An utterance begins to be played."""
        self._at_start = self._own

    def arrived(self, margin_s: float, seconds: float) -> None:
        """`seconds` of audio are taken up that had come when `margin_s` of the utterance were left to play.

        margin_s is math.inf for the first audio of an utterance.
        """
        if margin_s < SAFETY_S:
            # What this utterance's own depth was too short by; however many chunks are late, the depth that each
            # would have asked for is counted from the same start.
            self._grow(self._at_start + SAFETY_S - margin_s)
            return
        self._calm += seconds
        self._least = min(self._least, margin_s)
        if self._calm >= CALM_S:
            self._shrink()

    def underrun(self) -> None:
        """The utterance has run dry."""
        self._grow(max(FIRST_S, 2 * self._own))

    def far_end(self, jitter_s: float, loss: float) -> None:
        """What the far end reports of our stream: interarrival jitter in seconds, loss as a fraction (RFC 3550 6.4.1).

        A longer start does nothing against their network: our packets leave evenly. But a gap of ours meets a jitter
        buffer there that has nothing to spare, and beside packets that are concealed already. So a bad network makes
        an unbroken utterance worth a slightly later start; slightly, because the reports come from outside.
        """
        wanted = max(2 * (jitter_s - _FAR_JITTER_S), loss)
        self._far = min(FAR_MAX_S, wanted) if wanted > 0 else 0.0
        self.depth_s = max(self._own, self._far)

    def _grow(self, wanted: float) -> None:
        self._set(min(MAX_S, max(self._own, wanted)))

    def _shrink(self) -> None:
        half = self._own / 2 if self._own / 2 >= FIRST_S else 0.0
        if self._least - (self._own - half) >= SAFETY_S:
            self._set(half)
        else:
            self._set(self._own)

    def _set(self, own: float) -> None:
        self._own = own
        self._calm = 0.0
        self._least = inf
        self.depth_s = max(own, self._far)
