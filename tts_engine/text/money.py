"""Amounts of money: "$12.50" is "twelve dollars and fifty cents"."""

from __future__ import annotations

import re
from typing import NamedTuple

from tts_engine.text.numbers import cardinal, number_words
from tts_engine.text.rules import END, NUMBER, START, Rule, replace, rule, say_number


class _Currency(NamedTuple):
    one: str
    many: str
    cent: str
    cents: str


_DOLLAR = _Currency("dollar", "dollars", "cent", "cents")
_EURO = _Currency("euro", "euros", "cent", "cents")
_POUND = _Currency("pound", "pounds", "penny", "pence")
_YEN = _Currency("yen", "yen", "", "")
_RUPEE = _Currency("rupee", "rupees", "paisa", "paise")
_FRANC = _Currency("Swiss franc", "Swiss francs", "centime", "centimes")
_CURRENCIES = {"$": _DOLLAR, "usd": _DOLLAR, "us$": _DOLLAR, "€": _EURO, "eur": _EURO, "£": _POUND, "gbp": _POUND} | {
    "¥": _YEN, "jpy": _YEN, "₹": _RUPEE, "inr": _RUPEE, "chf": _FRANC
}  # fmt: skip
for _country, _signs in (
    ("Canadian", "c$ ca$ cad"), ("Australian", "a$ au$ aud"), ("New Zealand", "nz$ nzd"), ("Hong Kong", "hk$ hkd"),
    ("Singapore", "s$ sgd"),
):  # fmt: skip
    _CURRENCIES |= dict.fromkeys(_signs.split(), _Currency(f"{_country} dollar", f"{_country} dollars", *_DOLLAR[2:]))
_SCALES = {"k": "thousand", "m": "million", "mm": "million", "bn": "billion", "b": "billion"}

_SIGN = r"(?:(?<![\w.])(?:US|CA?|AU?|NZ|HK|S)\$|[$€£¥₹])"
_CODE = r"(?:USD|EUR|GBP|CAD|AUD|NZD|HKD|SGD|JPY|INR|CHF)"
_SCALES_WRITTEN = r"thousand|million|billion|trillion|k|mm?|bn?"
_SCALE = rf"(?:\ ?(?P<scale>{_SCALES_WRITTEN})(?!\w))?"

_EUROPEAN = (
    r"(?:[0-9]{1,3}(?:[. ][0-9]{3}){1,4},[0-9]{2}|[0-9]{1,12},[0-9]{2}|[0-9]{1,3}(?:\.[0-9]{3}){2,4}"
    r"|[0-9]{1,3}(?:\.000){1,4})"
)
"""Full stops or spaces between thousands, a comma before the cents."""

_PER = "month|mo|year|yr|week|wk|day|hour|hr|night|person|user|kg|lb|mile"


def _amount(number: str, scale: str | None, currency: _Currency) -> str:
    whole, _, fraction = number.partition(".")
    if scale:
        return f"{say_number(number)} {_SCALES.get(scale.lower(), scale.lower())} {currency.many}"
    if len(fraction) > 2 or (fraction and not currency.cent):
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
    if match["low_scale"] and match["scale"]:
        low_scale = match["low_scale"].lower()
        low_amount = f"{say_number(low)} {_SCALES.get(low_scale, low_scale)}"
        return f"{low_amount} to {_amount(high, match['scale'], currency)}"
    if match["low_scale"]:
        return f"{_amount(low, match['low_scale'], currency)} to {_amount(high, None, currency)}"
    if match["scale"] or ("." not in low and "." not in high):
        return f"{say_number(low)} to {_amount(high, match['scale'], currency)}"
    return f"{_amount(low, None, currency)} to {_amount(high, None, currency)}"


def _american(match: re.Match[str]) -> str:
    number = re.sub("[. ]", "", match["number"]).replace(",", ".")
    return f"{match['currency'] or ''}{number}"


def _without_commas(match: re.Match[str]) -> str:
    return match[0].replace(",", "")


def _say_cents(match: re.Match[str]) -> str:
    return f"{say_number(match['number'])} {'cent' if match['number'] == '1' else 'cents'}"


RULES: tuple[Rule, ...] = (
    rule(rf"₹\ ?[0-9]{{1,2}}(?:,[0-9]{{2}}){{1,5}},[0-9]{{3}}{END}", _without_commas),  # lakhs
    rule(rf"(?P<currency>(?:{_SIGN}|\b{_CODE})\ ?)(?P<number>{_EUROPEAN}){END}", _american),
    rule(
        rf"{START}(?P<currency>)(?P<number>{_EUROPEAN}|[0-9]{{1,3}}(?:\ [0-9]{{3}}){{1,4}}(?=\ ?€))"
        rf"(?=\ ?(?:[€£¥₹]|{_CODE}\b))",
        _american,
    ),
    replace(rf"({_SIGN})\ ?[-−](?=[0-9.])", r"minus \1"),
    replace(rf"({_SIGN})\ ?\.(?=[0-9]{{1,2}}(?![0-9]))", r"\g<1>0."),
    replace(rf"({_SIGN}{NUMBER})\ ?/\ ?(?=(?:{_PER})\b)", r"\1 per "),
    rule(
        rf"(?P<currency>{_SIGN})(?P<low>{NUMBER})(?:\ ?(?P<low_scale>{_SCALES_WRITTEN})(?!\w))?\ ?[-–—]\ ?{_SIGN}?"
        rf"(?P<number>{NUMBER}){_SCALE}",
        _say_range,
    ),
    rule(rf"(?P<currency>{_SIGN})\ ?(?P<number>{NUMBER}){_SCALE}", _say),
    rule(rf"\b(?P<currency>{_CODE})\ ?(?P<number>{NUMBER}){_SCALE}", _say),
    rule(rf"{START}(?P<number>{NUMBER}){_SCALE}\ ?(?P<currency>{_SIGN}(?![0-9])|{_CODE}\b)", _say),
    rule(rf"{START}(?P<number>{NUMBER})\ ?¢", _say_cents),
)
