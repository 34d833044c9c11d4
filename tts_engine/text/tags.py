"""Paralinguistic tags: words in square brackets that Chatterbox Turbo performs instead of saying."""

from __future__ import annotations

import re
from collections.abc import Callable

TAGS = (
    "[angry]",
    "[fear]",
    "[surprised]",
    "[whispering]",
    "[advertisement]",
    "[dramatic]",
    "[narration]",
    "[crying]",
    "[happy]",
    "[sarcastic]",
    "[clear throat]",
    "[sigh]",
    "[shush]",
    "[cough]",
    "[groan]",
    "[sniff]",
    "[gasp]",
    "[chuckle]",
    "[laugh]",
)
"In the order of their token ids, 50257 to 50275 (added_tokens.json)."

LONGEST_TAG = max(map(len, TAGS))

TAG = re.compile("|".join(map(re.escape, TAGS)), re.IGNORECASE | re.ASCII)
"One tag, in whatever case it was written; the tokenizer knows the lower case only."


def outside_tags(text: str, change: Callable[[str], str]) -> str:
    """`change` what lies between the tags, and write the tags as the tokenizer knows them."""
    parts: list[str] = []
    at = 0
    for tag in TAG.finditer(text):
        parts += [change(text[at : tag.start()]), tag[0].lower()]
        at = tag.end()
    parts.append(change(text[at:]))
    return "".join(parts)
