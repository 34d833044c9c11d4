"""What DTMF is made of: digits, the events that report them, and the payload that carries one (RFC 4733)."""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

DIGITS = "0123456789*#ABCD"
"By event code, RFC 4733 section 3.2."
PAUSES = {"w": 500, "W": 1000}
"Milliseconds without a digit, for whoever dials through a menu."

MIN_DURATION_MS, MAX_DURATION_MS = 40, 60_000  # ITU-T Q.24: what is shorter need not be recognised, nor shorter pauses
MIN_GAP_MS, MAX_GAP_MS = 40, 10_000

MAX_SEGMENT = 0xFFFF
"The longest duration that a packet can tell, in timestamp units (section 2.5.1.3)."

_EVENT = struct.Struct("!BBH")
_END = 0x80
_VOLUME_MASK = 0x3F


class DtmfEvent(NamedTuple):
    """A digit that the other side pressed."""

    kind: Literal["started", "ended"]
    digit: str
    duration_ms: int
    "Of a digit that has ended, all of it; else what is known of it so far."
    source: Literal["rfc4733", "info", "inband"]


class EventPayload(NamedTuple):
    """The payload of one packet (section 2.3)."""

    event: int
    end: bool
    volume: int
    "Power level in -dBm0, 0 to 63."
    duration: int
    "Timestamp units since the event, or this segment of it, began."

    @classmethod
    def parse(cls, payload: bytes) -> EventPayload:
        """Raises ValueError if it is too short. The reserved bit and what follows the first event are ignored."""
        if len(payload) < _EVENT.size:
            raise ValueError(f"telephone-event payload has {len(payload)} octets, not {_EVENT.size}")
        event, flags, duration = _EVENT.unpack_from(payload)
        return cls(event, bool(flags & _END), flags & _VOLUME_MASK, duration)

    def __bytes__(self) -> bytes:
        return _EVENT.pack(self.event, (_END if self.end else 0) | self.volume, self.duration)


def check_digits(digits: str, duration_ms: int, gap_ms: int) -> None:
    """Raises ValueError, which does not quote the digits: they may be a PIN."""
    if not digits or not all(symbol in DIGITS or symbol in PAUSES for symbol in digits):
        raise ValueError("digits are not all of 0-9, *, #, A-D, w or W")
    if not MIN_DURATION_MS <= duration_ms <= MAX_DURATION_MS:
        raise ValueError(f"duration of {duration_ms} ms is outside {MIN_DURATION_MS} to {MAX_DURATION_MS}")
    if not MIN_GAP_MS <= gap_ms <= MAX_GAP_MS:
        raise ValueError(f"gap of {gap_ms} ms is outside {MIN_GAP_MS} to {MAX_GAP_MS}")
