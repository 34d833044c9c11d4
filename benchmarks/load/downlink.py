"""Receives the RTP of all calls on one socket, stamped by the kernel, many datagrams a system call.

Every call's SDP names the same port. Whose a packet is tells the port that it came from, which the server's answer
named: looked up afterwards for many packets at once (`settle`). The socket is never waited on, so the kernel has
nobody to wake in the server's time; a late read costs nothing, as stamps are taken on arrival.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import mmsg
from benchmarks.load.analysis import RECORD
from benchmarks.load.receiver import PACKET_BYTES, PACKET_OFFSET, enable_stamps

BATCH = 256
RECEIVE_BUFFER = 64 << 20
"1.6 s of 1,000 calls, as the kernel counts (768 bytes a small datagram)."
NOBODY = -1
"The call of a record that came from an unknown port, or is no RTP but RTCP (RFC 5761)."
_RTCP_TYPES = (192, 223)


def open_pair(host: str, ports: Iterable[int]) -> tuple[socket.socket, socket.socket]:
    """Bind the first free even port for RTP, and the odd one above it for RTCP (RFC 3550 11). OSError if none is."""
    for port in ports:
        with contextlib.ExitStack() as undo:
            rtp, rtcp = (undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
            try:
                rtp.bind((host, port))
                rtcp.bind((host, port + 1))
            except OSError:
                continue
            undo.pop_all()
        for sock in (rtp, rtcp):
            sock.setblocking(False)
            enable_stamps(sock)
        return rtp, rtcp
    raise OSError("no free RTP port for the load generator")


class Downlink:
    """Room for `capacity` records, filled by drain(). The socket is not closed here."""

    def __init__(self, sock: socket.socket, capacity: int) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self.receive_buffer = mmsg.enlarge_receive_buffer(sock, RECEIVE_BUFFER)
        self._vector = mmsg.Vector(BATCH)
        # Beyond the capacity, a place for what is read only to be thrown away.
        self._records: NDArray[np.void] = np.empty(capacity + BATCH, RECORD)
        self._records.view(np.uint8).fill(0xFF)  # now, so that no page is faulted in while calls are up
        self._first_packet = mmsg.address_of(self._records) + PACKET_OFFSET
        self._calls = np.full(1 << 16, NOBODY, np.int32)
        self._capacity = capacity
        self._settled = 0
        self.count = 0
        self.overflowed = 0
        "Datagrams read with no room left to keep them."
        self.strangers = 0
        "Datagrams from ports that no answer has named."

    def expect(self, port: int, call: int) -> None:
        """What comes from this port from now on is this call's."""
        self._calls[port] = call

    def drain(self) -> int:
        """Read all that has come; how many datagrams."""
        total = 0
        while True:
            count = self._read()
            total += count
            if count < BATCH:
                return total

    def _read(self) -> int:
        vector, begin = self._vector, self.count
        vector.point_at(self._first_packet + begin * RECORD.itemsize, RECORD.itemsize, PACKET_BYTES)
        count = vector.receive(self._fd)
        if not count:
            return 0
        records, messages, stamps = self._records[begin : begin + count], vector.messages[:count], vector.stamps[:count]
        records["stamp"] = stamps["seconds"] * 1_000_000_000 + stamps["ns"]
        records["call"] = vector.addresses["port"][:count]  # until settle()
        records["size"] = np.where(messages["flags"] & socket.MSG_TRUNC, -1, messages["size"].astype(np.int32))
        self.count = min(begin + count, self._capacity)
        self.overflowed += begin + count - self.count
        return count

    def settle(self) -> tuple[NDArray[np.void], list[tuple[int, bytes]]]:
        """Find whose the records are that came since the last time. Those of calls, and (stamp, datagram) of RTCP
        that shares the port.
        """
        fresh = self._records[self._settled : self.count]
        self._settled = self.count
        fresh["call"] = self._calls[fresh["call"]]
        shared = (fresh["mpt"] >= _RTCP_TYPES[0]) & (fresh["mpt"] <= _RTCP_TYPES[1]) & (fresh["call"] != NOBODY)
        reports: list[tuple[int, bytes]] = []
        if shared.any():
            reports = [(int(row["stamp"]), _packet(row)) for row in fresh[shared]]
            fresh["call"][shared] = NOBODY
        known = fresh["call"] != NOBODY
        if not known.all():
            self.strangers += int((~known).sum()) - len(reports)
            fresh = fresh[known]
        return fresh, reports

    def forget(self) -> None:
        """Make room: for a run whose records are reduced to figures as they come. After settle()."""
        self.count = self._settled = 0

    def kernel_drops(self) -> int:
        """Datagrams the kernel dropped because our socket was full: faults of the generator."""
        return mmsg.drops(self._sock)

    def save(self, path: Path) -> None:
        """Write the settled records, as analysis.RECORD reads them."""
        self._records[: self._settled].tofile(path)


def _packet(record: Any) -> bytes:
    return bytes(record.tobytes()[PACKET_OFFSET : PACKET_OFFSET + max(0, int(record["size"]))])
