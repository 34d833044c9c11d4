"""What ends an utterance besides its STOP token, and what of it a listener should still hear.

A language model of speech now and then forgets to stop: it falls silent or says one thing for ever. A guard watches
one utterance token by token. While a run is suspicious its tokens are held back; ordinary speech goes on and frees
them, a fault drops them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from tts_engine.chatterbox.constants import SILENCE_TOKEN, SPEECH_TOKENS, STOP_TOKEN, TOKEN_RATE

MOST_TOKENS = 1000
"The reference's `max_gen_len`: 40 s. A segment of 300 characters takes about 20."

FEWEST_MAX_TOKENS = 100
"4 s: even a single word may be drawn out."

MIN_TOKENS = 5
"0.2 s, as long as the shortest word: before that STOP is forbidden, so that no text is answered by nothing."

SILENCE_KEPT = 20
"0.8 s: a pause between two sentences."

SILENCE_LIMIT = 60
"2.4 s of nothing but the silence token is no pause within one segment."

LONGEST_CYCLE = 25
"1 s: a repeated syllable or word. Sampled speech never repeats a phrase token for token, let alone a longer one."

REPEATED_LIMIT = 50
"2 s of an exact cycle; a sustained sound or a laugh keeps one token for a few tenths."

REPEATS_LIMIT = 6
"And no fewer rounds of it: a word said five times is still speech."

REPEATED_KEPT = 10
"0.4 s, or two rounds if that is longer: what is left of an endless repetition."

_TAG = re.compile(r"\[[^\[\]]{1,40}\]")
_SLOW = re.compile(r"[^a-z\s'’,.\-]")


class EndReason(Enum):
    """Why an utterance ended; the value is a word for logs and metrics."""

    STOPPED = "stop"
    TOO_LONG = "too_long"
    ENDLESS_SILENCE = "endless_silence"
    REPETITION = "repetition"


@dataclass(frozen=True)
class Verdict:
    """On one more token: the sound tokens (< 6561) that are now certain to be spoken, and whether it was the last."""

    tokens: tuple[int, ...] = ()
    end: EndReason | None = None


def max_tokens(text: str) -> int:
    """How many tokens a text may take, from 100 to 1000.

    Speech is 12 to 20 characters a second, so 6 a second and 2 s more is generous. A digit, a symbol or a capital may
    be read as a word (4 characters' worth); a tag such as [laugh] may take 2 s.
    """
    spoken, tags = _TAG.subn("", text)
    return _bound(len(spoken) + 3 * len(_SLOW.findall(spoken)), tags)


def _bound(chars: int, tags: int = 0) -> int:
    seconds = 2 + chars / 6 + 2 * tags
    return max(FEWEST_MAX_TOKENS, min(MOST_TOKENS, int(TOKEN_RATE * seconds)))


class TokenGuard:
    """Watches one utterance. `text_chars` bounds its length; `limit` does so in its place, where it is known better."""

    def __init__(self, text_chars: int, *, limit: int | None = None, min_tokens: int = MIN_TOKENS) -> None:
        self.limit = _bound(text_chars) if limit is None else limit
        "At most so many tokens, whether sound or not."
        self.min_tokens = min_tokens
        if not 0 <= self.min_tokens < self.limit:
            raise ValueError(f"min_tokens ({min_tokens}) must be from 0 to below the limit ({self.limit})")
        self._history: list[int] = []
        self._given = 0  # how much of the history is handed out
        self._matches = [0] * (LONGEST_CYCLE + 1)  # by period: how many last tokens equal the one a period before

    @classmethod
    def for_text(cls, text: str) -> TokenGuard:
        """With the length that this text may take."""
        return cls(len(text), limit=max_tokens(text))

    @property
    def forbid_stop(self) -> bool:
        """Whether the next token must not be STOP."""
        return len(self._history) < self.min_tokens

    def accept(self, token: int) -> Verdict:
        """One more token as sampled, whatever it is. Not to be called after the end."""
        if token == STOP_TOKEN:
            return Verdict(self._release(0), EndReason.STOPPED)
        self._append(token)
        held, end = self._suspicion()
        if end is None and len(self._history) >= self.limit:
            end = EndReason.TOO_LONG
        return Verdict(self._release(held), end)

    def _append(self, token: int) -> None:
        history = self._history
        for period in range(1, min(len(history), LONGEST_CYCLE) + 1):
            self._matches[period] = self._matches[period] + 1 if history[-period] == token else 0
        history.append(token)

    def _suspicion(self) -> tuple[int, EndReason | None]:
        """How many of the last tokens are to be held back, and whether they are a fault."""
        run = self._matches[1] + 1
        if self._history[-1] == SILENCE_TOKEN:
            held = run - SILENCE_KEPT
            end = EndReason.ENDLESS_SILENCE if run >= SILENCE_LIMIT else None
        else:
            held = run - REPEATED_KEPT
            end = EndReason.REPETITION if run >= REPEATED_LIMIT else None
        for period in range(2, LONGEST_CYCLE + 1):
            if self._matches[period] < period or run >= period:  # less than two rounds, or a run of one token
                continue
            length = self._matches[period] + period
            held = max(held, length - max(REPEATED_KEPT, 2 * period))
            if length >= max(REPEATED_LIMIT, REPEATS_LIMIT * period):
                end = EndReason.REPETITION
        return max(held, 0), end

    def _release(self, held: int) -> tuple[int, ...]:
        until = max(self._given, len(self._history) - held)
        released = tuple(token for token in self._history[self._given : until] if token < SPEECH_TOKENS)
        self._given = until
        return released
