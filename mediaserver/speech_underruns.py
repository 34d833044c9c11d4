"""Why speech broke off: whose fault an underrun of the playout buffer was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cause = Literal["engine", "engine_busy", "event_loop"]
"""engine: its next audio was not there. engine_busy: nor had it room for another stream at that time, so it was the
load. event_loop: for the most of the time the loop was not there to take it."""

LATE_S = 0.01
"What the event loop may be late by without being to blame."


@dataclass(slots=True)
class Underrun:
    """One gap in an utterance; times in monotonic seconds."""

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
