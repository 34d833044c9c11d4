"""SSML's say-as: text expanded to the words that are said for it, in US English (W3C note on say-as of 2005).

Each function gives None for content that is not what it is called; the caller then says it as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tts_engine.text.numbers import cardinal, decimal, digits, grouped_digits, number_words, ordinal, year
from tts_engine.text.telephone import read_for_telephone

MAX_CHARS = 200
"Of one say-as: spelling makes it several times as long."

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_SYMBOLS = {
    "@": "at", ".": "dot", "-": "dash", "_": "underscore", "/": "slash", "\\": "backslash", "+": "plus", ":": "colon",
    ";": "semicolon", ",": "comma", "?": "question mark", "!": "exclamation mark", "=": "equals", "&": "and",
    "#": "pound", "%": "percent", "~": "tilde", "*": "star", "(": "open parenthesis", ")": "close parenthesis",
    "'": "apostrophe", '"': "quote", "$": "dollar sign", "<": "less than", ">": "greater than", "|": "bar",
}  # fmt: skip
_DATE_FORMATS = frozenset(
    ("mdy", "dmy", "ymd", "ydm", "md", "dm", "ym", "my", "y", "m", "d", "yyyymmdd", "mmddyyyy", "ddmmyyyy", "yyyymm")
)
_TIME_FORMATS = frozenset(("hms12", "hms24", "hm12", "hm24", "hms", "hm", "h"))

_FIELDS = re.compile(r"[0-9]+", re.ASCII)
_DATE = re.compile(r"[0-9]{1,8}(?:\s?[-/.\s]\s?[0-9]{1,4}){0,2}", re.ASCII)
_WRITTEN_DATE = re.compile(r"(?=.*[A-Za-z]{3})[A-Za-z0-9 ,.]+", re.ASCII)
_TIME = re.compile(
    r"([0-9]{1,2})(?:[:.]?([0-5][0-9]))?(?:[:.]([0-5][0-9]))?\s?([ap]\.?m\.?)?", re.ASCII | re.IGNORECASE
)
_LENGTH = re.compile(r"(?:([0-9]{1,3})['’′])?\s?(?:([0-9]{1,2})[\"”″])?", re.ASCII)
_MONEY = re.compile(
    r"[-−]?\s?(?:[A-Z]{1,3}\s?\$?|[A-Z]{0,2}[$€£¥₹])\s?[-−]?[0-9.,]+|[-−]?[0-9.,]+\s?(?:[A-Z]{3}|[$€£¥₹¢])",
    re.ASCII | re.IGNORECASE,
)
_TELEPHONE = re.compile(
    r"(\+?)\s?([0-9*#()./\s-]{1,40}?)(?:,?\s?(?:;ext=|x|ext\.?|extension)\s?([0-9]{1,8}))?", re.ASCII | re.IGNORECASE
)
_NUMBER = re.compile(r"([-−+]?)\s?([0-9]{1,15}|[0-9]{1,3}(?:,[0-9]{3}){1,4})(?:\.([0-9]{1,15}))?", re.ASCII)
_ORDINAL = re.compile(r"([0-9]{1,15})(?:st|nd|rd|th)?", re.ASCII | re.IGNORECASE)


def say_as(text: str, interpret_as: str, form: str = "") -> str | None:
    """What is said for `text`; `form` is the attribute `format`. None: not of that kind. KeyError: no such kind."""
    say = KINDS[interpret_as]
    text = " ".join(text.split())
    return say(text, form.strip().lower()) if 0 < len(text) <= MAX_CHARS else None


def _characters(text: str, form: str) -> str | None:
    """One by one, a short pause between words: 'X B, one two'."""
    said = ", ".join(" ".join(map(_character, word)) for word in text.split(" "))
    return said.replace(",,", ",")


def _character(character: str) -> str:
    if character in "0123456789":
        return digits(character)
    if character in "aA":
        return "A,"  # before another word a voice takes it for the article
    letter = character.upper()
    return letter if character.isalpha() and len(letter) == 1 else _SYMBOLS.get(character, character)


def _digits(text: str, form: str) -> str | None:
    """One by one, in the writer's groups; else in groups that can be written down."""
    if not re.fullmatch(r"[0-9]+(?:[ .,-][0-9]+)*", text, re.ASCII):
        return None
    groups = _FIELDS.findall(text)
    return grouped_digits(groups[0]) if len(groups) == 1 else ", ".join(map(digits, groups))


def _telephone(text: str, form: str) -> str | None:
    match = _TELEPHONE.fullmatch(text)
    groups = re.findall(r"[0-9]+|[*#]", match[2], re.ASCII) if match else []
    if match is None or not any(map(str.isdigit, groups)):
        return None
    if len(groups) == 1:
        groups = _american_groups(groups[0])
    said = [{"*": "star", "#": "pound"}.get(group) or grouped_digits(group) for group in groups]
    if match[1]:
        said[0] = f"plus {said[0]}"
    if match[3]:
        said.append(f"extension {grouped_digits(match[3])}")
    return ", ".join(said)


