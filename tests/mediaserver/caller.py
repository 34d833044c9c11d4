"""A caller for tests: SIP in memory, RTP over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network

from aiortc.rtp import RtpPacket
from sipmessage import Message, Request, Response

from mediaserver.call.engines import CallEngines
from mediaserver.calls import Calls
from mediaserver.config import Config
from mediaserver.rtp.codec import PCMU
from sip.access import AccessList
from sip.message import SocketAddress
from sip.sdp import SessionDescription
from sip.timers import TimerValues
from sip.user_agent import UserAgent, UserAgentConfig
from tests.mediaserver.fake_engine import FakeEngine
from tests.sip.doubles import MemoryTransport, answer, make_in_dialog, make_request

PEER: SocketAddress = ("127.0.0.1", 5070)


class Caller:
    """Talks to a node of its own, whose engine is the fake one; so is the one for overflow, if it has one."""

    def __init__(self, config: Config, overflow: FakeEngine | None = None) -> None:
        self.engine = FakeEngine()
        self.transport = MemoryTransport()
        self.calls = Calls(config, CallEngines(self.engine, overflow), lambda peer: "127.0.0.1")
        agent_config = UserAgentConfig("Test/1", AccessList([ip_network("127.0.0.0/8")]), TimerValues(t1=0.05, t2=0.4))
        self.agent = UserAgent(self.calls, agent_config, self.transport)
        self.calls.connect(self.agent.invite, lambda: ("127.0.0.1", 5060))
        self.rtp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.rtp.bind(("127.0.0.1", 0))
        self.rtp.setblocking(False)
        self.messages: list[Request | Response] = []
        self.cseq = 1
        self.call_id = "call-1@pbx.example"

    # SIP:

    def sdp(self, formats: str = "0 101", *attributes: str, port: int | None = None, host: str = "127.0.0.1") -> bytes:
        lines = ["v=0", f"o=- 1 1 IN IP4 {host}", "s=-", f"c=IN IP4 {host}", "t=0 0"]
        lines.append(f"m=audio {port or self.rtp.getsockname()[1]} RTP/AVP {formats}")
        lines += ["a=rtpmap:101 telephone-event/8000"] if "101" in formats.split() else []
        lines += [f"a={attribute}" for attribute in attributes]
        return "\r\n".join([*lines, ""]).encode()

    def receive(self, data: bytes) -> None:
        assert self.transport.receiver is not None
        self.transport.receiver(data, PEER)

    async def message(self, wanted: Callable[[Request | Response], bool] = lambda _: True) -> Request | Response:
        """The next message of the server's that is wanted; others are passed over."""
        async with asyncio.timeout(5):
            while True:
                while self.transport.sent:
                    message = Message.parse(self.transport.sent.pop(0)[0])
                    if wanted(message):
                        return message
                await asyncio.sleep(0.001)

    async def response(self, code: int | None = None) -> Response:
        found = await self.message(
            lambda message: isinstance(message, Response) and (code is None or message.code == code)
        )
        assert isinstance(found, Response)
        return found

    async def request(self, method: str) -> Request:
        found = await self.message(lambda message: isinstance(message, Request) and message.method == method)
        assert isinstance(found, Request)
        self.receive(answer(found, 200))
        return found

    async def invite(self, body: bytes | None = None, **headers: str) -> Response:
        """Send an INVITE; its final response."""
        content = self.sdp() if body is None else body
        names: dict[str, str | None] = {name.replace("_", "-"): value for name, value in headers.items()}
        if content and "Content-Type" not in names:
            names["Content-Type"] = "application/sdp"
        self.receive(make_request("INVITE", headers=names, body=content, call_id=self.call_id))
        found = await self.message(
            lambda message: isinstance(message, Response) and message.code >= 200 and message.call_id == self.call_id
        )
        assert isinstance(found, Response)
        self.answered = found
        return found

    def ack(self, body: bytes = b"", cseq: int = 1) -> None:
        headers: dict[str, str | None] = {"Content-Type": "application/sdp"} if body else {}
        self.receive(make_in_dialog("ACK", self.answered, cseq=cseq, headers=headers, body=body))

    async def call(self, text: str | None = None, body: bytes | None = None, **headers: str) -> Response:
        """An answered and acknowledged call."""
        if text is not None:
            headers["X_TTS_Text"] = text
        response = await self.invite(body, **headers)
        assert response.code == 200, response.phrase
        self.ack()
        return response

    async def in_dialog(self, method: str, body: bytes = b"", **headers: str) -> Response:
        """Send a request in the dialog; its response."""
        self.cseq += 1
        names: dict[str, str | None] = {name.replace("_", "-"): value for name, value in headers.items()}
        self.receive(make_in_dialog(method, self.answered, cseq=self.cseq, headers=names, body=body))
        response = await self.response()
        if method == "INVITE":
            self.ack(cseq=self.cseq)
        return response

    async def info(self, text: str | None = None, **headers: str) -> Response:
        if text is not None:
            headers["Content_Type"] = "text/plain"
        return await self.in_dialog("INFO", (text or "").encode(), **headers)

    async def ended(self) -> None:
        """Wait for the server to have no call."""
        async with asyncio.timeout(5):
            while self.calls.legs:
                await asyncio.sleep(0.001)

    # RTP:

    def server_rtp(self) -> SocketAddress:
        (media,) = SessionDescription.parse(self.answered.body).media
        return "127.0.0.1", media.port

    async def packet(self) -> RtpPacket:
        loop = asyncio.get_running_loop()
        return RtpPacket.parse(await asyncio.wait_for(loop.sock_recv(self.rtp, 2048), 5))

    async def packets(self, count: int) -> list[RtpPacket]:
        return [await self.packet() for _ in range(count)]

    async def speech(self, seconds: float) -> bytes:
        """The next `seconds` of speech as PCM; the silence before it is passed over."""
        return b"".join([PCMU.decode(packet.payload) for packet in await self.speech_packets(int(seconds / 0.02))])

    async def speech_packets(self, count: int) -> list[RtpPacket]:
        packet = await self.packet()
        while is_silence(packet):
            packet = await self.packet()
        return [packet, *await self.packets(count - 1)]

    async def nothing_comes(self, seconds: float) -> bool:
        """Whether no packet comes in that time, beyond those that are here."""
        deadline = time.monotonic() + seconds
        quiet = 0.0
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.rtp.recv(2048)
                    quiet = time.monotonic()
            await asyncio.sleep(0.005)
        return quiet == 0.0 or time.monotonic() - quiet > seconds / 2


def is_silence(packet: RtpPacket) -> bool:
    return set(packet.payload) <= {0xFF, 0xD5}


@contextlib.asynccontextmanager
async def running_caller(overflow: FakeEngine | None = None, **sections: dict[str, object]) -> AsyncIterator[Caller]:
    """A caller and its node; `sections` is configuration."""
    caller = Caller(Config(**sections), overflow)  # type: ignore[arg-type]
    caller.calls.pacer.start()
    try:
        yield caller
    finally:
        caller.calls.end_all()
        caller.agent.close()
        caller.calls.pacer.stop()
        caller.rtp.close()
        await asyncio.sleep(0)
