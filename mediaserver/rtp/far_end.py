"""What the peer's RTCP says of our stream: reception, round trip, VoIP metrics (RFC 3550 section 6.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mediaserver.rtp.rtcp import ReportBlock
from mediaserver.rtp.rtcp_xr import VoipMetricsBlock

NTP_EPOCH_OFFSET = 2_208_988_800
"Seconds from 1900, where NTP stamps begin, to 1970."
MAX_ROUND_TRIP = 10.0
"Seconds beyond which a round trip is an error of somebody's stamps."

_STAMP_TOLERANCE = 66  # 1 ms in 1/65536 s: how far rounding and clock reading may put a round trip below zero
_ROUND_TRIP_GAIN = 0.25
_MASK = 0xFFFFFFFF


@dataclass(slots=True, frozen=True)
class FarReport:
    """What the peer said of our stream in one report."""

    fraction_lost: float
    "0 to 1, since its report before."
    lost: int
    "Cumulative; negative if duplicates came."
    jitter_seconds: float
    highest: int
    "Extended highest sequence number, 32 bits."
    when: float
    "Monotonic seconds."


class FarEnd:
    """Reception of our stream by the peer."""

    __slots__ = ("_base", "report", "round_trip", "round_trip_last", "round_trips_dropped", "voip")

    def __init__(self) -> None:
        self.report: FarReport | None = None
        "The latest."
        self.voip: VoipMetricsBlock | None = None
        self.round_trip: float | None = None
        "Seconds, smoothed."
        self.round_trip_last: float | None = None
        self.round_trips_dropped = 0
        "Round trips that came out negative or absurd."
        self._base: FarReport | None = None

    def reset_reception(self) -> None:
        """Our SSRC has changed: what was said of the old one counts no more. The way to the peer is the same."""
        self.report = self._base = self.voip = None

    def note_report(self, block: ReportBlock, now: float, wall: float, clock_rate: int) -> None:
        """A block about our SSRC has come."""
        report = FarReport(
            fraction_lost=block.fraction_lost / 256,
            lost=block.lost,
            jitter_seconds=block.jitter / clock_rate,
            highest=block.highest,
            when=now,
        )
        self.report = report
        if self._base is None or report.highest - self._base.highest & _MASK > _MASK >> 1:
            self._base = report  # the first, or a receiver that has begun to count anew
        if block.lsr:
            self._note_round_trip((ntp_stamp(wall) >> 16) - block.lsr - block.dlsr)

    @property
    def loss(self) -> float | None:
        """Share of our packets that the peer has lost, 0 to 1; None before its first report.

        How many it expected is not on the wire, but between two reports it follows (RFC 3550 section 6.4.4): the
        share is counted from the first report on, and before the second is what the first one says.
        """
        report, base = self.report, self._base
        if report is None or base is None:
            return None
        span = report.highest - base.highest & _MASK
        if span == 0:
            return report.fraction_lost
        return min(1.0, max(0, report.lost - base.lost) / span)

    def _note_round_trip(self, units: int) -> None:
        """A - LSR - DLSR of section 6.4.1: 1/65536 s, modulo 2**32."""
        units = (units & _MASK ^ 0x80000000) - 0x80000000
        if not -_STAMP_TOLERANCE <= units <= MAX_ROUND_TRIP * 65536:
            self.round_trips_dropped += 1
            return
        seconds = max(0, units) / 65536
        self.round_trip_last = seconds
        if self.round_trip is None:
            self.round_trip = seconds
        else:
            self.round_trip += (seconds - self.round_trip) * _ROUND_TRIP_GAIN


def ntp_stamp(wall: float) -> int:
    """The 64-bit NTP stamp of Unix time `wall`: seconds since 1900 modulo 2**32, and their fraction (section 4)."""
    seconds = math.floor(wall)
    return (seconds + NTP_EPOCH_OFFSET & _MASK) << 32 | int((wall - seconds) * 0x100000000)
