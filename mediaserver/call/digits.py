"""The digits of one call: those that the caller presses, told once each, and those that we send."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from mediaserver.call.media import CallMedia
from mediaserver.config import DtmfConfig
from mediaserver.dtmf_info import DTMF_RELAY_TYPE, plan_dtmf_relay
from mediaserver.refusal import RefusedError
from mediaserver.rtp.dtmf import DtmfEvent, DtmfQueueFullError
from mediaserver.rtp.dtmf_gate import DigitGate
from sip.info_queue import InfoQueueFullError, OnResult

CANNOT_WAIT = 503
"Counted for an INFO that was never sent, because too many are unanswered."
MAX_WAITING = 64
"Digits that wait for the speech before them to end."
_DIGITS = re.compile(r"[0-9*#A-DwW]+")


def check_digits(digits: str) -> None:
    """Raises RefusedError for what cannot be sent. It does not repeat them: reasons are logged."""
    if len(digits) > MAX_WAITING:
        raise RefusedError(400, f"Digits Are More Than {MAX_WAITING}")
    if not _DIGITS.fullmatch(digits):
        raise RefusedError(400, "Digits Are Not All Of 0-9 * # A-D w W")


@dataclass(slots=True)
class DigitCounters:
    """Totals of one call."""

    received: int = 0
    repeated: int = 0
    "Presses that were told a second time, in another way."
    sent: int = 0
    failed: int = 0
    "INFOs with a digit that the peer did not take."


class CallDigits:
    """All methods belong to the event loop. Digits may be a PIN: they are in no log above debug."""

    def __init__(
        self,
        config: DtmfConfig,
        media: CallMedia,
        send_info: Callable[[bytes, str, OnResult], None],
        on_pressed: Callable[[str, str], None],
        on_sent: Callable[[int], None],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """send_info: as Session's. on_pressed is called with each digit that the caller presses, and how it came;
        on_sent with how many have been sent, when they have.
        """
        self.counters = DigitCounters()
        self._config = config
        self._media = media
        self._send_by_info = send_info
        self._on_pressed = on_pressed
        self._on_sent = on_sent
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._gate = DigitGate()
        self._waiting: deque[str] = deque()
        self._sending = False
        self._count = 0  # of those being sent
        self._timers: list[asyncio.TimerHandle] = []
        self._unanswered = 0  # INFOs of the batch that is being sent
        self._batch = 0

    # What the caller presses:

    def heard(self, event: DtmfEvent) -> None:
        """A report of a digit, from whichever of the three ways."""
        if not self._gate.admit(event, self._loop.time()):
            self.counters.repeated = self._gate.repeated
            return
        if event.kind == "ended":
            self._log.debug("digit_ended", digit=event.digit, milliseconds=event.duration_ms, source=event.source)
        if event.kind == "started" or event.source == "info":  # an INFO tells of a whole press
            self.counters.received += 1
            self._log.info("digit_received", source=event.source)
            self._on_pressed(event.digit, event.source)

    # What we send:

    @property
    def idle(self) -> bool:
        """Nothing is being sent, nor waits."""
        return not self._sending and not self._waiting

    def room_for(self, digits: str) -> bool:
        """Whether so many more may wait."""
        return sum(map(len, self._waiting)) + len(digits) <= MAX_WAITING

    def queue(self, digits: str) -> None:
        """Digits to be sent by the next send_waiting()."""
        self._waiting.append(digits)

    def send_waiting(self) -> None:
        """Send what waits, unless digits are being sent now."""
        if not self._waiting or self._sending:
            return
        digits = "".join(self._waiting)
        self._waiting.clear()
        self._sending = True
        self._count = len(digits)
        self.counters.sent += len(digits)
        method = self._media.digit_method
        self._log.info("digits_sent", count=len(digits), method=method)
        if method == "info":
            self._send_infos(digits)
            return
        try:
            self._media.send_digits(digits)
        except DtmfQueueFullError as error:
            self._log.warning("digits_refused", error=str(error))
            self.sent()

    def sent(self) -> None:
        """All that was being sent is, or what was cleared has left nothing."""
        if not self._sending or self._media.sending_digits:
            return
        self._sending = False
        self._on_sent(self._count)
        self.send_waiting()

    def clear(self) -> None:
        """Forget what waits, and what has not been begun."""
        self._waiting.clear()
        self._cancel()
        if self._sending:
            self._sending = False
            self._media.clear_digits()

    def close(self) -> None:
        """The call is over."""
        self._waiting.clear()
        self._cancel()
        self._on_pressed, self._on_sent = _unheard, _unsent

    def _cancel(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._unanswered = 0

    def _send_infos(self, digits: str) -> None:
        plan = plan_dtmf_relay(digits, duration_ms=self._config.duration_ms)
        self._batch += 1
        self._unanswered = len(plan)
        for info in plan:
            self._timers.append(self._loop.call_later(info.after_ms / 1000, self._send_info, info.body, self._batch))
        if not plan:  # pauses only
            self._loop.call_soon(self.sent)

    def _send_info(self, body: bytes, batch: int) -> None:
        answered = partial(self._answered, batch)
        try:
            self._send_by_info(body, DTMF_RELAY_TYPE, answered)
        except InfoQueueFullError:  # the peer is slow to answer
            answered(CANNOT_WAIT)

    def _answered(self, batch: int, code: int) -> None:
        """Of a batch that was cleared meanwhile, answers are still counted, and mean nothing more."""
        if code >= 300:
            self.counters.failed += 1
            self._log.warning("digit_refused", code=code)
        if batch == self._batch and self._unanswered:
            self._unanswered -= 1
            if not self._unanswered:
                self._timers.clear()
                self.sent()


def _unheard(_digit: str, _source: str) -> None:
    pass


def _unsent(_count: int) -> None:
    pass
