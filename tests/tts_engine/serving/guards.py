"""What ends a segment of a test: its text alone, so that lengths are known beforehand. A process can import it."""

from __future__ import annotations

from tts_engine.chatterbox.constants import SPEECH_TOKENS, STOP_TOKEN
from tts_engine.chatterbox.guards import EndReason, Verdict

LEAST = 6


class OneTokenACharacter:
    """A segment takes as many tokens as its text has characters; STOP is impossible."""

    def __init__(self, text: str) -> None:
        self.limit = self.min_tokens = max(LEAST, len(text))
        self._taken = 0

    @property
    def forbid_stop(self) -> bool:
        """Always: the limit comes first."""
        return self._taken < self.min_tokens

    def accept(self, token: int) -> Verdict:
        """One more token as sampled; those that are no sound count, as they do for TokenGuard."""
        self._taken += 1
        ended = token == STOP_TOKEN or self._taken >= self.limit
        return Verdict((token,) if token < SPEECH_TOKENS else (), EndReason.STOPPED if ended else None)
