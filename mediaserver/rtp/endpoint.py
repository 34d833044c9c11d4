"""One leg's UDP socket: received from by the event loop, sent to by the pacer's thread."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Callable

from mediaserver.rtp.latch import Address
from mediaserver.rtp.playout import PlayoutEvent
from mediaserver.rtp.sender import DatagramSender

Receive = Callable[[bytes, Address, float], None]
"(datagram, its source, arrival in monotonic seconds)"


class RtpEndpoint:
    """Owns a bound UDP socket, under asyncio as under uvloop.

    The pacer's thread sends on the descriptor itself, past the transport, whose queue is the event loop's own. asyncio
    and uvloop both close the socket one iteration of the loop after the transport's close(). A send that is under
    way then could meet a descriptor used anew. Therefore: first take the leg off the pacer, whose remove() waits
    for that send, then close.
    """

    def __init__(self, sock: socket.socket) -> None:
        """sock: non-blocking and bound; the endpoint closes it."""
        self._sock = sock
        self._sender = DatagramSender(sock)
        host, port = sock.getsockname()[:2]
        self.address: Address = (host, port)
        "Local address."
        self._transport: asyncio.DatagramTransport | None = None
        self._closed = False

    async def start(self, receive: Receive) -> None:
        """Begin to receive: receive() is called in the event loop for every datagram. Raises OSError if closed."""
        self._refuse_if_closed()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Receiver(receive), sock=self._sock)
        if self._closed:  # while we waited
            transport.close()
            self._refuse_if_closed()
        self._transport = transport

    def send(self, datagram: bytes, address: Address) -> None:
        """Send without blocking: for one thread, the pacer's. Raises OSError, also when the endpoint is closed."""
        if self._closed:
            self._refuse_if_closed()
        self._sender.send(datagram, address)

    def close(self) -> None:
        """Stop receiving and free the port. For the event loop, after the leg has left the pacer. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._transport is not None:
            self._transport.close()
        else:
            self._sock.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "RTP endpoint is closed")


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    def datagram_received(self, data: bytes, addr: tuple[str, int] | tuple[str, int, int, int]) -> None:
        # uvloop's loop.time() is coarse (1 ms, once an iteration): jitter needs the clock itself.
        self._receive(data, addr if len(addr) == 2 else addr[:2], time.monotonic())


def deliver_to(
    loop: asyncio.AbstractEventLoop, handler: Callable[[PlayoutEvent], None]
) -> Callable[[PlayoutEvent], None]:
    """A PlayoutBuffer's on_event that calls `handler` in the event loop, in order; nothing once that is closed."""

    def deliver(event: PlayoutEvent) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(handler, event)

    return deliver
