"""Takes Markdown from a text: language models write it unasked, and no voice can say it."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from tts_engine.text.speakable import clean
from tts_engine.text.tags import TAG


def _link(match: re.Match[str]) -> str:
    return match[0] if TAG.fullmatch(f"[{match[1]}]") else match[1]


def _row(match: re.Match[str]) -> str:
    return ", ".join(cell.strip() for cell in match[1].split("|") if cell.strip())


def _entity(match: re.Match[str]) -> str:
    return clean(html.unescape(match[0]))


def _nothing(_: re.Match[str]) -> str:
    return ""


_RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"&(?:[a-zA-Z]{2,8}|#[0-9]{1,6}|#x[0-9a-fA-F]{1,5});"), _entity),
    (re.compile(r"!?\[([^\[\]\n]{0,200})\]\([^()\s]{0,500}(?: \"[^\"\n]{0,200}\")?\)"), _link),
    (re.compile(r"^ *(?:[-_*=] ?){3,}+$", re.MULTILINE), _nothing),  # a rule
    (re.compile(r"^ *\|[-:| ]*+$", re.MULTILINE), _nothing),  # below a table's head
    (re.compile(r"^ *\|([^\n]*)$", re.MULTILINE), _row),
    (re.compile(r"^ *(?:> ?)+", re.MULTILINE), _nothing),
    (re.compile(r"^(?:#{1,6}|[*•-])\s+(?:\[[ xX]\]\s+)?", re.MULTILINE), _nothing),
    (re.compile(r"(?<![\w@./:=&?#-])_{1,3}(?=[^\W_])|(?<=[^\W_])_{1,3}(?=[\s.,;:!?)\"'\]]|\Z)"), _nothing),
    (re.compile(r"\*{2,}|~~|`+|(?<!\w)\*(?=[^\W\d])|(?<=[^\W\d])\*(?!\w)"), _nothing),
)


def without_markdown(text: str) -> str:
    """Links by their text, tables row by row, no marks of emphasis, headings, lists and quotes."""
    for pattern, change in _RULES:
        text = pattern.sub(change, text)
    return text
