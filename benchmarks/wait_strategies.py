"""How a media thread should wait for its next deadline: thread or event loop, and which timer.

    .venv/bin/python -m benchmarks.wait_strategies
    .venv/bin/python -m benchmarks.wait_strategies --seconds 20 --json

Each way waits for the same absolute deadlines, 1 ms apart, beside an event loop that is as busy as one serving calls.
Lateness is that of the wake-up, in Python, with the interpreter lock held; CPU is that of the whole process, less what
the event loop alone takes.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import math
import os
import select
import struct
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import uvloop

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json

INTERVAL = 0.001
LOOP_EVENTS = 200
"A second in the event loop beside the waits, of 0.1 ms each: 2 % of a core."
SWITCH_INTERVAL_S = 0.0001  # the server's
CLOCK_MONOTONIC, TIMER_ABSTIME, TFD_CLOEXEC = 1, 1, 0o2000000
SPIN_S = 0.0001

_libc = ctypes.CDLL(None, use_errno=True)  # gives up the interpreter lock, as a wait must
_TIMESPEC = struct.Struct("=qq")
_ITIMERSPEC = struct.Struct("=qqqq")

Wait = Callable[[float], None]
"Returns at, or a little after, a time of time.monotonic()."


def _timespec(deadline: float) -> bytes:
    seconds = int(deadline)
    return _TIMESPEC.pack(seconds, int((deadline - seconds) * 1e9))


def lock_timeout() -> Wait:
    """A lock that nobody releases, acquired with a timeout (sem_clockwait(3)); a new leg could cut it short."""
    lock = threading.Lock()
    lock.acquire()

    def wait(deadline: float) -> None:
        left = deadline - time.monotonic()
        if left > 0:
            lock.acquire(timeout=left)

    return wait


def relative_sleep() -> Wait:
    def wait(deadline: float) -> None:
        left = deadline - time.monotonic()
        if left > 0:
            time.sleep(left)

    return wait


def clock_nanosleep() -> Wait:
    """Sleep to an absolute time, through ctypes."""

    def wait(deadline: float) -> None:
        _libc.clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, _timespec(deadline), None)

    return wait


def timerfd() -> Wait:
    """timerfd_create(2), set to each deadline and read."""
    descriptor = _libc.timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)

    def wait(deadline: float) -> None:
        seconds = int(deadline)
        value = _ITIMERSPEC.pack(0, 0, seconds, int((deadline - seconds) * 1e9))
        _libc.timerfd_settime(descriptor, TIMER_ABSTIME, value, None)
        os.read(descriptor, 8)

    return wait


def epoll() -> Wait:
    """epoll_wait(2), whose timeout is in whole milliseconds."""
    poller = select.epoll()

    def wait(deadline: float) -> None:
        left = deadline - time.monotonic()
        if left > 0:
            poller.poll(left)

    return wait


def lock_then_spin() -> Wait:
    """The lock until just before the deadline, then looking at the clock."""
    wait_for = lock_timeout()

    def wait(deadline: float) -> None:
        wait_for(deadline - SPIN_S)
        while time.monotonic() < deadline:
            pass

    return wait


THREADS: dict[str, Callable[[], Wait]] = {
    "lock with timeout": lock_timeout,
    "time.sleep": relative_sleep,
    "clock_nanosleep": clock_nanosleep,
    "timerfd": timerfd,
    "epoll": epoll,
    "lock, then spin 0.1 ms": lock_then_spin,
}


async def _be_busy(stop: threading.Event) -> None:
    """What an event loop that serves calls does meanwhile."""
    while not stop.is_set():
        end = time.perf_counter() + 0.0001
        while time.perf_counter() < end:
            pass
        await asyncio.sleep(1 / LOOP_EVENTS)


def _run_loop(stop: threading.Event) -> None:
    uvloop.run(_be_busy(stop))


def _measure(seconds: float, work: Callable[[float, list[float]], None]) -> dict[str, float]:
    """work(end, late) waits until `end`, and notes how late it woke each time."""
    stop, late = threading.Event(), list[float]()
    loop = threading.Thread(target=_run_loop, args=(stop,))
    loop.start()
    before = time.process_time()
    worker = threading.Thread(target=work, args=(time.monotonic() + seconds, late))
    worker.start()
    worker.join()
    cpu = time.process_time() - before
    stop.set()
    loop.join()
    return _figures(late, cpu / seconds)


def _figures(late: list[float], cpu: float) -> dict[str, float]:
    ordered = sorted(late)

    def quantile(share: float) -> float:
        return round(1e3 * ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3) if ordered else math.nan

    return {
        "wakes": len(late),
        "p50_ms": quantile(0.5),
        "p99_ms": quantile(0.99),
        "p999_ms": quantile(0.999),
        "max_ms": quantile(1.0),
        "cpu_percent": round(100 * cpu, 2),
    }


def in_thread(make: Callable[[], Wait], realtime: bool, seconds: float) -> dict[str, float]:
    """Waits of one kind in a thread of their own."""

    def work(end: float, late: list[float]) -> None:
        if realtime:
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_FIFO, os.sched_param(1))
        wait, start, number = make(), time.monotonic(), 0
        while (now := time.monotonic()) < end:
            number = max(number + 1, math.ceil((now - start) / INTERVAL))
            deadline = start + number * INTERVAL
            wait(deadline)
            late.append(time.monotonic() - deadline)

    return _measure(seconds, work)


def in_event_loop(seconds: float) -> dict[str, float]:
    """call_at() in the loop that does the other work: its timers are of whole milliseconds."""
    late: list[float] = []

    async def run() -> float:
        stop, loop = threading.Event(), asyncio.get_running_loop()
        busy = asyncio.ensure_future(_be_busy(stop))
        done = loop.create_future()
        start = time.monotonic()

        def woken(number: int) -> None:
            now = time.monotonic()
            late.append(now - start - number * INTERVAL)
            if now - start > seconds:
                done.set_result(None)
                return
            following = max(number + 1, math.ceil((now - start) / INTERVAL))
            loop.call_later(start + following * INTERVAL - time.monotonic(), woken, following)

        before = time.process_time()
        loop.call_later(INTERVAL, woken, 1)
        await done
        cpu = time.process_time() - before
        stop.set()
        await busy
        return cpu

    return _figures(late, uvloop.run(run()) / seconds)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="each way (default %(default)s)")
    parser.add_argument("--json", action="store_true", help=f"write a file to {RESULTS}")
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    alone = _measure(options.seconds, lambda end, late: time.sleep(end - time.monotonic()))["cpu_percent"]
    rows: list[dict[str, Any]] = []
    for realtime in (False, True):
        for name, make in THREADS.items():
            row = {"wait": name, "scheduling": "SCHED_FIFO" if realtime else "normal"}
            try:
                rows.append(row | in_thread(make, realtime, options.seconds))
            except PermissionError:
                continue
    rows.append({"wait": "uvloop call_later", "scheduling": "normal"} | in_event_loop(options.seconds))
    for row in rows:
        row["cpu_percent"] = round(row["cpu_percent"] - alone, 2)
    print(table([list(row.values()) for row in rows], list(rows[0])))
    if options.json:
        now = datetime.now(UTC)
        path = RESULTS / f"wait-strategies-{now:%Y%m%dT%H%M%SZ}.json"
        head = {"benchmark": "wait_strategies", "when": now.isoformat(), **commit(), "machine": machine()}
        write_json(path, {**head, "versions": versions(), "event_loop_alone_percent": alone, "ways": rows})
        print(f"\n{path}")


if __name__ == "__main__":
    main()
