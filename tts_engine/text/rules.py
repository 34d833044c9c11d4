"""What the rules of the telephone reading are made of: a pattern, and what is said for it.

A rule's words hold no digits, so that no later rule takes them for its own. Patterns begin where no other match can go
on from (look-behind), and what they repeat is possessive or bounded: time is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tts_engine.text.numbers import decimal, number_words

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]

NUMBER = r"[0-9]++(?:,[0-9]{3}(?![0-9]))*+(?:\.[0-9]++)?+"
START = r"(?<![\w.,])"
END = r"(?!\w|[.,][0-9])"


def rule(pattern: str, say: Callable[[re.Match[str]], str], *, capitals: bool = False) -> Rule:
    """`capitals`: the pattern tells capital letters from small ones."""
    return re.compile(pattern, re.ASCII if capitals else re.ASCII | re.IGNORECASE), say


def replace(pattern: str, words: str) -> Rule:
    return rule(pattern, lambda match: match.expand(words))


def say_number(number: str) -> str:
    """'one thousand two hundred point five' of '1,200.5'."""
    whole, _, fraction = number.partition(".")
    return decimal(whole, fraction) if fraction else number_words(whole)
