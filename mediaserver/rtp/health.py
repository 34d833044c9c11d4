"""Whether the far end of a leg still lives: the RTP timeout. Pure; silence, hold and our own stalls are not death."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

MAX_STEP_S = 1.0
"A longer time between two looks was a stall of ours, in which nobody listened: it counts as this much."
QUIET_S = 2.0
"RTP that comes back after so long was suppressed in silence: no talker's jitter, and few outages, last longer."


class MediaFailure(StrEnum):
    """Why a leg is given up."""

    NEVER_STARTED = "never_started"
    "Neither RTP nor RTCP has ever come."
    STOPPED = "stopped"
    "Something came once, and comes no more."


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """How long a leg may be quiet, in seconds; 0 is for ever."""

    start_s: float
    "Before anything was heard."
    stop_s: float
    "After something was heard."
    silence_s: float
    "The same, of a peer that suppresses silence; `stop_s` if that is longer."


class LegHealth:
    """Watches one leg: the media thread looks a few times a second while it is paced, and nothing runs per packet.

    Anything from the peer is a sign of life, RTCP (RFC 3550 section 6) as much as RTP: a muted phone may send nothing
    else. Time is counted from look to look, so that a stop of this process, after which its sockets have had no room
    for what came, ends no call.
    """

    __slots__ = (
        "_clock",
        "_heard_at",
        "_last_look",
        "_last_rtcp",
        "_last_rtp",
        "_limits",
        "_owed",
        "_rtp_at",
        "suppresses",
    )

    def __init__(self, limits: HealthLimits) -> None:
        self._limits = limits
        self._clock = 0.0
        "Seconds looked at, stalls left out."
        self._last_look: float | None = None
        self._owed = False
        self._last_rtp: float | None = None
        self._last_rtcp: float | None = None
        self._heard_at = 0.0
        "On our clock: when something was heard, or the peer began to owe us RTP."
        self._rtp_at = math.inf
        "On our clock: when RTP was last heard that the peer owed us; infinite before the first."
        self.suppresses = False
        "The peer has been seen to send nothing in silence: its RTP paused and came back."

    def check(
        self, now: float, last_rtp: float | None, last_rtcp: float | None, *, owed: bool, comfort_noise: bool = False
    ) -> MediaFailure | None:
        """Look: what is wrong with the leg at `now`, or None. The first call begins the watch.

        now: monotonic seconds. last_rtp, last_rtcp: when the last packet was taken, None before the first; from any
        clock, since only their changing counts. owed: whether the peer should be sending: it neither holds us nor
        only listens. When it begins to be, as at the end of a hold, all limits start anew. comfort_noise: the last
        RTP that came was comfort noise (RFC 3389): nothing more is due before the peer's user speaks.
        """
        self._advance(now)
        began_to_owe, self._owed = owed and not self._owed, owed
        if began_to_owe:
            self._heard_at, self._rtp_at = self._clock, math.inf
        self._listen(last_rtp, last_rtcp)
        if not owed:
            return None
        quiet = self._clock - self._heard_at
        if self._last_rtp is None and self._last_rtcp is None:
            return MediaFailure.NEVER_STARTED if quiet >= _limit(self._limits.start_s) else None
        limit = _limit(self._limits.stop_s)
        if comfort_noise or self.suppresses:
            limit = max(limit, _limit(self._limits.silence_s))
        return MediaFailure.STOPPED if quiet >= limit else None

    def _advance(self, now: float) -> None:
        if self._last_look is not None:
            self._clock += min(max(now - self._last_look, 0.0), MAX_STEP_S)
        self._last_look = now

    def _listen(self, last_rtp: float | None, last_rtcp: float | None) -> None:
        if last_rtp is not None and last_rtp != self._last_rtp:
            if self._owed and self._clock - self._rtp_at > QUIET_S:
                self.suppresses = True
            self._last_rtp = last_rtp
            self._heard_at = self._rtp_at = self._clock
        if last_rtcp is not None and last_rtcp != self._last_rtcp:
            self._last_rtcp = last_rtcp
            self._heard_at = self._clock


def _limit(seconds: float) -> float:
    return seconds or math.inf
