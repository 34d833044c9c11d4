"""The subset of SSML 1.1 (W3C, 2010) that can be spoken on a call; docs/ssml.md.

What is well-formed is spoken. Elements, attributes and values that cannot be done are listed, and their text is said
as if they were not there; only what makes no sense at all (a time that is none, a mark without a name) is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mediaserver.api.say_as import KINDS, say_as
from mediaserver.api.ssml_document import Element, SsmlError, read_document, shown
from mediaserver.api.ssml_values import FASTEST, SLOWEST, break_ms, rate_of
from mediaserver.speech.script import Mark, Part, Pause, Script, Words
from tts_engine.text.speakable import has_speech

__all__ = ["SsmlError", "SsmlScript", "parse_ssml"]

PARAGRAPH_MS = 400
"Silence between two paragraphs."
MAX_SILENCE_MS = 120_000
"Of all breaks together."
MAX_NAME_CHARS = 128
"Of a mark and of a voice."
MAX_PHONEME_CHARS = 500
MAX_UNSUPPORTED = 32
_SHOWN_CHARS = 64

_SILENT = frozenset(("metadata", "meta", "desc"))
"Elements whose text is not for the listener."
_ALLOWED: Mapping[str, frozenset[str]] = {
    "speak": frozenset(("version", "xml:lang", "xml:base", "onlangfailure")),
    "p": frozenset(("xml:lang",)),
    "s": frozenset(("xml:lang",)),
    "break": frozenset(("time", "strength")),
    "say-as": frozenset(("interpret-as", "format")),
    "sub": frozenset(("alias",)),
    "mark": frozenset(("name",)),
    "prosody": frozenset(("rate",)),
    "phoneme": frozenset(("alphabet", "ph")),
    "voice": frozenset(("name",)),
}
_IGNORED_ATTRIBUTE = re.compile(r"xmlns(:.*)?|xml:id|xsi:.*", re.DOTALL)
_ENGLISH = re.compile(r"en(-[a-z]{2})?", re.IGNORECASE)
_ENDED = re.compile(r"[.!?:;…][\"'”’)\]]*\Z")
_TWO_STOPS = re.compile(r", ?([.,;:!?])(?!\w)")
"""A comma that spelling leaves behind, before the writer's own."""
_PUNCTUATION = re.compile(r"\A[.,;:!?…]+[\"'”’)\]]*(?=\s|\Z)")


@dataclass(frozen=True, slots=True)
class SsmlScript:
    """What a document asks to have said, and what of it cannot be done."""

    script: Script
    unsupported: tuple[str, ...]
    """Each once, in order: `emphasis` (an element), `prosody@pitch` (an attribute), `say-as@interpret-as=address` (a
    value)."""


def parse_ssml(ssml: str, features: frozenset[str]) -> SsmlScript:
    """Read a document for an engine with these features ("rate", "phonemes"). Raises SsmlError."""
    reading = _Reading(features)
    reading.read(read_document(ssml), _Style())
    return reading.result()


@dataclass(frozen=True, slots=True)
class _Style:
    voice: str | None = None
    rate: float = 1.0


