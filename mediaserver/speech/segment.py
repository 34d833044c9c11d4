"""A part of an utterance that is heard: words, a pause or a sound, on its way through a call's speech queue."""

from __future__ import annotations

from dataclasses import dataclass, field

from mediaserver.speech.progress import heard_text
from mediaserver.speech.script import Pause, Sound, Words
from mediaserver.speech.underruns import Underrun


@dataclass(slots=True, eq=False)
class Segment:
    """One part on its way to be heard."""

    tag: int
    "In the playout buffer: segments are counted through all utterances of a call."
    number: int
    "Of its utterance."
    part: Words | Pause | Sound
    voice: str | None
    "Of words, unless they have their own."
    came: float
    "When, on the event loop's clock."
    queued: bool
    "Other speech was to be played before it."
    chunks: int = 0
    "Received from its source."
    received_s: float = 0.0
    "Audio that its source has given."
    written_s: float = 0.0
    "Audio put into the playout buffer."
    written_at: float = 0.0
    "When that was last, monotonic seconds."
    started: bool = False
    "Its first frame was taken for sending."
    cleared: bool = False
    complete: bool = False
    "All of it has come from its source."
    ended: bool = False
    "All that there will be of it is in the playout buffer, or has been played."
    heard: bool = False
    "To its end."
    underrun: Underrun | None = field(default=None, repr=False)
    "The one that lasts."

    @property
    def text(self) -> str:
        return self.part.text if isinstance(self.part, Words) else ""

    def text_heard(self, played_s: float) -> str:
        """The words of it that were heard in that time: an estimate."""
        total_s = self.received_s if self.complete else None
        return heard_text(self.text, played_s, total_s=total_s, received_s=self.received_s)
