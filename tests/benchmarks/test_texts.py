"""What the calls say."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.texts import speech, speeches


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