def _american_groups(number: str) -> list[str]:
    if len(number) == 11 and number[0] == "1":
        return ["1", *_american_groups(number[1:])]
    return [number[:3], number[3:6], number[6:]] if len(number) == 10 else [number]


def _currency(text: str, form: str) -> str | None:
    if not _MONEY.fullmatch(text):
        return None
    # The telephone reading writes a currency out; a code that it does not know stays as it was.
    said = read_for_telephone(text.upper())
    left = re.findall(r"[A-Z]{2,}|[^\w\s,'-]", said.replace("NZ", ""))
    return None if left else said


def _date(text: str, form: str) -> str | None:
    """Numbers in the order of the format, else as the telephone reads them: month first, or year first."""
    if not _DATE.fullmatch(text):
        said = read_for_telephone(text)
        return said if _WRITTEN_DATE.fullmatch(text) and any(month[:3] in said for month in _MONTHS) else None
    fields = _FIELDS.findall(text)
    if form:
        return _ordered_date(fields, form) if form in _DATE_FORMATS else None
    if len(fields) == 1:
        return _ordered_date(fields, "ymd") if len(fields[0]) == 8 else None
    if len(fields) == 2:
        return _ordered_date(fields, "my" if len(fields[1]) == 4 else "ym" if len(fields[0]) == 4 else "md")
    return _ordered_date(fields, "ymd") if len(fields[0]) == 4 else _first_date(fields, ("mdy", "dmy"))


def _first_date(fields: list[str], orders: tuple[str, ...]) -> str | None:
    return next((said for order in orders if (said := _ordered_date(fields, order))), None)


def _ordered_date(fields: list[str], form: str) -> str | None:
    order = re.sub(r"(.)\1+", r"\1", form)
    if len(fields) == 1 and len(order) > 1:
        fields = _cut(fields[0], order)
    if len(fields) != len(order):
        return None
    given = dict(zip(order, fields, strict=True))
    return _spoken_date(given.get("y"), given.get("m"), given.get("d"))


def _cut(together: str, order: str) -> list[str]:
    """'20261122' as the fields of ymd: four digits for the year, two for the others."""
    fields: list[str] = []
    at = 0
    for letter in order:
        size = 4 if letter == "y" else 2
        fields.append(together[at : at + size])
        at += size
    return fields if at == len(together) else []


def _spoken_date(written_year: str | None, month: str | None, day: str | None) -> str | None:
    said = ""
    if month is not None:
        if not 1 <= int(month) <= 12:
            return None
        said = _MONTHS[int(month) - 1]
    if day is not None:
        if not 1 <= int(day) <= 31:
            return None
        said = f"{said} {ordinal(int(day))}".strip()
    if written_year is None:
        return said
    number = _full_year(written_year)
    if number is None:
        return None
    between = ", " if day is not None else " "
    return f"{said}{between}{year(number)}" if said else year(number)


def _full_year(written: str) -> int | None:
    """A year of two digits is in this century up to 68 (POSIX)."""
    if len(written) == 2:
        return int(written) + (2000 if int(written) <= 68 else 1900)
    return int(written) if len(written) == 4 and int(written) >= 1000 else None


def _time(text: str, form: str) -> str | None:
    if form and form not in _TIME_FORMATS:
        return None
    length = _LENGTH.fullmatch(text)
    if length is not None and (length[1] or length[2]):
        return _spoken_length(length[1], length[2])
    match = _TIME.fullmatch(text)
    if match is None or not 0 <= int(match[1]) <= 24 or (match[4] and not 1 <= int(match[1]) <= 12):
        return None
    hour, minute, second, half = match.groups()
    if minute is None and not half and not form:
        return None
    written = f"{int(hour)}:{minute or '00'}{f':{second}' if second else ''}{f' {half[0]}m' if half else ''}"
    return read_for_telephone(written)


def _spoken_length(minutes: str | None, seconds: str | None) -> str:
    """1'21" is a length of time, as sport writes it."""
    amounts = ((minutes, "minute"), (seconds, "second"))
    said = [
        f"{cardinal(int(count))} {unit}{'' if int(count) == 1 else 's'}" for count, unit in amounts if count is not None
    ]
    return " and ".join(said)


def _cardinal(text: str, form: str) -> str | None:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    whole = match[2].replace(",", "").lstrip("0") or "0"
    said = decimal(whole, match[3]) if match[3] else number_words(whole)
    return f"minus {said}" if match[1] in ("-", "−") else said


def _ordinal(text: str, form: str) -> str | None:
    match = _ORDINAL.fullmatch(text)
    return ordinal(int(match[1])) if match else None


KINDS: dict[str, Callable[[str, str], str | None]] = {
    "characters": _characters,
    "spell-out": _characters,
    "verbatim": _characters,
    "digits": _digits,
    "telephone": _telephone,
    "currency": _currency,
    "date": _date,
    "time": _time,
    "cardinal": _cardinal,
    "number": _cardinal,
    "ordinal": _ordinal,
}
"The values of interpret-as."
