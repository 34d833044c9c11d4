"""Receives the RTP of every call, each datagram stamped by the kernel, into one block of memory.

The stamp is taken when the datagram enters the receiving host's network stack (SO_TIMESTAMPNS), so it does not
depend on when this process comes to read: the sockets are drained every few milliseconds, and nothing is decoded
until the run is over.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

SO_TIMESTAMPNS = 35
"asm-generic/socket.h; Python names it only from 3.14 on."
RECEIVE_BUFFER = 1 << 20

RECORD_BYTES = 192
PACKET_OFFSET = 16
PACKET_BYTES = RECORD_BYTES - PACKET_OFFSET
RECORD_HEADER = struct.Struct("<qii")
"A record: stamp (ns since the epoch), call, size of the datagram (-1: it did not fit), then the datagram."

_TIMESPEC = struct.Struct("@ll")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)


def enable_stamps(sock: socket.socket) -> None:
    """Ask the kernel to stamp what arrives on a socket."""
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)


def stamp_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The kernel's stamp in ns since the epoch (CLOCK_REALTIME), 0 if there is none."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack(data[: _TIMESPEC.size])
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return 0


class Receiver:
    """One RTP socket a call, and room for `capacity` records."""

    def __init__(self, capacity: int) -> None:
        # Written once here, so that no page is faulted in while calls are up.
        self._block = bytearray(b"\xff") * (capacity * RECORD_BYTES)
        self._view = memoryview(self._block)
        self._capacity = capacity
        self._sockets: dict[int, tuple[socket.socket, int]] = {}
        self._held: list[socket.socket] = []
        self._epoll = select.epoll()
        self.count = 0
        self.overflowed = 0
        "Datagrams read with no room left to keep them."

    def open(self, call: int, host: str, ports: Iterator[int]) -> socket.socket:
        """Bind the next free even port for RTP, and the odd one above it for RTCP (RFC 3550 11).

        The RTCP socket is held, never read: a closed port would answer the server with ICMP errors.
        """
        for port in ports:
            with contextlib.ExitStack() as undo:
                rtp = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                rtcp = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                try:
                    rtp.bind((host, port))
                    rtcp.bind((host, port + 1))
                except OSError:
                    continue
                undo.pop_all()
            rtp.setblocking(False)
            rtp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            rtcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            enable_stamps(rtp)
            self._sockets[rtp.fileno()] = (rtp, call)
            self._held.append(rtcp)
            self._epoll.register(rtp.fileno(), select.EPOLLIN)
            return rtp
        raise OSError("no free RTP port for the load generator")

    def drain(self) -> int:
        """Read one datagram from every socket that has any; returns how many were read."""
        ready = self._epoll.poll(0, max(1, len(self._sockets)))
        for fd, _ in ready:
            sock, call = self._sockets[fd]
            if self.count >= self._capacity:
                sock.recv(PACKET_BYTES)
                self.overflowed += 1
                continue
            offset = self.count * RECORD_BYTES
            packet = self._view[offset + PACKET_OFFSET : offset + RECORD_BYTES]
            size, ancillary, flags, _ = sock.recvmsg_into([packet], _ANCILLARY_BYTES)
            if flags & socket.MSG_TRUNC:
                size = -1
            RECORD_HEADER.pack_into(self._block, offset, stamp_ns(ancillary), call, size)
            self.count += 1
        return len(ready)

    def kernel_drops(self) -> int:
        """Datagrams the kernel dropped because a socket of ours was full: faults of the generator."""
        ours = {sock.getsockname()[1] for sock, _ in self._sockets.values()}
        return sum(drops for port, drops in udp_drops() if port in ours)

    def save(self, path: Path) -> None:
        """Write the records, as analysis.RECORD reads them."""
        with path.open("wb") as file:
            file.write(self._view[: self.count * RECORD_BYTES])

    def close(self) -> None:
        self._epoll.close()
        for sock in [*(rtp for rtp, _ in self._sockets.values()), *self._held]:
            sock.close()


def udp_drops(path: Path = Path("/proc/net/udp")) -> list[tuple[int, int]]:
    """Local port and dropped datagrams of every UDP socket of the host."""
    found = []
    for line in path.read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        found.append((int(fields[1].rpartition(":")[2], 16), int(fields[-1])))
    return found
