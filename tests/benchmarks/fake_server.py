"""A SIP server that speaks a tone, with faults put in on purpose: what the load generator must find.

Also a command, `python -m tests.benchmarks.fake_server`, that takes its address from the same environment variables
as the real server.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import struct
import time
from dataclasses import dataclass, field

from benchmarks.load import caller_rtcp, uac
from benchmarks.load import sdp as session_description
from benchmarks.load.caller_rtcp import Block, Report

FRAME = 0.020
SILENCE = b"\xff" * 160
LEAD_FRAMES = 5
"Silent frames before the tone."


def mulaw(sample: int) -> int:
    """One sample, 16 bits, in G.711 mu-law."""
    sign = 0x80 if sample < 0 else 0
    magnitude = min(abs(sample), 32635) + 0x84
    exponent = magnitude.bit_length() - 8
    return ~(sign | exponent << 4 | magnitude >> (exponent + 3) & 0x0F) & 0xFF


TONE = bytes(mulaw(round(8000 * math.sin(2 * math.pi * 400 * n / 8000))) for n in range(160))
"20 ms of 400 Hz: a whole number of periods."


@dataclass(frozen=True, slots=True)
class Faults:
    """By frame of a call."""

    drop: frozenset[int] = frozenset()
    duplicate: frozenset[int] = frozenset()
    swap: frozenset[int] = frozenset()
    "Frames sent after the next one."
    delay: dict[int, float] = field(default_factory=dict)
    "Seconds that a frame comes late; the next ones are on time again."
    skip_timestamp: frozenset[int] = frozenset()
    "Frames before which the timestamp jumps by one frame, unannounced."
    stall: dict[int, int] = field(default_factory=dict)
    "Intervals of which none is sent before a frame, as a pacer that skips: its marker is set, its timestamp jumps."
    die: int | None = None
    "The frame from which on the first call's leg sends no more."
    silence: frozenset[int] = frozenset()
    "Frames of digital silence in the middle of the tone."
    lose_first_invite: bool = False
    refuse: int = 0
    "The first so many calls get 503."
    mute: bool = False
    refuse_info: bool = False
    rtcp: bool = False
    "Answer each RTCP report with one of its own, from the port above RTP's, or from that of RTP if mux was offered."
    clock: float = 1.0
    "Length of the server's second in ours."


@dataclass(slots=True)
class Leg:
    remote: tuple[str, int]
    answer: bytes
    media: asyncio.Task[None] | None = None
    sock: socket.socket | None = None
    rtcp: socket.socket | None = None


def bound(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


class FakeServer(asyncio.DatagramProtocol):
    def __init__(self, faults: Faults = Faults()) -> None:
        self.faults = faults
        self.legs: dict[str, Leg] = {}
        self.texts: list[str] = []
        self.more_texts: list[str] = []
        "Those of INFO requests."
        self.reports: list[Report] = []
        "RTCP heard."
        self.invites = 0
        self.acks = 0
        self.byes = 0
        self.uplink = 0
        self._lost: set[str] = set()
        self._refused: set[str] = set()

    @classmethod
    async def start(cls, faults: Faults = Faults(), port: int = 0) -> FakeServer:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_datagram_endpoint(lambda: cls(faults), ("127.0.0.1", port))
        return protocol

    @property
    def address(self) -> tuple[str, int]:
        return self.transport.get_extra_info("sockname")

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        message = uac.parse(data)
        handler = getattr(self, f"on_{message.method.lower()}", None)
        if handler and not message.status:
            handler(message, addr)

    def on_options(self, message: uac.Message, addr: tuple[str, int]) -> None:
        self.transport.sendto(uac.reply(message, 200, "OK"), addr)

    def on_invite(self, message: uac.Message, addr: tuple[str, int]) -> None:
        self.invites += 1
        call_id = message.header("call-id")
        if self.faults.lose_first_invite and call_id not in self._lost:
            self._lost.add(call_id)
            return
        if call_id in self._refused or len(self._refused) < self.faults.refuse:
            self._refused.add(call_id)
            self.transport.sendto(uac.reply(message, 503, "Service Unavailable"), addr)
            return
        if call_id not in self.legs:
            self.texts.append(message.header("x-tts-text"))
            self.legs[call_id] = self._answer(message)
        self.transport.sendto(self.legs[call_id].answer, addr)

    def _answer(self, message: uac.Message) -> Leg:
        sock = bound(0)
        asyncio.get_running_loop().add_reader(sock, self._read_uplink, sock)
        port = sock.getsockname()[1]
        shared = self.faults.rtcp and "a=rtcp-mux" in message.body
        rtcp = sock if shared else bound(0)
        if not shared:
            asyncio.get_running_loop().add_reader(rtcp, self._read_rtcp, rtcp)
        where = "a=rtcp-mux" if shared else f"a=rtcp:{rtcp.getsockname()[1]} IN IP4 127.0.0.1"
        sdp = (
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
            f"m=audio {port} RTP/AVP 0\r\na=ptime:20\r\n{where}\r\n"
        )
        head = uac.reply(message, 200, "OK").decode().removesuffix("Content-Length: 0\r\n\r\n")
        head = head.replace(f"To: {message.header('to')}", f"To: {message.header('to')};tag=fake")
        host, own = self.address
        head += f"Contact: <sip:fake@{host}:{own}>\r\nContent-Type: application/sdp\r\nContent-Length: {len(sdp)}"
        return Leg(session_description.media(message.body).rtp, f"{head}\r\n\r\n{sdp}".encode(), sock=sock, rtcp=rtcp)

    def _read_uplink(self, sock: socket.socket) -> None:
        datagram, source = sock.recvfrom(2048)
        if 192 <= datagram[1] <= 223:
            self._report(sock, datagram, source)
        elif len(datagram) == 172:
            self.uplink += 1

    def _read_rtcp(self, sock: socket.socket) -> None:
        self._report(sock, *sock.recvfrom(2048))

    def _report(self, sock: socket.socket, datagram: bytes, source: tuple[str, int]) -> None:
        """Take a report, and answer it with one about its sender: 3 packets lost, 2 ms of jitter."""
        heard = caller_rtcp.parse(datagram)
        self.reports.append(heard)
        if self.faults.rtcp:
            block = Block(heard.ssrc, 10, 3, 70_000, 16, heard.middle_ntp, 0)
            sock.sendto(caller_rtcp.compound(7, time.time(), 4711, 50, block, "fake"), source)

    def on_ack(self, message: uac.Message, addr: tuple[str, int]) -> None:
        self.acks += 1
        leg = self.legs.get(message.header("call-id"))
        if leg and leg.media is None and not self.faults.mute:
            leg.media = asyncio.get_running_loop().create_task(self._speak(leg))

    def on_info(self, message: uac.Message, addr: tuple[str, int]) -> None:
        if self.faults.refuse_info:
            self.transport.sendto(uac.reply(message, 413, "Speech Queue Is Full"), addr)
            return
        self.more_texts.append(message.header("x-tts-text"))
        self.transport.sendto(uac.reply(message, 200, "OK"), addr)

    def on_bye(self, message: uac.Message, addr: tuple[str, int]) -> None:
        self.byes += 1
        leg = self.legs.get(message.header("call-id"))
        if leg:
            self._end(leg)
        self.transport.sendto(uac.reply(message, 200, "OK"), addr)

    def _end(self, leg: Leg) -> None:
        if leg.media:
            leg.media.cancel()
        for sock in {leg.sock, leg.rtcp} - {None}:
            asyncio.get_running_loop().remove_reader(sock)
            with contextlib.suppress(BlockingIOError):  # what came before the BYE, the last report among it
                while True:
                    self._read_uplink(sock)
            sock.close()
        leg.sock = leg.rtcp = None

    async def _speak(self, leg: Leg) -> None:
        assert leg.sock
        loop = asyncio.get_running_loop()
        faults = self.faults
        start = loop.time()
        skipped = frame = stalled = 0
        first = leg is next(iter(self.legs.values()))
        held: bytes | None = None
        while True:
            stalled += faults.stall.get(frame, 0)
            due = start + (frame + stalled) * FRAME * faults.clock + faults.delay.get(frame, 0.0)
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            if first and frame == faults.die:
                return
            skipped += frame in faults.skip_timestamp
            quiet = frame < LEAD_FRAMES or frame in faults.silence
            header = struct.pack(
                ">BBHII",
                0x80,
                0x80 if frame == 0 or frame in faults.stall else 0,
                (65500 + frame) & 0xFFFF,
                (frame + skipped + stalled) * 160,
                7,
            )
            packets = [header + (SILENCE if quiet else TONE)] * (1 + (frame in faults.duplicate))
            if frame in faults.swap:
                held = packets.pop()
            elif held is not None:
                packets.append(held)
                held = None
            for packet in packets:
                if frame not in faults.drop:
                    leg.sock.sendto(packet, leg.remote)
            frame += 1

    def close(self) -> None:
        for leg in self.legs.values():
            self._end(leg)
        self.transport.close()


async def main() -> None:
    server = await FakeServer.start(port=int(os.environ["CHATTERLINE_SIP__PORT"]))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
