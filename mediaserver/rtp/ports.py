"""UDP ports for RTP: even numbers of one range, with the odd neighbour for RTCP (RFC 3550 section 11)."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import secrets
import socket
from collections.abc import Iterator

DEFAULT_PORT_MIN = 16384
DEFAULT_PORT_MAX = 32766
"The kernel's ephemeral range begins at 32768: above it, binds collide with other programs' sockets."

DSCP_EF = 46
"Expedited forwarding (RFC 3246), what networks expect of telephone audio (RFC 4594 section 4.1)."


class NoPortsLeftError(Exception):
    """Every RTP port of the range is taken."""


class PortAllocator:
    """Binds sockets to the even ports of [port_min, port_max] on one local address.

    It walks round the range from a random start, so a freed port is the last to be used again: late packets
    of a call that ended reach nobody else's.
    """

    def __init__(
        self,
        host: str,
        port_min: int = DEFAULT_PORT_MIN,
        port_max: int = DEFAULT_PORT_MAX,
        *,
        dscp: int = DSCP_EF,
    ) -> None:
        """host: a numeric IPv4 or IPv6 address. Raises ValueError for another, or a range with no even port."""
        self.host = host
        self._family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        self._ports = range(port_min + port_min % 2, port_max + 1, 2)
        if port_min < 1 or port_max > 65535 or not self._ports:
            raise ValueError(f"no even port lies within {port_min}-{port_max}")
        self._port_max = port_max
        self._dscp = dscp
        self._next = secrets.randbelow(len(self._ports))

    @property
    def family(self) -> int:
        """Of all its sockets: AF_INET or AF_INET6."""
        return self._family

    def allocate(self) -> socket.socket:
        """A non-blocking UDP socket bound to a free even port; closing it frees the port.

        Raises NoPortsLeftError if all are taken, OSError if the address is not this machine's or the process
        may open no more files.
        """
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(self._socket())
            for port in self._walk():
                if _bind(sock, self.host, port):
                    stack.pop_all()
                    return sock
        raise self._none_left("even ports")

    def allocate_pair(self) -> tuple[socket.socket, socket.socket]:
        """The sockets of RTP, on an even port, and of RTCP, on the port above; both are free and within the range.

        Raises as allocate() does.
        """
        with contextlib.ExitStack() as stack:
            rtp, rtcp = stack.enter_context(self._socket()), stack.enter_context(self._socket())
            for port in self._walk():
                if port + 1 > self._port_max or not _bind(rtp, self.host, port):
                    continue
                if _bind(rtcp, self.host, port + 1):
                    stack.pop_all()
                    return rtp, rtcp
                rtp.close()
                rtp = stack.enter_context(self._socket())
        raise self._none_left("pairs of ports")

    def _socket(self) -> socket.socket:
        sock = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            self._mark(sock)
        except BaseException:
            sock.close()
            raise
        return sock

    def _none_left(self, what: str) -> NoPortsLeftError:
        return NoPortsLeftError(
            f"no RTP port is left on {self.host}: all {len(self._ports)} {what} "
            f"of {self._ports[0]}-{self._ports[-1]} are in use"
        )

    def _walk(self) -> Iterator[int]:
        """Every port once, from where the last walk ended."""
        for _ in range(len(self._ports)):
            port = self._ports[self._next]
            self._next = (self._next + 1) % len(self._ports)
            yield port

    def _mark(self, sock: socket.socket) -> None:
        traffic_class = self._dscp << 2
        if self._family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, traffic_class)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, traffic_class)


def _bind(sock: socket.socket, host: str, port: int) -> bool:
    try:
        sock.bind((host, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True
