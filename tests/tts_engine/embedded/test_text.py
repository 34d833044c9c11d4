from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.embedded.model import VoiceModel
from tts_engine.embedded.text import (
    MAX_NUMBER_DIGITS,
    MAX_PIECE_CHARS,
    cut,
    sentences,
    tame,
)

words = st.text(st.sampled_from("abc,;:—"), min_size=1, max_size=30)
texts = st.lists(words, max_size=60).map(" ".join)


@given(texts, st.integers(8, 60), st.integers(0, 40))
def test_pieces_hold_everything_within_the_limits(text: str, limit: int, extra: int) -> None:
    pieces = cut(text, limit, limit + extra)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    if len(text) > limit:
        assert all(0 < len(piece) <= limit + extra for piece in pieces)


@given(texts, st.integers(8, 60))
def test_neighbours_would_not_fit_together(text: str, limit: int) -> None:
    """As few pieces as greedy packing of clauses gives, where no clause is itself over the limit."""
    if all(len(clause) <= limit for clause in text.split()) and len(text) > limit:
        pieces = cut(text.replace(" ", ", "), limit, limit)
        assert all(len(a) + 1 + len(b) > limit for a, b in pairwise(pieces))


def test_short_text_is_untouched() -> None:
    assert cut("one,  two", 9, 9) == ["one,  two"]


def test_cuts_after_clauses_first() -> None:
    assert cut("when it rains, we stay in; else we go", 20, 30) == ["when it rains,", "we stay in;", "else we go"]


def test_a_clause_over_the_limit_that_clauses_may_have_stays_whole() -> None:
    assert cut("yes, but not in the morning", 10, 25) == ["yes,", "but not in the morning"]


@given(st.lists(st.text("ab", min_size=1, max_size=12), min_size=20, max_size=80))
def test_a_run_on_clause_is_cut_between_words_evenly(words: list[str]) -> None:
    pieces = cut(" ".join(words), 50, 50)
    assert " ".join(pieces).split() == words
    lengths = [len(piece) for piece in pieces]
    assert max(lengths) - min(lengths) <= 2 * (12 + 1)


def test_a_long_word_is_cut_anywhere() -> None:
    pieces = cut("x" * 100, 20, 20)
    assert "".join(pieces).replace(" ", "") == "x" * 100
    assert max(map(len, pieces)) <= 20


def test_sentences() -> None:
    text = "Mr. Smith is here. Is he? Yes!\n\nHe paid 3.50 dollars."
    assert sentences(text) == ["Mr. Smith is here.", "Is he?", "Yes!", "He paid 3.50 dollars."]


@given(st.text(max_size=2000))
def test_sentences_of_anything_are_bounded(text: str) -> None:
    assert all(0 < len(sentence) <= MAX_PIECE_CHARS for sentence in sentences(text))


@pytest.mark.parametrize(
    ("sentence", "tamed"),
    [
        ("Call 030 1234567, or mail john.smith@example.com.", "Call 030 1234567, or mail john.smith@example.com."),
        ("A well-known state-of-the-art e-mail.", "A well-known state-of-the-art e-mail."),
        ("Code 12345678901234567.", "Code 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7."),
        ("a-b-c-d-e-f-g-h", "a-b-c-d-e-f- g-h"),
        ("", ""),
    ],
)
def test_only_monstrous_words_are_cut(sentence: str, tamed: str) -> None:
    assert tame(sentence) == tamed


@given(st.text(st.sampled_from("ab AB12-/.%$é!'"), max_size=120))
def test_taming_loses_nothing_but_blanks(sentence: str) -> None:
    assert "".join(tame(sentence).split()) == "".join(sentence.split())


HOSTILE = {
    "letters and hyphens": "-".join("abcdefghijklmnopqrstuvwxyz" * 8),
    "digits and letters": "1e9" * 133,
    "cases": "aB" * 200,
    "slashes": "/" * 2000,
    "percents": "5%" * 500,
    "hyphened pairs": "a-" * 500,
    "a number": "1" * (MAX_NUMBER_DIGITS + 400),
    "commas": "1," * 200,
    "accents": "é-" * 150,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_text_keeps_a_worker_for_seconds(heart: VoiceModel, text: str) -> None:
    """Uncut, the first of these took 6 s. CPU time, and ten times what was measured: this is about the power of n."""
    began = time.process_time()
    for sentence in sentences(text):
        heart.phonemize(sentence)
    assert time.process_time() - began < 4.0


def test_tags_for_chatterbox_are_left_out() -> None:
    assert sentences("Hello. [chuckle] It is me. [Clear Throat]") == ["Hello.", "It is me."]
