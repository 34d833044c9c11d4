"""Takes from a text what no voice can say: control characters, invisible ones, emoji, halves of surrogates."""

from __future__ import annotations

import re
import unicodedata

_LINE_BREAKS = frozenset("\n\v\f\x85\u2028\u2029")  # "\r" is a space: it comes before "\n"
_SAID_SYMBOLS = frozenset("©®°™№")  # category So like emoji, but words
_KEYCAP = "\u20e3"
_CACHED_BELOW = 0x3000  # bounds the table

_HIGH_SURROGATE_AT_END = re.compile("[\ud800-\udbff]$")
_SURROGATE_PAIR = re.compile("([\ud800-\udbff])([\udc00-\udfff])")


class _Table(dict[int, str]):
    """For str.translate: what becomes of a character."""

    def __missing__(self, code: int) -> str:
        character = _speakable_character(chr(code))
        if code < _CACHED_BELOW:
            self[code] = character
        return character


def _speakable_character(character: str) -> str:
    if character in _LINE_BREAKS:
        return "\n"
    if character in _SAID_SYMBOLS:
        return character
    category = unicodedata.category(character)
    if character.isspace():
        return " "
    if category in {"Cc", "Cf", "Cs", "Co", "Cn"} or character == _KEYCAP or "\ufe00" <= character <= "\ufe0f":
        return ""
    if (
        category == "So" or "\u2190" <= character <= "\u21ff" or (category == "Sk" and ord(character) > 0xFFFF)
    ):  # emoji, arrows; Sk: shades of skin
        return " "
    return character


_TABLE = _Table()


class Cleaner:
    """Cleans a text that comes in fragments; a surrogate pair may lie across two of them."""

    def __init__(self) -> None:
        self._half = ""

    def feed(self, fragment: str) -> str:
        text = self._half + fragment
        half = _HIGH_SURROGATE_AT_END.search(text)
        self._half = half[0] if half else ""
        text = _SURROGATE_PAIR.sub(_joined, text.removesuffix(self._half))
        return text.translate(_TABLE)


def _joined(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def clean(text: str) -> str:
    """Spaces for white space and emoji, line feeds for line breaks, nothing for the rest that cannot be said."""
    return Cleaner().feed(text)


def has_speech(text: str) -> bool:
    """Whether there is anything to say: a letter, a digit or a tag."""
    return any(map(str.isalnum, text))
