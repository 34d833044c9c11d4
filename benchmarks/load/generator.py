"""Places the calls: a process of its own, so that its work does not mix with the server's or the analysis.

One loop: every TICK it reads what RTP has come (stamped by the kernel, so a late read costs nothing) and sends the
uplink frames that are due; between ticks it waits on the SIP socket alone.

Run as `python -m benchmarks.load.generator DIRECTORY`, with a plan in DIRECTORY/plan.json; it leaves records.bin
and calls.json there.
"""

from __future__ import annotations

import gc
import heapq
import json
import random
import resource
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.load import uac
from benchmarks.load.receiver import Receiver, enable_stamps, stamp_ns

TICK = 0.002
FRAME = 0.020
"Seconds: ptime of the uplink."
FRAME_SAMPLES = 160
LINGER = 0.3
"Seconds to go on receiving once the last call is over: packets then are the server's fault."
RTP_PORTS = range(24576, 32768, 2)
SILENCE = b"\xff" * FRAME_SAMPLES
"A frame of mu-law silence."
UPLINK_SSRC = 0x43480000


@dataclass(frozen=True, slots=True)
class Plan:
    """What to place. The window with all calls up is [start + ramp, start + ramp + seconds]."""

    server: tuple[str, int]
    rate: float
    "Calls arriving a second."
    seconds: float
    "Time with all calls up."
    texts: list[str]
    "One a call."
    start: float
    "Time of the first call on time.monotonic(), which all processes of the host share."
    token: str
    "Makes Call-IDs unique to the run."
    uplink: bool = True
    give_up: float = 8.0
    seed: int = 1

    @property
    def ramp(self) -> float:
        """Seconds over which the calls arrive, and over which they leave."""
        return len(self.texts) / self.rate

    @property
    def hold(self) -> float:
        """Seconds from a call's INVITE to its BYE, the same for all calls."""
        return self.ramp + self.seconds

    @property
    def end(self) -> float:
        """The latest time at which the run is over, whatever happens."""
        return self.start + self.ramp + self.hold + self.give_up + LINGER + 1.0

    @property
    def capacity(self) -> int:
        """Room for records: 50 packets a second and call, half as much again, and slack."""
        return int(len(self.texts) * (75 * (self.hold + 2.0))) + 1000

    def arrivals(self) -> list[float]:
        """When each call is placed: one in each slot of 1/rate, at random in it, so that the server's calls do not
        all share one phase of the 20 ms period.
        """
        rng = random.Random(self.seed)
        return [self.start + (i + rng.random()) / self.rate for i in range(len(self.texts))]

    @classmethod
    def read(cls, path: Path) -> Plan:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**fields, "server": tuple(fields["server"])})

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(slots=True)
class Stamps:
    """Times of one call in ns since the epoch; 0 for what did not happen."""

    invite: int = 0
    answer: int = 0
    "The 200 OK, stamped by the kernel."
    ack: int = 0
    bye: int = 0
    closed: int = 0
    "The response to BYE, or the server's own BYE, stamped by the kernel."


class Uplink:
    """The caller's own RTP: one frame of silence every 20 ms, as a real phone sends, on absolute deadlines."""

    def __init__(self) -> None:
        # All periods are equal, so a queue in order of arrival stays in order of deadline.
        self._queue: deque[tuple[float, int]] = deque()
        self._legs: dict[int, tuple[socket.socket, tuple[str, int], bytearray]] = {}
        self._sequence: dict[int, int] = {}
        self.sent = 0

    def add(self, call: int, sock: socket.socket, remote: tuple[str, int], now: float) -> None:
        header = struct.pack(">BBHII", 0x80, 0x80, 0, 0, UPLINK_SSRC + call)
        self._legs[call] = (sock, remote, bytearray(header + SILENCE))
        self._sequence[call] = 0
        self._queue.append((now + FRAME, call))

    def remove(self, call: int) -> None:
        self._legs.pop(call, None)

    def send(self, now: float) -> None:
        while self._queue and self._queue[0][0] <= now:
            due, call = self._queue.popleft()
            leg = self._legs.get(call)
            if leg is None:
                continue
            sock, remote, packet = leg
            sequence = self._sequence[call]
            struct.pack_into(">BHI", packet, 1, 0 if sequence else 0x80, sequence & 0xFFFF, sequence * FRAME_SAMPLES)
            self._sequence[call] = sequence + 1
            sock.sendto(packet, remote)
            self.sent += 1
            self._queue.append((due + FRAME, call))


