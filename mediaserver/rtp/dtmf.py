"""DTMF as named telephone events (RFC 4733): a sender and a receiver.

Both are state machines: they are given timestamps and times, and know neither sockets nor clocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

from mediaserver.rtp.dtmf_event import DIGITS, MAX_SEGMENT, PAUSES, DtmfEvent, EventPayload, check_digits

__all__ = ["DtmfEvent", "DtmfQueueFullError", "DtmfReceiver", "DtmfSender", "EventPacket"]

MAX_QUEUED = 64
END_PACKETS = 3  # section 2.5.1.4: the final packet, and two retransmissions of it
VOLUME = 10  # -10 dBm0

MIN_TIMEOUT_S = 0.1
INTERVALS_TO_TIMEOUT = 3
MAX_INTERVAL_S = 0.2  # between updates of one event; what was longer was loss, and does not lengthen the timeout
MAX_DIGITS_A_SECOND = 20
MAX_BURST = 64
LATE_S = 5.0
LATE_UNITS = 2 * MAX_SEGMENT  # a late packet may be of the segment before, or of a long event's last one


class EventPacket(NamedTuple):
    """What an RTP packet of an event is to have."""

    payload: bytes
    marker: bool
    timestamp: int
    "The event's, not the tick's."


class DtmfQueueFullError(Exception):
    """More digits would be queued than the bound; none of the refused ones was taken."""


class _Queued(NamedTuple):
    symbol: str
    duration_ms: int
    gap_ms: int
    generation: int


def _nothing() -> None:
    pass


class DtmfSender:
    """Digits of one leg as event packets, one a tick at most.

    send and clear belong to the event loop; next to the media thread. They share a deque, whose ends are atomic, and
    attributes that one of them writes; no lock is held by either.
    """

    __slots__ = (
        "_current",
        "_duration",
        "_ends",
        "_final",
        "_generation",
        "_pause",
        "_queue",
        "_quiet_until",
        "_segments",
        "_start",
        "active",
        "on_done",
    )

    def __init__(self, on_done: Callable[[], None] = _nothing) -> None:
        """on_done is called by the media thread when nothing is left: all has been sent, or was cleared."""
        self.on_done = on_done
        self.active = False
        "Something is queued, under way, or within its gap: only then need next() be called."
        self._queue: deque[_Queued] = deque()
        self._generation = 0  # counts the clears; written by the event loop
        # Of the media thread:
        self._current: _Queued | None = None
        self._start = 0  # timestamp of the event, or of its latest segment
        self._duration = 0  # of the whole event, in timestamp units
        self._segments = 0  # units of the event in the segments that are over
        self._final = b""
        self._ends = 0  # end packets still to be sent
        self._quiet_until: int | None = None
        self._pause: _Queued | None = None

    def send(self, digits: str, *, duration_ms: int = 100, gap_ms: int = 50) -> None:
        """Queue digits (0-9, *, #, A-D) and pauses (w: 0.5 s, W: 1 s) behind those queued.

        Raises ValueError for anything else, and DtmfQueueFullError; then none of them is sent.
        """
        check_digits(digits, duration_ms, gap_ms)
        if len(self._queue) + len(digits) > MAX_QUEUED:
            raise DtmfQueueFullError(f"no room for {len(digits)} digits: the bound is {MAX_QUEUED}")
        self._queue.extend([_Queued(symbol, duration_ms, gap_ms, self._generation) for symbol in digits])
        self.active = True

    def clear(self) -> None:
        """Forget what is queued. A digit under way ends at once, with its end packets."""
        self._generation += 1
        self._queue.clear()

    def next(self, due_ms: int, timestamp: int, ptime_ms: int, clock_rate: int) -> EventPacket | None:
        """The packet of this tick; None if none is due.

        timestamp: RTP timestamp at which the tick's packet begins. All packets of an event have that of its first.
        """
        if self._ends:
            return self._end_again()
        item = self._current
        first = item is None
        if item is None:
            item = self._take(due_ms)
            if item is None:
                return None
            self._current = item
            self._start = timestamp
            self._segments = 0
            self._duration = item.duration_ms * clock_rate // 1000
        return self._update(item, due_ms, timestamp, ptime_ms, clock_rate, marker=first)

    def _take(self, due_ms: int) -> _Queued | None:
        """The next digit, if it is its time."""
        if self._quiet_until is not None:
            cleared = self._pause is not None and self._pause.generation != self._generation
            if due_ms < self._quiet_until and not cleared:
                return None
            self._quiet_until = self._pause = None
        try:
            item = self._queue.popleft()
        except IndexError:
            self._finish()
            return None
        if item.symbol in PAUSES:
            self._pause = item
            self._quiet_until = due_ms + PAUSES[item.symbol]
            return None
        return item

    def _finish(self) -> None:
        self.active = False
        if self._queue:  # filled since it was found empty: the event loop's True may have come before our False
            self.active = True
        else:
            self.on_done()

    def _update(
        self, item: _Queued, due_ms: int, timestamp: int, ptime_ms: int, clock_rate: int, *, marker: bool
    ) -> EventPacket:
        """The event as it is at the end of this tick: going on, over, or longer than a segment can be."""
        since = (timestamp - self._start) & 0xFFFFFFFF
        if since >= 1 << 31:  # the segment began within the last tick
            since = 0
        elapsed = since + ptime_ms * clock_rate // 1000
        if item.generation != self._generation:
            self._duration = min(self._duration, self._segments + elapsed)
        left = self._duration - self._segments
        if elapsed > MAX_SEGMENT and left > MAX_SEGMENT:
            return self._end_segment(item)
        if elapsed < left:
            return EventPacket(_payload(item, elapsed), marker, self._start)
        self._final = _payload(item, left, end=True)
        self._ends = END_PACKETS - 1
        self._quiet_until = due_ms + ptime_ms + item.gap_ms
        self._current = None
        return EventPacket(self._final, marker, self._start)

    def _end_segment(self, item: _Queued) -> EventPacket:
        """Section 2.5.1.3: the longest duration, without E bit; the next segment begins where this one ends."""
        packet = EventPacket(_payload(item, MAX_SEGMENT), marker=False, timestamp=self._start)
        self._segments += MAX_SEGMENT
        self._start = (self._start + MAX_SEGMENT) & 0xFFFFFFFF
        return packet

    def _end_again(self) -> EventPacket:
        self._ends -= 1
        return EventPacket(self._final, marker=False, timestamp=self._start)


def _payload(item: _Queued, duration: int, *, end: bool = False) -> bytes:
    return bytes(EventPayload(DIGITS.index(item.symbol), end, VOLUME, duration))


class DtmfReceiver:
    """Event packets of one stream in, digits out. Pure; belongs to the media thread.

    A digit is reported when the first packet of its event has come, whichever that is, and when it has ended.
    Packets are told apart by their timestamps alone (section 2.5.2), with tolerance for senders that move the
    timestamp on within an event: events of one digit can neither overlap nor touch.
    """

    __slots__ = (
        "_clock_rate",
        "_digit",
        "_filled_at",
        "_first_at",
        "_interval",
        "_last_at",
        "_latest",
        "_open",
        "_origin",
        "_timed_out",
        "_tokens",
        "_units",
        "late",
        "malformed",
        "pending",
        "received",
        "retransmitted",
        "shrunk",
        "timeouts",
        "too_fast",
        "unknown",
    )

    def __init__(self, clock_rate: int = 8000) -> None:
        """clock_rate: of telephone-event in the SDP, Hz."""
        self._clock_rate = clock_rate
        self.received = 0
        "Packets, whatever was in them."
        self.malformed = 0
        self.unknown = 0
        "Events that are not DTMF digits."
        self.late = 0
        "Packets of an event before the one known last."
        self.retransmitted = 0
        "Packets of a digit that had been reported as ended."
        self.shrunk = 0
        "Durations below what had been told: of packets out of order, or wrong."
        self.timeouts = 0
        "Digits whose end never came."
        self.too_fast = 0
        "Digits beyond what the bounds below allow: not reported, since each report costs others."
        self.pending: deque[DtmfEvent] = deque()
        self._tokens: float = MAX_BURST
        self._filled_at = 0.0
        self._forget()

    def reset(self) -> None:
        """Another stream (SSRC): its timestamps have nothing to do with those before. Counters stay.

        A digit that was down is reported as ended by the next poll.
        """
        if self._open:
            self._close()
        self._forget()

    def _forget(self) -> None:
        self._digit = ""  # the one known last, or none
        self._open = False
        self._timed_out = False
        self._origin = 0  # timestamp of the event
        self._latest = 0  # timestamp of its latest segment
        self._units = 0  # its duration as far as known, all segments
        self._first_at = self._last_at = 0.0
        self._interval = 0.0

    @property
    def active(self) -> bool:
        """A digit is down, or an event waits to be polled: only then need poll() be called."""
        return self._open or bool(self.pending)

    def receive(self, payload: bytes, timestamp: int, now: float) -> DtmfEvent | None:
        """Take a packet. Never raises. What it tells besides the event returned is for poll() to give."""
        self.received += 1
        try:
            packet = EventPayload.parse(payload)
        except ValueError:
            self.malformed += 1
            return self._pop()
        if packet.event >= len(DIGITS):
            self.unknown += 1
            return self._pop()
        digit = DIGITS[packet.event]
        ahead = _signed(timestamp - self._latest)
        if not self._digit or self._is_new(digit, ahead, now):
            self._start(digit, timestamp, packet.duration, now)
        elif ahead < 0:
            self.late += 1
            return self._pop()
        else:
            self._continue(packet, ahead, now)
        if packet.end and self._open:
            self._close()
        return self._pop()

    def poll(self, now: float) -> DtmfEvent | None:
        """What is left to report: call it once a tick while `active`. A digit whose end never came ends here."""
        if self._open and now - self._last_at >= max(MIN_TIMEOUT_S, INTERVALS_TO_TIMEOUT * self._interval):
            self.timeouts += 1
            self._timed_out = True
            self._close()
        return self._pop()

    def _pop(self) -> DtmfEvent | None:
        return self.pending.popleft() if self.pending else None

    def _is_new(self, digit: str, ahead: int, now: float) -> bool:
        """Whether a packet belongs to another event than the one known last."""
        if ahead < 0:
            # Later or older than a network makes it, it is rather from a sender that has begun to count anew.
            return now - self._last_at >= LATE_S or -ahead > LATE_UNITS
        if digit != self._digit:
            return True
        if ahead in (0, MAX_SEGMENT):  # MAX_SEGMENT: the next segment of a long event
            return ahead != 0 and not self._open and not self._timed_out
        return _signed(self._latest + ahead - self._origin) > self._credible_units(now)

    def _credible_units(self, now: float) -> int:
        """The event's duration, as far as the time since its first packet bears it out: durations may be wrong."""
        if self._open:
            return self._units
        heard = round((self._last_at - self._first_at + MIN_TIMEOUT_S) * self._clock_rate)
        return min(self._units, heard)

    def _start(self, digit: str, timestamp: int, duration: int, now: float) -> None:
        if self._open:  # its end was lost
            self.timeouts += 1
            self._close()
        if not self._has_token(now):
            self.too_fast += 1
            return
        self._digit = digit
        self._open = True
        self._timed_out = False
        self._origin = self._latest = timestamp
        self._units = duration
        self._first_at = self._last_at = now
        self.pending.append(self._event("started"))

    def _has_token(self, now: float) -> bool:
        """A bucket: nobody presses digits faster, nor does a dialler send them so; many may come at once."""
        self._tokens = min(MAX_BURST, self._tokens + max(0.0, now - self._filled_at) * MAX_DIGITS_A_SECOND)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _continue(self, packet: EventPayload, ahead: int, now: float) -> None:
        if not self._open:
            self.retransmitted += 1
            if ahead == MAX_SEGMENT:  # goes on after we had given it up
                self._latest = (self._latest + ahead) & 0xFFFFFFFF
            return
        self._latest = (self._latest + ahead) & 0xFFFFFFFF
        told_before = _signed(self._latest - self._origin)
        if ahead:
            grown = max(0, told_before + packet.duration - self._units)
        else:  # modulo 2^16: some senders let the duration wrap around
            grown = (told_before + packet.duration - self._units) & 0xFFFF
        if grown < 0x8000 or ahead:
            self._units += grown
        else:
            self.shrunk += 1
        self._interval = min(max(self._interval, now - self._last_at), MAX_INTERVAL_S)
        self._last_at = now

    def _close(self) -> None:
        self._open = False
        self.pending.append(self._event("ended"))

    def _event(self, kind: Literal["started", "ended"]) -> DtmfEvent:
        return DtmfEvent(kind, self._digit, self._units * 1000 // self._clock_rate, "rfc4733")


def _signed(difference: int) -> int:
    """A difference of timestamps, the shorter way round."""
    difference &= 0xFFFFFFFF
    return difference - (1 << 32) if difference & 0x80000000 else difference
