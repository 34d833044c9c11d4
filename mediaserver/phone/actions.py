"""What the phone does during a call, and when.

`at` is in seconds after the answer (the 200 response to the INVITE).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

DigitMethod = Literal["rfc4733", "info"]


@dataclass(frozen=True)
class SendInfo:
    """Send an INFO request (RFC 6086 leaves its body to the application)."""

    at: float
    body: str = ""
    content_type: str = "text/plain"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dtmf:
    """Send digits as telephone-event packets (RFC 4733), or each as an INFO with an `application/dtmf-relay` body."""

    at: float
    digits: str
    method: DigitMethod = "rfc4733"


@dataclass(frozen=True)
class Play:
    """Speak: play a 16-bit mono WAV file, once, to the far end."""

    at: float
    path: Path


@dataclass(frozen=True)
class Hold:
    """Put the far end on hold: re-INVITE with `a=sendonly` (RFC 3264 section 8.4)."""

    at: float


@dataclass(frozen=True)
class Resume:
    """Take the far end off hold: re-INVITE with `a=sendrecv`."""

    at: float


@dataclass(frozen=True)
class HangUp:
    """Send BYE."""

    at: float


Action = SendInfo | Dtmf | Play | Hold | Resume | HangUp