class Generator:
    """All calls of one run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.receiver = Receiver(plan.capacity)
        self.uplink = Uplink()
        self.malformed = 0
        "SIP datagrams that could not be parsed, or belong to no call."
        self._sip = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sip.bind((plan.server[0], 0))
        self._sip.setblocking(False)
        self._sip.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        enable_stamps(self._sip)
        ports: Iterator[int] = iter(RTP_PORTS)
        self._rtp = [self.receiver.open(i, plan.server[0], ports) for i in range(len(plan.texts))]
        self.calls = [self._call(i) for i in range(len(plan.texts))]
        self.stamps = [Stamps() for _ in self.calls]
        self._by_id = {call.call_id: i for i, call in enumerate(self.calls)}
        self._agenda: list[tuple[float, int]] = []
        "When to look at which call again: its arrival, a timer, its end."
        self._hang_up = [0.0] * len(self.calls)
        self._open = len(self.calls)
        self.cpu_percent: float | None = None

    def _call(self, index: int) -> uac.Call:
        host, port = self.plan.server[0], self._sip.getsockname()[1]
        return uac.Call(
            call_id=f"{self.plan.token}{index}@{host}",
            text=self.plan.texts[index],
            local=(host, port),
            server=self.plan.server,
            rtp_port=self._rtp[index].getsockname()[1],
            give_up=self.plan.give_up,
        )

    def run(self) -> None:
        plan = self.plan
        for i, arrival in enumerate(plan.arrivals()):
            self._hang_up[i] = arrival + plan.hold
            heapq.heappush(self._agenda, (arrival, i))
        window = (plan.start + plan.ramp, plan.start + plan.ramp + plan.seconds)
        cpu: list[float] = []
        stop = plan.end
        now = time.monotonic()
        tick = max(now, plan.start)
        while now < stop:
            self._wait_for_sip(tick - now)
            now = time.monotonic()
            if now < tick:
                continue
            tick = max(tick + TICK, now)
            self.receiver.drain()
            self.uplink.send(now)
            self._look_at_due_calls(now)
            if len(cpu) < 2 and now >= window[len(cpu)]:
                cpu.append(time.process_time())
            if not self._open:
                stop = min(stop, now + LINGER)
                self._open = -1
        if len(cpu) == 2:
            self.cpu_percent = 100.0 * (cpu[1] - cpu[0]) / plan.seconds

    def _wait_for_sip(self, seconds: float) -> None:
        readable, _, _ = select.select([self._sip], [], [], max(0.0, seconds))
        if not readable:
            return
        try:
            datagram, ancillary, _, source = self._sip.recvmsg(65535, 64)
        except BlockingIOError:
            return
        if not datagram.strip():
            return  # keep-alive (RFC 5626 4.4.1)
        try:
            message = uac.parse(datagram)
        except ValueError:
            self.malformed += 1
            return
        index = self._by_id.get(message.header("call-id"))
        if index is None:
            self.malformed += 1
            return
        self._take(index, message, stamp_ns(ancillary), source)

    def _take(self, index: int, message: uac.Message, stamp: int, source: tuple[str, int]) -> None:
        call, stamps = self.calls[index], self.stamps[index]
        before = call.state
        now = time.monotonic()
        replies = call.on_message(message, now)
        # A request of the server's is answered to where it came from (RFC 3581).
        target = call.server if message.status else source
        if call.state is uac.State.ESTABLISHED and before is uac.State.INVITING:
            stamps.answer = stamp
            stamps.ack = time.time_ns()
            self._send(replies, target)
            if self.plan.uplink and call.remote_media is not None:
                self.uplink.add(index, self._rtp[index], call.remote_media, now)
            heapq.heappush(self._agenda, (self._hang_up[index], index))
            return
        self._send(replies, target)
        self._note_end(index, before, stamp)

    def _look_at_due_calls(self, now: float) -> None:
        while self._agenda and self._agenda[0][0] <= now:
            _, index = heapq.heappop(self._agenda)
            call, stamps = self.calls[index], self.stamps[index]
            before = call.state
            if before is uac.State.IDLE:
                request = call.invite(now)
                stamps.invite = time.time_ns()
            elif before is uac.State.ESTABLISHED and now >= self._hang_up[index]:
                self.uplink.remove(index)
                request = call.hang_up(now)
                stamps.bye = time.time_ns()
            else:
                request = call.on_timer(now)
            self._send(request, call.server)
            self._note_end(index, before, time.time_ns())
            if call.due is not None:
                heapq.heappush(self._agenda, (call.due, index))

    def _note_end(self, index: int, before: uac.State, stamp: int) -> None:
        over = (uac.State.DONE, uac.State.FAILED)
        if self.calls[index].state in over and before not in over:
            self.stamps[index].closed = stamp
            self.uplink.remove(index)
            self._open -= 1

    def _send(self, datagrams: list[bytes], target: tuple[str, int]) -> None:
        for datagram in datagrams:
            self._sip.sendto(datagram, target)

    def save(self, directory: Path) -> None:
        self.receiver.save(directory / "records.bin")
        report = {
            "calls": [
                {
                    "state": call.state.value,
                    "failure": call.failure,
                    "retransmissions": call.retransmissions,
                    **asdict(stamps),
                }
                for call, stamps in zip(self.calls, self.stamps, strict=True)
            ],
            "generator": {
                "cpu_percent": self.cpu_percent,
                "kernel_drops": self.receiver.kernel_drops(),
                "overflowed": self.receiver.overflowed,
                "sip_malformed": self.malformed,
                "uplink_sent": self.uplink.sent,
            },
        }
        (directory / "calls.json").write_text(json.dumps(report), encoding="utf-8")

    def close(self) -> None:
        self.receiver.close()
        self._sip.close()


def main(directory: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    generator = Generator(Plan.read(directory / "plan.json"))
    gc.collect()
    gc.disable()
    try:
        generator.run()
        generator.save(directory)
    finally:
        generator.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
