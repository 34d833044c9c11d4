"""Dates and times of day: "11/22/2026" is "November twenty-second, twenty twenty-six"."""

from __future__ import annotations

import re

from tts_engine.text.numbers import cardinal, clock, digits, number_words, ordinal, year
from tts_engine.text.rules import Rule, replace, rule
from tts_engine.text.sentence_ends import AFTER_TIMES

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_MONTH = (
    r"(?:(?i:Jan(?:uary|\.)?|Feb(?:ruary|\.)?|Apr(?:il|\.)?|June?|July?|Aug(?:ust|\.)?|Sept?(?:ember|\.)?|"
    r"Oct(?:ober|\.)?|Nov(?:ember|\.)?|Dec(?:ember|\.)?)|Mar(?:ch|\.)?|MAR(?:CH|\.)?|May|MAY)"
)
"""In any case, but "you may 5 times" and "march 3 miles"."""
_WEEKDAY = r"(?:mon|tues?|wed|thu(?:rs?)?|fri|sat|sun)(?:\.|[a-z]{0,6}day)?"
_YEAR = r"(?P<year>1[0-9]{3}|20[0-9]{2})(?![\w/-]|[.,:][0-9])"
_DAY = r"(?P<day>[12][0-9]|3[01]|0?[1-9])(?:st|nd|rd|th)?(?!\w|[:./][0-9])"
_ALONE = r"(?<![\w.,:/-])"
_ALONE_AFTER = r"(?![\w/-]|[.:,][0-9])"
_CARD_CUE = r"(?:exp(?:\.|iry|ires|iration)?|(?:valid|good)\ (?:thru|through))(?:\ date)?(?:\ is)?:?\ "
_VISIT = r"(?:appointment|visit|deadline|date|delivery|birthday|meeting|reservation|booking|check-?up|exam)"
_LIFE = r"the|mid|early|late|his|her|their|my|your|our|low|lower|high|upper"
_AM_PM = r"(?:\ ?(?P<half>[ap])(?:m\b|\.\ ?m\.?(?!\w)))"
_NEXT_WORD = re.compile(r"\s+[\"'“‘(]?([A-Z][A-Za-z]*)")
_DECADES = {"2": "twenties", "3": "thirties", "4": "forties", "5": "fifties"} | {
    "6": "sixties", "7": "seventies", "8": "eighties", "9": "nineties"
}  # fmt: skip


def _date(month: int, day: int, written_year: str | None) -> str | None:
    """None: not a date. A year of two digits is in this century up to 68 (POSIX)."""
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    said = f"{_MONTHS[month - 1]} {ordinal(day)}"
    if not written_year:
        return said
    number = int(written_year)
    if len(written_year) == 2:
        number += 2000 if number <= 68 else 1900
    return f"{said}, {year(number)}"


def _iso(match: re.Match[str]) -> str:
    said = _date(int(match["month"]), int(match["day"]), match["year"])
    if said is None:
        return match[0]
    return f"{said} at " if match["time"] else said


def _numeric(match: re.Match[str]) -> str:
    """Month first, unless that can be no month."""
    first, second, written = int(match["first"]), int(match["second"]), match["year"]
    return _date(first, second, written) or _date(second, first, written) or match[0]


def _dotted(match: re.Match[str]) -> str:
    """Day first: who writes dates with dots does that."""
    first, second, written = int(match["first"]), int(match["second"]), match["year"]
    return _date(second, first, written) or _date(first, second, written) or match[0]


def _month_name(written: str) -> str:
    return next(name for name in _MONTHS if name.startswith(written[:3].title()))


def _named(match: re.Match[str]) -> str:
    said = f"{_month_name(match['month'])} {ordinal(int(match['day']))}"
    if until := match["until"]:
        said += f" to {ordinal(int(until))}"
    return f"{said}, {year(int(match['year']))}" if match["year"] else said


