"""Cuts the tokens of a language model into clauses that can be spoken, each as soon as it is complete.

Where a clause ends is what tts_engine.text.sentences says; here is how long they are. The first is short, so that
sound begins early. Each further one may be as long again as all before it, while they are being heard: tokens come
faster than they are spoken, so none is waited for in silence.
"""

from __future__ import annotations

import re

from tts_engine.text.sentence_ends import CLOSERS, ends_sentence
from tts_engine.text.sentences import SentenceSplitter

FIRST_CHARS = 16
"From which on the first clause is spoken by itself: about a second. Voices are unsteady on less."

MAX_CLAUSE_CHARS = 80
"A clause of so many characters is long enough at any time; sentences may be longer."

MAX_CHARS = 250
"Of a clause, an engine's limit being at least twice that."

_ENDS_NUMBER = re.compile(rf"[0-9][.,:][{re.escape(CLOSERS)}]*\Z")
_ENDS_CLAUSE = re.compile(rf"[,;:—–][{re.escape(CLOSERS)}]*\Z")
_KEPT = 64
"Characters of what came last that are looked at when no more comes."


class ClauseSplitter:
    """One talk cycle's text. Nothing is lost but white space."""

    def __init__(self) -> None:
        self._given_chars = 0
        self._waiting_chars = 0
        self._end = ""
        self._splitter = self._new()

    def _new(self) -> SentenceSplitter:
        enough = min(MAX_CLAUSE_CHARS, max(FIRST_CHARS, self._given_chars))
        return SentenceSplitter(MAX_CHARS, first_clause_chars=enough, min_chars=FIRST_CHARS)

    @property
    def waiting(self) -> bool:
        """Whether there is text that has not been given."""
        return self._waiting_chars > 0

    def feed(self, token: str) -> list[str]:
        """The clauses that this token makes certain."""
        if not token:
            return []
        self._end = (self._end + token)[-_KEPT:]
        self._waiting_chars += len(token.strip())
        given: list[str] = []
        while clauses := self._splitter.feed(token):
            self._given_chars += sum(map(len, clauses))
            given += clauses
            # What follows is the beginning of a clause that may be longer.
            rest = " ".join(self._splitter.finish())
            space = self._end[len(self._end.rstrip()) :]
            self._splitter = self._new()
            self._waiting_chars = len(rest)
            token = rest + space if rest else ""
        return given

    def settle(self) -> list[str]:
        """What waits, if it looks complete: to be asked when tokens are slow to come."""
        return self.finish() if self.waiting and self._looks_complete() else []

    def finish(self) -> list[str]:
        """What waits, complete or not."""
        clauses = self._splitter.finish()
        self._given_chars += sum(map(len, clauses))
        self._waiting_chars = 0
        self._end = ""
        self._splitter = self._new()
        return clauses

    def _looks_complete(self) -> bool:
        end = self._end.rstrip()
        if "\n" in self._end[len(end) :]:
            return True
        word = end.split()[-1] if end else ""
        if _ENDS_NUMBER.search(word) and end == self._end:
            return False  # "3." of "3.5"
        # A number may be an enumerator, so the word counts as its sentence's first. A capital decides the most.
        if ends_sentence(word, "Xx", first=True):
            return True
        # With a slow model each comma may be followed by a wait.
        return self._waiting_chars >= FIRST_CHARS and _ENDS_CLAUSE.search(word) is not None
