"""What can be seen of an utterance from outside, at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class SpeechView:
    """An utterance that is being said, or waits."""

    number: int
    state: Literal["queued", "speaking"]
    text: str = field(repr=False)
    mark: str | None
    played_ms: int
