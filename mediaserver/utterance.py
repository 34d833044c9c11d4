"""One text on its way through a call's speech queue, and what was heard of it if it was cut."""

from __future__ import annotations

from dataclasses import dataclass, field

from mediaserver.rtp.playout import Dropped
from mediaserver.speech_progress import heard_text
from mediaserver.speech_underruns import Underrun


@dataclass(frozen=True, slots=True)
class CutSpeech:
    """An utterance that was cleared before its end, and what its listener had heard of it."""

    number: int
    played_ms: int
    "Audio sent, 0 if it had not begun."
    total_ms: int | None
    "Of the whole utterance; None if it had not been synthesised to its end."
    heard_text: str = field(repr=False)
    "An estimate: the text's beginning, whole words."


@dataclass(slots=True, eq=False)
class Utterance:
    """One text on its way to be heard."""

    number: int
    text: str = field(repr=False)
    voice: str | None
    came: float
    "When, on the event loop's clock."
    queued: bool
    "Other speech was to be played before it."
    chunks: int = 0
    "Received from the engine."
    cleared: bool = False
    complete: bool = False
    "All of it has been synthesised."
    received_s: float = 0.0
    "Audio that the engine has given."
    written_at: float = 0.0
    "When audio was last put into the playout buffer, monotonic seconds."
    ended: bool = False
    "All that there will be of it is in the playout buffer, or has been played."
    underrun: Underrun | None = None
    "The one that lasts."

    def cut(self, dropped: Dropped | None, sample_rate: int) -> CutSpeech:
        """What was heard of it when it was cleared. `dropped`: what was in the playout buffer, None if nothing yet."""
        if dropped is None:
            return CutSpeech(self.number, 0, None, "")
        played_s = dropped.played / sample_rate
        total_s = (dropped.played + dropped.samples) / sample_rate if self.complete else None
        return CutSpeech(
            self.number,
            played_ms=round(played_s * 1000),
            total_ms=None if total_s is None else round(total_s * 1000),
            heard_text=heard_text(self.text, played_s, total_s=total_s, received_s=self.received_s),
        )
