"""The user agent core (RFC 3261 section 8.2): what arrives is checked and goes to its transaction or session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from sipmessage import Request, Response

from .access import AccessList
from .dialog import Dialog, DialogId, new_tag
from .errors import Fault, MalformedMessageError
from .invite_session import InviteSession, Reply
from .machine_runner import Clock
from .message import (
    IncomingRequest,
    SocketAddress,
    build_response,
    check_request,
    is_keepalive,
    parse_datagram,
)
from .timers import TimerValues
from .transaction_layer import ServedRequest, TransactionLayer
from .transport import Transport, host_port, resolve
from .via import response_address, stamp_via, top_via

_log = structlog.get_logger("sip.user_agent")

ALLOWED_METHODS = ("INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "INFO")
OTHER_METHODS = ("REGISTER", "SUBSCRIBE", "NOTIFY", "PUBLISH", "MESSAGE", "REFER", "UPDATE", "PRACK")
ACCEPTED_TYPES = (
    "application/sdp",
    "multipart/mixed",
    "text/plain",
    "application/dtmf-relay",
    "application/dtmf",
)
"Of bodies: of an INVITE, or of an INFO."
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
        self._sessions: dict[DialogId, InviteSession] = {}
        self._by_invite: dict[InviteId, InviteSession] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._session_gone = asyncio.Event()

    def close(self) -> None:
        """Stop at once, without a word to anyone: sessions are to be ended before. Idempotent."""
        for session in list(self._sessions.values()):
            session.terminate()
        self._sessions.clear()
        self._by_invite.clear()
        for task in self._tasks:
            task.cancel()
        self._layer.close()
        self.transport.close()

    async def wait_idle(self) -> None:
        """Wait until no session is left, not even one whose BYE is on its way."""
        while self._sessions:
            self._session_gone.clear()
            await self._session_gone.wait()

    # From the network:

    def _receive(self, datagram: bytes, source: SocketAddress) -> None:
        if is_keepalive(datagram):
            return
        allowed = self._config.access.allows(source[0])
        if not allowed:
            self.stats.datagrams_forbidden += 1
            if not self._config.access.may_refuse(self.clock.time()):
                return
            _log.warning("source_forbidden", source=source[0])
        try:
            message, fault = parse_datagram(datagram)
        except MalformedMessageError as error:
            self.stats.datagrams_malformed += 1
            _log.info("datagram_malformed", source=source[0], bytes=len(datagram), error=str(error))
            return
        if isinstance(message, Request):
            self._receive_request(message, source, fault if allowed else Fault(403, "Forbidden"))
        elif allowed:
            self.stats.responses_received += 1
            if not self._layer.receive_response(message):
                self.stats.datagrams_unmatched += 1

    def _receive_request(self, message: Request, source: SocketAddress, fault: Fault | None) -> None:
        method = message.method if message.method in ALLOWED_METHODS + OTHER_METHODS else "OTHER"
        self.stats.requests_received[method] += 1
        checked = fault or check_request(message, source)
        via = top_via(message)
        stamp_via(message, source)  # after parsing: sipmessage cannot read an IPv6 address in `received`
        if isinstance(checked, IncomingRequest):
            if not self._layer.receive_request(checked):
                self._begin(checked)
        elif message.method != "ACK":
            self._refuse_statelessly(message, response_address(via, source), checked)

    def _refuse_statelessly(self, message: Request, destination: SocketAddress, fault: Fault) -> None:
        """Section 8.2.7: without the headers that identify it, a request cannot have a transaction."""
        _log.info("request_refused", source=destination[0], method=message.method, code=fault.code, reason=fault.reason)
        self.stats.responses_sent[fault.code] += 1
        response = self._build(message, Reply.of(fault), new_tag())
        self.transport.send(bytes(response), destination)

    def _begin(self, request: IncomingRequest) -> None:
        """A request that matches no transaction."""
        if request.method == "ACK":
            self._receive_ack(request)
        elif len(self._layer.servers) >= self._most_transactions(request):
            overload = Fault(503, "Too Many Transactions", (("Retry-After", OVERLOAD_RETRY_S),))
            self._refuse_statelessly(request.message, response_address(request.via, request.source), overload)
        else:
            session = self._session_of(request)
            fault = self._check(request, session)  # before it is itself among the transactions
            served = self._layer.serve(request)
            if fault is not None:
                self._refuse(served, fault)
            else:
                self._serve(served, session)

    def _most_transactions(self, request: IncomingRequest) -> int:
        """Calls that are up can be controlled and ended when no new ones are taken."""
        return self._config.max_transactions * (2 if self._session_of(request) is not None else 1)

    def _serve(self, served: ServedRequest, session: InviteSession | None) -> None:
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

    def _session_of(self, request: IncomingRequest) -> InviteSession | None:
        if request.to_tag is None:
            return None
        return self._sessions.get((request.call_id, request.to_tag, request.from_tag))

    def _check(self, request: IncomingRequest, session: InviteSession | None) -> Fault | None:
        """Sections 8.2.1 to 8.2.3 and 12.2.2."""
        method = request.method
        if method not in ALLOWED_METHODS:
            if method in OTHER_METHODS:
                return Fault(405, "Method Not Allowed", (("Allow", ", ".join(ALLOWED_METHODS)),))
            return Fault(501, "Not Implemented", (("Allow", ", ".join(ALLOWED_METHODS)),))
        if method == "CANCEL":
            return None
        required = request.values("Require")
        if required:
            return Fault(420, "Bad Extension", (("Unsupported", ", ".join(required)),))
        if session is None and (request.to_tag is not None or method in ("BYE", "INFO")):
            return Fault(481, "Call/Transaction Does Not Exist")
        if session is None and self._is_merged(request):
            return Fault(482, "Loop Detected")
        return None

    def _is_merged(self, request: IncomingRequest) -> bool:
        """Section 8.2.2.2: the same request came by another way and is being answered there."""
        return request.method == "INVITE" and _invite_id(request) in self._by_invite

    def _cancel(self, served: ServedRequest) -> None:
        if self._layer.invite_of(served.request) is None:
            self._refuse(served, Fault(481, "Call/Transaction Does Not Exist"))
            return
        session = self._by_invite.get(_invite_id(served.request))
        self.respond(served, Reply(200), session.dialog.local_tag if session is not None else None)
        if session is not None:
            session.cancelled()

    def _invite(self, served: ServedRequest) -> None:
        try:
            dialog = Dialog.from_invite(served.request, new_tag())
        except ValueError as error:
            self._refuse(served, Fault(400, str(error)))
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
        response = self._build(served.request.message, reply, to_tag or new_tag())
        if served.request.method == "INVITE" and 101 <= reply.code <= 299:
            host = host_port(self.transport.advertised(served.request.source))
            response.headers.set("Contact", f"<sip:chatterline@{host}>")
        served.respond(response)
        return response

    def send_in_dialog(
        self,
        dialog: Dialog,
        method: str,
        headers: tuple[tuple[str, str], ...],
        fallback: SocketAddress,
        done: Callable[[int], None],
        body: bytes = b"",
    ) -> None:
        """Send a request in a dialog; `done` is given the code of its final response, 408 if none comes.

        fallback: where it goes if the dialog's next hop does not resolve.
        """

        async def send() -> None:
            destination = await self._next_hop(dialog, fallback)
            sent_by = host_port(self.transport.advertised(destination))
            own = ("User-Agent", self._config.server_name)
            request = dialog.create_request(method, sent_by, (own, *headers))
            if body:
                request.body = body
                request.headers.set("Content-Length", str(len(body)))
            self._request(request, destination, done)

        task = asyncio.ensure_future(send())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def forget(self, session: InviteSession) -> None:
        """The session is over, and all has been said."""
        self._sessions.pop(session.dialog.id, None)
        self._by_invite.pop(_invite_id(session.request), None)
        self._session_gone.set()

    async def _next_hop(self, dialog: Dialog, fallback: SocketAddress) -> SocketAddress:
        try:
            return await resolve(dialog.next_hop())
        except OSError as error:
            host = dialog.next_hop()[0]
            _log.warning("next_hop_unresolved", call_id=dialog.call_id, host=host, error=str(error))
            return fallback

    def _request(self, request: Request, destination: SocketAddress, done: Callable[[int], None]) -> None:
        log = _log.bind(call_id=request.call_id, method=request.method)

        def answered(response: Response) -> None:
            if response.code >= 200:
                log.debug("request_answered", code=response.code)
                done(response.code)

        def failed(code: int, reason: str) -> None:
            log.warning("request_failed", code=code, reason=reason)
            done(code)

        self._layer.request(request, destination, answered, failed)

    def _refuse(self, served: ServedRequest, fault: Fault) -> None:
        request = served.request
        _log.info(
            "request_refused",
            call_id=request.call_id,
            source=request.source[0],
            method=request.method,
            code=fault.code,
            reason=fault.reason,
        )
        self.respond(served, Reply.of(fault))

    def _build(self, request: Request, reply: Reply, to_tag: str) -> Response:
        response = build_response(
            request,
            reply.code,
            reply.reason,
            to_tag=to_tag,
            headers=reply.headers,
            body=reply.body,
            content_type=reply.content_type,
        )
        headers = response.headers
        headers.set("Server", self._config.server_name)
        if request.method in ("INVITE", "OPTIONS") and 200 <= reply.code <= 299:
            headers.set("Allow", ", ".join(ALLOWED_METHODS))
            headers.set("Supported", "")  # no extension of RFC 3261 by option tag
            headers.set("Accept", ", ".join(ACCEPTED_TYPES))
        return response
