"""A 2xx of ours, sent again until its ACK comes (RFC 3261 section 13.3.1.4)."""

from __future__ import annotations

from collections.abc import Callable

from sipmessage import Response

from .machine_runner import Clock, MachineRunner
from .stats import SipStats
from .timers import TimedMachine, TimerValues
from .transaction_layer import ServedRequest


class AckTimer(TimedMachine):
    """Retransmission at T1, doubling up to T2, for at most 64 x T1."""

    def __init__(
        self, timers: TimerValues, now: float, retransmit: Callable[[], None], missing: Callable[[], None]
    ) -> None:
        """missing: called when the ACK has not come in time; nothing more is sent then."""
        super().__init__()
        self._retransmit = retransmit
        self._missing = missing
        self._t2 = timers.t2
        self._interval = timers.t1
        self._start_timer("retransmit", now + timers.t1)
        self._start_timer("give up", now + timers.timeout)

    def _timer_fired(self, name: str, now: float) -> None:
        if name == "give up":
            self._stop_timers()
            self._missing()
            return
        self._interval = min(2 * self._interval, self._t2)
        self._start_timer("retransmit", now + self._interval)
        self._retransmit()


class AwaitedAck:
    """The ACK that one 2xx waits for."""

    def __init__(
        self,
        served: ServedRequest,
        response: Response,
        clock: Clock,
        timers: TimerValues,
        stats: SipStats,
        missing: Callable[[], None],
    ) -> None:
        self.cseq = served.request.cseq
        data = bytes(response)

        def retransmit() -> None:  # without us in it: who awaits an ACK is freed when it has come
            stats.accepted_retransmissions += 1
            served.transmit(data)

        self._timer = AckTimer(timers, clock.time(), retransmit, missing)
        self._runner = MachineRunner(self._timer, clock, lambda: None)

    def stop(self) -> None:
        """It has come, or nobody waits for it any more."""
        self._timer.clear_timers()
        self._runner.reschedule()