def _day_first(match: re.Match[str]) -> str:
    said = f"{_month_name(match['month'])} {ordinal(int(match['day']))}"
    if match["the"]:
        said = f"{match['the']}{ordinal(int(match['day']))} of {_month_name(match['month'])}"
    written = match["year"] or match["short"]
    return f"{said}, {year(int(written) + (2000 if len(written) == 2 else 0))}" if written else said


def _month_and_year(match: re.Match[str]) -> str:
    return f"{_month_name(match['month'])} {year(int(match['year']))}"


def _decade(match: re.Match[str]) -> str:
    decade = _DECADES[match["decade"]]
    return f"{cardinal(int(match['century']))} {decade}" if match["century"] else decade


def _time(match: re.Match[str]) -> str:
    hour, minute, half = int(match["hour"]), int(match["minute"] or 0), match["half"]
    if hour > 24:
        return match[0]
    offset = match.groupdict().get("offset")
    said = cardinal(hour) if half and not minute else clock(hour, minute)
    if half:
        said += f" {half.upper()}M"
    if match["second"]:
        seconds = int(match["second"])
        said += f" and {cardinal(seconds)} second{'s' if seconds != 1 else ''}"
    if offset:
        said += f" UTC {'plus' if offset[0] == '+' else 'minus'} {cardinal(int(offset[1:3]))}"
        said += f" {cardinal(int(offset[-2:]))}" if offset[-2:] != "00" else ""
    return f"{said}." if match[0].endswith(".") and _sentence_ends_at(match.string, match.end()) else said


def _sentence_ends_at(text: str, at: int) -> bool:
    """Whether the full stop of "p.m." was that of a sentence."""
    following = _NEXT_WORD.match(text, at)
    return at == len(text) or (following is not None and following[1].lower() not in AFTER_TIMES)


def _military(match: re.Match[str]) -> str:
    hour, minute = match["hour"], int(match["minute"])
    if not minute and not match["cue"] and hour[0] != "0":
        return match[0]  # an amount of hours
    said_hour = digits(hour) if hour[0] == "0" else cardinal(int(hour))
    said_minute = "hundred" if not minute else cardinal(minute) if minute > 9 else digits(match["minute"])
    return f"{match['cue'] or ''}{said_hour} {said_minute} "


def _card_date(match: re.Match[str]) -> str:
    month, written = match["month"], match["year"]
    said = [digits(number) if number[0] == "0" else cardinal(int(number)) for number in (month, written)]
    return match["cue"] + ", ".join(said)


def _ratio(match: re.Match[str]) -> str:
    return f"{number_words(match[1])} to {number_words(match[2])}"


