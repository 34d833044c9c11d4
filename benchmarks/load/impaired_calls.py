"""Calls that talk both ways at once through a network that may be bad: what each end heard, and how well.

The server is the product's own, run in this process so that a recorder can listen to its inbound audio as its
barge-in does: there is no other way to get at it. The callers' media is the product's RtpSession too, on a media
thread of its own: what a bad network does to speech is decided by jitter buffer and concealment, and they are under
test in both directions. Only the callers' SIP is a scripted one (uac.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load import uac
from benchmarks.load.impairment import Address, Impairment, Profile, Proxy
from benchmarks.load.namespaces import CALLER_HOST, SERVER_HOST, Namespaces, inside
from mediaserver.call.engines import CallEngines
from mediaserver.calls import Calls
from mediaserver.config import CallsConfig, Config, SipConfig
from mediaserver.rtp.codec import PCMU
from mediaserver.rtp.endpoint import RtpEndpoint
from mediaserver.rtp.inbound import InboundAudio
from mediaserver.rtp.pacer_thread import PacerThread
from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.rtp.reader import DatagramReader
from mediaserver.rtp.receive_stream import ReceiveFormat
from mediaserver.rtp.send_stream import SendFormat
from mediaserver.rtp.session import RtpSession, RtpSettings
from sip.access import AccessList
from sip.transport import UdpTransport
from sip.user_agent import UserAgent, UserAgentConfig
from tts_engine.engine import Engine

LONGEST_S = 90.0
"A call that lasts longer has failed."
TAIL_S = 1.0
"After both have spoken, for what is under way and waits in jitter buffers."
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Talk:
    """What one call says."""

    down: str
    "By the server, in one line."
    up: bytes
    "By the caller: 8 kHz PCM."


@dataclass(frozen=True, slots=True)
class Heard:
    """One direction of one call, at its end."""

    pcm: bytes
    "8 kHz, what the receiver would have played or handed on."
    figures: dict[str, Any]


@dataclass(slots=True)
class Network:
    """Between callers and server: two namespaces, or else a proxy on loopback."""

    profile: Profile
    namespaces: Namespaces | None = None
    seed: int = 1
    impairments: dict[str, list[Impairment]] = field(default_factory=lambda: {"up": [], "down": []})
    "The proxies'; empty with namespaces."

    @property
    def server_host(self) -> str:
        return SERVER_HOST if self.namespaces else "127.0.0.1"

    @property
    def caller_host(self) -> str:
        return CALLER_HOST if self.namespaces else "127.0.0.1"

    def socket(self) -> socket.socket:
        """A caller's, non-blocking, bound to a free port."""
        with inside(self.namespaces.caller) if self.namespaces else contextlib.nullcontext():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind((self.caller_host, 0))
        return sock

    def proxy(self, caller: Address, number: int) -> Proxy:
        for way, impairments in self.impairments.items():
            impairments.append(Impairment(self.profile, random.Random(f"{self.seed}/{way}/{number}")))
        return Proxy(caller, self.impairments["up"][-1], self.impairments["down"][-1])


@dataclass(slots=True)
class Callers:
    """What the callers of a run share."""

    network: Network
    calls: Calls
    server: Address
    pacer: PacerThread
    reader: DatagramReader


async def talk_all(engine: Engine, talks: Sequence[Talk], network: Network, apart_s: float) -> list[dict[str, Heard]]:
    """All calls at once, begun `apart_s` after one another; of each what was heard "down" and "up".

    The engine is running. Raises RuntimeError if a call fails.
    """
    async with _serving(engine, network, len(talks)) as (calls, server), contextlib.AsyncExitStack() as stack:
        callers = Callers(network, calls, server, PacerThread(), DatagramReader(socket.AF_INET))
        callers.pacer.start()
        stack.callback(callers.pacer.stop)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_talk(callers, n, talk, n * apart_s)) for n, talk in enumerate(talks)]
        return [task.result() for task in tasks]


@contextlib.asynccontextmanager
async def _serving(engine: Engine, network: Network, most: int) -> AsyncIterator[tuple[Calls, Address]]:
    host = network.server_host
    config = Config(
        sip=SipConfig(host=host, port=5060, allow=(ipaddress.ip_network(f"{network.caller_host}/32"),)),
        calls=CallsConfig(max_calls=most),
    )
    namespaces = network.namespaces
    # The whole of it: calls open their sockets from this thread, too, as they come.
    with inside(namespaces.server) if namespaces else contextlib.nullcontext():
        transport = UdpTransport(None)
        calls = Calls(config, CallEngines(engine, None), lambda caller: transport.advertised(caller)[0])
        agent = UserAgent(calls, UserAgentConfig("Chatterline", AccessList(config.sip.allow)), transport)
        calls.pacer.start()
        try:
            port = _free_port(host)
            await transport.listen(host, port)
            yield calls, (host, port)
            calls.end_all()
        finally:
            agent.close()
            calls.pacer.stop()


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


