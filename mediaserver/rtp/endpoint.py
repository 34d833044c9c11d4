"""One leg's UDP sockets, for RTP and for RTCP: read and written by the media thread, past any event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import TypeVar

from mediaserver.rtp.latch import Address
from mediaserver.rtp.reader import Datagram, DatagramReader, enable_stamps
from mediaserver.rtp.sender import DatagramSender

_Event = TypeVar("_Event")


class RtpEndpoint:
    """Owns bound UDP sockets.

    A read or send that is under way when the sockets are closed could meet a descriptor used anew. Therefore: first
    take the leg off the pacer, whose remove() waits for its tick, then close.
    """

    def __init__(self, sock: socket.socket, reader: DatagramReader, rtcp: socket.socket | None = None) -> None:
        """sock, rtcp: non-blocking and bound; the endpoint closes them. reader: that of the media thread."""
        self._sock = sock
        self._rtcp = rtcp
        self._reader = reader
        for each in filter(None, (sock, rtcp)):
            enable_stamps(each)
        self._descriptor = sock.fileno()
        self._rtcp_descriptor = rtcp.fileno() if rtcp is not None else -1
        self._sender = DatagramSender(sock)
        self._rtcp_sender = DatagramSender(rtcp) if rtcp is not None else None
        self.send = self._sender.send
        "Send from the RTP port without blocking. Raises OSError, also when the endpoint is closed."
        host, port = sock.getsockname()[:2]
        self.address: Address = (host, port)
        "Local address of RTP."
        self._dropped = [0, 0]  # RTP, RTCP

    @property
    def dropped(self) -> int:
        """Datagrams for which the kernel had no room in the sockets."""
        return sum(self._dropped)

    def read(self) -> list[Datagram]:
        """What has come to the RTP port: at most reader.SLOTS datagrams, and if it is so many, there may be more."""
        reader = self._reader
        datagrams = reader.read(self._descriptor)
        if reader.dropped:
            self._dropped[0], reader.dropped = reader.dropped, 0
        return datagrams

    def read_rtcp(self) -> list[Datagram]:
        """What has come to the RTCP port."""
        if self._rtcp_descriptor < 0:
            return []
        reader = self._reader
        datagrams = reader.read(self._rtcp_descriptor)
        if reader.dropped:
            self._dropped[1], reader.dropped = reader.dropped, 0
        return datagrams

    def synchronise(self) -> None:
        """Follow the wall clock, which arrivals are stamped by."""
        self._reader.synchronise()

    def send_rtcp(self, datagram: bytes, address: Address) -> None:
        """Send from the RTCP port, or from that of RTP if there is none; what cannot be sent is lost."""
        with contextlib.suppress(OSError):
            (self._rtcp_sender or self._sender).send(datagram, address)

    def send_quietly(self, datagram: bytes, address: Address) -> None:
        """Send from the RTP port; what cannot be sent is lost."""
        with contextlib.suppress(OSError):
            self.send(datagram, address)

    def close(self) -> None:
        """Free the ports. After the leg has left the pacer. Idempotent."""
        self._descriptor = self._rtcp_descriptor = -1
        self._sender.close()
        self._sock.close()
        if self._rtcp is not None and self._rtcp_sender is not None:
            self._rtcp_sender.close()
            self._rtcp.close()


def deliver_to(loop: asyncio.AbstractEventLoop, handler: Callable[[_Event], None]) -> Callable[[_Event], None]:
    """What the media thread reports, given to `handler` in the event loop, in order; nothing once that is closed."""

    def deliver(event: _Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(handler, event)

    return deliver
