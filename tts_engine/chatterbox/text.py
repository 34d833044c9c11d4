"""From what is to be said to what Chatterbox reads: segments, in words, with the punctuation that it was trained on."""

from __future__ import annotations

import math
import re

from tts_engine.text.codes import unmask
from tts_engine.text.markdown import without_markdown
from tts_engine.text.sentences import MAX_CHARS, SentenceSplitter, split
from tts_engine.text.speakable import Cleaner, has_speech
from tts_engine.text.tags import outside_tags
from tts_engine.text.telephone import read_for_telephone

_REPLACEMENTS = str.maketrans(
    {"…": ", ", ":": ",", "—": "-", "–": "-", "“": '"', "”": '"', "‘": "'", "’": "'"},
)
_ENDS = (".", "!", "?", "-", ",")

_LINE_END = re.compile(r"([^\s.,;:!?…-])[ \t]*\n\s*")
_BEFORE_PUNCTUATION = re.compile(r"(?<=\S) +(?=[.,!?;:…](?:\s|$))")
_NO_CLAUSE = 10**9
_SLACK = 40  # characters: room for a cut at a good place

_GROWTH = 3
"Characters that normalisation may add: a full stop, and those of a letter whose capital is up to three ('ΐ')."


def normalise_punctuation(text: str) -> str:
    """Punctuation as in the training data: equal to the reference's tts_turbo.py `punc_norm`, but '' stays ''."""
    if not text:
        return ""
    if text[0].islower():
        text = text[0].upper() + text[1:]
    text = " ".join(text.split()).translate(_REPLACEMENTS).replace(" ,", ",").rstrip(" ")
    return text if text.endswith(_ENDS) else f"{text}."


class TextPreparer:
    """Makes the segments of a text that arrives in fragments, each as soon as it is certain (SentenceSplitter)."""

    def __init__(self, *, telephone_reading: bool = True, max_chars: int = MAX_CHARS) -> None:
        self._cleaner = Cleaner()
        self._splitter = SentenceSplitter(max_chars - _GROWTH)
        self._telephone_reading = telephone_reading
        self._max_chars = max_chars

    def feed(self, fragment: str) -> list[str]:
        return self._prepared(self._splitter.feed(self._cleaner.feed(fragment)))

    def finish(self) -> list[str]:
        """What is left; the preparer is as new then."""
        self._cleaner = Cleaner()
        return self._prepared(self._splitter.finish())

    def _prepared(self, segments: list[str]) -> list[str]:
        return [spoken for segment in segments for spoken in self._prepare_segment(segment)]

    def _prepare_segment(self, segment: str) -> list[str]:
        if not has_speech(segment):
            return []
        if self._telephone_reading:
            segment = unmask(segment)  # the asterisks of "***-4242" are no emphasis
        text = _LINE_END.sub(r"\1, ", without_markdown(segment).strip())
        if not has_speech(text):
            return []
        text = _BEFORE_PUNCTUATION.sub("", text)
        text = read_for_telephone(text) if self._telephone_reading else outside_tags(text, str)
        text = normalise_punctuation(text.strip().rstrip(";: "))
        if len(text) <= self._max_chars:
            return [text]
        # Words for numbers are longer than the numbers: limit again, to pieces of about the same length.
        limit = self._max_chars - _GROWTH
        limit = min(limit, len(text) // math.ceil(len(text) / limit) + _SLACK)
        pieces = split(text, limit, first_clause_chars=_NO_CLAUSE)
        return [normalise_punctuation(piece.rstrip(";: ")) for piece in pieces if has_speech(piece)]


def prepare(text: str, *, telephone_reading: bool = True, max_chars: int = MAX_CHARS) -> list[str]:
    """What is spoken of a whole text, segment by segment, each of at most `max_chars`; [] if nothing can be said."""
    preparer = TextPreparer(telephone_reading=telephone_reading, max_chars=max_chars)
    return preparer.feed(text) + preparer.finish()
