"""Doubles for the SIP tests: a clock that is moved by hand, a transport in memory, messages to send."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from sipmessage import Headers, Message, Request, Response

from sip.access import AccessList
from sip.errors import Fault
from sip.invite_session import EndCause, InviteSession, Reply
from sip.message import IncomingRequest, SocketAddress, check_request
from sip.outgoing_invite import OutgoingInvite
from sip.outgoing_session import OutgoingSession
from sip.stats import SipStats
from sip.timers import TimerValues
from sip.transport import Receiver
from sip.user_agent import UserAgent, UserAgentConfig

PEER: SocketAddress = ("192.0.2.10", 5070)


class ManualClock:
    """A loop's clock, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self._queue: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, (), self)  # type: ignore[arg-type]
        heapq.heappush(self._queue, (when, next(self._order), handle))
        return handle

    def advance(self, seconds: float) -> None:
        """Move on, running what falls due on the way, each at its own time."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            when, _, handle = heapq.heappop(self._queue)
            if not handle.cancelled():
                self.now = max(self.now, when)
                handle._callback(*handle._args)  # type: ignore[attr-defined]
        self.now = end

    # Asked by asyncio.TimerHandle:

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass


class MemoryTransport:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.receiver: Receiver | None = None
        self.stats = SipStats()
        self.sent: list[tuple[bytes, SocketAddress]] = []
        self.closed = False

    def send(self, data: bytes, destination: SocketAddress) -> None:
        self.sent.append((data, destination))

    def advertised(self, peer: SocketAddress) -> SocketAddress:
        return "198.51.100.1", 5060

    def is_own(self, source: SocketAddress) -> bool:
        return source == ("198.51.100.1", 5060)

    def close(self) -> None:
        self.closed = True

    def take(self) -> list[Request | Response]:
        """What has been sent since the last call, parsed."""
        messages = [Message.parse(data) for data, _ in self.sent]
        self.sent.clear()
        return messages


class RecordingHandler:
    """A session's handler that notes what it is told."""

    def __init__(self) -> None:
        self.acks: list[IncomingRequest] = []
        self.infos: list[bytes] = []
        self.reinvites: list[IncomingRequest] = []
        self.causes: list[EndCause] = []
        self.reply = Reply(200)

    def acknowledged(self, ack: IncomingRequest) -> None:
        self.acks.append(ack)

    def reinvited(self, request: IncomingRequest) -> Reply:
        self.reinvites.append(request)
        return self.reply

    def info_received(self, request: IncomingRequest) -> Reply:
        self.infos.append(request.body)  # which is dropped once the request is answered
        return self.reply

    def ended(self, cause: EndCause) -> None:
        self.causes.append(cause)


