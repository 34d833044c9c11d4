"""Percentages, units, ordinals, fractions, ranges, versions and plain numbers."""

from __future__ import annotations

import re

from tts_engine.text.numbers import cardinal, digits, grouped_digits, number_words, ordinal, year
from tts_engine.text.rules import END, NUMBER, START, Rule, replace, rule, say_number

_UNITS = {
    "km": "kilometer", "cm": "centimeter", "mm": "millimeter", "m": "meter", "mi": "mile", "yd": "yard",
    "kg": "kilogram", "g": "gram", "mg": "milligram", "mcg": "microgram", "µg": "microgram", "lb": "pound",
    "lbs": "pound", "oz": "ounce", "l": "liter", "ml": "milliliter", "cc": "cubic centimeter", "kwh": "kilowatt hour",
    "kw": "kilowatt", "w": "watt", "v": "volt", "gb": "gigabyte", "mb": "megabyte", "tb": "terabyte", "kb": "kilobyte",
    "hr": "hour", "hrs": "hour", "min": "minute", "mins": "minute", "sec": "second", "secs": "second",
    "ms": "millisecond", "wk": "week", "wks": "week", "yr": "year", "yrs": "year", "°": "degree",
}  # fmt: skip
_PLURALS = {unit: f"{name}s" for unit, name in _UNITS.items()}
_UNITS |= {"ft": "foot", "km/h": "kilometer per hour", "mph": "mile per hour", "mbps": "megabit per second"}
_PLURALS |= {"ft": "feet", "km/h": "kilometers per hour", "mph": "miles per hour", "mbps": "megabits per second"}
_UNITS |= {"°f": "degree Fahrenheit", "°c": "degree Celsius", "sq ft": "square foot"}
_PLURALS |= {"°f": "degrees Fahrenheit", "°c": "degrees Celsius", "sq ft": "square feet"}
_CASED = "gmwv"  # "5G" is no weight
_UNIT = "|".join(re.escape(unit) for unit in sorted(set(_UNITS) - set(_CASED), key=len, reverse=True)) + "|(?-i:[gmWV])"

_PARTS = {"2": ("half", "halves"), "3": ("third", "thirds"), "4": ("quarter", "quarters"), "8": ("eighth", "eighths")}


def _percent(match: re.Match[str]) -> str:
    return f"{say_number(match['number'])} percent"


def _unit(match: re.Match[str]) -> str:
    unit = match["unit"].lower()
    return f"{say_number(match['number'])} {_UNITS[unit] if match['number'] == '1' else _PLURALS[unit]}"


def _ordinal(match: re.Match[str]) -> str:
    number = match["number"].replace(",", "")
    return ordinal(int(number)) if len(number) <= 15 else grouped_digits(number)


def _fraction(match: re.Match[str]) -> str:
    count = int(match["count"])
    if match["of"] not in _PARTS or count >= int(match["of"]):
        between = "out of" if match["of"] in {"5", "10", "100"} else "over"  # a grade; blood pressure
        return f"{cardinal(count)} {between} {cardinal(int(match['of']))}"
    one, many = _PARTS[match["of"]]
    if match["whole"]:
        return f"{number_words(match['whole'])} and {f'a {one}' if count == 1 else f'{cardinal(count)} {many}'}"
    return f"{cardinal(count)} {one if count == 1 else many}"


def _version(match: re.Match[str]) -> str:
    parts = match[0].split(".")
    if len(parts) == 4:  # an IP address
        return " dot ".join(map(digits, parts))
    return " point ".join(map(number_words, parts))


def _years(match: re.Match[str]) -> str:
    return f"{year(int(match[1]))} to {year(int(match[2]))}"


def _year(match: re.Match[str]) -> str:
    return year(int(match[0]))


def _range(match: re.Match[str]) -> str:
    return f"{say_number(match['number'])} to "


def _long(match: re.Match[str]) -> str:
    """Amounts are round, or have commas; anything else of five digits or more is a number that someone writes down."""
    number = match[0]
    return number_words(number) if number.endswith("000") else grouped_digits(number)


def _number(match: re.Match[str]) -> str:
    return say_number(match["number"]) + (" " if match.string[match.end() : match.end() + 1].isalpha() else "")


def _after_point(match: re.Match[str]) -> str:
    return f"point {digits(match[1])}"


def _left_over(match: re.Match[str]) -> str:
    """Digits within a word."""
    before = match.string[max(0, match.start() - 1) : match.start()]
    after = match.string[match.end() : match.end() + 1]
    said = number_words(match[0]) if len(match[0]) <= 2 else grouped_digits(match[0])
    return f"{' ' if before.isalnum() or before == ',' else ''}{said}{' ' if after.isalnum() else ''}"


SIGN_RULES: tuple[Rule, ...] = (replace(r"(?<![^\s(])[-−](?=[$£€]?[0-9])", "minus "),)

RULES: tuple[Rule, ...] = (
    rule(rf"{START}(?P<number>{NUMBER})\ ?[-–—]\ ?(?={NUMBER}\ ?(?:%|percent\b|°|(?:{_UNIT})(?!\w)))", _range),
    rule(rf"{START}(?P<number>{NUMBER})\ ?%", _percent),
    rule(rf"{START}(?P<number>{NUMBER})[\ -]?(?P<unit>{_UNIT})(?![\w/])", _unit),
    replace(rf"{START}([0-9]{{1,2}})\ ?x(?:\ ?/\ ?|\ (?:per|a)\ )(?=day|week|month)", r"\1 times per "),
    replace(rf"{START}([0-9]{{1,2}})\ ?x\ (?=daily|weekly|monthly)", r"\1 times "),
    replace(rf"{START}([0-9]{{1,2}})['’]([0-9]{{1,2}})(?:[\"”]|'')?(?!\w)", r"\1 foot \2"),
    replace(r"(?<!\w)401\ ?\(?k\)?(?!\w)", "four oh one k"),
    rule(rf"{START}(?P<number>[0-9]++(?:,[0-9]{{3}})*+)(?:st|nd|rd|th)\b", _ordinal),
)

PLAIN_RULES: tuple[Rule, ...] = (
    rule(rf"{START}((?:19|20)[0-9]{{2}})\ ?[-–—]\ ?((?:19|20)[0-9]{{2}}){END}", _years),
    replace(rf"{START}24/7{END}", "twenty-four seven"),
    rule(
        rf"{START}(?:(?P<whole>[0-9]{{1,4}})\ (?=[1-9]/[2348](?!\w)))?"
        r"(?P<count>[0-9]{1,3})/(?P<of>[0-9]{1,3})(?![\w/])",
        _fraction,
    ),
    rule(rf"{START}[0-9]{{1,4}}(?:\.[0-9]{{1,4}}){{2,3}}{END}", _version),
    rule(rf"{START}(?P<number>{NUMBER})(?:[-–—]|\ [–—]\ )(?={NUMBER}{END})", _range),
    rule(rf"{START}[0-9]{{5,}}+{END}", _long),
    rule(rf"{START}(?:19|20)[0-9]{{2}}{END}", _year),
    replace(r"(?:\bNo\.\ ?|\#\ ?)(?=[0-9])", "number "),
    rule(rf"{START}(?P<number>{NUMBER})", _number),
    rule(r"(?<![\w.])\.([0-9]++)", _after_point),
    rule(r"[0-9]++", _left_over),
)
