"""What makes two requests the same prompt."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from tts_engine.prompts.key import KEY_BYTES, prompt_key

Parts = tuple[str, str, int, str, float, str | None]

PARTS = st.tuples(
    st.text(max_size=6),
    st.text(max_size=6),
    st.sampled_from((8000, 16000, 24000)),
    st.text(max_size=12),
    st.sampled_from((1.0, 0.8, 1.25)),
    st.one_of(st.none(), st.text(max_size=3)),
)


@given(PARTS, PARTS)
def test_equal_exactly_where_all_parts_are(one: Parts, other: Parts) -> None:
    assert (prompt_key(*one) == prompt_key(*other)) == (one == other)


def test_where_one_part_ends_and_the_next_begins_counts() -> None:
    assert prompt_key("ab", "c", 8000, "") != prompt_key("a", "bc", 8000, "")
    assert prompt_key("", "a", 8000, "b") != prompt_key("", "", 8000, "ab")
    # A text that looks like lengths.
    assert prompt_key("1:a", "", 8000, "x") != prompt_key("", "1:a", 8000, "x")


def test_it_is_the_same_in_every_process() -> None:
    assert len(prompt_key("e", "v", 8000, "Grüße")) == KEY_BYTES
    assert prompt_key("e", "v", 8000, "Hi") == hashlib.sha256(b"1:e1:v4:80002:Hi").digest()


def test_rate_and_phonemes_count_where_they_are_given() -> None:
    plain = prompt_key("e", "v", 8000, "Hi")
    assert plain == prompt_key("e", "v", 8000, "Hi", 1.0, None), "what was stored without them is found again"
    others = {
        prompt_key("e", "v", 8000, "Hi", rate, ps) for rate, ps in ((1.5, None), (1.0, ""), (1.0, "haɪ"), (1.5, ""))
    }
    assert len(others | {plain}) == 5


def test_a_lone_surrogate_is_a_text_like_others() -> None:
    assert prompt_key("e", "v", 8000, "\ud800") != prompt_key("e", "v", 8000, "\udfff")
