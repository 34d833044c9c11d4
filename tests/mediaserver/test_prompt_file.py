"""The file of `chatterline prompts warm`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver import prompt_file
from mediaserver.prompt_file import PromptFileError, PromptLine, parse_prompts, read_prompts


def test_lines_comments_and_voices() -> None:
    content = "\n".join(
        [
            "# what every caller hears",
            "Welcome.",
            "",
            "anna\tOne moment, please.",
            "   # also a comment",
            "\t# 1 is for sales.",
            "  anna  \t Tabs\tmay follow.  ",
            "Welcome.",
            "anna\tWelcome.",
            "bob\t",
            "Grüße aus Köln.",
        ]
    )
    assert list(parse_prompts(content)) == [
        PromptLine(2, None, "Welcome."),
        PromptLine(4, "anna", "One moment, please."),
        PromptLine(6, None, "# 1 is for sales."),
        PromptLine(7, "anna", "Tabs\tmay follow."),
        PromptLine(9, "anna", "Welcome."),
        PromptLine(11, None, "Grüße aus Köln."),
    ]


@pytest.mark.parametrize("content", ["a\r\nb\r\n", "a\nb", "\ufeffa\nb\n"])
def test_endings_and_a_byte_order_mark(tmp_path: Path, content: str) -> None:
    file = tmp_path / "f"
    file.write_bytes(content.encode())
    assert [(line.number, line.text) for line in read_prompts(file)] == [(1, "a"), (2, "b")]


def test_line_numbers_are_an_editors() -> None:
    assert [line.number for line in parse_prompts("a\x0cb\nc\u2028d\ne")] == [1, 2, 3]


@given(st.text())
def test_whatever_stands_in_it(content: str) -> None:
    lines = list(parse_prompts(content))
    assert all(line.text and line.text == line.text.strip() for line in lines)
    assert len({(line.voice, line.text) for line in lines}) == len(lines)
    assert all(line.text in content for line in lines)


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"one\ntwo\nGr\xfc\xdfe\n")
    with pytest.raises(PromptFileError, match=r"f:3: is not UTF-8"):
        read_prompts(file)
    with pytest.raises(PromptFileError, match="No such file"):
        read_prompts(tmp_path / "none")
    with pytest.raises(PromptFileError, match="Is a directory"):
        read_prompts(tmp_path)
    monkeypatch.setattr(prompt_file, "MAX_BYTES", 3)
    with pytest.raises(PromptFileError, match="is larger than"):
        read_prompts(file)
