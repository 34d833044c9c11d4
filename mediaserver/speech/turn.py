"""An utterance that is being written while it is spoken, as whoever writes it sees it."""

from __future__ import annotations

from collections.abc import Callable

from mediaserver.speech.script import Part, Script
from mediaserver.speech.utterance import Utterance


class SpeechTurn:
    """Made by SpeechQueue.open(); belongs to the event loop."""

    def __init__(
        self, utterance: Utterance, add: Callable[[Utterance, Script], None], end: Callable[[Utterance], None]
    ) -> None:
        self._utterance = utterance
        self._add = add
        self._end = end

    @property
    def number(self) -> int:
        return self._utterance.number

    @property
    def open(self) -> bool:
        """Whether more may be added: not after end(), nor once it was cut, nor after the call."""
        return self._utterance.open

    def add(self, *parts: Part) -> None:
        """More of it, spoken as soon as what is before has been; ignored when not open.

        Raises EngineError or QueueFullError; nothing of `parts` has been taken then.
        """
        if self._utterance.open:
            self._add(self._utterance, parts)

    def end(self) -> None:
        """There is no more. Idempotent."""
        if self._utterance.open:
            self._end(self._utterance)
