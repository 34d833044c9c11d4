"""Sending a datagram without giving up Python's interpreter lock.

socket.sendto releases the lock around a system call of 2 to 3 us, and beside busy Python threads waits a whole switch
interval to have it back: for every packet. A pacer with ten packets due in a millisecond cannot afford that; so the
call is made through ctypes.PyDLL, which keeps the lock, and with MSG_DONTWAIT, which never blocks.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct

from mediaserver.rtp.latch import Address

_MSG_DONTWAIT = int(socket.MSG_DONTWAIT)

_sendto = ctypes.PyDLL(None, use_errno=True).sendto
_sendto.restype = ctypes.c_ssize_t
_sendto.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
)


class DatagramSender:
    """Sends from one bound UDP socket, which must stay open for as long as send() may be called."""

    def __init__(self, sock: socket.socket) -> None:
        self._descriptor = sock.fileno()
        self._family = sock.family
        self._address: Address | None = None
        self._sockaddr = b""

    def close(self) -> None:
        """The socket is about to be closed: its descriptor may soon be another's."""
        self._descriptor = -1

    def send(self, datagram: bytes, address: Address) -> None:
        """Send without blocking. Raises OSError: BlockingIOError if the socket's buffer is full.

        For one thread at a time: the packed form of the last address is kept.
        """
        if address != self._address:
            self._sockaddr = pack_sockaddr(self._family, address)
            self._address = address
        sockaddr = self._sockaddr
        sent = _sendto(self._descriptor, datagram, len(datagram), _MSG_DONTWAIT, sockaddr, len(sockaddr))
        if sent < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def pack_sockaddr(family: int, address: Address) -> bytes:
    """Linux's struct sockaddr_in or sockaddr_in6. Raises OSError if the address is none of that family."""
    host, port = address
    if not 0 < port < 65536:
        raise OSError(errno.EINVAL, f"{port} is no UDP port")
    try:
        packed = socket.inet_pton(family, host)
    except OSError as error:
        raise OSError(errno.EAFNOSUPPORT, f"{host!r} is no numeric address of the socket's family") from error
    if family == socket.AF_INET:
        return struct.pack("=H2s4s8x", family, port.to_bytes(2, "big"), packed)
    return struct.pack("=H2s4x16s4x", family, port.to_bytes(2, "big"), packed)
