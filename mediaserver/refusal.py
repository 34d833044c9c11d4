"""Saying no to a SIP request."""

from __future__ import annotations

from sip.errors import Fault
from sip.invite_session import Reply
from sip.message import REASONS


class RefusedError(Exception):
    """The request is refused, with the final response that says why."""

    def __init__(self, code: int, reason: str | None, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(reason or REASONS[code])
        self.fault = Fault(code, reason or REASONS[code], headers)

    @property
    def reply(self) -> Reply:
        return Reply.of(self.fault)
