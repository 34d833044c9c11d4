"""SSML's say-as: what is said."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.api.say_as import KINDS, MAX_CHARS, say_as


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("xyz", "X Y Z"),
        ("abc", "A, B C"),
        ("B1", "B one"),
        ("XA 12", "X A, one two"),
        ("XB 12", "X B, one two"),
        ("a@b.de", "A, at B dot D E"),
        ("x-y_z", "X dash Y underscore Z"),
        ("ß", "ß"),
        ("é", "É"),
        ("*9#", "star nine pound"),
    ],
)
@pytest.mark.parametrize("kind", ["characters", "spell-out", "verbatim"])
def test_characters(text: str, said: str, kind: str) -> None:
    assert say_as(text, kind) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("7", "seven"),
        ("007", "zero zero seven"),
        ("12345678", "one two three four, five six seven eight"),
        ("12 34", "one two, three four"),
        ("12-34", "one two, three four"),
        ("1,234", "one, two three four"),
        ("12a", None),
        ("-5", None),
        ("٣", None),
    ],
)
def test_digits(text: str, said: str | None) -> None:
    assert say_as(text, "digits") == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2125550142", "two one two, five five five, zero one four two"),
        ("12125550142", "one, two one two, five five five, zero one four two"),
        ("(212) 555-0142", "two one two, five five five, zero one four two"),
        ("+49 30 1234", "plus four nine, three zero, one two three four"),
        ("+1.212.555.0142", "plus one, two one two, five five five, zero one four two"),
        ("555-0142 ext. 42", "five five five, zero one four two, extension four two"),
        ("5550142x7", "five five five, zero one four two, extension seven"),
        ("*67", "star, six seven"),
        ("911", "nine one one"),
        ("call me", None),
        ("+", None),
        ("*#", None),
    ],
)
def test_telephone(text: str, said: str | None) -> None:
    assert say_as(text, "telephone") == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("$42.01", "forty-two dollars and one cent"),
        ("$1,234.50", "one thousand two hundred thirty-four dollars and fifty cents"),
        ("USD 42", "forty-two dollars"),
        ("usd42", "forty-two dollars"),
        ("42 EUR", "forty-two euros"),
        ("£0.05", "five pence"),
        ("¥100", "one hundred yen"),
        ("-$5", "minus five dollars"),
        ("C$5", "five Canadian dollars"),
        ("NZ$5", "five New Zealand dollars"),
        ("XYZ 5", None),
        ("42", None),
        ("free", None),
    ],
)
def test_currency(text: str, said: str | None) -> None:
    assert say_as(text, "currency") == said


@pytest.mark.parametrize(
    ("text", "form", "said"),
    [
        ("11/22/2026", "mdy", "November twenty-second, twenty twenty-six"),
        ("22/11/2026", "dmy", "November twenty-second, twenty twenty-six"),
        ("3.4.2026", "dmy", "April third, twenty twenty-six"),
        ("2026-11-22", "ymd", "November twenty-second, twenty twenty-six"),
        ("20261122", "yyyymmdd", "November twenty-second, twenty twenty-six"),
        ("11222026", "mmddyyyy", "November twenty-second, twenty twenty-six"),
        ("20261122", "ymd", "November twenty-second, twenty twenty-six"),
        ("11/22", "md", "November twenty-second"),
        ("22/11", "dm", "November twenty-second"),
        ("11/2026", "my", "November twenty twenty-six"),
        ("2026/11", "ym", "November twenty twenty-six"),
        ("2026", "y", "twenty twenty-six"),
        ("11", "m", "November"),
        ("22", "d", "twenty-second"),
        ("1/2/99", "mdy", "January second, nineteen ninety-nine"),
        ("1/2/03", "mdy", "January second, two thousand three"),
        ("11/22/2026", "", "November twenty-second, twenty twenty-six"),
        ("22/11/2026", "", "November twenty-second, twenty twenty-six"),
        ("2026-11-22", "", "November twenty-second, twenty twenty-six"),
        ("20261122", "", "November twenty-second, twenty twenty-six"),
        ("11/2026", "", "November twenty twenty-six"),
        ("Nov 22, 2026", "", "November twenty-second, twenty twenty-six"),
        ("22/11/2026", "mdy", None),
        ("11/22/2026", "md", None),
        ("11/32/2026", "mdy", None),
        ("11/22/0999", "mdy", None),
        ("11/22/2026", "zzz", None),
        ("2026112", "yyyymmdd", None),
        ("tomorrow", "", None),
        ("123", "", None),
    ],
)
def test_dates(text: str, form: str, said: str | None) -> None:
    assert say_as(text, "date", form) == said


@pytest.mark.parametrize(
    ("text", "form", "said"),
    [
        ("2:30pm", "", "two thirty PM"),
        ("2:30 p.m.", "hms12", "two thirty PM"),
        ("2 pm", "", "two PM"),
        ("14:30", "hms24", "fourteen thirty"),
        ("1430", "hms24", "fourteen thirty"),
        ("9:05", "", "nine oh five"),
        ("09:00", "", "nine o'clock"),
        ("14:05:09", "", "fourteen oh five and nine seconds"),
        ("1'21\"", "", "one minute and twenty-one seconds"),
        ("1'", "", "one minute"),
        ('30"', "", "thirty seconds"),
        ("25:30", "", None),
        ("14:75", "", None),
        ("14:30 pm", "", None),
        ("7", "", None),
        ("noon", "", None),
        ("2:30", "sundial", None),
    ],
)
def test_times(text: str, form: str, said: str | None) -> None:
    assert say_as(text, "time", form) == said


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("1234", "cardinal", "one thousand two hundred thirty-four"),
        ("1,234.5", "number", "one thousand two hundred thirty-four point five"),
        ("-7", "cardinal", "minus seven"),
        ("007", "cardinal", "seven"),
        ("1,23", "cardinal", None),
        ("22", "ordinal", "twenty-second"),
        ("3rd", "ordinal", "third"),
        ("x", "ordinal", None),
    ],
)
def test_numbers(text: str, kind: str, said: str | None) -> None:
    assert say_as(text, kind) == said


def test_an_unknown_kind() -> None:
    with pytest.raises(KeyError):
        say_as("1", "expletive")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_and_too_much_are_not_of_any_kind(kind: str) -> None:
    assert say_as(" ", kind) is None
    assert say_as("1" * (MAX_CHARS + 1), kind) is None


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(
    text=st.text("0123456789.,:/-+$€ABCamp '\"#*()٣ß", max_size=MAX_CHARS), form=st.sampled_from(["", "mdy", "hms24"])
)
def test_what_is_said_holds_no_ascii_digit(kind: str, text: str, form: str) -> None:
    said = say_as(text, kind, form)
    assert said is None or not any(character in "0123456789" for character in said)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", ["1", "1 ", "1-", "1,", "1.", "a ", "$1", "1/", "1:", "(", "+", "x1", "NZ", "'"])
def test_time_is_linear(kind: str, unit: str) -> None:
    started = time.perf_counter()
    say_as((unit * MAX_CHARS)[: MAX_CHARS - 1] + "!", kind)
    assert time.perf_counter() - started < 0.2
