"""What is said in one go: the parts of one script on their way to be heard, and what was heard of it if it was cut.

An utterance may be open: its parts are yet to come, while those that are there are spoken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field

from mediaserver.config import BargeInPolicy
from mediaserver.rtp.playout import Dropped
from mediaserver.speech.script import Mark, Words
from mediaserver.speech.segment import Segment
from mediaserver.speech.view import SpeechView

MAX_HEARD_CHARS = 20_000
"Of what was heard of one utterance, so much is remembered: one that is open may go on for hours."


@dataclass(frozen=True, slots=True)
class CutSpeech:
    """An utterance that was cleared before its end, and what its listener had heard of it."""

    number: int
    played_ms: int
    "Audio sent, 0 if it had not begun."
    total_ms: int | None
    "Of the whole utterance; None if it had not been synthesised to its end."
    heard_text: str = field(repr=False)
    "An estimate: the text's beginning, whole words; of a very long one the last of them."


@dataclass(slots=True, eq=False)
class Utterance:
    """One script on its way to be heard."""

    number: int
    voice: str | None
    mark: str | None = None
    "At its end."
    barge_in: BargeInPolicy | None = None
    "What interrupts it; None for the call's policy."
    open: bool = False
    "More may come."
    unheard: deque[Segment | Mark] = field(default_factory=deque, repr=False)
    "In order."
    waiting: deque[Segment] = field(default_factory=deque, repr=False)
    "Those of them that have not been asked of their source."
    started: bool = False
    failed: bool = False
    worded: bool = False
    "There are words in it."
    audible: bool = False
    "A part of it has given audio."
    unspeakable: bool = False
    "There were words, and nothing in them to speak."
    heard_s: float = 0.0
    "The segments heard to their end."
    _heard_texts: deque[str] = field(default_factory=deque, repr=False)
    _heard_chars: int = 0

    def append(self, part: Segment | Mark) -> None:
        self.unheard.append(part)
        if isinstance(part, Segment):
            self.waiting.append(part)
            self.worded = self.worded or isinstance(part.part, Words)

    @property
    def segments_unheard(self) -> bool:
        """Whether something in it is still to be heard."""
        return any(True for _ in self._segments())

    @property
    def synthesised(self) -> bool:
        """Nothing is left to be asked of any source."""
        return not self.open and not self.waiting and all(segment.ended for segment in self._segments())

    @property
    def over(self) -> bool:
        """All of it has been heard."""
        return not self.open and not self.unheard

    def take_heard(self) -> Iterator[Mark]:
        """Leave behind what has been heard; the marks that were passed."""
        while self.unheard:
            part = self.unheard[0]
            if isinstance(part, Segment):
                if not part.heard:
                    return
                self._remember(part)
            self.unheard.popleft()
            if isinstance(part, Mark):
                yield part

    def cut(self, dropped: Mapping[Hashable, Dropped], sample_rate: int) -> CutSpeech:
        """What was heard of it, now that it is cleared. `dropped`: what was in the playout buffer, by tag."""
        played_s = self.heard_s
        texts = list(self._heard_texts)
        for segment in self._segments():
            lost = dropped.get(segment.tag)
            if lost is None or not lost.played:
                break
            texts.append(segment.text_heard(lost.played / sample_rate))
            played_s += lost.played / sample_rate
        total_s = self._total_s()
        return CutSpeech(
            self.number,
            played_ms=round(played_s * 1000),
            total_ms=None if total_s is None else round(total_s * 1000),
            heard_text=" ".join(text for text in texts if text),
        )

    def view(self, playing_s: float) -> SpeechView:
        """As it is now; `playing_s` of its segment that is being played has been."""
        texts = [*self._heard_texts, *(segment.text.strip() for segment in self._segments())]
        return SpeechView(
            self.number,
            "speaking" if self.started else "queued",
            " ".join(text for text in texts if text),
            self.mark,
            round((self.heard_s + playing_s) * 1000),
        )

    @property
    def chars(self) -> int:
        """Of the text not yet heard."""
        return sum(len(segment.text) for segment in self._segments())

    def _segments(self) -> Iterator[Segment]:
        return (part for part in self.unheard if isinstance(part, Segment))

    def _total_s(self) -> float | None:
        if self.open or not all(segment.complete for segment in self._segments()):
            return None
        return self.heard_s + sum(segment.received_s for segment in self._segments())

    def _remember(self, segment: Segment) -> None:
        self.heard_s += segment.written_s
        text = segment.text_heard(segment.written_s)
        if not text:
            return
        self._heard_texts.append(text)
        self._heard_chars += len(text)
        while self._heard_chars > MAX_HEARD_CHARS and len(self._heard_texts) > 1:
            self._heard_chars -= len(self._heard_texts.popleft())
