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
_UNITS |= {"dl": "deciliter", "iu": "international unit", "mmol": "millimole", "meq": "milliequivalent"}
_PLURALS |= {"dl": "deciliters", "iu": "international units", "mmol": "millimoles", "meq": "milliequivalents"}
_CASED = "gmwv"  # "5G" is no weight
_TIMES = {"d": "day", "h": "hour", "m": "minute", "s": "second"}
_PER = {"h": "hour", "s": "second", "d": "day", "mo": "month", "min": "minute"} | {
    name: name
    for name in ("day", "week", "month", "year", "hour", "minute", "second", "dose", "night", "person", "user")
}  # fmt: skip
_UNIT = "|".join(re.escape(unit) for unit in sorted(set(_UNITS) - set(_CASED), key=len, reverse=True)) + "|(?-i:[gm])"
_PER_UNIT = "|".join(re.escape(unit) for unit in sorted({*_PER, *_UNITS} - {"w", "v", "°"}, key=len, reverse=True))
_SERVED = (
    r"service|support|hotline|line|notice|delivery|period|fixed|mortgage|clinic|window|pharmacy|emergency|assistance|"
    r"access|desk|warranty|plan|term|fence|ladder|wait|timeout|delay|limit|hold"
)
_MANY = (
    r"people|users|customers|downloads|views|subscribers|followers|records|items|jobs|homes|households|members|visitors"
)
_COUNTED = (
    rf"{_MANY}|dollars|euros|pounds|points|calories|miles|steps|words|square|copies|units|tickets|seats|votes|meters|"
    r"feet|employees|patients|cases|hours|minutes|days|times|orders|calls|cups|boxes|bottles|students|books|pages"
)
_YEAR_CUE = r"(?:in|since|of|year|by|until|till|before|after|from|during|the|early|late|mid|spring|summer|fall|winter)"

_PARTS = {"2": ("half", "halves"), "3": ("third", "thirds"), "4": ("quarter", "quarters"), "8": ("eighth", "eighths")}


def _percent(match: re.Match[str]) -> str:
    return f"{say_number(match['number'])} percent"


def _unit(match: re.Match[str]) -> str:
    groups = match.groupdict()
    unit = match["unit"].lower()
    one = match["number"] == "1" or match["hyphen"] == "-" or groups.get("served") is not None
    said = f"{say_number(match['number'])} {_UNITS[unit] if one else _PLURALS[unit]}"
    if not groups.get("per"):
        return said
    per = groups["per"].lower()
    count = groups["count"]
    said_per = (_PER.get(per) or _UNITS[per]) if not count or count == "1" else _PLURALS.get(per, f"{_PER.get(per)}s")
    return f"{said} per {say_number(count)} {said_per}" if count else f"{said} per {said_per}"


def _duration(match: re.Match[str]) -> str:
    """'five minutes thirty seconds' of '5m 30s'."""
    parts = re.findall("([0-9]+)([dhms])", match[0])
    order = ["dhms".index(unit) for _, unit in parts]
    if order != sorted(set(order)):
        return match[0]
    return " ".join(f"{number_words(number)} {_TIMES[unit]}{'s' if int(number) != 1 else ''}" for number, unit in parts)


def _short_time(match: re.Match[str]) -> str:
    one = match["number"] == "1" or match["served"] is not None
    return f"{say_number(match['number'])} {_TIMES[match['unit']]}{'' if one else 's'}"


def _dimensions(match: re.Match[str]) -> str:
    """All but the last number, which may have a unit, in words."""
    *numbers, last = re.split(r"\ ?[x×]\ ?", match[0])
    return " by ".join([*map(say_number, numbers), last])


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
    if int(match[1]) >= int(match[2]):
        return f"{digits(match[1])}, {digits(match[2])}"
    return f"{year(int(match[1]))} to {year(int(match[2]))}"


def _year(match: re.Match[str]) -> str:
    return match["cue"] + year(int(match["year"]))


def _range_with_unit(match: re.Match[str]) -> str:
    return f"{say_number(match['number'])} to "


def _range(match: re.Match[str]) -> str:
    """A range is "5-10", but "123-45", "00-4521" and "22-1234" are numbers that someone writes down."""
    numbers = match["number"], match["last"]
    if _is_range(*numbers):
        return " to ".join(map(say_number, numbers))
    return ", ".join(grouped_digits(number) if number.isdigit() else say_number(number) for number in numbers)


