"""Many datagrams a system call: recvmmsg(2) and sendmmsg(2) through ctypes, with their structures in numpy arrays.

The structures are those of 64-bit Linux. A vector's arrays must outlive its calls; what they point to, too.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

MESSAGE = np.dtype(
    {
        "names": ["name", "namelen", "iov", "iovlen", "control", "controllen", "flags", "size"],
        "formats": ["<u8", "<u4", "<u8", "<u8", "<u8", "<u8", "<i4", "<u4"],
        "offsets": [0, 8, 16, 24, 32, 40, 48, 56],
        "itemsize": 64,
    }
)
"struct mmsghdr; size is msg_len."
VECTOR = np.dtype([("base", "<u8"), ("size", "<u8")])
"struct iovec"
ADDRESS = np.dtype([("family", "<u2"), ("port", ">u2"), ("host", ">u4"), ("zero", "u1", 8)])
"struct sockaddr_in"
STAMP = np.dtype([("size", "<u8"), ("level", "<i4"), ("kind", "<i4"), ("seconds", "<i8"), ("ns", "<i8")])
"struct cmsghdr with the struct timespec of SO_TIMESTAMPNS."

_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("@9I")
_DROPS = 8
"asm-generic/socket.h and linux/sock_diag.h: which Python does not name."

# PyDLL keeps the interpreter's lock: one thread calls, and nothing here blocks.
_libc = ctypes.PyDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_sendmmsg = _libc.sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


def address_of(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)


class Vector:
    """`length` messages of one buffer each, with their addresses and, for reception, room for a stamp."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.messages = np.zeros(length, MESSAGE)
        self.buffers = np.zeros(length, VECTOR)
        self.addresses = np.zeros(length, ADDRESS)
        self.stamps = np.zeros(length, STAMP)
        number = np.arange(length, dtype=np.uint64)
        self.messages["name"] = address_of(self.addresses) + number * ADDRESS.itemsize
        self.messages["namelen"] = ADDRESS.itemsize
        self.messages["iov"] = address_of(self.buffers) + number * VECTOR.itemsize
        self.messages["iovlen"] = 1
        self.messages["control"] = address_of(self.stamps) + number * STAMP.itemsize
        self._offsets = number
        self._messages = address_of(self.messages)

    def point_at(self, base: int, stride: int, size: int) -> None:
        """Buffer n is `size` bytes at base + n * stride."""
        self.buffers["base"] = base + self._offsets * stride
        self.buffers["size"] = size

    def receive(self, fd: int) -> int:
        """Take what lies in the socket, at most `length` datagrams; how many. May raise OSError."""
        self.messages["namelen"] = ADDRESS.itemsize
        self.messages["controllen"] = STAMP.itemsize
        count = int(_recvmmsg(fd, self._messages, self.length, socket.MSG_DONTWAIT, None))
        if count < 0:
            error = ctypes.get_errno()
            if error not in (errno.EAGAIN, errno.EINTR):
                raise OSError(error, "recvmmsg failed")
            return 0
        return count

    def send(self, fd: int, count: int) -> int:
        """Send the first `count` messages; how many were not accepted. One that is refused stops no other."""
        done = refused = 0
        while done < count:
            sent = int(_sendmmsg(fd, self._messages + done * MESSAGE.itemsize, count - done, socket.MSG_DONTWAIT))
            if sent <= 0:
                refused += 1
                sent = 1
            done += sent
        return refused


def enlarge_receive_buffer(sock: socket.socket, size: int) -> int:
    """Ask for `size` bytes, beyond net.core.rmem_max where permitted; what the kernel counts with now."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def drops(sock: socket.socket) -> int:
    """Datagrams that the kernel dropped because the socket was full (the count that SO_RXQ_OVFL tells, too)."""
    return int(_MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[_DROPS])
