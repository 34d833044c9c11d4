"""What the four transactions of RFC 3261 section 17 share.

Each is a pure state machine over an unreliable transport: messages and the time go in; what it wants done comes
out through its user. Timers are named by the RFC's letters.
"""

from __future__ import annotations

from abc import abstractmethod
from enum import Enum, auto
from typing import Protocol

from sipmessage import Request, Response

from .address import DEFAULT_PORT, parse_via, split_values
from .message import BRANCH_COOKIE, IncomingRequest
from .timers import TimedMachine, TimerValues


class State(Enum):
    """States of all four machines; each uses a part of them."""

    CALLING = auto()
    TRYING = auto()
    PROCEEDING = auto()
    COMPLETED = auto()
    ACCEPTED = auto()  # RFC 6026
    CONFIRMED = auto()
    TERMINATED = auto()


TransactionKey = tuple[str, ...]


class TransactionUser(Protocol):
    """What a transaction asks of whoever runs it."""

    def transmit(self, message: bytes) -> None:
        """Send to the transaction's peer."""

    def received(self, message: IncomingRequest | Response) -> None:
        """A message for the transaction user: a response, or the ACK of a 2xx."""

    def failed(self, code: int, reason: str) -> None:
        """No answer, no ACK, or the transport failed: 408 or 503 (section 8.1.3.1)."""


class _Nobody:
    """The user of a transaction that is over."""

    def transmit(self, message: bytes) -> None:
        pass

    def received(self, message: IncomingRequest | Response) -> None:
        pass

    def failed(self, code: int, reason: str) -> None:
        pass


_NOBODY = _Nobody()


class Transaction(TimedMachine):
    """Base of the four."""

    def __init__(self, user: TransactionUser, timers: TimerValues) -> None:
        super().__init__()
        self.state = State.TERMINATED
        self._user: TransactionUser = user
        self._t = timers

    @property
    def terminated(self) -> bool:
        return self.state is State.TERMINATED

    def release(self) -> None:
        """Let go of the user, once terminated and when it has been told."""
        self._user = _NOBODY

    def transport_failed(self) -> None:
        """The message could not be sent (section 17.1.4, 17.2.4)."""
        if not self.terminated:
            self._terminate()
            self._user.failed(503, "Transport Error")

    def _enter(self, state: State) -> None:
        self.state = state
        self._stop_timers()

    def _terminate(self) -> None:
        self._enter(State.TERMINATED)

    def _time_out(self) -> None:
        self._terminate()
        self._user.failed(408, "Request Timeout")


class ServerTransaction(Transaction):
    """The side that answers."""

    def __init__(self, request: IncomingRequest, user: TransactionUser, timers: TimerValues) -> None:
        super().__init__(user, timers)
        self.request = request
        self._last_response: bytes | None = None

    @abstractmethod
    def receive(self, request: IncomingRequest, now: float) -> None:
        """A retransmission of the request, or an ACK."""

    @abstractmethod
    def respond(self, response: Response, now: float) -> None:
        """Send a response of the transaction user's; ignored once a final one has been sent."""

    def _transmit(self, response: Response) -> None:
        self._last_response = bytes(response)
        self._user.transmit(self._last_response)

    def _retransmit(self) -> None:
        if self._last_response is not None:
            self._user.transmit(self._last_response)


class ClientTransaction(Transaction):
    """The side that asks."""

    def __init__(self, request: Request, user: TransactionUser, timers: TimerValues) -> None:
        super().__init__(user, timers)
        self.request = request
        self._request_bytes = bytes(request)

    @abstractmethod
    def start(self, now: float) -> None:
        """Send the request."""

    def abandon(self) -> None:
        """Its user waits no longer (section 9.1: for the final response of what has been cancelled)."""
        self._terminate()

    @abstractmethod
    def receive(self, response: Response, now: float) -> None:
        """A response that matches this transaction."""


def server_key(request: IncomingRequest, method: str | None = None) -> TransactionKey:
    """What identifies a server transaction (section 17.2.3). An ACK matches its INVITE.

    With `method`, the key of another request's transaction that differs only in that: a CANCEL's INVITE.
    """
    method = method or ("INVITE" if request.method == "ACK" else request.method)
    sent_by = f"{request.via.host.lower()}:{request.via.port or DEFAULT_PORT}"
    if request.branch.startswith(BRANCH_COOKIE):
        return request.branch, sent_by, method
    # A client of RFC 2543: no unique branch. The To tag is left out, as its ACK carries ours and its INVITE did not.
    return (
        str(request.message.uri),
        request.from_tag,
        request.call_id,
        str(request.cseq),
        sent_by,
        request.branch,
        method,
    )


def client_key(message: Request | Response) -> TransactionKey | None:
    """What identifies a client transaction (section 17.1.3); None if the message lacks it."""
    try:
        branch = parse_via(split_values(message.headers["Via"])[0]).branch
        return (branch, message.cseq.method) if branch else None
    except (KeyError, IndexError, ValueError):
        return None
