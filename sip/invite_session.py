"""A session that an INVITE from outside sets up: RFC 3261 sections 13.3 (answering) and 9.2 (CANCEL)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .dialog import Dialog
from .message import IncomingRequest
from .session import Session, State
from .session_handler import EndCause, Reply, SessionHandler

if TYPE_CHECKING:
    from .transaction_layer import ServedRequest
    from .user_agent import UserAgent

__all__ = ["EndCause", "InviteSession", "Reply", "SessionHandler"]


class InviteSession(Session):
    """One call that came in.

    The application calls ring(), then accept() or reject(), and later hang_up(); what happens to the session comes
    to its handler.
    """

    def __init__(self, agent: UserAgent, invite: ServedRequest, dialog: Dialog) -> None:
        super().__init__(agent, dialog, invite.request.source, owns_call_id=False)
        self._invite = invite

    @property
    def request(self) -> IncomingRequest:
        """The INVITE."""
        return self._invite.request

    # What the application does:

    def ring(self) -> None:
        """Send 180 Ringing."""
        if self._state is State.PROCEEDING:
            self._respond(self._invite, Reply(180))

    def accept(self, body: bytes, content_type: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Answer with a 200, sent until its ACK comes."""
        if self._state is State.PROCEEDING:
            self._accept(self._invite, Reply(200, None, headers, body, content_type))
            self._state = State.ACCEPTED

    def reject(self, code: int, reason: str | None = None, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Answer with a failure; the handler hears nothing more."""
        if self._state is State.PROCEEDING:
            self.handler = None
            self._respond(self._invite, Reply(code, reason, headers))
            self._forget()

    def hang_up(self, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """See Session; before the answer it is a 480."""
        if self._state is State.PROCEEDING:
            self._respond(self._invite, Reply(480))
            self._end(EndCause.HUNG_UP)
            self._forget()
        else:
            super().hang_up(headers)

    # What the network does:

    def cancelled(self) -> None:
        """A CANCEL of the INVITE has come; too late if it is answered (section 9.2)."""
        if self._state is State.PROCEEDING:
            self._respond(self._invite, Reply(487))
            self._end(EndCause.CANCELLED)
            self._forget()

    def _receive_bye(self, served: ServedRequest) -> None:
        if self._state is State.PROCEEDING:  # section 15.1.2
            self._respond(self._invite, Reply(487))
        super()._receive_bye(served)
