import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.chatterbox.text import TextPreparer, normalise_punctuation, prepare

ANY_TEXT = st.text(st.characters() | st.sampled_from(" .,:;…—“’\n1234567890$[]laugh\ud83d\ude00"), max_size=400)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("hello", "Hello."),
        ("Hello!", "Hello!"),
        ("wait… what", "Wait,  what."),
        ("at: ten — or so", "At, ten - or so."),
        ("“Yes,” she said , ‘no’", "\"Yes,\" she said, 'no'."),
        ("  two   spaces ", "two spaces."),  # as in the reference: no capital after white space
        ("ßa", "SSa."),
        ("", ""),
    ],
)
def test_punctuation(text, normalised):
    assert normalise_punctuation(text) == normalised


@pytest.mark.parametrize("text", ["", "  \n", "😀😀 👍", "...", "\x00\x07", "\ud83d", "*** --- ***", "🎉!"])
def test_nothing_to_say(text):
    assert prepare(text) == []


def test_tags_alone_are_performed():
    assert prepare("[Laugh]") == ["[laugh]."]
    assert prepare("[sigh] [clear throat]") == ["[sigh] [clear throat]."]


def test_a_whole_text():
    text = (
        "**Hello** Dr. Smith 😀! Your balance is $12.50 as of 11/22/2026. [Chuckle] Please call 555-0123…\n"
        "- Press 1 to pay\n- Press # to go back"
    )
    assert prepare(text) == [
        "Hello Dr. Smith!",
        "Your balance is twelve dollars and fifty cents as of November twenty-second, twenty twenty-six.",
        "[chuckle] Please call five five five, zero one two three,",
        "Press one to pay.",
        "Press pound to go back.",
    ]


def test_short_lines_are_joined_with_a_pause():
    assert prepare("Menu\n- Milk\n- Eggs\n") == ["Menu, Milk, Eggs."]


def test_numbers_that_are_long_in_words_leave_no_crumbs():
    segments = prepare("1 " * 140)
    assert " ".join(segments).lower().replace(".", "").split() == ["one"] * 140
    assert min(map(len, segments)) > 100


def test_telephone_reading_can_be_turned_off():
    assert prepare("call 555-0123 & pay $5.", telephone_reading=False) == ["Call 555-0123 & pay $5."]


def test_halves_of_surrogates_and_invisible_characters_are_left_out():
    assert prepare("hel\u200blo\x00 \ud83dthere") == ["Hello there."]


@given(ANY_TEXT, st.sampled_from([60, 300]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_segments_are_within_the_limit_and_clean(text, max_chars, telephone_reading):
    for segment in prepare(text, max_chars=max_chars, telephone_reading=telephone_reading):
        assert 0 < len(segment) <= max_chars
        assert segment == normalise_punctuation(segment)
        assert any(map(str.isalnum, segment))
        segment.encode()
        if telephone_reading:
            assert not re.search("[0-9]", segment)


@given(ANY_TEXT, st.lists(st.integers(1, 20), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_fragments_make_no_difference(text, sizes):
    preparer, segments, at, turn = TextPreparer(), [], 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        segments += preparer.feed(text[at : at + size])
        at, turn = at + size, turn + 1
    assert segments + preparer.finish() == prepare(text)


@pytest.mark.parametrize(
    "piece",
    ["Call 555-0123 now. ", "1", "1 ", "$1 ", "[laugh] ", "a.b ", "😀", "\ud800",
     "…", "ΐ", "x", "a@", "1-", "A1", "code 1 ", "*", "#"],
)  # fmt: skip
def test_ten_thousand_characters(piece):
    text = (piece * 10_000)[:10_000]
    start = time.process_time()
    segments = prepare(text)
    assert time.process_time() - start < 3
    assert max(map(len, segments), default=0) <= 300
    assert bool(segments) == any(map(str.isalnum, text))


def test_tags_are_written_as_the_tokenizer_knows_them_with_and_without_the_telephone_reading() -> None:
    for telephone_reading in (True, False):
        assert prepare("Oh [Laugh] no.", telephone_reading=telephone_reading) == ["Oh [laugh] no."]


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("See [here](https://x.com/a) &amp; wait.", ["See here and wait."]),
        ("Your card is ***-4242 today.", ["Your card is ending in four two four two today."]),
        ("Please hold the line for one moment longer; we are nearly there now.",
         ["Please hold the line for one moment longer.", "We are nearly there now."]),
        ("The notice was posted on the board on Nov. 3rd, 2026 at noon.",
         ["The notice was posted on the board on November third, twenty twenty-six at noon."]),
        ("Your appointment with Doctor Lee is on Mon., Dec 5.",
         ["Your appointment with Doctor Lee is on Mon., December fifth."]),
        ("Your appointment with us has been moved to Monday, November 23rd.",
         ["Your appointment with us has been moved to Monday, November twenty-third."]),
        ("Please come to the clinic at 3 p.m. Dr. Smith will see you.",
         ["Please come to the clinic at three PM.", "Dr. Smith will see you."]),
    ],
)  # fmt: skip
def test_what_was_said_wrongly(text: str, segments: list[str]) -> None:
    assert prepare(text) == segments
