"""A REFER of ours and the subscription that comes with it (RFC 3515): how the transfer goes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import structlog

from .address import parse_parameters
from .machine_runner import Clock
from .message import IncomingRequest
from .session_handler import Reply

LONGEST_S = 180.0
"For the final status of the transfer, unless a NOTIFY says how long the subscription is to be."
MOST_S = 600.0
NO_FINAL_STATUS = 408
SESSION_OVER = 481

_STATUS_LINE = re.compile(rb"\s*SIP/2\.0 ([1-6][0-9]{2})(?: |\r|\n|$)", re.IGNORECASE)

_log = structlog.get_logger("sip.referral")

OnProgress = Callable[[int], None]
"""Is given the status codes of the transfer as they become known. The last is 200 or more: the transfer's own, that of
a REFER that was refused, 408 if no final one came, or 481 if the session ended before it."""


def sipfrag_status(body: bytes) -> int | None:
    """The status code of a message/sipfrag that begins with a status line (RFC 3515 section 2.4.5); else None."""
    match = _STATUS_LINE.match(body[:64])
    return int(match[1]) if match else None


class Referral:
    """One REFER within a session."""

    def __init__(self, on_progress: OnProgress, clock: Clock) -> None:
        self._on_progress: OnProgress | None = on_progress
        self._clock = clock
        self._subscribed = True
        self._timer: asyncio.TimerHandle | None = None
        self._wait(LONGEST_S)

    @property
    def pending(self) -> bool:
        """The outcome is still to come."""
        return self._on_progress is not None

    def answered(self, code: int) -> None:
        """The final response to the REFER; a 2xx only says that the peer will try."""
        if code >= 300:
            self._subscribed = False
            self._tell(code)

    def notified(self, notify: IncomingRequest) -> Reply:
        """A NOTIFY of the subscription; it may come before the response to the REFER."""
        if not self._subscribed:
            return Reply(481, "Subscription Does Not Exist")
        state, _, rest = (notify.header("Subscription-State") or "active").partition(";")
        terminated = state.strip().lower() == "terminated"
        status = sipfrag_status(notify.body)
        if status is not None:
            self._tell(status)
        if terminated:
            self._subscribed = False
            self._tell(NO_FINAL_STATUS)
        elif self.pending:
            self._extend(rest)
        if status is None and notify.body:
            _log.info("sipfrag_malformed", call_id=notify.call_id, bytes=len(notify.body))
            return Reply(400, "Body Is Not A SIP Fragment")
        return Reply(200)

    def close(self) -> None:
        """The session is over. Idempotent."""
        self._subscribed = False
        self._tell(SESSION_OVER)

    def discard(self) -> None:
        """Close without a word to anyone."""
        self._on_progress = None
        self._stop_timer()

    def _tell(self, code: int) -> None:
        tell = self._on_progress
        if code >= 200:
            self.discard()
        if tell is not None:
            tell(code)

    def _extend(self, parameters: str) -> None:
        try:
            expires = parse_parameters(parameters).get("expires", "")
        except ValueError:
            return
        if expires.isascii() and expires.isdigit() and len(expires) < 10:
            self._wait(min(max(float(expires), 1.0), MOST_S))

    def _wait(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self._clock.call_at(self._clock.time() + seconds, lambda: self._tell(NO_FINAL_STATUS))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
