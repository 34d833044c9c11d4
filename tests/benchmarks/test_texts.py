"""What the calls say."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.texts import sentence, speech, speeches
from tts_engine.chatterbox.text import prepare


@given(st.integers(0, 1000), st.integers(1, 600))
def test_speech_is_long_enough_and_one_line_of_ascii(seed: int, characters: int) -> None:
    text = speech(random.Random(seed), characters)

    assert characters - 1 <= len(text) < characters + 100
    assert text.isascii()
    assert text.isprintable()
    assert text[-1] in ".?!"
    assert "{" not in text


def test_every_call_says_something_else_and_a_seed_repeats() -> None:
    texts = speeches(300, 60, seed=3)

    assert len(set(texts)) == 300
    assert texts == speeches(300, 60, seed=3)
    assert texts != speeches(300, 60, seed=4)
    assert sum(any(c.isdigit() for c in text) for text in texts) > 200


@given(st.integers(0, 10_000), st.integers(6, 400))
def test_sentence_has_exactly_its_length_and_is_read_as_written(seed: int, characters: int) -> None:
    text = sentence(random.Random(seed), characters)

    assert len(text) == characters
    assert re.fullmatch(r"[A-Z][a-z]*( [a-z]+)*\.", text)
    if characters <= 250:  # a segment has 300 at most, less what normalisation may add
        assert prepare(text) == [text]


def test_sentences_differ() -> None:
    rng = random.Random(1)

    assert len({sentence(rng, rng.randint(30, 120)) for _ in range(2000)}) == 2000


def test_sentence_needs_room() -> None:
    with pytest.raises(ValueError, match="at least 6"):
        sentence(random.Random(1), 5)
