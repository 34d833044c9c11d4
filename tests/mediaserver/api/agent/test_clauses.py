from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.api.agent.clauses import FIRST_CHARS, MAX_CHARS, ClauseSplitter


def tokens_of(text: str) -> list[str]:
    """As language models have them: a space belongs to the word behind it."""
    return re.findall(r"\s*[^\s]{1,4}|\s+\Z", text)


def timeline(text: str) -> list[tuple[str, str]]:
    """Each clause, with all that had come when it was given."""
    splitter = ClauseSplitter()
    come = ""
    given = []
    for token in tokens_of(text):
        come += token
        given += [(clause, come) for clause in splitter.feed(token)]
    return given + [(clause, come) for clause in splitter.finish()]


def clauses(text: str) -> list[str]:
    return [clause for clause, _ in timeline(text)]


def test_a_clause_is_given_when_the_next_word_begins() -> None:
    given = timeline("Thank you for calling, how can I help you today? I can do a lot.")
    assert given[0] == ("Thank you for calling,", "Thank you for calling, how")
    assert given[1] == ("how can I help you today?", "Thank you for calling, how can I help you today? I")


@pytest.mark.parametrize(
    "text",
    [
        "Please ask for Dr. Smith in room twelve",
        "That is 3.5 percent of the whole amount",
        "The total is 1,234.50 dollars and no more",
        "It is at https://example.com/a.b?c=1 for you",
        "Write to jane.doe@example.com about the thing",
        "She lives in the U.S. with her two cats",
        "We meet on Monday, November 23rd, 2026 then",
        "Call 555, 123, 4567 when there is time",
        "See you at 5 p.m. Eastern on that day",
        "Take e.g. the number 12 to the station",
    ],
)
def test_what_only_looks_like_an_end_is_none(text: str) -> None:
    assert clauses(text) == [text]


def test_the_first_clause_is_short_and_those_after_it_may_be_longer() -> None:
    text = (
        "Good morning to you, I have looked at it, and there are some things, as far as I see, that we could do, "
        "if you like, in the next days, or perhaps weeks, to make it work, more or less, again. Shall we?"
    )
    lengths = [len(clause) for clause in clauses(text)]
    assert lengths[0] < 30
    assert lengths[1] >= FIRST_CHARS
    assert lengths[2] >= lengths[0] + lengths[1]
    assert len(lengths) < 8


def test_a_short_beginning_waits_for_more() -> None:
    assert clauses("Yes. I can do that for you. What else?") == ["Yes. I can do that for you.", "What else?"]


def test_several_clauses_in_one_token() -> None:
    splitter = ClauseSplitter()
    given = splitter.feed("One thing is certain here. The other one is not so certain. And this goes on")
    assert given == ["One thing is certain here.", "The other one is not so certain."]
    assert splitter.waiting
    assert splitter.finish() == ["And this goes on"]
    assert not splitter.waiting


def test_a_word_that_was_begun_before_the_cut_stays_whole() -> None:
    splitter = ClauseSplitter()
    given = [*splitter.feed("This is the first sentence. Wo"), *splitter.feed("nderful"), *splitter.finish()]
    assert given == ["This is the first sentence.", "Wonderful"]


def test_a_space_at_the_cut_is_kept() -> None:
    splitter = ClauseSplitter()
    given = [*splitter.feed("This is the first sentence. Well "), *splitter.feed("known"), *splitter.finish()]
    assert given == ["This is the first sentence.", "Well known"]


@pytest.mark.parametrize(
    "text",
    [
        "Hello.",
        "Let me have a look,",
        "Wait…",
        "Really?",
        'He said "no."',
        "In 2026. ",
        "One line\n",
        "Just one moment —",
    ],
)
def test_what_looks_complete_is_given_when_no_more_comes(text: str) -> None:
    splitter = ClauseSplitter()
    assert splitter.feed(text) == []
    assert splitter.settle() == [text.strip()]
    assert not splitter.waiting
    assert splitter.settle() == []


@pytest.mark.parametrize(
    "text", ["Hello", "Ask for Dr.", "It is 3.", "In 2026.", "about 1,", "Mr. ", "the U.S.", "Yes,", "Well —"]
)
def test_what_does_not_look_complete_waits(text: str) -> None:
    splitter = ClauseSplitter()
    assert splitter.feed(text) == []
    assert splitter.settle() == []
    assert splitter.waiting
    assert splitter.finish() == [text.strip()]


@pytest.mark.parametrize("text", ["", " ", "\n\n", "  \n "])
def test_white_space_is_nothing(text: str) -> None:
    splitter = ClauseSplitter()
    assert splitter.feed(text) == []
    assert not splitter.waiting
    assert splitter.finish() == []


def test_a_text_without_any_end_is_cut_somewhere() -> None:
    given = clauses("word " * 1000)
    assert all(len(clause) <= MAX_CHARS for clause in given)
    assert " ".join(given) == ("word " * 1000).strip()


TEXTS = st.lists(
    st.text(st.sampled_from("abAB 1.,;:!?—\n'\")"))
    | st.sampled_from(["Dr. ", "3.5", "e.g. ", "Well, ", "[laugh] ", "No. "]),
    max_size=30,
)


@settings(max_examples=60)
@given(TEXTS)
def test_nothing_is_lost_but_white_space(tokens: list[str]) -> None:
    splitter = ClauseSplitter()
    given = [clause for token in tokens for clause in splitter.feed(token)] + splitter.finish()
    assert "".join("".join(given).split()) == "".join("".join(tokens).split())
    assert all(clause.strip() for clause in given)


@settings(max_examples=60)
@given(TEXTS)
def test_words_stay_whole(tokens: list[str]) -> None:
    splitter = ClauseSplitter()
    given = [clause for token in tokens for clause in splitter.feed(token)] + splitter.finish()
    # Dashes end words, which is no loss.
    expected = "".join(tokens).replace("—", "— ").split()
    assert " ".join(given).replace("—", "— ").split() == expected


def test_a_slow_model_is_not_cut_at_each_comma() -> None:
    splitter = ClauseSplitter()
    given = []
    for token in ("Yes,", " sir,", " red,", " blue,", " or green."):
        given += splitter.feed(token) + splitter.settle()
    assert given == ["Yes, sir, red, blue,", "or green."]


@settings(max_examples=60)
@given(TEXTS, st.lists(st.booleans(), max_size=30))
def test_nothing_is_lost_when_tokens_are_slow(tokens: list[str], slow: list[bool]) -> None:
    splitter = ClauseSplitter()
    given = []
    for token, is_slow in zip(tokens, [*slow, *[False] * len(tokens)], strict=False):
        given += splitter.feed(token)
        if is_slow:
            given += splitter.settle()
    given += splitter.finish()
    assert "".join("".join(given).split()) == "".join("".join(tokens).split())
