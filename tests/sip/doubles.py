"""Doubles for the SIP tests: a clock that is moved by hand, a transport in memory, messages to send."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from ipaddress import ip_network

from sipmessage import Message, Request, Response

from sip.access import AccessList
from sip.errors import Fault
from sip.invite_session import EndCause, InviteSession, Reply
from sip.message import IncomingRequest, SocketAddress, check_request
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


def answer(request: Request, code: int, reason: str = "X", to_tag: str | None = None) -> bytes:
    """A peer's response to a request of ours."""
    response = Response(code, reason)
    for via in request.headers.getlist("Via"):
        response.headers.add("Via", via)
    response.headers.set("From", request.headers["From"])
    to = request.headers["To"]
    response.headers.set("To", to + (f";tag={to_tag}" if to_tag else ""))
    response.headers.set("Call-ID", request.headers["Call-ID"])
    response.headers.set("CSeq", request.headers["CSeq"])
    response.headers.set("Content-Length", "0")
    return bytes(response)
