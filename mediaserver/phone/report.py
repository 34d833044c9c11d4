"""What the phone saw and heard of one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mediaserver.phone.actions import DigitMethod

EndedBy = Literal["phone", "server", "nobody"]


@dataclass(frozen=True)
class StreamCounts:
    """Counts of a received RTP stream. Jitter is the interarrival jitter of RFC 3550 section 6.4.1.

    They are PJSIP's: it takes one off `lost` for each duplicate, and shows no jitter in the first half second.
    Its count of reordered packets is not here: it counts every packet lost as reordered.
    """

    packets: int = 0
    bytes: int = 0
    lost: int = 0
    duplicated: int = 0
    discarded: int = 0
    jitter_mean_ms: float = 0.0
    jitter_max_ms: float = 0.0

    def __add__(self, later: StreamCounts) -> StreamCounts:
        """Counts of two streams of one call: PJSIP starts anew at every re-INVITE that changes the media."""
        packets = self.packets + later.packets
        weighted = self.packets * self.jitter_mean_ms + later.packets * later.jitter_mean_ms
        return StreamCounts(
            packets=packets,
            bytes=self.bytes + later.bytes,
            lost=self.lost + later.lost,
            duplicated=self.duplicated + later.duplicated,
            discarded=self.discarded + later.discarded,
            jitter_mean_ms=weighted / packets if packets else 0.0,
            jitter_max_ms=max(self.jitter_max_ms, later.jitter_max_ms),
        )


@dataclass(frozen=True)
class FarReport:
    """What the far end's RTCP reports say of what the phone sent; `reports` came, over all its streams.

    `lost` is the cumulative number of the last one. `round_trip_ms` is the mean, None before the first.
    """

    reports: int = 0
    lost: int = 0
    jitter_ms: float = 0.0
    round_trip_ms: float | None = None

    def __add__(self, later: FarReport) -> FarReport:
        """Of two streams of one call."""
        last = later if later.reports else self
        return FarReport(self.reports + later.reports, self.lost + later.lost, last.jitter_ms, last.round_trip_ms)


@dataclass(frozen=True)
class PressedDigit:
    """A digit that the far end sent; `at` is seconds after the answer, of its beginning."""

    at: float
    digit: str
    method: DigitMethod


@dataclass(frozen=True)
class Reply:
    """Final response to a request that the phone sent during the call; `at` is seconds after the answer."""

    at: float
    method: str
    status: int


@dataclass(frozen=True)
class CallReport:
    """One call, from INVITE to BYE.

    `status` and `reason` are the final response to the INVITE; 408 also where no final response came.
    `setup_ms` runs from the call to the phone's API until its 200 was parsed, so it holds about 1 ms of the
    phone's own work. `first_audio_ms` runs from that 200 to the first audible 10 ms of what the phone played
    (see `recording.AUDIBLE_DBFS`), so it holds the phone's jitter buffer; its grain is one 20 ms frame.
    `recording_at` is when the recording's first sample was heard, `playing_at` when each `Play` began: seconds after
    the answer, all to within a frame of 20 ms.
    """

    uri: str
    status: int
    reason: str
    answered: bool
    ended_by: EndedBy
    setup_ms: float | None = None
    first_audio_ms: float | None = None
    duration_s: float = 0.0
    codec: str | None = None
    received: StreamCounts = StreamCounts()
    sent_packets: int = 0
    far: FarReport = FarReport()
    digits: tuple[PressedDigit, ...] = ()
    recording_at: float | None = None
    playing_at: tuple[float, ...] = ()
    heard_s: float = 0.0
    audible_s: float = 0.0
    recording: Path | None = None
    replies: tuple[Reply, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether the call was answered, audio was heard, and no packet was lost, repeated or late."""
        counts = self.received
        faults = counts.lost + counts.duplicated + counts.discarded
        return self.answered and self.audible_s > 0 and counts.packets > 0 and faults == 0

    def lines(self) -> list[str]:
        """The report for a reader, one fact a line."""
        if not self.answered:
            return [f"not answered: {self.status} {self.reason}"]
        counts = self.received
        first = "nothing audible" if self.first_audio_ms is None else f"{self.first_audio_ms:.0f} ms"
        lines = [
            f"answered after {self.setup_ms:.1f} ms ({self.status} {self.reason}), codec {self.codec or 'none'}",
            f"first audio after the answer: {first}",
            f"received {counts.packets} packets: {counts.lost} lost, {counts.duplicated} duplicated, "
            f"{counts.discarded} discarded",
            f"jitter: mean {counts.jitter_mean_ms:.2f} ms, largest {counts.jitter_max_ms:.2f} ms",
            f"heard {self.audible_s:.1f} s of sound in {self.heard_s:.1f} s; call of {self.duration_s:.1f} s, "
            f"ended by the {self.ended_by}",
        ]
        far = self.far
        if far.round_trip_ms is not None:
            lines.append(f"round trip: {far.round_trip_ms:.1f} ms; the far end missed {far.lost} of our packets")
        if self.digits:
            lines.append(f"digits received: {len(self.digits)}")
        if self.recording is not None:
            lines.append(f"recording: {self.recording}")
        return lines
