"""The file that `chatterline prompts warm` reads: UTF-8, a prompt a line.

    # what every caller hears
    Welcome to the clinic. How can I help you?
    anna<TAB>One moment, please.

Empty lines, and those that begin with #, are skipped. What stands before the first tab is the voice; without one, or
with nothing before it, it is the engine's default: so a tab in front lets a prompt begin with #. The text is spoken as
it stands, without the spaces around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_BYTES = 16 << 20


class PromptFileError(Exception):
    """The file cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class PromptLine:
    """One prompt."""

    number: int
    "Of its line, from 1."
    voice: str | None
    text: str


def read_prompts(path: Path) -> list[PromptLine]:
    """The prompts of a file, in order, each once. Raises PromptFileError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PromptFileError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise PromptFileError(f"{path} is larger than {MAX_BYTES >> 20} MB")
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PromptFileError(f"{path}:{line}: is not UTF-8") from None
    return list(parse_prompts(content))


def parse_prompts(content: str) -> Iterator[PromptLine]:
    """The prompts of a file's content; a repeated one only where it first stands."""
    seen: set[tuple[str | None, str]] = set()
    # Not splitlines(), which also ends a line at a form feed or U+2028.
    for number, line in enumerate(content.replace("\r\n", "\n").split("\n"), 1):
        if line.lstrip(" ").startswith("#"):
            continue
        before, tab, after = line.partition("\t")
        voice, text = (before.strip() or None, after.strip()) if tab else (None, before.strip())
        if text and (voice, text) not in seen:
            seen.add((voice, text))
            yield PromptLine(number, voice, text)