class RecordingOutgoingHandler(RecordingHandler):
    """Of a session that we set up: what came of it, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[object, ...]] = []

    def ringing(self, code: int, body: bytes) -> None:
        self.told.append(("ringing", code, body))

    def answered(self, body: bytes, headers: Headers) -> None:
        self.told.append(("answered", body))

    def failed(self, code: int, reason: str) -> None:
        self.told.append(("failed", code))


class RecordingApplication:
    """An application that takes every call and does nothing by itself."""

    def __init__(self) -> None:
        self.sessions: list[InviteSession] = []
        self.handlers: list[RecordingHandler] = []
        self.fault: Fault | None = None

    def invited(self, session: InviteSession) -> None:
        handler = RecordingHandler()
        session.handler = handler
        self.sessions.append(session)
        self.handlers.append(handler)

    def available(self) -> Fault | None:
        return self.fault


class Bench:
    """A user agent with everything around it in memory."""

    def __init__(self, max_transactions: int = 1000, allow: str = "192.0.2.0/24") -> None:
        self.clock = ManualClock()
        self.transport = MemoryTransport()
        self.application = RecordingApplication()
        config = UserAgentConfig("Test/1", AccessList([ip_network(allow)]), TimerValues(), max_transactions)
        self.agent = UserAgent(self.application, config, self.transport, self.clock)

    def receive(self, message: bytes | Request, source: SocketAddress = PEER) -> list[Request | Response]:
        """Deliver a datagram; returns what was sent in reaction."""
        assert self.transport.receiver is not None
        self.transport.receiver(bytes(message), source)
        return self.transport.take()

    def receive_one(self, message: bytes | Request, source: SocketAddress = PEER) -> Response:
        """Deliver a datagram that gets exactly one response."""
        (response,) = self.receive(message, source)
        assert isinstance(response, Response)
        return response

    def invite_and_accept(self) -> tuple[Response, InviteSession, RecordingHandler]:
        """An answered call that has not been acknowledged."""
        assert self.receive(make_request("INVITE")) == []
        session = self.application.sessions[-1]
        session.accept(b"v=0\r\n", "application/sdp")
        (response,) = self.transport.take()
        assert isinstance(response, Response)
        return response, session, self.application.handlers[-1]

    def establish(self) -> tuple[Response, InviteSession, RecordingHandler]:
        """A call with its ACK."""
        response, session, handler = self.invite_and_accept()
        assert self.receive(make_in_dialog("ACK", response, cseq=1)) == []
        return response, session, handler

    async def place(self, **options: Any) -> tuple[OutgoingSession, RecordingOutgoingHandler, Request]:
        """A call of ours, and its INVITE."""
        handler = RecordingOutgoingHandler()
        invite = OutgoingInvite(
            **{"target": "sip:bob@192.0.2.10:5070", "from_uri": "sip:tts@example.com", "body": b"offer", **options}
        )
        session = self.agent.invite(invite, handler)
        return session, handler, await self.take_request()

    async def place_answered(self, **options: Any) -> tuple[OutgoingSession, RecordingOutgoingHandler, Request]:
        """A call of ours that has been answered, and its ACK."""
        session, handler, invite = await self.place(**options)
        (ack,) = self.receive(answer(invite, 200, to_tag="bob-1", headers=CONTACT, body=b"answer"))
        assert isinstance(ack, Request)
        return session, handler, ack

    async def take_request(self) -> Request:
        """The one request that is sent once the address has been resolved."""
        (request,) = await self.take_requests()
        return request

    async def take_requests(self) -> list[Request]:
        """Those that are sent once addresses have been resolved; there are no responses among them."""
        for _ in range(10):
            await asyncio.sleep(0)
        requests = []
        for message in self.transport.take():
            assert isinstance(message, Request)
            requests.append(message)
        return requests


def make_request(
    method: str = "OPTIONS",
    *,
    cseq: int = 1,
    branch: str | None = None,
    call_id: str = "call-1@pbx.example",
    to_tag: str | None = None,
    headers: dict[str, str | None] | None = None,
    body: bytes = b"",
    uri: str = "sip:tts@198.51.100.1",
) -> bytes:
    """A well-formed request; `headers` adds, replaces or (None) removes."""
    default_branch = f"z9hG4bK-{method}-{cseq}-{call_id}".replace("@", ".")
    fields: dict[str, str | None] = {
        "Via": f"SIP/2.0/UDP 192.0.2.10:5070;branch={branch or default_branch};rport",
        "Max-Forwards": "70",
        "From": '"Caller, A." <sip:alice@pbx.example>;tag=alice-1',
        "To": "<sip:tts@198.51.100.1>" + (f";tag={to_tag}" if to_tag else ""),
        "Call-ID": call_id,
        "CSeq": f"{cseq} {method}",
        "Contact": "<sip:alice@192.0.2.10:5070>",
        "Content-Length": str(len(body)),
        **(headers or {}),
    }
    lines = [f"{method} {uri} SIP/2.0", *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def make_in_dialog(method: str, response: Response, *, cseq: int, **options: object) -> bytes:
    """A request within the dialog that a 200 has made."""
    tag = response.to_address.parameters["tag"]
    return make_request(method, cseq=cseq, to_tag=tag, call_id=response.call_id, **options)  # type: ignore[arg-type]


def incoming(data: bytes, source: SocketAddress = PEER) -> IncomingRequest:
    """A request as the user agent's parts see it."""
    message = Message.parse(data)
    assert isinstance(message, Request)
    request = check_request(message, source)
    assert isinstance(request, IncomingRequest), request
    return request


def make_from_callee(method: str, ack: Request, *, cseq: int, **options: Any) -> bytes:
    """A request of who was called by us, within the dialog that an ACK of ours is of."""
    headers: dict[str, str | None] = {"From": ack.headers["To"], "To": ack.headers["From"], "Call-ID": ack.call_id}
    headers |= {"Contact": "<sip:bob@192.0.2.10:5070>", **options.pop("headers", {})}
    return make_request(method, cseq=cseq, call_id=ack.call_id, headers=headers, **options)


CONTACT = {"Contact": "<sip:bob@192.0.2.10:5070>"}


def answer(
    request: Request,
    code: int,
    reason: str = "X",
    to_tag: str | None = None,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
) -> bytes:
    """A peer's response to a request of ours; `headers` replace those that it would have."""
    response = Response(code, reason, body)
    for via in request.headers.getlist("Via"):
        response.headers.add("Via", via)
    response.headers.set("From", request.headers["From"])
    to = request.headers["To"]
    response.headers.set("To", to + (f";tag={to_tag}" if to_tag else ""))
    response.headers.set("Call-ID", request.headers["Call-ID"])
    response.headers.set("CSeq", request.headers["CSeq"])
    response.headers.set("Content-Length", str(len(body)))
    for name, value in (headers or {}).items():
        response.headers.set(name, value)
    return bytes(response)
