"""What one RTP packet costs, and how late packets leave: the media thread over loopback, alone and beside busy threads.

    .venv/bin/python benchmarks/rtp_pacer.py
    .venv/bin/python benchmarks/rtp_pacer.py --legs 200 --seconds 10 --json

Legs are paired, each sends to the other: audio goes both ways. Lateness is taken of every packet, after its system
call, against the absolute time at which it was due.
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
from datetime import UTC, datetime
from typing import Any

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json
from mediaserver.rtp.codec import PCMU
from mediaserver.rtp.endpoint import RtpEndpoint
from mediaserver.rtp.pacer_thread import PacerThread
from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.rtp.ports import PortAllocator
from mediaserver.rtp.reader import DatagramReader
from mediaserver.rtp.receive_stream import ReceiveFormat
from mediaserver.rtp.send_stream import SendFormat
from mediaserver.rtp.session import RtpSession, RtpSettings

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
    parser.add_argument("--json", action="store_true", help=f"write a file to {RESULTS}")
    return parser.parse_args()


class Mute(RtpEndpoint):
    """Sends nothing."""

    def __init__(self, sock: socket.socket, reader: DatagramReader) -> None:
        super().__init__(sock, reader)
        self.send = lambda _datagram, _address: None


def pair(
    allocator: PortAllocator, reader: DatagramReader, seconds: float, kind: type[RtpEndpoint] = RtpEndpoint
) -> list[RtpSession]:
    """Two legs that send to each other, with that much speech to play."""
    endpoints = [kind(allocator.allocate(), reader) for _ in range(2)]
    sessions = []
    for here, there in zip(endpoints, reversed(endpoints), strict=True):
        playout = PlayoutBuffer(max_seconds=seconds + 1)
        playout.begin("benchmark")
        playout.write(FRAME * math.ceil(seconds * 50))
        session = RtpSession(here, playout, SendFormat(PCMU, 0), ReceiveFormat(PCMU, 0), RtpSettings())
        session.set_remote(there.address)
        sessions.append(session)
    return sessions


def cost(packets: int) -> dict[str, float]:
    """Microseconds for one tick of 20 ms of one leg, by path, on this thread alone."""
    allocator, reader = PortAllocator(HOST), DatagramReader(socket.AF_INET)
    start_ms = int(time.monotonic() * 1000)
    seconds = packets / 50

    def per_tick(sessions: list[RtpSession]) -> float:
        ticks = [session.tick for session in sessions]
        start = time.perf_counter()
        for n in range(packets):
            for tick in ticks:
                tick(start_ms + n * 20)
        return (time.perf_counter() - start) / packets / len(ticks) * 1e6

    def unheard(_pcm: bytes, _at_ms: int) -> None:
        pass

    listening = pair(allocator, reader, seconds)
    for session in listening:
        session.inbound.listen(unheard)
    return {
        "speech out, audio in": per_tick(pair(allocator, reader, seconds)),
        "silence out, silence in": per_tick(pair(allocator, reader, 0)),
        "speech out, audio in and listened to": per_tick(listening),
        "speech into nothing, none in": per_tick(pair(allocator, reader, seconds, Mute)),
    }


class Timed:
    """A leg that notes how late each packet left."""

    interval_ms = 20

    def __init__(self, session: RtpSession, lateness: array[float]) -> None:
        self.session = session
        self.tick_of = session.tick
        self.lateness = lateness

    def tick(self, due_ms: int) -> None:
        self.tick_of(due_ms)
        self.lateness.append(time.monotonic() - due_ms / 1000)


def pace(legs: int, busy: int, switch_ms: float, seconds: float) -> dict[str, Any]:
    """Pace `legs` for a while; how late their packets left, in milliseconds."""
    allocator = PortAllocator(HOST)
    reader = DatagramReader(socket.AF_INET)
    pacer = PacerThread()
    lateness: array[float] = array("d")
    pairs = (pair(allocator, reader, seconds + 2 * SETTLE_SECONDS) for _ in range((legs + 1) // 2))
    paced = [Timed(session, lateness) for sessions in pairs for session in sessions][:legs]
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
        for leg in paced:
            leg.session._endpoint.close()
        gc.unfreeze()
    late = sorted(lateness[first:last])
    return {
        "legs": legs,
        "busy_threads": busy,
        "switch_ms": switch_ms,
        "packets": len(late),
        "p50_ms": percentile(late, 0.50) * 1e3,
        "p99_ms": percentile(late, 0.99) * 1e3,
        "p999_ms": percentile(late, 0.999) * 1e3,
        "max_ms": percentile(late, 1.0) * 1e3,
        "skipped": skipped,
        "send_errors": sum(leg.session.sending.counters.errors for leg in paced),
        # Of one core; of busy threads it would say nothing.
        "cpu_percent": 100 * cpu / seconds if not busy else None,
    }


def percentile(ordered: list[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def main() -> None:
    options = arguments()
    costs = cost(options.packets)
    print(table([(name, value) for name, value in costs.items()], ("one tick of one leg", "us")), end="\n\n")
    rows = [
        pace(legs, busy, switch_ms, options.seconds)
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
        write_json(path, {**written, "load_average": load, "cost_us": costs, "pacing": rows})
        print(f"\n{path}")


if __name__ == "__main__":
    main()
