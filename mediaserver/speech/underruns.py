"""Why speech broke off: whose fault an underrun of the playout buffer was."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import structlog

from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.speech.limits import SpeechCounters
from mediaserver.speech.script import Sound
from tts_engine.engine import Engine
from tts_engine.errors import EngineBusyError

if TYPE_CHECKING:
    from mediaserver.speech.segment import Segment

Cause = Literal["engine", "engine_busy", "event_loop", "sound"]
"""engine: its next audio was not there. engine_busy: nor had it room for another stream at that time, so it was the
load. event_loop: for the most of the time the loop was not there to take it. sound: a recorded sound's source was late,
no engine of ours."""

LATE_S = 0.01
"What the event loop may be late by without being to blame."


@dataclass(slots=True)
class Underrun:
    """One gap in a segment; times in monotonic seconds."""

    began: float
    "When a frame was missed, by the media thread's clock."
    noticed: float
    "When the event loop came to hear of it."
    busy: bool
    "Whether the engine was at its limit then."
    audio: float | None = None
    "When audio was next put into the buffer: None before."

    @property
    def late(self) -> float:
        """Seconds by which the event loop heard of it late: so long it was busy with something else."""
        return max(0.0, self.noticed - self.began)

    def cause(self, now: float) -> Cause:
        """The cause of a gap that is over now. If no audio came, the utterance's end did."""
        waited = (self.audio if self.audio is not None else now) - self.began
        if self.late >= LATE_S and self.late >= waited / 2:
            return "event_loop"
        return "engine_busy" if self.busy else "engine"


class UnderrunWatch:
    """Counts and logs the underruns of one call, by cause, when they are over. Belongs to the event loop."""

    def __init__(
        self,
        engine: Engine,
        playout: PlayoutBuffer,
        counters: SpeechCounters,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._engine = engine
        self._playout = playout
        self._counters = counters
        self._log = log

    def began(self, segment: Segment, at: float) -> None:
        """`at`: when, on the playout buffer's clock."""
        busy = isinstance(self._engine.available(), EngineBusyError)
        segment.underrun = underrun = Underrun(at, time.monotonic(), busy)
        if segment.written_at >= at:  # before we came to this
            underrun.audio = segment.written_at

    def over(self, segment: Segment, gap_s: float | None = None) -> None:
        """The underrun that lasted, if one did, is over; without gap_s, because the segment is."""
        underrun, segment.underrun = segment.underrun, None
        if underrun is None:
            return
        now = time.monotonic()
        cause = underrun.cause(now)
        if isinstance(segment.part, Sound) and cause != "event_loop":
            cause = "sound"
        self._count(cause)
        self._log.warning(
            "speech_underrun",
            utterance=segment.number,
            cause=cause,
            gap_ms=round(1000 * (now - underrun.began if gap_s is None else gap_s)),
            loop_late_ms=round(1000 * underrun.late),
            prebuffer_ms=round(1000 * self._playout.depth_s),
        )

    def _count(self, cause: Cause) -> None:
        match cause:
            case "engine":
                self._counters.underruns_engine += 1
            case "engine_busy":
                self._counters.underruns_engine_busy += 1
            case "event_loop":
                self._counters.underruns_event_loop += 1
            case "sound":
                self._counters.underruns_sound += 1
