"""The user agent core (RFC 3261 section 8.2): what arrives is checked and goes to its transaction or session."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import structlog
from sipmessage import Request, Response

from .access import AccessList
from .client_request import Outbox
from .dialog import Dialog, DialogId, new_tag
from .errors import Fault, MalformedMessageError
from .invite_session import InviteSession
from .machine_runner import Clock
from .message import (
    IncomingRequest,
    SocketAddress,
    check_request,
    is_keepalive,
    parse_datagram,
)
from .outgoing_invite import OutgoingInvite
from .outgoing_session import OutgoingSession
from .peek import branch_of, call_id_of
from .responder import ACCEPTED_TYPES, ALLOW, ALLOWED_METHODS, OTHER_METHODS, Responder, refusal
from .session import Session
from .session_handler import OutgoingHandler, Reply
from .timers import TimerValues
from .transaction_layer import ServedRequest, TransactionLayer
from .transport import Transport
from .via import response_address, stamp_via, top_via

_log = structlog.get_logger("sip.user_agent")

__all__ = ["ACCEPTED_TYPES", "ALLOWED_METHODS", "Application", "UserAgent", "UserAgentConfig"]

OVERLOAD_RETRY_S = "5"


@dataclass(frozen=True, slots=True)
class UserAgentConfig:
    """What the user agent is told by whoever runs it."""

    server_name: str
    access: AccessList
    timers: TimerValues = field(default_factory=TimerValues)
    max_transactions: int = 20_000
    "Server transactions open at once; beyond them requests get 503."


class Application(Protocol):
    """What a user agent serves."""

    def invited(self, session: InviteSession) -> None:
        """A new call: set its handler, then accept or reject it, now or later."""

    def available(self) -> Fault | None:
        """Why no call would be taken now; the answer to OPTIONS (section 11.2)."""


InviteId = tuple[str, str, int]
"Call-ID, From tag and CSeq: the same in an INVITE, in the CANCEL of it and in another copy of it."


def _invite_id(request: IncomingRequest) -> InviteId:
    return request.call_id, request.from_tag, request.cseq


class UserAgent:
    """One user agent on one transport."""

    def __init__(
        self, application: Application, config: UserAgentConfig, transport: Transport, clock: Clock | None = None
    ) -> None:
        """clock: None for the running event loop."""
        self.stats = transport.stats
        self.clock = clock or asyncio.get_running_loop()
        self.timers = config.timers
        self.transport = transport
        transport.receiver = self._receive
        self._application = application
        self._config = config
        self._layer = TransactionLayer(self.transport.send, self.clock, config.timers, self.stats)
        self.outbox = Outbox(self._layer, transport, config.server_name)
        self._responder = Responder(self.outbox, transport, self.stats, config.server_name)
        self._sessions: dict[DialogId, Session] = {}
        self._by_invite: dict[InviteId, InviteSession] = {}
        self._outgoing: dict[str, OutgoingSession] = {}
        "By Call-ID."
        self._call_ids: set[str] = set()
        "Of those, and of those that ended a moment ago: their BYE may come again."
        self._session_gone = asyncio.Event()

    def close(self) -> None:
        """Stop at once, without a word to anyone: sessions are to be ended before. Idempotent."""
        for session in [*self._sessions.values(), *self._outgoing.values()]:
            session.terminate()
        self._sessions.clear()
        self._by_invite.clear()
        self._outgoing.clear()
        self.outbox.close()
        self._layer.close()
        self.transport.close()

    async def wait_idle(self) -> None:
        """Wait until no session is left, not even one whose BYE or CANCEL is on its way."""
        while self._sessions or self._outgoing:
            self._session_gone.clear()
            await self._session_gone.wait()

    def invite(self, invite: OutgoingInvite, handler: OutgoingHandler) -> OutgoingSession:
        """Place a call; what comes of it is told to the handler, never before this returns."""
        session = OutgoingSession(self, invite, handler)
        self._outgoing[session.call_id] = session
        self._call_ids.add(session.call_id)
        session.start()
        return session

    @property
    def capabilities(self) -> tuple[tuple[str, str], ...]:
        """Headers of an INVITE that tell what we can do."""
        return (ALLOW,)

    # From the network:

    def _receive(self, datagram: bytes, source: SocketAddress) -> None:
        if is_keepalive(datagram):
            return
        # Who calls this server through itself is its own.
        allowed = self._config.access.allows(source[0]) or self.transport.is_own(source)
        belongs = not allowed and self._belongs(datagram)
        if not allowed and not belongs and not self._may_refuse(source):
            return
        try:
            message, fault = parse_datagram(datagram)
        except MalformedMessageError as error:
            self.stats.datagrams_malformed += 1
            _log.info("datagram_malformed", source=source[0], bytes=len(datagram), error=str(error))
            return
        if isinstance(message, Request):
            checked = fault or check_request(message, source)
            if not allowed and not self._is_of_ours(checked):
                if belongs and not self._may_refuse(source):
                    return
                checked = Fault(403, "Forbidden")
            self._receive_request(message, source, checked)
        else:
            self._receive_response(message, fault)

    def _may_refuse(self, source: SocketAddress) -> bool:
        """Whether a stranger is told that he is one."""
        self.stats.datagrams_forbidden += 1
        if not self._config.access.may_refuse(self.clock.time()):
            return False
        _log.warning("source_forbidden", source=source[0])
        return True

    def _belongs(self, datagram: bytes) -> bool:
        """Whether a datagram of a stranger may be of a request or a dialog of ours: then it is looked at.

        A carrier answers, and says BYE, from where it likes. What it has to know to do so nobody can guess.
        """
        if datagram.startswith(b"SIP/"):
            branch = branch_of(datagram)
            return branch is not None and self._layer.awaits(branch)
        return bool(self._call_ids) and call_id_of(datagram) in self._call_ids

    def _receive_response(self, response: Response, fault: Fault | None) -> None:
        self.stats.responses_received += 1
        if fault is not None or not 100 <= response.code <= 699:
            self.stats.datagrams_malformed += 1
            return
        try:
            if not self._layer.receive_response(response):
                self.stats.datagrams_unmatched += 1
        except Exception:  # noqa: BLE001 - nor may it end the transport
            _log.exception("response_failed", call_id=response.headers.get("Call-ID"), code=response.code)

    def _receive_request(self, message: Request, source: SocketAddress, checked: IncomingRequest | Fault) -> None:
        method = message.method if message.method in ALLOWED_METHODS + OTHER_METHODS else "OTHER"
        self.stats.requests_received[method] += 1
        via = top_via(message)
        stamp_via(message, source)  # after parsing: sipmessage cannot read an IPv6 address in `received`
        if isinstance(checked, IncomingRequest):
            if not self._layer.receive_request(checked):
                self._begin(checked)
        elif message.method != "ACK":
            self._responder.refuse_statelessly(message, response_address(via, source), checked)

    def _is_of_ours(self, request: IncomingRequest | Fault) -> bool:
        """Whether a request is within a session that we set up, or comes again."""
        if isinstance(request, Fault):
            return False
        return isinstance(self._session_of(request), OutgoingSession) or self._layer.serves(request)

    def _begin(self, request: IncomingRequest) -> None:
        """A request that matches no transaction."""
        if request.method == "ACK":
            self._receive_ack(request)
        elif len(self._layer.servers) >= self._most_transactions(request):
            overload = Fault(503, "Too Many Transactions", (("Retry-After", OVERLOAD_RETRY_S),))
            self._responder.refuse_statelessly(request.message, response_address(request.via, request.source), overload)
        else:
            session = self._session_of(request)
            fault = self._check(request, session)  # before it is itself among the transactions
            served = self._layer.serve(request)
            if fault is not None:
                self._responder.refuse(served, fault)
            else:
                self._serve(served, session)

    def _most_transactions(self, request: IncomingRequest) -> int:
        """Calls that are up can be controlled and ended when no new ones are taken."""
        return self._config.max_transactions * (2 if self._session_of(request) is not None else 1)

    def _serve(self, served: ServedRequest, session: Session | None) -> None:
        method = served.request.method
        try:
            if method == "CANCEL":
                self._cancel(served)
            elif session is not None:
                session.receive_request(served)
            elif method == "INVITE":
                self._invite(served)
            else:
                self.respond(served, self.options())
        except Exception:  # noqa: BLE001 - what the application stumbles over must leave no transaction open
            _log.exception("request_failed", call_id=served.request.call_id, method=method)
            self.respond(served, Reply(500))
            begun = self._by_invite.get(_invite_id(served.request))
            if begun is not None and method == "INVITE":
                begun.break_down()

    def _receive_ack(self, ack: IncomingRequest) -> None:
        session = self._session_of(ack)
        if session is None:
            self.stats.datagrams_unmatched += 1
            return
        try:
            session.receive_ack(ack)
        except Exception:  # noqa: BLE001 - nor a call half dead
            _log.exception("ack_failed", call_id=ack.call_id)
            session.break_down()

    def _session_of(self, request: IncomingRequest) -> Session | None:
        if request.to_tag is None:
            return None
        return self._sessions.get((request.call_id, request.to_tag, request.from_tag))

    def _check(self, request: IncomingRequest, session: Session | None) -> Fault | None:
        fault = refusal(request, in_session=session is not None)
        if fault is not None:
            return fault
        if session is None and self._is_merged(request):
            return Fault(482, "Loop Detected")
        return None

    def _is_merged(self, request: IncomingRequest) -> bool:
        """Section 8.2.2.2: the same request came by another way and is being answered there."""
        return request.method == "INVITE" and _invite_id(request) in self._by_invite

    def _cancel(self, served: ServedRequest) -> None:
        if self._layer.invite_of(served.request) is None:
            self._responder.refuse(served, Fault(481, "Call/Transaction Does Not Exist"))
            return
        session = self._by_invite.get(_invite_id(served.request))
        self.respond(served, Reply(200), session.dialog.local_tag if session is not None else None)
        if session is not None:
            session.cancelled()

    def _invite(self, served: ServedRequest) -> None:
        try:
            dialog = Dialog.from_invite(served.request, new_tag())
        except ValueError as error:
            self._responder.refuse(served, Fault(400, str(error)))
            return
        session = InviteSession(self, served, dialog)
        self._sessions[dialog.id] = session
        self._by_invite[_invite_id(served.request)] = session
        self._application.invited(session)

    # For sessions:

    def options(self) -> Reply:
        """Section 11.2: what an INVITE would be answered, and what we can do."""
        fault = self._application.available()
        return Reply.of(fault) if fault is not None else Reply(200)

    def respond(self, served: ServedRequest, reply: Reply, to_tag: str | None = None) -> Response:
        """Send a reply, with the headers that every reply of ours has."""
        return self._responder.respond(served, reply, to_tag)

    def adopt(self, session: OutgoingSession) -> None:
        """A session of ours has its dialog: requests within it can be told."""
        self._sessions[session.dialog.id] = session

    def forget(self, session: Session) -> None:
        """The session is over, and all has been said."""
        self._sessions.pop(session.dialog.id, None)
        if isinstance(session, InviteSession):
            self._by_invite.pop(_invite_id(session.request), None)
        elif self._outgoing.get(session.call_id) is session:
            del self._outgoing[session.call_id]
            forget_it = partial(self._call_ids.discard, session.call_id)
            self.clock.call_at(self.clock.time() + self.timers.timeout, forget_it)
        self._session_gone.set()
