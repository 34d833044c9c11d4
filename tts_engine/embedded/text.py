"""Cuts a text into the pieces that are synthesised one by one."""

from __future__ import annotations

import math
import re

from hibari import Hibari

from tts_engine.text.tags import TAG

MAX_PIECE_CHARS = 400
"""Longest text given to G2P at once: it is Python, and this bounds for how long it keeps a worker."""

MAX_WORD_PARTS = 12
"""A word of more parts (runs of letters, digits, or of one case; each other character) is cut into shorter ones.
hibari's G2P takes time with the third power of their number: 19 s for 400 characters of a-b-c-d."""

MAX_NUMBER_DIGITS = 15
"A longer number is read digit by digit: hibari has no names for numbers of 40 digits, and nobody hears them as one."

MAX_CLAUSES_PHONEMES = 100
"""A sentence with more is cut after one of its clauses. Time to its first sample grows with its length, 2 ms for each
second of speech (about 16 phonemes)."""

MAX_PIECE_PHONEMES = 160
"A clause with more is cut between words, at the cost of its intonation."

# Lower-case letters after an upper-case one belong to it; letters without case are taken as lower case.
_PART = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+|[\W_]")
_LONG_NUMBER = re.compile(rf"\d{{{MAX_NUMBER_DIGITS + 1},}}")
_BEFORE_PUNCTUATION = re.compile(r" (?=[.,;:!?])")
_CLAUSE_END = re.compile(r"(?<=[,;:—])\s+")


def sentences(text: str) -> list[str]:
    """The sentences of the text, without monstrous words, those over MAX_PIECE_CHARS cut further."""
    # A text written for Chatterbox: what that voice performs, this one leaves out.
    tamed = (tame(sentence) for sentence in Hibari.split_sentences(TAG.sub(" ", text)))
    return [piece for sentence in tamed for piece in cut(sentence, MAX_PIECE_CHARS, MAX_PIECE_CHARS)]


def tame(sentence: str) -> str:
    """Cut words of more than MAX_WORD_PARTS parts, and spell out numbers of more than MAX_NUMBER_DIGITS digits."""
    return " ".join(_tame_word(word) for word in sentence.split())


def _tame_word(word: str) -> str:
    spelt = _LONG_NUMBER.sub(lambda number: f" {' '.join(number[0])} ", word)
    word = _BEFORE_PUNCTUATION.sub("", spelt).strip()
    return " ".join(_cut_parts(piece) for piece in word.split())


def _cut_parts(word: str) -> str:
    parts = _PART.findall(word)
    if len(parts) <= MAX_WORD_PARTS:
        return word
    return " ".join("".join(parts[at : at + MAX_WORD_PARTS]) for at in range(0, len(parts), MAX_WORD_PARTS))


def cut(text: str, limit: int, clause_limit: int) -> list[str]:
    """Cut text of more than `limit` characters after clauses, as few times as the limit asks for: intonation
    starts anew with each piece. Clauses may have up to `clause_limit`, or are cut between words; words of over a
    quarter of that are cut anywhere.
    """
    if len(text) <= limit:
        return [text]
    parts = [part for clause in _CLAUSE_END.split(text) for part in _cut_clause(clause, clause_limit)]
    return _pack(parts, limit)


def _cut_clause(clause: str, limit: int) -> list[str]:
    """Pieces of about equal length: a last piece of one word would sound like a sentence of its own."""
    if len(clause) <= limit:
        return [clause]
    longest = max(limit // 4, 1)  # a word may reach this far into the share of the next piece
    words = [word[at : at + longest] for word in clause.split() for at in range(0, len(word), longest)]
    total = sum(len(word) + 1 for word in words)
    count = math.ceil(total / (limit - longest))
    pieces: list[list[str]] = [[] for _ in range(count)]
    position = 0
    for word in words:
        pieces[position * count // total].append(word)
        position += len(word) + 1
    return [" ".join(piece) for piece in pieces if piece]


def _pack(parts: list[str], limit: int) -> list[str]:
    """Join neighbours, a space between, as long as the limit holds."""
    packed: list[str] = []
    for part in parts:
        if packed and len(packed[-1]) + 1 + len(part) <= limit:
            packed[-1] += " " + part
        else:
            packed.append(part)
    return packed