class _Reading:
    """Walks the elements and writes the script. Text of one style is one part, so that it has one intonation."""

    def __init__(self, features: frozenset[str]) -> None:
        self._features = features
        self._parts: list[Part] = []
        self._text = ""
        self._style = _Style()
        self._paragraph_due = False
        self._unbroken = False  # words without a break behind them
        self._silence_ms = 0
        self._unsupported: dict[str, None] = {}
        self._readers = {
            "speak": self.children,
            "p": self._paragraph,
            "s": self._sentence,
            "break": self._break,
            "say-as": self._say_as,
            "sub": self._sub,
            "mark": self._mark,
            "prosody": self._prosody,
            "phoneme": self._phoneme,
            "voice": self._voice,
        }

    def result(self) -> SsmlScript:
        self._flush()
        return SsmlScript(tuple(self._parts), tuple(self._unsupported))

    def read(self, element: Element, style: _Style) -> None:
        if element.name in _SILENT:
            return
        reader = self._readers.get(element.name)
        if reader is None:
            self._note(element.name)
            self.children(element, style)
            return
        self._note_attributes(element)
        reader(element, style)

    def children(self, element: Element, style: _Style) -> None:
        for child in element.children:
            if isinstance(child, str):
                self._say(child, style)
            else:
                self.read(child, style)

    # Elements

    def _paragraph(self, element: Element, style: _Style) -> None:
        self._end_paragraph()
        self.children(element, style)
        self._end_paragraph()

    def _sentence(self, element: Element, style: _Style) -> None:
        self._end_sentence()
        self.children(element, style)
        self._end_sentence()

    def _break(self, element: Element, style: _Style) -> None:
        milliseconds = break_ms(element.attributes, element.line)
        self._silence_ms += milliseconds
        if self._silence_ms > MAX_SILENCE_MS:
            raise SsmlError(f"breaks of more than {MAX_SILENCE_MS // 1000} s together", element.line)
        self._flush()
        self._paragraph_due = self._unbroken = False  # the author has said how long
        if milliseconds:
            self._parts.append(Pause(milliseconds))
        self.children(element, style)

    def _say_as(self, element: Element, style: _Style) -> None:
        kind = _required(element, "interpret-as").strip().lower()
        text = self._text_of(element)
        said = None
        if kind not in KINDS:
            self._note(f"say-as@interpret-as={kind}")
        else:
            said = say_as(text, kind, element.attributes.get("format", ""))
            if said is None and text.strip():
                self._note(f"say-as@interpret-as={kind}: not of that kind or format")
        self._say(text if said is None else said, style)

    def _sub(self, element: Element, style: _Style) -> None:
        self._text_of(element)
        self._say(_required(element, "alias"), style)

    def _mark(self, element: Element, style: _Style) -> None:
        name = _name(element)
        self._flush()
        self._parts.append(Mark(name))
        self.children(element, style)

    def _prosody(self, element: Element, style: _Style) -> None:
        if "rate" in element.attributes:
            style = replace(style, rate=self._rate(element, style.rate))
        self.children(element, style)

    def _rate(self, element: Element, around: float) -> float:
        given = element.attributes["rate"]
        wanted = around * rate_of(given, element.line)
        if "rate" not in self._features:
            self._note("prosody@rate")
            return 1.0
        rate = min(max(wanted, SLOWEST), FASTEST)
        if rate != wanted:
            self._note(f"prosody@rate={given.strip()}")
        return rate

    def _phoneme(self, element: Element, style: _Style) -> None:
        pronunciation = _required(element, "ph").strip()
        text = self._text_of(element)
        if len(pronunciation) > MAX_PHONEME_CHARS:
            raise SsmlError(f"phoneme ph has more than {MAX_PHONEME_CHARS} characters", element.line)
        if not has_speech(text):
            raise SsmlError("phoneme has no text: it is said where the phonemes cannot be", element.line)
        alphabet = element.attributes.get("alphabet", "ipa").strip().lower()
        if alphabet != "ipa":
            self._note(f"phoneme@alphabet={alphabet}")
        elif "phonemes" not in self._features:
            self._note("phoneme")
        elif pronunciation:
            self._flush()
            self._write(Words(" ".join(text.split()), style.voice, style.rate, pronunciation))
            return
        self._say(text, style)

    def _voice(self, element: Element, style: _Style) -> None:
        if "name" in element.attributes:
            style = replace(style, voice=_name(element))
        self.children(element, style)

    # What they are written as

    def _say(self, text: str, style: _Style) -> None:
        if style != self._style and text.strip():
            self._flush()
            self._style = style
        self._text += text

    def _flush(self) -> None:
        text, self._text = " ".join(self._text.split()), ""
        text = _TWO_STOPS.sub(r"\1", text)
        stop = _PUNCTUATION.match(text)
        if stop and self._parts and isinstance(self._parts[-1], Words):
            # What closes the words before belongs to them, whatever element they were in.
            self._add_to_last(stop[0])
            text = text[stop.end() :].lstrip()
        if has_speech(text):
            self._write(Words(text, self._style.voice, self._style.rate))

    def _write(self, words: Words) -> None:
        if self._paragraph_due:
            self._parts.append(Pause(PARAGRAPH_MS))
        self._parts.append(words)
        self._paragraph_due, self._unbroken = False, True

    def _end_sentence(self) -> None:
        """A full stop where the writer left it to the element."""
        text = self._text.rstrip()
        if has_speech(text):
            self._text = f"{text} " if _ENDED.search(text) else f"{text}. "
        elif self._parts and isinstance(last := self._parts[-1], Words) and not _ENDED.search(last.text + text):
            self._add_to_last(".")

    def _end_paragraph(self) -> None:
        self._end_sentence()
        self._flush()
        self._paragraph_due = self._unbroken

    def _add_to_last(self, punctuation: str) -> None:
        last = self._parts[-1]
        if isinstance(last, Words):
            self._parts[-1] = replace(last, text=last.text + punctuation)

    # What cannot be done

    def _text_of(self, element: Element) -> str:
        """Of an element that has text only; what is in it besides is said, and noted."""
        for inner in element.descendants():
            self._note(f"{element.name}/{inner.name}")
        return element.text

    def _note_attributes(self, element: Element) -> None:
        for name, value in element.attributes.items():
            if name == "xml:lang" and name in _ALLOWED[element.name]:
                if not _ENGLISH.fullmatch(value.strip()):
                    self._note(f"{element.name}@xml:lang={value.strip()}")
            elif name not in _ALLOWED[element.name] and not _IGNORED_ATTRIBUTE.fullmatch(name):
                self._note(f"{element.name}@{name}")

    def _note(self, what: str) -> None:
        if len(self._unsupported) < MAX_UNSUPPORTED:
            self._unsupported[what[:_SHOWN_CHARS]] = None


def _required(element: Element, attribute: Literal["interpret-as", "alias", "name", "ph"]) -> str:
    value = element.attributes.get(attribute)
    if value is None:
        raise SsmlError(f"<{element.name}> has no attribute {attribute}", element.line)
    return value


def _name(element: Element) -> str:
    name = _required(element, "name").strip()
    if not name or len(name) > MAX_NAME_CHARS:
        raise SsmlError(f"{element.name} name {shown(name)} is not 1 to {MAX_NAME_CHARS} characters", element.line)
    return name
