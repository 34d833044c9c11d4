"""Utterances as long as their texts say: random weights never stop, and repeat what no model would."""

from __future__ import annotations

from benchmarks.load.texts import CHARACTERS_A_SECOND
from tts_engine.chatterbox.constants import SPEECH_TOKENS, STOP_TOKEN, TOKEN_RATE
from tts_engine.chatterbox.guards import MOST_TOKENS, EndReason, Verdict


def token_count(text: str) -> int:
    """Speech tokens of a text: 25 for 15 characters, at least 1."""
    return max(1, min(MOST_TOKENS, round(len(text) / CHARACTERS_A_SECOND * TOKEN_RATE)))


class FixedLengthGuard:
    """In place of a TokenGuard: STOP is impossible, and the utterance ends after `tokens` tokens as sampled."""

    def __init__(self, tokens: int) -> None:
        self.limit = tokens
        self.min_tokens = tokens
        self._taken = 0

    @classmethod
    def for_text(cls, text: str) -> FixedLengthGuard:
        return cls(token_count(text))

    @property
    def forbid_stop(self) -> bool:
        """Always, until the end."""
        return self._taken < self.min_tokens

    def accept(self, token: int) -> Verdict:
        """One more token as sampled; those beyond sound (>= 6561) count and are dropped, as TokenGuard drops them."""
        self._taken += 1
        ended = token == STOP_TOKEN or self._taken >= self.limit
        return Verdict((token,) if token < SPEECH_TOKENS else (), EndReason.STOPPED if ended else None)
