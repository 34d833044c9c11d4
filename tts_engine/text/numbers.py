"""Numbers in English words, as they are said in the United States.

Written here because it is short: num2words is LGPL, inflect brings a pluraliser and two more packages.
"""

from __future__ import annotations

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"))
_IRREGULAR_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_DIGITS = dict(zip("0123456789", _ONES, strict=False))

LARGEST = 10**15 - 1
"Larger numbers have no name here: say their digits."


def cardinal(number: int) -> str:
    """'one thousand two hundred thirty-four'. Raises ValueError outside 0 to LARGEST."""
    if not 0 <= number <= LARGEST:
        raise ValueError(f"cardinals go from 0 to {LARGEST}, not {number}")
    words: list[str] = []
    rest = number
    for scale, name in _SCALES:
        count, rest = divmod(rest, scale)
        if count:
            words += [_below_thousand(count), name]
    if rest or not words:
        words.append(_below_thousand(rest))
    return " ".join(words)


def _below_thousand(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    if not hundreds:
        return _below_hundred(rest)
    spoken = f"{_ONES[hundreds]} hundred"
    return f"{spoken} {_below_hundred(rest)}" if rest else spoken


def _below_hundred(number: int) -> str:
    if number < 20:
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return f"{_TENS[tens]}-{_ONES[ones]}" if ones else _TENS[tens]


def ordinal(number: int) -> str:
    """'twenty-second'. Raises ValueError outside 0 to LARGEST."""
    head, last = _split_last(cardinal(number))
    if last in _IRREGULAR_ORDINALS:
        return head + _IRREGULAR_ORDINALS[last]
    if last.endswith("y"):
        return f"{head}{last[:-1]}ieth"
    return f"{head}{last}th"


def _split_last(words: str) -> tuple[str, str]:
    at = max(words.rfind(" "), words.rfind("-")) + 1
    return words[:at], words[at:]


def digits(number: str) -> str:
    """'zero one two' of '012': "zero", never "oh", which a caller who writes down a code takes for the letter."""
    return " ".join(_DIGITS[digit] for digit in number)


def year(number: int) -> str:
    """'nineteen eighty-four', 'two thousand five', 'twenty twenty-six'. Of years 1000 to 9999."""
    century, rest = divmod(number, 100)
    if century % 10 == 0 and rest < 10:  # 2000 to 2009
        return cardinal(number)
    if rest == 0:
        return f"{_below_hundred(century)} hundred"
    return f"{_below_hundred(century)} {_two_digits(rest)}"


def _two_digits(number: int) -> str:
    """As minutes and years say it: 'oh five' of 5."""
    return f"oh {_ONES[number]}" if number < 10 else _below_hundred(number)


def clock(hour: int, minute: int) -> str:
    """'ten thirty', 'nine oh five', "three o'clock", 'zero oh five'; 24-hour: 'fourteen hundred'."""
    if minute == 0:
        return f"{_below_hundred(hour)} hundred" if hour > 12 or hour == 0 else f"{_below_hundred(hour)} o'clock"
    return f"{_below_hundred(hour)} {_two_digits(minute)}"


def decimal(whole: str, fraction: str) -> str:
    """'three point one four' of '3' and '14'."""
    return f"{number_words(whole)} point {digits(fraction)}"


def number_words(number: str) -> str:
    """A string of digits, commas between thousands allowed; digit by digit where it starts with 0 or has no name."""
    plain = number.replace(",", "")
    if len(plain) > 15 or (len(plain) > 1 and plain[0] == "0"):
        return grouped_digits(plain)
    return cardinal(int(plain))


def grouped_digits(number: str) -> str:
    """Digit by digit, a comma (a short pause) between groups: 'one two three, four five six seven'."""
    return ", ".join(digits(group) for group in _groups(number))


def _groups(number: str) -> list[str]:
    """Up to 5 digits stay together; more are heard in fours (cards) or threes, the last ones in fours if need be."""
    count = len(number)
    if count <= 5:
        return [number]
    fours = count // 4 if count % 4 == 0 else count % 3  # 3 a + 4 b = count
    threes = (count - 4 * fours) // 3
    groups: list[str] = []
    at = 0
    for size in [3] * threes + [4] * fours:
        groups.append(number[at : at + size])
        at += size
    return groups
