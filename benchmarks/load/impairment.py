"""A bad network between two UDP peers: packets are delayed, lost and reordered as tc-netem(8) would do it."""

from __future__ import annotations

import asyncio
import math
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

Address = tuple[str, int]
_Take = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Profile:
    """What is done to each packet, each way."""

    delay_ms: float = 0.0
    "Mean, one way."
    jitter_ms: float = 0.0
    "Standard deviation of the delay, which is normal and drawn anew for each packet."
    loss: float = 0.0
    "Share dropped, 0 to 1, each packet by itself."
    reorder: float = 0.0
    "Share sent on at once, past those that are being delayed."

    def netem(self) -> list[str]:
        """The same as arguments of `tc qdisc add ... netem`."""
        delay = ["delay", f"{self.delay_ms:g}ms"]
        if self.jitter_ms:
            delay += [f"{self.jitter_ms:g}ms", "distribution", "normal"]
        return [*delay, "loss", f"{100 * self.loss:g}%", "reorder", f"{100 * self.reorder:g}%"]


CLEAN = Profile()
IMPAIRED = Profile(delay_ms=40.0, jitter_ms=20.0, loss=0.02, reorder=0.01)


@dataclass(slots=True)
class Counters:
    """Of one direction."""

    packets: int = 0
    dropped: int = 0
    hurried: int = 0
    "Sent on without a delay."
    overtaking: int = 0
    "Sent on before one that had come earlier: by being hurried, or because the jitter differs from packet to packet."


@dataclass(slots=True)
class Impairment:
    """Decides each packet's fate. Pure: times are seconds on any clock."""

    profile: Profile
    rng: random.Random
    counters: Counters = field(default_factory=Counters)
    _latest: float = -math.inf

    def departure(self, now: float) -> float | None:
        """When the packet that came at `now` leaves, not before `now`; None if it is lost."""
        profile, rng, counters = self.profile, self.rng, self.counters
        counters.packets += 1
        if rng.random() < profile.loss:
            counters.dropped += 1
            return None
        if rng.random() < profile.reorder:
            counters.hurried += 1
            when = now
        else:
            # A negative delay is none, as in netem.
            when = now + max(0.0, rng.gauss(profile.delay_ms, profile.jitter_ms)) / 1000
        if when < self._latest:
            counters.overtaking += 1
        self._latest = max(self._latest, when)
        return when


class Proxy:
    """Stands between a caller and the server on the path of RTP, and of RTCP on the same port (RFC 5761).

    The server is told to send to `for_server`, the caller to `for_caller`; each gets what the other sent from there.
    """

    def __init__(self, caller: Address, to_server: Impairment, to_caller: Impairment) -> None:
        """caller: the address of its RTP socket."""
        self.to_server, self.to_caller = to_server, to_caller
        self.for_server: Address = ("", 0)
        self.for_caller: Address = ("", 0)
        self._caller = caller
        self._server: Address | None = None
        self._ends: list[asyncio.DatagramTransport] = []

    async def open(self, host: str) -> None:
        """Bind both sockets to free ports of the host."""
        near = await self._end(host, self._from_caller)
        far = await self._end(host, self._from_server)
        self.for_caller, self.for_server = near.get_extra_info("sockname"), far.get_extra_info("sockname")
        self._ends = [near, far]

    def connect(self, server: Address) -> None:
        """Where the server takes RTP, as its answer says; what came before is lost."""
        self._server = server

    def close(self) -> None:
        """Idempotent. What is still under way is lost."""
        for end in self._ends:
            end.close()
        self._ends = []

    async def _end(self, host: str, take: _Take) -> asyncio.DatagramTransport:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.bind((host, 0))
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: _End(take), sock=sock)
        except BaseException:
            sock.close()
            raise
        return transport

    def _from_caller(self, data: bytes) -> None:
        self._pass_on(data, self.to_server, 1, self._server)

    def _from_server(self, data: bytes) -> None:
        self._pass_on(data, self.to_caller, 0, self._caller)

    def _pass_on(self, data: bytes, impairment: Impairment, end: int, target: Address | None) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        when = impairment.departure(now)
        if when is None:
            return
        if when <= now:
            self._send(end, data, target)
        else:
            loop.call_at(when, self._send, end, data, target)

    def _send(self, end: int, data: bytes, target: Address | None) -> None:
        if self._ends and target is not None:
            self._ends[end].sendto(data, target)


class _End(asyncio.DatagramProtocol):
    def __init__(self, take: _Take) -> None:
        self._take = take

    def datagram_received(self, data: bytes, _source: Address) -> None:
        self._take(data)
