import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sentences import TELEPHONE_SENTENCES
from tts_engine.text.tags import TAGS
from tts_engine.text.telephone import read_for_telephone

PIECES = st.sampled_from(
    [*"0123456789 .,-/:$€£%°#*+@&()xXaAkKT'", "am", "p.m.", "Nov ", "code ", "st", "USD", "million", "www.", "http://",
     ".com"]
)  # fmt: skip


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            "Your checking account ending in 4471 has a balance of $2,310.07 as of 3:15 PM.",
            "Your checking account ending in four four seven one has a balance of two thousand three hundred ten "
            "dollars and seven cents as of three fifteen PM.",
        ),
        (
            "A payment of $89.99 is due on 12/01/2026; call 1-800-555-0142 with questions.",
            "A payment of eighty-nine dollars and ninety-nine cents is due on December first, twenty twenty-six; call "
            "one, eight zero zero, five five five, zero one four two with questions.",
        ),
        (
            "The APR is 19.99% on balances over $1,500.",
            "The APR is nineteen point nine nine percent on balances over one thousand five hundred dollars.",
        ),
        (
            "Package 1Z999AA1 arrives Nov 22 between 2:00 and 4:30 pm at 1600 Oak St., Apt. 204.",
            "Package one Z nine nine nine A A one arrives November twenty-second between two o'clock and four thirty "
            "PM at one thousand six hundred Oak St., Apt. two zero four.",
        ),
        (
            "Take 2 tablets of 500 mg 3x/day for 7-10 days.",
            "Take two tablets of five hundred milligrams three times per day for seven to ten days.",
        ),
        (
            "Your prescription Rx# 7718234 is ready. Your copay is $5.",
            "Your prescription Rx number seven seven one, eight two three four is ready. Your copay is five dollars.",
        ),
        (
            "Dr. Patel will see you on Tuesday, 11/24 at 8:05 am in Room 310.",
            "Dr. Patel will see you on Tuesday, November twenty-fourth at eight oh five AM in Room three one zero.",
        ),
        (
            "Flight 1184 is delayed by 45 min. New departure: 18:40, gate C7.",
            "Flight one one eight four is delayed by forty-five minutes. New departure: eighteen forty, gate C seven.",
        ),
        ("[laugh] That makes 3! [sigh]", "[laugh] That makes three! [sigh]"),
    ],
)
def test_what_callers_are_told(written, said):
    assert read_for_telephone(written) == said


def test_text_without_numbers_stays():
    for sentence in TELEPHONE_SENTENCES:
        if not re.search("[0-9]", sentence):
            assert read_for_telephone(sentence) == sentence


@given(st.lists(PIECES, max_size=60).map("".join) | st.text(max_size=100))
@settings(max_examples=500, deadline=None)
def test_every_digit_is_said(text):
    said = read_for_telephone(text)
    assert not re.search("[0-9]", said)
    assert bool(re.search("[0-9]", text)) <= bool(re.search("[a-z]", said))
    assert read_for_telephone(said) == read_for_telephone(read_for_telephone(said))


@given(st.lists(PIECES | st.sampled_from(TAGS), max_size=40).map("".join))
@settings(deadline=None)
def test_tags_stay(text):
    said = read_for_telephone(text)
    assert [tag for tag in re.findall(r"\[[a-z ]+\]", said) if tag in TAGS] == re.findall(r"\[[a-z ]+\]", text)


@pytest.mark.parametrize(
    "hostile",
    ["1", "1,", "1-", "1 ", "1.", "1/", "1:", "a1", "A1-", "a@", "a.", "$1", "code ", "pin 1 ", "(111) ", "+", "Nov 1 ",
     ".1",     "1,111", "http://", "www.", "A", "ending in ", "1111 ", "- ", "&", "*", "1st", "1:11-", "$1-"],
)  # fmt: skip
def test_time_is_linear(hostile):
    text = (hostile * 10_000)[:10_000]
    start = time.process_time()
    read_for_telephone(text)
    once = time.process_time() - start
    read_for_telephone(text * 4)
    assert once < 1
    assert time.process_time() - start - once < 4
