import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.text.numbers import LARGEST, cardinal, clock, digits, grouped_digits, number_words, ordinal, year

_VALUES = {word: value for value, word in enumerate(map(cardinal, range(20)))}
_VALUES |= {cardinal(tens): tens for tens in range(20, 100, 10)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def value_of(words: str) -> int:
    """The inverse of cardinal."""
    total = below = 0
    for word in words.replace("-", " ").split():
        if word == "hundred":
            below *= 100
        elif word in _SCALES:
            total, below = total + below * _SCALES[word], 0
        else:
            below += _VALUES[word]
    return total + below


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (21, "twenty-one"),
        (100, "one hundred"),
        (101, "one hundred one"),
        (999, "nine hundred ninety-nine"),
        (1000, "one thousand"),
        (10_010, "ten thousand ten"),
        (1_000_001, "one million one"),
        (4_250_000, "four million two hundred fifty thousand"),
        (10**12, "one trillion"),
    ],
)
def test_cardinals(number, words):
    assert cardinal(number) == words


@given(st.integers(0, LARGEST) | st.integers(0, 2000))
def test_cardinal_says_every_number(number):
    assert value_of(cardinal(number)) == number


@pytest.mark.parametrize("number", [-1, LARGEST + 1])
def test_numbers_without_a_name(number):
    with pytest.raises(ValueError, match="cardinals go from 0"):
        cardinal(number)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1, "first"),
        (2, "second"),
        (3, "third"),
        (5, "fifth"),
        (8, "eighth"),
        (9, "ninth"),
        (11, "eleventh"),
        (12, "twelfth"),
        (13, "thirteenth"),
        (20, "twentieth"),
        (22, "twenty-second"),
        (40, "fortieth"),
        (100, "one hundredth"),
        (103, "one hundred third"),
        (1000, "one thousandth"),
    ],
)
def test_ordinals(number, words):
    assert ordinal(number) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1066, "ten sixty-six"),
        (1900, "nineteen hundred"),
        (1905, "nineteen oh five"),
        (1984, "nineteen eighty-four"),
        (2000, "two thousand"),
        (2005, "two thousand five"),
        (2010, "twenty ten"),
        (2026, "twenty twenty-six"),
        (2100, "twenty-one hundred"),
    ],
)
def test_years(number, words):
    assert year(number) == words


@pytest.mark.parametrize(
    ("hour", "minute", "words"),
    [
        (9, 0, "nine o'clock"),
        (9, 5, "nine oh five"),
        (10, 30, "ten thirty"),
        (14, 0, "fourteen hundred"),
        (14, 5, "fourteen oh five"),
        (0, 5, "zero oh five"),
        (12, 0, "twelve o'clock"),
    ],
)
def test_times_of_day(hour, minute, words):
    assert clock(hour, minute) == words


def test_a_leading_zero_or_a_number_without_a_name_is_read_digit_by_digit():
    assert number_words("007") == "zero zero seven"
    assert number_words("0") == "zero"
    assert number_words("1" * 16).split(", ")[0] == "one one one one"
    assert number_words("1,234,567") == "one million two hundred thirty-four thousand five hundred sixty-seven"


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1, [1]), (4, [4]), (5, [5]), (6, [3, 3]), (7, [3, 4]), (8, [4, 4]), (9, [3, 3, 3]), (10, [3, 3, 4]),
        (11, [3, 4, 4]), (12, [4, 4, 4]), (13, [3, 3, 3, 4]), (16, [4, 4, 4, 4]), (17, [3, 3, 3, 4, 4]),
    ],
)  # fmt: skip
def test_groups_of_digits(count, sizes):
    assert [len(group.split()) for group in grouped_digits("7" * count).split(", ")] == sizes


@given(st.text("0123456789", min_size=1, max_size=60))
def test_groups_hold_every_digit(number):
    assert grouped_digits(number).replace(",", "") == digits(number)