RULES: tuple[Rule, ...] = (
    rule(
        rf"{_ALONE}(?P<year>[12][0-9]{{3}})(?P<mark>[/-])(?P<month>[0-9]{{2}})(?P=mark)(?P<day>[0-9]{{2}})"
        r"(?:(?P<time>[T ](?=[0-9]{2}:))|(?![\w/-]))",
        _iso,
    ),
    rule(rf"\b(?P<cue>{_CARD_CUE})(?P<month>0[1-9]|1[0-2])/(?P<year>[0-9]{{2}}){_ALONE_AFTER}", _card_date),
    rule(rf"{_ALONE}(?P<first>[0-9]{{1,2}})-(?P<second>[0-9]{{1,2}})-(?P<year>[12][0-9]{{3}}){_ALONE_AFTER}", _numeric),
    rule(
        rf"{_ALONE}(?P<first>[0-9]{{1,2}})/(?P<second>[0-9]{{1,2}})/"
        rf"(?P<year>[12][0-9]{{3}}|[0-9]{{2}}){_ALONE_AFTER}",
        _numeric,
    ),
    rule(
        rf"\b(?P<cue>(?:on|by|until|before|after|since|due|from|{_VISIT}(?:\ (?:is|was))?|{_WEEKDAY}),?\ )"
        rf"(?P<first>[0-9]{{1,2}})/(?P<second>[0-9]{{1,2}})(?P<year>){_ALONE_AFTER}",
        lambda match: match["cue"] + _numeric(match).removeprefix(match["cue"]),
    ),
    rule(
        rf"{_ALONE}(?P<first>[0-9]{{1,2}})\.(?P<second>[0-9]{{1,2}})\.(?P<year>[12][0-9]{{3}}){_ALONE_AFTER}", _dotted
    ),
    rule(
        rf"\b(?P<month>{_MONTH})\ (?:the\ )?{_DAY}"
        rf"(?:\ ?[-–]\ ?(?P<until>[12][0-9]|3[01]|0?[1-9])(?![\w/:-]))?+(?:,?\ ?{_YEAR})?",
        _named,
        capitals=True,
    ),
    rule(
        rf"{_ALONE}(?P<the>[Tt]he\ )?{_DAY}(?:\ (?:of\ )?|-)(?P<month>{_MONTH})(?!\w)"
        rf"(?:(?:,?\ ?|-){_YEAR}|-(?P<short>[0-9]{{2}})(?![\w/-]))?",
        _day_first,
        capitals=True,
    ),
    rule(rf"\b(?P<month>{_MONTH}),?\ {_YEAR}", _month_and_year, capitals=True),
    replace(r"(?<![\w.,])10s(?=\ of\b)", "tens"),
    replace(r"(?<![\w.,])100s(?=\ of\b)", "hundreds"),
    replace(r"(?<![\w.,])1,?000s(?=\ of\b)", "thousands"),
    rule(r"(?<!\w)['’]?(?P<century>1[0-9]|20)(?P<decade>[2-9])0['’]?s\b", _decade),
    rule(r"(?<!\w)['’](?P<century>)(?P<decade>[2-9])0['’]?s\b", _decade),
    rule(r"(?<!\w)(?P<century>)(?P<decade>[2-9])0['’]s\b", _decade),
    rule(rf"(?P<cue>\b(?:{_LIFE})[\ -])(?P<century>)(?P<decade>[2-9])0s\b", lambda m: m["cue"] + _decade(m)),
    rule(r"(?<!\w)(?P<century>1[0-9]|20)00['’]?s\b", lambda match: f"{year(100 * int(match['century']))}s"),
    replace(
        r"(?<![\w.:/-])([0-9]{1,2}(?::[0-9]{2})?(?:\ ?[ap]\.?m\.?)?)\ ?[-–—]\ ?"
        r"(?=[0-9]{1,2}(?::[0-9]{2}(?![0-9:])|\ ?[ap]\.?m\b))",
        r"\1 to ",
    ),
    rule(
        rf"(?<![\w.:,-])(?P<hour>[0-9]{{1,2}}):(?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9]))?(?![0-9:]){_AM_PM}?"
        r"(?:Z(?!\w)|(?P<offset>(?:\+|(?<=:[0-9]{2}:[0-9]{2})-)[01][0-9]:?[0-5][0-9])(?![\w:]))?(?!\w)"
        r"(?:\ ?o['’]clock\b)?",
        _time,
    ),
    rule(rf"(?<![\w.:,-])(?P<hour>[0-9]{{1,2}})\.(?P<minute>[0-5][0-9])(?P<second>){_AM_PM}", _time),
    rule(
        r"(?P<cue>\b(?:at|by|until|from|to|before|after|around)\ )?(?<![\w.:,$-])"
        r"(?P<hour>[01][0-9]|2[0-3])(?P<minute>[0-5][0-9])\ (?=(?:hours|hrs)\b(?!\ of\b))",
        _military,
    ),
    rule(r"(?<![\w.:,-])([0-9]{1,4}):([0-9]{1,4})(?![\w:]|[.,][0-9])", _ratio),
    rule(rf"(?<![\w.:,-])(?P<hour>[0-9]{{1,2}})(?P<minute>)(?P<second>){_AM_PM}", _time),
)
