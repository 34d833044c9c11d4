from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tts_engine.embedded.text import MAX_PIECE_CHARS, cut, sentences

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
