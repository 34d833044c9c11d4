"""Amounts of money: "$12.50" is "twelve dollars and fifty cents"."""

from __future__ import annotations

import re
from typing import NamedTuple

from tts_engine.text.numbers import cardinal, number_words
from tts_engine.text.rules import NUMBER, START, Rule, replace, rule, say_number


class _Currency(NamedTuple):
    one: str
    many: str
    cent: str
    cents: str


_DOLLAR = _Currency("dollar", "dollars", "cent", "cents")
_EURO = _Currency("euro", "euros", "cent", "cents")
_POUND = _Currency("pound", "pounds", "penny", "pence")
_CURRENCIES = {"$": _DOLLAR, "usd": _DOLLAR, "us$": _DOLLAR, "€": _EURO, "eur": _EURO, "£": _POUND, "gbp": _POUND}
_SCALES = {"k": "thousand", "m": "million", "mm": "million", "bn": "billion", "b": "billion"}

_SIGN = r"(?:US\$|[$€£])"
_CODE = r"(?:USD|EUR|GBP)"
_SCALE = r"(?:\ ?(?P<scale>thousand|million|billion|trillion|k|mm?|bn?)(?!\w))?"

_PER = "month|mo|year|yr|week|wk|day|hour|hr|night|person|user|kg|lb|mile"


def _amount(number: str, scale: str | None, currency: _Currency) -> str:
    whole, _, fraction = number.partition(".")
    if scale:
        return f"{say_number(number)} {_SCALES.get(scale.lower(), scale.lower())} {currency.many}"
    if len(fraction) > 2:
        return f"{say_number(number)} {currency.many}"
    cents = int(fraction.ljust(2, "0")) if fraction else 0
    units = number_words(whole)
    said_units = f"{units} {currency.one if units == 'one' else currency.many}"
    said_cents = f"{cardinal(cents)} {currency.cent if cents == 1 else currency.cents}"
    if not cents:
        return said_units
    return said_cents if units == "zero" else f"{said_units} and {said_cents}"


def _say(match: re.Match[str]) -> str:
    return _amount(match["number"], match["scale"], _CURRENCIES[match["currency"].lower()])


def _say_range(match: re.Match[str]) -> str:
    currency = _CURRENCIES[match["currency"].lower()]
    low, high = match["low"], match["number"]
    if match["scale"] or ("." not in low and "." not in high):
        return f"{say_number(low)} to {_amount(high, match['scale'], currency)}"
    return f"{_amount(low, None, currency)} to {_amount(high, None, currency)}"


def _say_cents(match: re.Match[str]) -> str:
    return f"{say_number(match['number'])} {'cent' if match['number'] == '1' else 'cents'}"


RULES: tuple[Rule, ...] = (
    replace(rf"({_SIGN}{NUMBER})\ ?/\ ?(?=(?:{_PER})\b)", r"\1 per "),
    rule(rf"(?P<currency>{_SIGN})(?P<low>{NUMBER})\ ?[-–—]\ ?{_SIGN}?(?P<number>{NUMBER}){_SCALE}", _say_range),
    rule(rf"(?P<currency>{_SIGN})\ ?(?P<number>{NUMBER}){_SCALE}", _say),
    rule(rf"\b(?P<currency>{_CODE})\ ?(?P<number>{NUMBER}){_SCALE}", _say),
    rule(rf"{START}(?P<number>{NUMBER}){_SCALE}\ ?(?P<currency>{_SIGN}(?![0-9])|{_CODE}\b)", _say),
    rule(rf"{START}(?P<number>{NUMBER})\ ?¢", _say_cents),
)
