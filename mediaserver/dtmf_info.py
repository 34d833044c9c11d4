"""Digits in SIP INFO bodies: application/dtmf-relay and application/dtmf.

Neither has an RFC. dtmf-relay is Cisco's: lines "Signal=5" and "Duration=160", in milliseconds; application/dtmf is the
bare digit. RFC 6086 section 1 describes the practice.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mediaserver.rtp.dtmf_event import DIGITS, MAX_DURATION_MS, PAUSES, DtmfEvent, check_digits

DTMF_RELAY_TYPE = "application/dtmf-relay"
DTMF_TYPE = "application/dtmf"
DTMF_TYPES = (DTMF_RELAY_TYPE, DTMF_TYPE)

DEFAULT_DURATION_MS = 250
MAX_BODY = 256
_FLASH = "16"  # hook flash, by its event code in RFC 4733's forerunner; some write "!"
_LINE = re.compile(r"\s*([A-Za-z]+)\s*[=:]\s*(\S*)\s*")


def parse_dtmf_info(content_type: str, body: bytes) -> DtmfEvent | None:
    """The digit of an INFO, as a whole press ("ended"); None for a hook flash, which is none.

    content_type: one of DTMF_TYPES, with parameters or without. Raises ValueError that says what is wrong, without
    quoting the body: it may be part of a PIN.
    """
    if len(body) > MAX_BODY:
        raise ValueError(f"DTMF Body Is Over {MAX_BODY} Octets")
    try:
        text = body.decode("ascii").strip()
    except UnicodeDecodeError:
        raise ValueError("DTMF Body Is Not ASCII") from None
    kind = content_type.partition(";")[0].strip().lower()
    if kind == DTMF_TYPE and "=" not in text:
        return _event(text, DEFAULT_DURATION_MS)
    if kind not in DTMF_TYPES:
        raise ValueError("Content-Type Is Not Of DTMF")
    fields: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            if line.strip():
                raise ValueError("DTMF Body Has A Line That Is No Field")
            continue
        fields.setdefault(match[1].lower(), match[2])
    if "signal" not in fields:
        raise ValueError("DTMF Body Has No Signal")
    return _event(fields["signal"], _duration(fields.get("duration", "")))


def _event(signal: str, duration_ms: int) -> DtmfEvent | None:
    symbol = signal.upper()
    if symbol in ("!", "FLASH", _FLASH):
        return None
    if len(symbol) == 2 and symbol in ("10", "11", "12", "13", "14", "15"):
        symbol = DIGITS[int(symbol)]
    if len(symbol) != 1 or symbol not in DIGITS:
        raise ValueError("DTMF Signal Is No Digit")
    return DtmfEvent("ended", symbol, duration_ms, "info")


def _duration(value: str) -> int:
    """A wrong duration is no reason to lose a digit."""
    if not (value.isascii() and value.isdigit() and len(value) <= 9) or int(value) == 0:
        return DEFAULT_DURATION_MS
    return min(int(value), MAX_DURATION_MS)


def build_dtmf_relay(digit: str, duration_ms: int) -> bytes:
    """The body, of DTMF_RELAY_TYPE, that tells one digit. Raises ValueError if it is none."""
    if len(digit) != 1 or digit not in DIGITS:
        raise ValueError("not a digit")
    return f"Signal={digit}\r\nDuration={duration_ms}\r\n".encode()


class InfoDigit(NamedTuple):
    """One INFO to send, and when."""

    after_ms: int
    "Since the first digit of the sequence."
    body: bytes


def plan_dtmf_relay(digits: str, *, duration_ms: int = 100, gap_ms: int = 50) -> list[InfoDigit]:
    """Digits and pauses (w, W) as INFO requests at the pace of key presses. Raises ValueError as DtmfSender.send does.

    Receivers play each digit for its duration when they get it: sent at once, digits would overlap or be dropped.
    """
    check_digits(digits, duration_ms, gap_ms)
    plan = []
    at = 0
    for symbol in digits:
        if symbol in PAUSES:
            at += PAUSES[symbol]
        else:
            plan.append(InfoDigit(at, build_dtmf_relay(symbol, duration_ms)))
            at += duration_ms + gap_ms
    return plan
