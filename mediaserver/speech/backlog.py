"""The utterances of one call that have not been heard to their end, in the order of saying; no clock, no audio."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping

from mediaserver.config import BargeInPolicy
from mediaserver.rtp.playout import Dropped
from mediaserver.speech.events import MarkReached, SpeechEvent, SpeechFinished
from mediaserver.speech.limits import MAX_PARTS, QueueFullError
from mediaserver.speech.script import Mark, Script, Words
from mediaserver.speech.segment import Segment
from mediaserver.speech.utterance import CutSpeech, Utterance
from mediaserver.speech.view import SpeechView


class Backlog:
    """All that was asked for and has not been heard, nor cut."""

    def __init__(self) -> None:
        self.utterances: dict[int, Utterance] = {}
        "By number, in the order of saying."
        self.segments: dict[int, Segment] = {}
        "Not heard to their end, by tag. Not in order: an open utterance may go on when others stand behind it."
        self._numbers = itertools.count(1)
        self._tags = itertools.count(1)

    @property
    def first(self) -> Utterance | None:
        """What is being heard, or will be next."""
        return next(iter(self.utterances.values()), None)

    @property
    def playing(self) -> Segment | None:
        """What is being heard."""
        return next((segment for segment in self.segments.values() if segment.started), None)

    # What comes in:

    def check_room(self, parts: Script, max_chars: int, *, behind_queue: bool = True) -> None:
        """Raise QueueFullError if it could not take `parts`. max_chars: of text that nobody has begun to speak.

        behind_queue: False if what is there now is to be cleared first.
        """
        before = list(self.utterances.values()) if behind_queue else []
        queued = sum(len(segment.text) for utterance in before for segment in utterance.waiting)
        if queued + sum(len(part.text) for part in parts if isinstance(part, Words)) > max_chars:
            raise QueueFullError(f"{queued} characters are waiting to be spoken")
        if sum(len(utterance.unheard) for utterance in before) + len(parts) > MAX_PARTS:
            raise QueueFullError(f"more than {MAX_PARTS} parts would be waiting to be spoken")

    def begin(self, voice: str | None, mark: str | None, barge_in: BargeInPolicy | None, *, open_: bool) -> Utterance:
        """An utterance behind all others, without its parts."""
        utterance = Utterance(next(self._numbers), voice, mark, barge_in, open_)
        self.utterances[utterance.number] = utterance
        return utterance

    def append(self, utterance: Utterance, parts: Script, now: float) -> None:
        """`now`: on the event loop's clock."""
        for part in parts:
            if isinstance(part, Mark):
                utterance.append(part)
                continue
            queued = self._speaks_before(utterance)
            segment = Segment(next(self._tags), utterance.number, part, utterance.voice, now, queued)
            self.segments[segment.tag] = segment
            utterance.append(segment)

    def _speaks_before(self, utterance: Utterance) -> bool:
        """Whether something is to be heard before what is added to it."""
        for other in self.utterances.values():
            if other.segments_unheard:
                return True
            if other is utterance:
                break
        return False

    # What goes out:

    def take(self) -> Segment | None:
        """The next to be spoken. What stands behind an open utterance waits for its end."""
        for utterance in self.utterances.values():
            if utterance.waiting:
                return utterance.waiting.popleft()
            if utterance.open:
                return None
        return None

    def heard(self, segment: Segment) -> None:
        """To its end."""
        segment.heard = True
        del self.segments[segment.tag]

    @property
    def passable(self) -> bool:
        """Whether leave() may have something to tell without anything being heard."""
        first = self.first
        return first is not None and (not first.unheard or isinstance(first.unheard[0], Mark))

    def leave(self) -> tuple[list[SpeechEvent], list[Utterance]]:
        """Leave behind what has been heard: the marks passed and utterances over, as events; and those utterances."""
        events: list[SpeechEvent] = []
        over: list[Utterance] = []
        for utterance in tuple(self.utterances.values()):
            events += [MarkReached(mark.name, utterance.number) for mark in utterance.take_heard()]
            if not utterance.over:
                break
            del self.utterances[utterance.number]
            over.append(utterance)
            if utterance.mark is not None:
                events.append(MarkReached(utterance.mark, utterance.number))
            events.append(SpeechFinished(utterance.number, round(1000 * utterance.heard_s), utterance.mark))
        return events, over

    def cut(self, dropped: Mapping[Hashable, Dropped], sample_rate: int) -> tuple[list[CutSpeech], list[Segment]]:
        """Forget everything: what was heard of each utterance, and the segments that were not to their end.

        `dropped`: what was in the playout buffer, by tag.
        """
        speech = [utterance.cut(dropped, sample_rate) for utterance in self.utterances.values()]
        segments = list(self.segments.values())
        for segment in segments:
            segment.cleared = True
        for utterance in self.utterances.values():
            utterance.open = False
        self.utterances.clear()
        self.segments.clear()
        return speech, segments

    def views(self, buffered_s: float) -> tuple[SpeechView, ...]:
        """What is being said, then what waits. buffered_s: audio in the playout buffer."""
        playing = self.playing
        played_s = 0.0
        if playing is not None:  # what is in the buffer belongs to it and to those behind it
            behind_s = sum(segment.written_s for segment in self.segments.values()) - playing.written_s
            played_s = min(playing.written_s, max(0.0, playing.written_s + behind_s - buffered_s))
        return tuple(
            utterance.view(played_s if playing is not None and playing.number == utterance.number else 0.0)
            for utterance in self.utterances.values()
        )
