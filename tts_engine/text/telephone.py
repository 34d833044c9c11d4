"""How numbers, codes and addresses are said on the telephone, to callers who write along. US English.

Choices where usage differs:
- "0" is "zero" (only minutes and years say "oh five"); telephone numbers, codes and long numbers are read digit by
  digit, with a comma, a short pause, between groups.
- 01/02/2026 is January 2; 22/11/2026 and 22.11.2026 can only be, or mostly are, November 22.
- times are read as written: "14:05" is "fourteen oh five", "2:05 pm" is "two oh five PM".
- numbers from 1900 to 2099 are read as years, in pairs, in dates and after a word such as "in", "since" or "the".
- digits between hyphens are read one by one, unless they can be a range: "5-10" is "five to ten".
- "90s" is a duration, unless "the", "his", "early" or the like comes before it.
- numbers of five digits or more without commas are read digit by digit, unless they are round thousands; shorter ones
  as well after a word such as "code", "PIN", "account number" or "ending in".
"""

from __future__ import annotations

import re
import unicodedata

from tts_engine.text import codes, dates, money, quantities
from tts_engine.text.numbers import digits
from tts_engine.text.rules import Rule, replace, rule
from tts_engine.text.tags import outside_tags

_STAR_CODES = rule(r"(?<!\S)\*([0-9]{1,4})(?![0-9])", lambda match: f"star {digits(match[1])}")

_SYMBOL_RULES: tuple[Rule, ...] = (
    replace(r"\b(press|dial|hit|enter|then|the|and|or)\ ([\"']?)\*", r"\1 \2star"),
    replace(r"\b(press|dial|hit|enter|then|the|and|or)\ ([\"']?)\#", r"\1 \2pound"),
    replace(r"\ ?&(?!\w*;)\ ?", " and "),
    replace(r"(?<![^\s])@(?=[\s\w])\ ?", "at "),
    replace(r"(?<=\s)\+(?=\s)", "plus"),
    replace(r"(?<=\s)=(?=\s)", "equals"),
)

_RULES: tuple[Rule, ...] = (
    codes.MASK_RULE,
    *codes.ADDRESS_RULES,
    _STAR_CODES,
    *quantities.SIGN_RULES,
    *dates.RULES,
    *money.RULES,
    *codes.RULES,
    *quantities.RULES,
    *codes.MIXED_RULES,
    *quantities.PLAIN_RULES,
    *_SYMBOL_RULES,
)
_OTHER_DIGIT = re.compile(r"(?![0-9])\d|[¼-¾⅐-⅞↉]")
_SPACES = re.compile(" {2,}")


def read_for_telephone(text: str) -> str:
    """The text with words for its numbers, codes, addresses and symbols; no digits are left. Tags stay."""
    return outside_tags(text, _read)


def _plain_digit(match: re.Match[str]) -> str:
    """The ASCII form of another digit, or of a fraction: "1½" is "1 1/2"."""
    character = match[0]
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    plain = unicodedata.normalize("NFKC", character).replace("\u2044", "/")
    return f" {plain}" if match.string[max(0, match.start() - 1) : match.start()].isdigit() else plain


def _read(text: str) -> str:
    text = _OTHER_DIGIT.sub(_plain_digit, text)
    for pattern, say in _RULES:
        text = pattern.sub(say, text)
    return _SPACES.sub(" ", text)
