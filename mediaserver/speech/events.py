"""What a speech queue tells of its utterances."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The first frame of an utterance was taken for sending."""

    number: int


@dataclass(frozen=True, slots=True)
class SpeechFinished:
    """All that there was of an utterance has been heard. It comes once for each that is not cut."""

    number: int
    played_ms: int
    mark: str | None
    "The one at its end, of which a MarkReached has told before."


@dataclass(frozen=True, slots=True)
class MarkReached:
    """All that stands before a mark has been heard."""

    name: str
    number: int
    "Of the utterance that it stands in."


@dataclass(frozen=True, slots=True)
class SpeechFailed:
    """Something of an utterance cannot be said; its other parts are. Once an utterance."""

    number: int
    reason: str = field(repr=False)
    "May quote what the caller's application sent: no log should hold it."


SpeechEvent: TypeAlias = SpeechStarted | SpeechFinished | MarkReached | SpeechFailed
