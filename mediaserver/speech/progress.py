"""How far into its text an utterance was when it was cut: an estimate from how long it had been heard.

No engine of ours tells when it says which word. What is known is how long was played, and either how long the whole
utterance is or how much of it there is so far; words take time by their letters, punctuation is a pause. The figures
are those of the embedded voice's speech, as a recogniser times its words; only their ratio matters where the whole is
known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_LETTER_S = 0.055
"What a word takes for each of its letters."
_DIGIT_LETTERS = 6
"A digit is said as a word: 250 is 'two hundred fifty'."
_SIGNS = {"$": 7, "€": 5, "£": 6, "%": 7, "@": 2, "&": 3, "+": 4, "#": 6}
"Letters of signs that are said."
_STOP_S = 0.50
"The pause after a sentence,"
_COMMA_S = 0.40
"and after a part of one."

_WORD = re.compile(r"\S+")
_STOPS = frozenset(".!?…")
_COMMAS = frozenset(",;:–—")
_CLOSERS = "\"')]}»”’"


def heard_text(text: str, played_s: float, *, total_s: float | None = None, received_s: float = 0.0) -> str:
    """The beginning of `text` that was heard to the end of a word in `played_s` seconds of speech.

    total_s: how long the utterance is, if it has been synthesised whole; else received_s: how much of it has been so
    far, which it is longer than.
    """
    if total_s is not None and played_s >= total_s:
        return text.strip()
    words = list(_timed(text))
    if not words or played_s <= 0:
        return ""
    whole = words[-1][1] + words[-1][2]
    estimated = total_s if total_s is not None else max(whole, received_s)
    reached = played_s * whole / estimated if estimated > 0 else 0.0
    heard = 0
    for place, end, _ in words:
        if end > reached:
            break
        heard = place
    return text[:heard].strip()


def _timed(text: str) -> Iterator[tuple[int, float, float]]:
    """Of each word: where it ends in the text, when it ends in speech, and the pause after it, in seconds."""
    now = 0.0
    ends = [match.end() for match in _WORD.finditer(text)]
    for match in _WORD.finditer(text):
        word = match.group()
        now += _LETTER_S * _letters(word)
        pause = _STOP_S if match.end() == ends[-1] else _pause(word)
        yield match.end(), now, pause
        now += pause


def _letters(word: str) -> int:
    """How many letters it is when said."""
    return sum(
        _DIGIT_LETTERS if character.isdigit() else _SIGNS.get(character, int(character.isalnum())) for character in word
    )


def _pause(word: str) -> float:
    last = word.rstrip(_CLOSERS)[-1:]
    if last in _STOPS:
        return _STOP_S
    return _COMMA_S if last in _COMMAS else 0.0