def _is_range(first: str, last: str) -> bool:
    low, high = first.replace(",", ""), last.replace(",", "")
    if re.match("0[0-9]", low) or re.match("0[0-9]", high) or float(low) >= float(high):
        return False
    is_round = "," in last or "." in last or high.endswith("0")
    return is_round or len(high) < 4 or len(low) == len(high)


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


SIGN_RULES: tuple[Rule, ...] = (replace(r"(?<![^\s(])[-−](?=(?:[A-Z]{1,2}\$|[$£€¥₹])?\.?[0-9])", "minus "),)

RULES: tuple[Rule, ...] = (
    rule(
        rf"{START}(?P<number>{NUMBER})\ ?[-–—]\ ?(?={NUMBER}\ ?(?:%|percent\b|°|(?:{_UNIT})(?!\w)))", _range_with_unit
    ),
    rule(
        rf"{START}[1-9][0-9]{{0,5}}(?:\.[0-9]{{1,4}})?(?:[x×][0-9]{{1,6}}(?:\.[0-9]{{1,4}})?){{1,3}}"
        rf"(?=\ ?(?:{_UNIT}|in|inch(?:es)?|feet|meters?)(?!\w)|(?![\w/]|[.,][0-9]))",
        _dimensions,
    ),
    rule(
        rf"{START}[1-9][0-9]{{0,5}}(?:\ [x×]\ [0-9]{{1,6}}){{1,3}}(?=\ ?(?:ft|in|cm|mm|m|yd|inches|feet|meters)(?!\w))",
        _dimensions,
    ),
    rule(rf"{START}[0-9]{{1,4}}[dhms](?:\ ?[0-9]{{1,4}}[hms]){{1,3}}(?!\w)", _duration, capitals=True),
    rule(
        rf"{START}(?P<number>[0-9]{{1,5}}(?:\.[0-9]{{1,3}})?)(?P<unit>[hs])(?!\w)(?P<served>(?=\ (?:{_SERVED})\b))?",
        _short_time,
        capitals=True,
    ),
    rule(
        rf"{START}(?P<number>[0-9]{{1,4}})(?P<unit>m)(?:(?=\ (?:ago|left|remaining)\b)|"
        r"(?P<served>(?=\ (?:timeout|wait|delay|hold|limit)\b)))",
        _short_time,
        capitals=True,
    ),
    replace(rf"{START}({NUMBER})\ ?m(?=\ (?:{_MANY})\b)", r"\1 million"),
    rule(rf"{START}(?P<number>{NUMBER})\ ?%", _percent),
    rule(
        rf"{START}(?P<number>{NUMBER})(?P<hyphen>[\ -]?)(?P<unit>{_UNIT})"
        rf"(?:\ ?/\ ?(?P<count>{NUMBER})?\ ?(?P<per>{_PER_UNIT})(?![\w/])|(?![\w/]))"
        rf"(?:\.(?=,|\ (?-i:[a-z0-9])))?+(?P<served>(?=\ (?:{_SERVED})\b))?",
        _unit,
    ),
    rule(
        rf"{START}(?P<number>{NUMBER})(?:(?P<hyphen>-?)|\ (?!(?-i:[WV])\.?\ (?-i:[A-Z0-9])))"
        r"(?P<unit>(?-i:[WV]))(?![\w/])",
        _unit,
    ),
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
    rule(rf"{START}(?P<number>{NUMBER})(?:[-–—]|\ [–—]\ )(?P<last>{NUMBER}){END}", _range),
    rule(rf"{START}[0-9]{{5,}}+{END}", _long),
    rule(rf"\b(?P<cue>{_YEAR_CUE}[\ -])(?P<year>(?:19|20)[0-9]{{2}})(?!\ (?:{_COUNTED})\b){END}", _year),
    replace(r"(?:\bNo\.\ ?|\#\ ?)(?=[0-9])", "number "),
    rule(rf"{START}(?P<number>{NUMBER})", _number),
    rule(r"(?<![\w.])\.([0-9]++)", _after_point),
    rule(r"[0-9]++", _left_over),
)