async def _talk(callers: Callers, number: int, talk: Talk, after_s: float) -> dict[str, Heard]:
    await asyncio.sleep(after_s)
    network = callers.network
    with contextlib.ExitStack() as stack:
        media = _Media(network.socket(), callers.reader)
        stack.callback(media.close)
        toward_us, proxy = media.address, None
        if network.namespaces is None:
            proxy = network.proxy(media.address, number)
            await proxy.open(network.caller_host)
            stack.callback(proxy.close)
            toward_us = proxy.for_server
        signalling = await _Signalling.dial(callers, number, talk.down, toward_us[1])
        stack.callback(signalling.close)
        target = await signalling.answered()
        leg = next(leg for leg in callers.calls.legs if leg.session.request.call_id == signalling.call.call_id)
        server_heard = bytearray()
        stack.callback(leg.media.inbound.listen(lambda pcm, _at_ms: server_heard.extend(pcm)))
        if proxy is not None:
            proxy.connect(target)
            target = proxy.for_caller
        media.speak_to(target, talk.up)
        callers.pacer.add(media.session)
        stack.callback(callers.pacer.remove, media.session)
        await _until(lambda: media.session.playout.is_idle and leg.speech.counters.played > 0, number)
        await asyncio.sleep(TAIL_S)
        heard = {
            "down": Heard(bytes(media.heard), _figures(media.session, leg.rtp)),
            "up": Heard(bytes(server_heard), _figures(leg.rtp, media.session)),
        }
        await signalling.hang_up()
        return heard


async def _until(condition: Callable[[], bool], number: int) -> None:
    end = time.monotonic() + LONGEST_S
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"call {number} did not come to its end in {LONGEST_S:.0f} s")
        await asyncio.sleep(LOOK_S)


def _figures(receiver: RtpSession, sender: RtpSession) -> dict[str, Any]:
    """Of the stream from `sender`, as its receiver counts it; `told_` are what the sender knows of it by RTCP."""
    stats, inbound, now = receiver.stats, receiver.inbound, time.monotonic()
    buffer, far_rtcp, rtcp = inbound.buffer, sender.rtcp, receiver.rtcp
    near = rtcp.quality(now, jitter_buffer_ms=buffer.depth_ms) if rtcp is not None else None
    far = far_rtcp.quality(now) if far_rtcp is not None else None
    return {
        "sent": sender.sending.counters.packets,
        "expected": stats.expected,
        "lost": stats.lost,
        "reordered": stats.reordered,
        "late": buffer.late,
        "jitter_ms": 1000 * stats.jitter_seconds,
        "buffer_ms": buffer.depth_ms,
        "frames": inbound.frames,
        "concealed": inbound.concealed,
        "mos": near.inbound.mos if near else None,
        "told_mos": far.outbound.mos if far else None,
        "round_trip_ms": near.round_trip_ms if near else None,
    }


class _Media:
    """A caller's RTP."""

    def __init__(self, sock: socket.socket, reader: DatagramReader) -> None:
        endpoint = RtpEndpoint(sock, reader)
        self.address = endpoint.address
        self.heard = bytearray()
        inbound = InboundAudio()
        inbound.listen(lambda pcm, _at_ms: self.heard.extend(pcm))
        playout = PlayoutBuffer(max_seconds=LONGEST_S)
        self.session = RtpSession(
            endpoint, playout, SendFormat(PCMU, 0), ReceiveFormat(PCMU, 0), RtpSettings(), inbound
        )
        self._endpoint = endpoint

    def speak_to(self, server: Address, pcm: bytes) -> None:
        self.session.set_remote(server, [server[0]])
        self.session.set_rtcp(None, muxed=True, xr=False)
        playout = self.session.playout
        playout.begin("speech")
        playout.write(pcm)
        playout.end()

    def close(self) -> None:
        self.session.close()
        self._endpoint.close()


class _Signalling(asyncio.DatagramProtocol):
    """A caller's SIP: uac.Call with a socket and a clock."""

    def __init__(self, call: uac.Call, server: Address) -> None:
        self.call = call
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    @classmethod
    async def dial(cls, callers: Callers, number: int, text: str, rtp_port: int) -> _Signalling:
        sock = callers.network.socket()
        call_id = f"impair-{number}-{random.getrandbits(32):08x}@{sock.getsockname()[0]}"
        call = uac.Call(call_id, text, sock.getsockname(), callers.server, rtp_port, rtcp_mux=True)
        signalling = cls(call, callers.server)
        transport, _ = await signalling._loop.create_datagram_endpoint(lambda: signalling, sock=sock)
        signalling._transport = transport
        signalling._send(call.invite(signalling._loop.time()))
        return signalling

    async def answered(self) -> Address:
        """Where the server takes RTP. Raises RuntimeError if it does not take the call."""
        await self._while(uac.State.INVITING)
        if self.call.state is not uac.State.ESTABLISHED or self.call.media is None:
            raise RuntimeError(f"call {self.call.call_id}: {self.call.failure}")
        return self.call.media.rtp

    async def hang_up(self) -> None:
        """Raises RuntimeError if the call had ended already, or its end is not answered."""
        self._send(self.call.hang_up(self._loop.time()))
        await self._while(uac.State.CLOSING)
        if self.call.state is not uac.State.DONE:
            raise RuntimeError(f"call {self.call.call_id}: {self.call.failure}")

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, _source: Address) -> None:
        with contextlib.suppress(ValueError):
            self._send(self.call.on_message(uac.parse(data), self._loop.time()))

    async def _while(self, state: uac.State) -> None:
        while self.call.state is state:
            self._changed.clear()
            await self._changed.wait()

    def _tick(self) -> None:
        self._send(self.call.on_timer(self._loop.time()))

    def _send(self, datagrams: list[bytes]) -> None:
        for datagram in datagrams:
            if self._transport is not None:
                self._transport.sendto(datagram, self._server)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if self.call.due is None else self._loop.call_at(self.call.due, self._tick)
        self._changed.set()
