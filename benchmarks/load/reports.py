"""The callers' RTCP over sockets: sends each call's reports when they are due, and takes the server's."""

from __future__ import annotations

import heapq
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.load import caller_rtcp
from benchmarks.load.analysis import CLOCK_RATE
from benchmarks.load.caller_rtcp import Block, Report
from benchmarks.load.quantiles import quantiles
from benchmarks.load.receiver import stamp_ns
from benchmarks.load.reduction import Reception
from benchmarks.load.uplink import SSRC, Sent

INTERVAL = 5.0
"Seconds between a call's reports, each time times 0.5 to 1.5 (RFC 3550 6.2)."
POLL = 0.02
NAME = "load{}@{}"

Address = tuple[str, int]


@dataclass(slots=True)
class _Caller:
    """One call's reporting."""

    remote: Address
    sock: socket.socket
    "To send from."
    expected: int = 0
    received: int = 0
    "Of the stream, at the last report."
    middle_ntp: int = 0
    "Of the last SR heard, and when it was, in seconds since the epoch."
    heard_at: float = 0.0
    sender_reports: int = 0
    blocks: int = 0
    byes: int = 0
    round_trip: float | None = None
    last_block: Block | None = None


class Reports:
    """All callers'. `sent` and `reception` tell of a call what it has sent and received."""

    def __init__(
        self,
        sock: socket.socket,
        host: str,
        seed: int,
        sent: Callable[[int, float], Sent | None],
        reception: Callable[[int], Reception | None],
    ) -> None:
        self._sock = sock
        self._host = host
        self._rng = random.Random(seed)
        self._sent = sent
        self._reception = reception
        self._callers: dict[int, _Caller] = {}
        self._by_source: dict[Address, int] = {}
        self._due: list[tuple[float, int]] = []
        self._left: set[int] = set()
        self._next_poll = 0.0
        self.sent = 0
        self.malformed = 0
        self.strangers = 0

    def add(self, call: int, remote: Address, now: float, sock: socket.socket | None = None) -> None:
        """The first report comes after half an interval. sock: to send from, where RTCP shares RTP's; it is not read
        here.
        """
        self._callers[call] = _Caller(remote, sock or self._sock)
        self._by_source[remote] = call
        heapq.heappush(self._due, (now + self._interval() / 2, call))

    def remove(self, call: int, now: float) -> None:
        """The last report, with BYE."""
        if call in self._callers and call not in self._left:
            self._report(call, now, bye=True)
            self._left.add(call)

    def tick(self, now: float) -> None:
        """Send what is due, take what has come."""
        while self._due and self._due[0][0] <= now:
            _, call = heapq.heappop(self._due)
            if call not in self._left:
                self._report(call, now)
                heapq.heappush(self._due, (now + self._interval(), call))
        if now >= self._next_poll:
            self._next_poll = now + POLL
            self.poll()

    def _interval(self) -> float:
        return INTERVAL * self._rng.uniform(0.5, 1.5)

    def _report(self, call: int, now: float, bye: bool = False) -> None:
        caller = self._callers[call]
        wall = time.time()
        state = self._sent(call, now)
        packets, timestamp = (state.packets, state.timestamp) if state else (0, 0)
        block = self._block(caller, self._reception(call), wall)
        name = NAME.format(call, self._host)
        datagram = caller_rtcp.compound(SSRC + call, wall, timestamp, packets, block, name, bye)
        try:
            caller.sock.sendto(datagram, caller.remote)
        except OSError:
            return  # the socket's buffer is full; the next report tells the same
        self.sent += 1

    def _block(self, caller: _Caller, reception: Reception | None, wall: float) -> Block | None:
        if reception is None:
            return None
        expected = reception.expected - caller.expected
        lost = max(0, expected - (reception.received - caller.received))
        caller.expected, caller.received = reception.expected, reception.received
        return Block(
            reception.ssrc,
            min(255, 256 * lost // expected) if expected > 0 else 0,
            reception.lost,
            reception.highest,
            int(reception.jitter),
            caller.middle_ntp,
            round((wall - caller.heard_at) * 65536) if caller.middle_ntp else 0,
        )

    def poll(self) -> None:
        """Take all that lies in the socket."""
        while True:
            try:
                datagram, ancillary, _, source = self._sock.recvmsg(2048, 64)
            except BlockingIOError:
                return
            self.take(datagram, stamp_ns(ancillary), source)

    def take(self, datagram: bytes, stamp: int, source: Address | None = None) -> None:
        """A datagram of the server's; without `source` what it reports on says whose it is."""
        try:
            report = caller_rtcp.parse(datagram)
        except ValueError:
            self.malformed += 1
            return
        call = self._by_source.get(source) if source else None
        if call is None:
            call = next((block.ssrc - SSRC for block in report.blocks), -1)
        caller = self._callers.get(call)
        if caller is None:
            self.strangers += 1
            return
        self._note(caller, call, report, stamp / 1e9)

    @staticmethod
    def _note(caller: _Caller, call: int, report: Report, wall: float) -> None:
        if report.sender:
            caller.sender_reports += 1
            caller.middle_ntp, caller.heard_at = report.middle_ntp, wall
        caller.byes += report.bye
        for block in report.blocks:
            if block.ssrc == SSRC + call:
                caller.blocks += 1
                caller.last_block = block
                caller.round_trip = caller_rtcp.round_trip(block, wall)

    def figures(self) -> dict[str, Any]:
        """What all callers sent and heard."""
        callers = list(self._callers.values())
        last = [caller.last_block for caller in callers if caller.last_block]
        return {
            "sent": self.sent,
            "calls_reported_to": sum(caller.blocks > 0 for caller in callers),
            "sender_reports": sum(caller.sender_reports for caller in callers),
            "report_blocks": sum(caller.blocks for caller in callers),
            "byes": sum(caller.byes for caller in callers),
            "malformed": self.malformed,
            "strangers": self.strangers,
            "round_trips": [c.round_trip for c in callers if c.round_trip is not None],
            "far_lost": sum(block.lost for block in last),
            "far_jitter": [block.jitter for block in last],
        }


def summary(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the figures of several processes, one."""
    lists = ("round_trips", "far_jitter")
    found: dict[str, Any] = {
        name: sum(share[name] for share in figures) for name in (figures[0] if figures else {}) if name not in lists
    }
    trips, jitter = ([value for share in figures for value in share[name]] for name in lists)
    found["round_trip_ms"] = _rounded(quantiles(trips, (50, 95), 1000.0))
    found["far_jitter_ms"] = _rounded(quantiles(jitter, (50, 95), 1000.0 / CLOCK_RATE))
    return found


def _rounded(found: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 3) for name, value in found.items()}
