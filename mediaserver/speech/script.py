"""What is to be said, as plain data: words, pauses, marks and recorded sound in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from tts_engine.engine import PcmChunk


@dataclass(frozen=True, slots=True)
class Words:
    """Text for the speech engine."""

    text: str = field(repr=False)
    voice: str | None = None
    "None for the voice of the whole script."
    rate: float = 1.0
    "Of speech: 2.0 is twice as fast. Engines that cannot do it speak at their own."
    phonemes: str | None = field(default=None, repr=False)
    "How it is pronounced, in IPA, where the engine can; `text` elsewhere."


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence within speech."""

    milliseconds: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A place to be told of when it is heard."""

    name: str


OpenSound = Callable[[int], AsyncIterator[PcmChunk]]
"""Opens a recorded sound at a sample rate in Hz: chunks of 16-bit mono PCM. What it raises ends the sound and is
logged; its aclose() is called when the sound is cut."""


@dataclass(frozen=True, slots=True)
class Sound:
    """Recorded or foreign audio."""

    open: OpenSound = field(repr=False)
    label: str = ""
    "For logs: no secret, no caller's text."


Part: TypeAlias = Words | Pause | Mark | Sound
Script: TypeAlias = tuple[Part, ...]


def plain_text(script: Script) -> str:
    """The words of a script."""
    return " ".join(part.text for part in script if isinstance(part, Words))
