"""What one RTP packet costs, and how late packets leave: the pacer over loopback, alone and beside busy Python threads.

    .venv/bin/python benchmarks/rtp_pacer.py
    .venv/bin/python benchmarks/rtp_pacer.py --legs 200 --seconds 10 --json

Lateness is taken of every packet, after its system call, against the absolute time at which it was due.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import socket
import sys
import threading
import time
from array import array
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json
from mediaserver.rtp.codec import PCMU
from mediaserver.rtp.latch import Latch, LatchPolicy
from mediaserver.rtp.pacer_thread import PacerThread
from mediaserver.rtp.packet import FIRST_OCTET, pack_header
from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.rtp.ports import PortAllocator
from mediaserver.rtp.sender import DatagramSender
from mediaserver.rtp.session import RtpSession, SendFormat

Send = Callable[[bytes, tuple[str, int]], object]

HOST = "127.0.0.1"
FRAME = bytes(range(160)) * 2
SETTLE_SECONDS = 0.5
"After the last leg was added; packets of that time are not counted."


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--legs", type=int, nargs="+", default=[50, 200, 1000], help="(default %(default)s)")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2], help="Python-busy threads (default %(default)s)")
    parser.add_argument(
        "--switch", type=float, nargs="+", default=[5.0, 0.5], help="switch intervals, ms (default %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="per row (default %(default)s)")
    parser.add_argument("--packets", type=int, default=20000, help="for the cost of one (default %(default)s)")
    parser.add_argument("--sendto", action="store_true", help="send with socket.sendto, which gives up the GIL")
    parser.add_argument("--json", action="store_true", help=f"write a file to {RESULTS}")
    return parser.parse_args()


def session_to(sink: tuple[str, int], send: Send, seconds: float) -> RtpSession:
    """A leg with that much speech to play."""
    frames = math.ceil(seconds * 50)
    playout = PlayoutBuffer(max_seconds=seconds + 1)
    playout.begin("benchmark")
    playout.write(FRAME * frames)
    return RtpSession(send, playout, SendFormat(PCMU, 0), Latch(LatchPolicy.HOST, sink))


def sender(sock: socket.socket, sendto: bool) -> Send:
    return sock.sendto if sendto else DatagramSender(sock).send


def cost(packets: int, sendto: bool) -> dict[str, float]:
    """Microseconds for one packet of 20 ms, by path, on this thread alone."""
    allocator = PortAllocator(HOST)
    with allocator.allocate() as sink, allocator.allocate() as source:
        address, send = sink.getsockname(), sender(source, sendto)
        seconds = packets / 50
        datagrams = [pack_header(FIRST_OCTET, 0, n & 0xFFFF, n * 160, 1) + FRAME[:160] for n in range(packets)]

        def per_packet(session: RtpSession) -> float:
            start = time.perf_counter()
            for n in range(packets):
                session.send_due(n * 20)
            return (time.perf_counter() - start) / packets * 1e6

        costs = {
            "send_due, speech": per_packet(session_to(address, send, seconds)),
            "send_due, speech, without the socket": per_packet(session_to(address, lambda *_: None, seconds)),
            "send_due, silence": per_packet(session_to(address, send, 0)),
        }
        session = session_to(address, send, 0)
        start = time.perf_counter()
        for n, datagram in enumerate(datagrams):
            session.receive(datagram, address, n * 0.02)
        costs["receive"] = (time.perf_counter() - start) / packets * 1e6
        return costs


class Timed:
    """A leg that notes how late each packet left."""

    interval_ms = 20

    def __init__(self, session: RtpSession, origin: float, lateness: array[float]) -> None:
        self.session = session
        self.send_due_of = session.send_due
        self.origin = origin
        self.lateness = lateness

    def send_due(self, due_ms: int) -> None:
        self.send_due_of(due_ms)
        self.lateness.append(time.monotonic() - self.origin - due_ms / 1000)


def pace(legs: int, busy: int, switch_ms: float, seconds: float, sendto: bool) -> dict[str, Any]:
    """Pace `legs` for a while; how late their packets left, in milliseconds."""
    allocator = PortAllocator(HOST)
    sink = allocator.allocate()
    sockets = [allocator.allocate() for _ in range(legs)]
    pacer = PacerThread()
    lateness: array[float] = array("d")
    origin = pacer._pacer._origin
    paced = [
        Timed(session_to(sink.getsockname(), sender(sock, sendto), seconds + 2 * SETTLE_SECONDS), origin, lateness)
        for sock in sockets
    ]
    gc.collect()
    gc.freeze()
    done = threading.Event()

    def spin() -> None:
        while not done.is_set():
            sum(range(100))

    spinners = [threading.Thread(target=spin, daemon=True) for _ in range(busy)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(switch_ms / 1000)
    try:
        pacer.start()
        for leg in paced:
            pacer.add(leg)
        for spinner in spinners:
            spinner.start()
        time.sleep(SETTLE_SECONDS)
        first, cpu, skipped = len(lateness), time.process_time(), pacer.metrics.skipped_intervals
        time.sleep(seconds)
        last, cpu = len(lateness), time.process_time() - cpu
        skipped = pacer.metrics.skipped_intervals - skipped
        pacer.stop()
    finally:
        done.set()
        sys.setswitchinterval(before)
        for spinner in spinners:
            spinner.join()
        for sock in (sink, *sockets):
            sock.close()
        gc.unfreeze()
    late = sorted(lateness[first:last])
    return {
        "legs": legs,
        "busy_threads": busy,
        "switch_ms": switch_ms,
        "packets": len(late),
        "p50_ms": percentile(late, 0.50) * 1e3,
        "p99_ms": percentile(late, 0.99) * 1e3,
        "max_ms": percentile(late, 1.0) * 1e3,
        "skipped": skipped,
        "send_errors": sum(leg.session.sent.errors for leg in paced),
        # Of one core; of busy threads it would say nothing.
        "cpu_percent": 100 * cpu / seconds if not busy else None,
    }


def percentile(ordered: list[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def main() -> None:
    options = arguments()
    costs = cost(options.packets, options.sendto)
    print(table([(name, value) for name, value in costs.items()], ("one packet of 20 ms", "us")), end="\n\n")
    rows = [
        pace(legs, busy, switch_ms, options.seconds, options.sendto)
        for busy in options.busy
        for switch_ms in options.switch
        for legs in options.legs
    ]
    print(table([list(row.values()) for row in rows], list(rows[0])))
    if options.json:
        now = datetime.now(UTC)
        path = RESULTS / f"rtp_pacer-{now:%Y%m%dT%H%M%SZ}.json"
        load = os.getloadavg()[0]
        written = {"when": now.isoformat(), **commit(), "machine": machine(), "versions": versions()}
        write_json(path, {**written, "load_average": load, "sendto": options.sendto, "cost_us": costs, "pacing": rows})
        print(f"\n{path}")


if __name__ == "__main__":
    main()
