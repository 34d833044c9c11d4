"""Values of SSML's attributes: lengths of pauses and rates of speech (W3C SSML 1.1, sections 3.2.3 and 3.2.4)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mediaserver.api.ssml_document import SsmlError, shown

MAX_BREAK_MS = 10_000
SLOWEST, FASTEST = 0.5, 2.0
"Rates of speech that the engines have."

BREAK_STRENGTHS_MS = {"none": 0, "x-weak": 100, "weak": 200, "medium": 400, "strong": 700, "x-strong": 1000}
RATES = {"x-slow": 0.5, "slow": 0.75, "medium": 1.0, "default": 1.0, "fast": 1.25, "x-fast": 1.5}

_TIME = re.compile(r"\+?([0-9]{0,6}(?:\.[0-9]{1,6})?)(ms|s)", re.ASCII)
_RATE = re.compile(r"([+-]?)([0-9]{1,6}(?:\.[0-9]{1,6})?|\.[0-9]{1,6})(%?)", re.ASCII)


def break_ms(attributes: Mapping[str, str], line: int) -> int:
    """How long a `break` is, in milliseconds: its time, else its strength, else that of a medium one.

    Raises SsmlError.
    """
    time = attributes.get("time")
    if time is not None:
        return _time_ms(time.strip(), line)
    strength = attributes.get("strength", "medium").strip()
    if strength not in BREAK_STRENGTHS_MS:
        raise SsmlError(f"break strength {shown(strength)} is not one of {', '.join(BREAK_STRENGTHS_MS)}", line)
    return BREAK_STRENGTHS_MS[strength]


def _time_ms(time: str, line: int) -> int:
    match = _TIME.fullmatch(time)
    if match is None or not match[1]:
        raise SsmlError(f"break time {shown(time)} is not a time such as 500ms or 1.5s", line)
    milliseconds = round(float(match[1]) * (1000 if match[2] == "s" else 1))
    if milliseconds > MAX_BREAK_MS:
        raise SsmlError(f"break time {shown(time)} is over {MAX_BREAK_MS // 1000} s", line)
    return milliseconds


def rate_of(value: str, line: int) -> float:
    """What a `prosody rate` multiplies the rate of speech by: a word, "80%", "1.2", or a change such as "-20%".

    Raises SsmlError.
    """
    value = value.strip()
    if value in RATES:
        return RATES[value]
    match = _RATE.fullmatch(value)
    if match is None:
        raise SsmlError(f"prosody rate {shown(value)} is not one of {', '.join(RATES)}, a percentage or a number", line)
    sign, number, percent = match.groups()
    amount = float(number) / (100 if percent else 1)
    rate = amount if not sign else 1 + amount if sign == "+" else 1 - amount
    if rate <= 0:
        raise SsmlError(f"prosody rate {shown(value)} leaves no speech", line)
    return rate
