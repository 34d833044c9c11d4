"""The media thread: it runs the pacer, sleeps to each absolute deadline, and wakes for nothing else.

All RTP work of all legs is done here, received and sent in one go: one clock, no locks between the two, and one wake-up
a millisecond however many packets come, where an event loop would wake for nearly each of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
import time
from collections.abc import Callable

from mediaserver.rtp.pacer import PacedLeg, Pacer, PacerMetrics

_log = logging.getLogger(__name__)

LOAD_S = 1.0
"How long each measurement of the load is."

_REALTIME_PRIORITY = 1  # the lowest: above all that is not real-time
_NICE = -10
_PR_SET_NAME = 15  # prctl(2)


class PacerThread:
    """Paces legs from a thread of its own, by whole milliseconds of the monotonic clock.

    add and remove are for any other thread.

    The wait is a lock acquired with a timeout: as exact as clock_nanosleep (both end some 0.1 ms after the
    deadline on an idle machine), and a new leg can cut it short.
    """

    def __init__(self, on_failure: Callable[[PacedLeg, Exception], None] | None = None) -> None:
        """on_failure is called by the pacer's thread, with a leg that was taken off because sending raised."""
        self.load = 0.0
        """The share of the last second or so that the thread was at work, waits for the interpreter lock included. Near
        1 packets are late; as measured last, if there is no leg."""
        self._on_failure = on_failure
        self._pacer = Pacer(0.0, time.monotonic())
        self._awaken = threading.Lock()  # released to end the wait; held otherwise
        self._awaken.acquire()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="rtp-pacer", daemon=True)

    @property
    def metrics(self) -> PacerMetrics:
        return self._pacer.metrics

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def __len__(self) -> int:
        return len(self._pacer)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; after the return nothing is sent. Legs still there stay unsent. Idempotent."""
        self._stopping = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join()

    def add(self, leg: PacedLeg) -> None:
        """Begin to pace a leg: see Pacer.add."""
        self._pacer.add(leg, time.monotonic())
        self._wake()

    def remove(self, leg: PacedLeg) -> bool:
        """End to pace a leg: see Pacer.remove. Only after this may the leg's socket be closed."""
        return self._pacer.remove(leg)

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # released already: a wake-up is under way
            self._awaken.release()

    def _run(self) -> None:
        _name()
        _prioritise()
        advance, clock, awaken = self._pacer.advance, time.monotonic, self._awaken
        since, busy = clock(), 0.0
        while not self._stopping:
            start = clock()
            deadline, failed = advance(start)
            end = clock()
            busy += end - start
            if end - since >= LOAD_S:
                self.load = busy / (end - since)
                since, busy = end, 0.0
            for leg, error in failed:
                self._report(leg, error)
            if deadline is None:
                awaken.acquire()
            elif (wait := deadline - clock()) > 0:
                awaken.acquire(timeout=wait)

    def _report(self, leg: PacedLeg, error: Exception) -> None:
        if self._on_failure is None:
            _log.error("RTP leg taken off the pacer: sending raised", exc_info=error)
            return
        try:
            self._on_failure(leg, error)
        except Exception:  # noqa: BLE001 - the pacer must outlive its observers
            _log.exception("pacer's failure callback raised")


def _name() -> None:
    """What top(1) and py-spy call the thread; threading names it so by itself from Python 3.14 on."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"rtp-media", 0, 0, 0)


def _prioritise() -> None:
    """Go before all that computes, as far as the process may (sched(7)): it is a millisecond's work, and due.

    Real-time scheduling takes CAP_SYS_NICE or RLIMIT_RTPRIO, negative niceness the former; neither is needed.
    """
    thread = threading.get_native_id()
    try:
        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(_REALTIME_PRIORITY))
        _log.info("RTP pacer runs with real-time scheduling")
    except OSError:
        _log.info("RTP pacer runs without real-time scheduling: not permitted (RLIMIT_RTPRIO)")
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, _NICE)
