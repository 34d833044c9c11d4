"""SIP over UDP on asyncio."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Protocol, cast

import structlog

from .message import SocketAddress
from .stats import SipStats

Receiver = Callable[[bytes, SocketAddress], None]

_RECEIVE_BUFFER = 4 * 1024 * 1024  # a burst of INVITEs must not be lost while the loop is busy for a moment

_log = structlog.get_logger("sip.transport")


class Transport(Protocol):
    """What the user agent needs of a transport."""

    receiver: Receiver | None
    "Is given every datagram."
    stats: SipStats

    def send(self, data: bytes, destination: SocketAddress) -> None: ...

    def advertised(self, peer: SocketAddress) -> SocketAddress:
        """The host and port that this peer is told to send to; an IPv6 host is without brackets."""

    def is_own(self, source: SocketAddress) -> bool:
        """Whether a datagram from there is one that this transport has sent: to itself."""

    def close(self) -> None: ...


class UdpTransport(asyncio.DatagramProtocol):
    """One UDP socket for all SIP traffic.

    advertised_host: the address that peers are told (Contact, Via); None for the address bound to, or for the one
    that the kernel would send from when all addresses are bound.
    """

    def __init__(self, advertised_host: str | None = None) -> None:
        self.receiver: Receiver | None = None
        self.stats = SipStats()
        self._advertised_host = advertised_host
        self._transport: asyncio.DatagramTransport | None = None
        self._local: SocketAddress = ("", 0)

    async def listen(self, host: str, port: int) -> None:
        """Bind. Port 0 takes a free one. Raises OSError."""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            if family == socket.AF_INET6:  # as the RTP sockets: an IPv4 peer would be told an IPv6 address
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port))
            self._local = sock.getsockname()[:2]
            await loop.create_datagram_endpoint(lambda: self, sock=sock)
        except BaseException:
            sock.close()
            raise

    @property
    def local_address(self) -> SocketAddress:
        return self._local

    def close(self) -> None:
        """Idempotent."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def send(self, data: bytes, destination: SocketAddress) -> None:
        """Send one datagram; a failure is counted and logged, and left to the retransmission timers."""
        if self._transport is None:
            return
        try:
            self._transport.sendto(data, destination)
        except (OSError, ValueError, OverflowError) as error:  # uvloop on an address of another family
            self._count_error(error)

    def advertised(self, peer: SocketAddress) -> SocketAddress:
        """See Transport."""
        return self._advertised_host or self.local_host_towards(peer[0]), self._local[1]

    def is_own(self, source: SocketAddress) -> bool:
        """See Transport. Bound to all addresses, of the local ones."""
        host, port = self._local
        if not is_unspecified(host):
            return source == self._local
        return source[1] == port and ipaddress.ip_address(source[0].partition("%")[0]).is_loopback

    def local_host_towards(self, peer_host: str) -> str:
        """Our own address as a peer sees it, if no translation lies between."""
        if not is_unspecified(self._local[0]):
            return self._local[0]
        try:
            return source_host_towards(peer_host)
        except OSError:
            return self._local[0]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        if self.receiver is not None:
            self.receiver(data, (str(addr[0]), int(addr[1])))

    def error_received(self, exc: Exception) -> None:
        self._count_error(exc)

    def _count_error(self, error: Exception) -> None:
        self.stats.send_errors += 1
        _log.debug("send_failed", error=str(error))


def source_host_towards(host: str) -> str:
    """The address of ours that the kernel would send from to this host. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing: it only chooses the route
        return str(probe.getsockname()[0])


def is_unspecified(host: str) -> bool:
    """Whether an IP address means all of the host's addresses."""
    return ipaddress.ip_address(host).is_unspecified


def host_port(address: SocketAddress) -> str:
    """`host:port`, an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def resolve(address: SocketAddress) -> SocketAddress:
    """The IP address of a host (RFC 3263 is not followed beyond A and AAAA). Raises OSError."""
    host, port = address
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except UnicodeError as error:  # a label of more than 63 characters
            raise OSError(f"{host[:80]!r} is not a host name") from error
        return str(found[0][4][0]), port
