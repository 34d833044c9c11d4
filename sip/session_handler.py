"""What a session tells its application, and what the application answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from sipmessage import Headers

from .errors import Fault
from .message import IncomingRequest


class EndCause(Enum):
    """Why a session is over."""

    BYE_RECEIVED = auto()
    HUNG_UP = auto()
    CANCELLED = auto()
    NO_ACK = auto()


@dataclass(frozen=True, slots=True)
class Reply:
    """What the application answers to a request within the session."""

    code: int = 200
    reason: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    content_type: str | None = None

    @classmethod
    def of(cls, fault: Fault) -> Reply:
        return cls(fault.code, fault.reason, fault.headers)


class SessionHandler(Protocol):
    """What an application does with a session that it has been given. Called from the event loop; must not block."""

    def acknowledged(self, ack: IncomingRequest) -> None:
        """The ACK of the INVITE, or of a re-INVITE, has come: the first one only, not its retransmissions."""

    def reinvited(self, request: IncomingRequest) -> Reply:
        """A re-INVITE: a 2xx makes it so, anything else leaves all as it was."""

    def info_received(self, request: IncomingRequest) -> Reply: ...

    def ended(self, cause: EndCause) -> None:
        """The session is over. Called once, unless the application rejected the INVITE itself."""


class OutgoingHandler(SessionHandler, Protocol):
    """Of a session that we set up. Either failed() is called, once and last; or answered(), and ended() at its end."""

    def ringing(self, code: int, body: bytes) -> None:
        """A provisional response other than 100: each that comes. The body is SDP where early media is offered."""

    def answered(self, body: bytes, headers: Headers) -> None:
        """The 2xx; its ACK is on its way. The body is the SDP answer, empty if the peer gave none."""

    def failed(self, code: int, reason: str) -> None:
        """There will be no session: the code of the final response, a 3xx included.

        408: nobody answered in time. 487: hang_up() before the answer. 503: the host does not resolve.
        502: an answer that no dialog can be made of.
        """
