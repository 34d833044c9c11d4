"""What an application's answer to a webhook means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

MAX_RETRY_AFTER_S = 3600.0

Verdict = Literal["delivered", "refused", "failed", "away"]
"""delivered: done. refused: never to be sent again. failed: this event is to be tried again. away: so is every event,
since the application takes none now."""

AWAY_CODES = frozenset({429, 502, 503, 504})
GONE = 410


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one attempt."""

    verdict: Verdict
    reason: str
    "A status code, or what kept the request from being answered."
    retry_after_s: float | None = None
    "What the application asks for; at most MAX_RETRY_AFTER_S."


def outcome_of(status: int, retry_after: str | None, now: float) -> Outcome:
    """What a response means. retry_after: the header (RFC 9110 section 10.2.3). now: seconds since 1970."""
    if 200 <= status < 300:
        return Outcome("delivered", str(status))
    if status == GONE:
        return Outcome("refused", str(status))
    wait = parse_retry_after(retry_after, now) if status in AWAY_CODES else None
    return Outcome("away" if status in AWAY_CODES else "failed", str(status), wait)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds, from a number of them or an HTTP date; None for neither."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    try:
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.fromtimestamp(now, UTC)
    except OverflowError:
        return None
    wait = seconds.total_seconds()
    return min(max(0.0, wait), MAX_RETRY_AFTER_S) if math.isfinite(wait) else None
