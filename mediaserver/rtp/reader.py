"""Reading all that lies in a socket with one system call, stamped by the kernel on its arrival.

recvmmsg(2) is called through ctypes.PyDLL, which keeps the interpreter lock (see sender.py), with MSG_DONTWAIT, which
never blocks. One arena serves all sockets of a thread.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from collections.abc import Callable

from mediaserver.rtp.latch import Address

SLOTS = 32
"Datagrams read by one call."
SLOT_BYTES = 2048
"A longer datagram is cut off here: no packet of telephone audio comes near."

_SO_TIMESTAMPNS, _SO_RXQ_OVFL = 35, 40  # Linux, asm-generic/socket.h; the socket module has no names for them
_NAME_BYTES = 32  # struct sockaddr_in6 takes 28
_CONTROL_BYTES = 64
_SLIP_BYTES = _NAME_BYTES + _CONTROL_BYTES
_STAMP_ONLY = 32  # CMSG_SPACE of a timespec
_HEADER_BYTES, _WORDS = 64, 16  # of struct mmsghdr, on 64-bit machines
_CONTROL_LENGTH, _LENGTH = 10, 14  # words within it
_LOOKS, _PROMPT = 3, 50e-6  # seconds; between two readings of clocks another thread may have run
_IOVEC = struct.Struct("=QQ")
_MMSGHDR = struct.Struct("=QIxxxxQQQQIIIxxxx")
# A slip is the source's struct sockaddr_in or sockaddr_in6 (there with a flow label, which the kernel leaves 0 on
# receipt), and the control messages.
_SLIP_IPV4 = struct.Struct("=2x6s24x16xqq")
_SLIP_IPV6 = struct.Struct("=2x22s8x16xqq")
_IPV4_SOURCE = 6  # bytes
_DROPS = struct.Struct("=32x48xI")

_MSG_DONTWAIT = int(socket.MSG_DONTWAIT)

_recvmmsg = ctypes.PyDLL(None, use_errno=True).recvmmsg
_recvmmsg.restype = ctypes.c_int
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)

Datagram = tuple[bytes, bytes, float]
"(content, its source as unpack_source() reads it, arrival in monotonic seconds)"


def enable_stamps(sock: socket.socket) -> None:
    """Have the kernel stamp what comes, and count what it has no room for."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)


class DatagramReader:
    """Reads sockets of one address family, for one thread."""

    def __init__(self, family: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.dropped = 0
        """Of the socket just read: for how many datagrams it has had no room since it was opened, where the kernel said
        so; set back by who takes note of it."""
        self._clock = clock
        self._unpack_slip = (_SLIP_IPV4 if family == socket.AF_INET else _SLIP_IPV6).unpack_from
        self._buffer = bytearray(SLOTS * SLOT_BYTES)
        self._slips = bytearray(SLOTS * _SLIP_BYTES)
        self._iovecs = bytearray(SLOTS * _IOVEC.size)
        self._headers = bytearray(SLOTS * _HEADER_BYTES)
        self._words = memoryview(self._headers).cast("I")
        self._address = _address(self._headers)
        self._lay_out()
        self.synchronise()

    def synchronise(self) -> None:
        """Look how far the wall clock, which stamps are of, is from the monotonic one."""
        for _ in range(_LOOKS):
            before = self._clock()
            self._offset = time.time() - before
            if self._clock() - before < _PROMPT:
                return
        # Interrupted each time: as near as it could be told, until the next look.

    def read(self, descriptor: int) -> list[Datagram]:
        """What has come, SLOTS datagrams at most, oldest first; more may lie there if it is so many."""
        count = _recvmmsg(descriptor, self._address, SLOTS, _MSG_DONTWAIT, None)
        if count <= 0:
            return []
        words, buffer, slips, unpack, offset = self._words, self._buffer, self._slips, self._unpack_slip, self._offset
        datagrams = []
        for slot in range(count):
            start = slot * SLOT_BYTES
            word = slot * _WORDS
            source, seconds, nanoseconds = unpack(slips, slot * _SLIP_BYTES)
            arrival = seconds - offset + nanoseconds * 1e-9
            if words[word + _CONTROL_LENGTH] != _STAMP_ONLY:
                arrival = self._odd_arrival(slot, words[word + _CONTROL_LENGTH], arrival)
            words[word + _CONTROL_LENGTH] = _CONTROL_BYTES  # the kernel writes what it has used
            datagrams.append((bytes(buffer[start : start + words[word + _LENGTH]]), source, arrival))
        return datagrams

    def _odd_arrival(self, slot: int, control_length: int, arrival: float) -> float:
        """Of a datagram that came before stamps were on, or after some were dropped."""
        if control_length < _STAMP_ONLY:
            return self._clock()
        (self.dropped,) = _DROPS.unpack_from(self._slips, slot * _SLIP_BYTES)
        return arrival

    def _lay_out(self) -> None:
        """Point each message header at its parts of the arena."""
        buffer, slips, iovecs = map(_address, (self._buffer, self._slips, self._iovecs))
        for slot in range(SLOTS):
            _IOVEC.pack_into(self._iovecs, slot * _IOVEC.size, buffer + slot * SLOT_BYTES, SLOT_BYTES)
            _MMSGHDR.pack_into(
                self._headers,
                slot * _HEADER_BYTES,
                slips + slot * _SLIP_BYTES,
                _NAME_BYTES,
                iovecs + slot * _IOVEC.size,
                1,
                slips + slot * _SLIP_BYTES + _NAME_BYTES,
                _CONTROL_BYTES,
                0,
                0,
                0,
            )


def _address(buffer: bytearray) -> int:
    """Where it lies in memory. An array that C points into must never be resized: it is not."""
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))


def unpack_source(source: bytes) -> Address:
    """IP address and port of a datagram's source."""
    port = int.from_bytes(source[:2], "big")
    if len(source) == _IPV4_SOURCE:
        return socket.inet_ntop(socket.AF_INET, source[2:]), port
    return socket.inet_ntop(socket.AF_INET6, source[6:]), port


def pack_source(address: Address) -> bytes:
    """What unpack_source() reads. Raises OSError if the host is no numeric IP address."""
    host, port = address
    if ":" in host:
        return port.to_bytes(2, "big") + bytes(4) + socket.inet_pton(socket.AF_INET6, host)
    return port.to_bytes(2, "big") + socket.inet_pton(socket.AF_INET, host)
