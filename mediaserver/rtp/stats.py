"""What a receiver knows of one RTP stream: RFC 3550 appendices A.1 (sequence), A.3 (loss), A.8 (jitter)."""

from __future__ import annotations

from collections.abc import Callable

_RTP_SEQ_MOD = 1 << 16
_MAX_DROPOUT = 3000
"Sequence numbers that a jump forward may skip and still be the same stream; a minute at ptime=20ms."
_MAX_MISORDER = 100
"How far behind the highest a late packet may be."
_MIN_SEQUENTIAL = 2
"Packets in sequence before a source is valid."
_SEEN_BITS = (1 << (_MAX_MISORDER + 1)) - 1
_NO_SEQUENCE = _RTP_SEQ_MOD + 1  # no packet's number
_HALF_RANGE, _RANGE = 0x80000000, 0x100000000  # of timestamps


class ReceiverStats:
    """Reception of one leg. A new SSRC is a new stream and starts over; `streams` counts them.

    Pure: arrival times are arguments, in monotonic seconds.
    """

    def __init__(self, clock_rate: int = 8000) -> None:
        self.clock_rate = clock_rate
        self.on_loss: Callable[[int, int], None] | None = None
        """Called when a gap is first seen, with the number of the first packet missing (cycles and all, not cut to
        32 bits) and how many are. What then comes late is not taken back."""
        self.on_stream: Callable[[], None] | None = None
        "Called when a stream begins: a new SSRC, or a sender that has started anew."
        self.streams = 0
        self.ssrc: int | None = None
        self.received = 0
        "Packets of the stream since it became valid, duplicates and late ones included."
        self.duplicates = 0
        self.reordered = 0
        "Packets that came after one with a higher number, and were no duplicates."
        self.cycles = 0
        "How often the sequence number wrapped round."
        self.highest = 0
        "The highest sequence number seen, 16 bits."
        self.jitter = 0.0
        "Interarrival jitter (A.8) in units of the clock."
        self._base = 0
        self._bad_sequence = _NO_SEQUENCE
        self._probation = _MIN_SEQUENTIAL
        self._following = _NO_SEQUENCE  # what comes next if all is well; no number during probation
        self._seen = 0  # bit n: whether `highest - n` has come,
        self._in_order = 0  # not counting so many that have come one after the other since
        self._transit: float | None = None
        self._candidate: tuple[int, int] | None = None  # SSRC and number of the packet that would prove another stream
        self._expected_prior = 0
        self._received_prior = 0

    def update(self, ssrc: int, sequence: int, timestamp: int, now: float, *, timed: bool = True) -> bool:
        """Count one packet; whether its source is valid (A.1).

        timed=False leaves the jitter alone: for telephone-event, whose packets repeat the timestamp of the
        event's beginning (RFC 4733 section 2.2).
        """
        if sequence == self._following and ssrc == self.ssrc:  # as nearly always: nothing lost, nothing out of order
            self.highest = sequence
            if sequence:
                self._following = sequence + 1 & 0xFFFF
            else:
                self.cycles += 1
                self._following = 1
            self._in_order += 1
            self.received += 1
            if timed:
                transit, before = now * self.clock_rate - timestamp, self._transit
                self._transit = transit
                if before is not None:
                    difference = transit - before
                    if not -_HALF_RANGE <= difference < _HALF_RANGE:
                        difference = _nearer_way(difference)
                    self.jitter += (abs(difference) - self.jitter) / 16
            return True
        self._note_in_order()
        if ssrc != self.ssrc:
            if self._is_stray(ssrc, sequence):
                return False
            self._start_stream(ssrc, sequence)
        valid = self._update_sequence(sequence)
        if valid:
            self._following = (self.highest + 1) % _RTP_SEQ_MOD
        if valid and timed:
            self._update_jitter(timestamp, now)
        return valid

    @property
    def extended_highest(self) -> int:
        """The highest sequence number with its cycles in front, as receiver reports carry it: 32 bits."""
        return (self.cycles * _RTP_SEQ_MOD + self.highest) & 0xFFFFFFFF

    @property
    def expected(self) -> int:
        """Packets the sender must have sent since the first that was valid (A.3)."""
        if self.ssrc is None or self._probation:
            return 0
        return self.cycles * _RTP_SEQ_MOD + self.highest - self._base + 1

    @property
    def lost(self) -> int:
        """Cumulative number lost (A.3): duplicates count as received, so it may be negative. Within 24 bits."""
        return max(-0x800000, min(0x7FFFFF, self.expected - self.received))

    @property
    def jitter_seconds(self) -> float:
        """Interarrival jitter (A.8) in seconds."""
        return self.jitter / self.clock_rate

    def fraction_lost(self) -> int:
        """The fraction lost since the last call, in 256ths (A.3): one call per receiver report."""
        expected = self.expected - self._expected_prior
        received = self.received - self._received_prior
        self._expected_prior += expected
        self._received_prior += received
        if expected <= 0 or expected <= received:
            return 0
        return min(255, ((expected - received) << 8) // expected)

    def _is_stray(self, ssrc: int, sequence: int) -> bool:
        """Whether a packet of another SSRC may be a lone one: a stream that is valid gives way to two in sequence."""
        if self.ssrc is None or self._probation or self._candidate == (ssrc, sequence):
            return False
        self._candidate = (ssrc, (sequence + 1) % _RTP_SEQ_MOD)
        return True

    def _start_stream(self, ssrc: int, sequence: int) -> None:
        self.ssrc = ssrc
        self.streams += 1
        self._start_sequence(sequence)
        self.highest = (sequence - 1) % _RTP_SEQ_MOD
        self._probation = _MIN_SEQUENTIAL - (self._candidate == (ssrc, sequence))
        self._candidate = None
        self._following = _NO_SEQUENCE
        if self.on_stream is not None:
            self.on_stream()

    def _start_sequence(self, sequence: int) -> None:
        """init_seq of A.1."""
        self._base = self.highest = sequence
        self._bad_sequence = _NO_SEQUENCE
        self.cycles = 0
        self.received = self.duplicates = self.reordered = 0
        self._seen = 0
        self._expected_prior = self._received_prior = 0
        self.jitter = 0.0
        self._transit = None

    def _note_in_order(self) -> None:
        shift = min(self._in_order, _MAX_MISORDER + 1)
        self._seen = (self._seen << shift | (1 << shift) - 1) & _SEEN_BITS
        self._in_order = 0

    def _update_sequence(self, sequence: int) -> bool:
        """update_seq of A.1."""
        if self._probation:
            return self._prove(sequence)
        delta = (sequence - self.highest) % _RTP_SEQ_MOD
        if delta == 0:
            self.duplicates += 1
        elif delta < _MAX_DROPOUT:
            if delta > 1 and self.on_loss is not None:
                self.on_loss(self.cycles * _RTP_SEQ_MOD + self.highest + 1, delta - 1)
            if sequence < self.highest:
                self.cycles += 1
            self.highest = sequence
            self._seen = (self._seen << delta | 1) & _SEEN_BITS
        elif delta <= _RTP_SEQ_MOD - _MAX_MISORDER:
            # A very large jump: a restart if the next packet follows it, else a stray.
            if sequence != self._bad_sequence:
                self._bad_sequence = (sequence + 1) % _RTP_SEQ_MOD
                return False
            self._start_sequence(sequence)
            self._seen = 1
            if self.on_stream is not None:
                self.on_stream()
        else:
            self._note_late(_RTP_SEQ_MOD - delta)
        self.received += 1
        return True

    def _prove(self, sequence: int) -> bool:
        if sequence != (self.highest + 1) % _RTP_SEQ_MOD:
            self._probation = _MIN_SEQUENTIAL - 1
            self.highest = sequence
            return False
        self._probation -= 1
        self.highest = sequence
        if self._probation:
            return False
        self._start_sequence(sequence)
        self._seen = 1
        self.received = 1
        return True

    def _note_late(self, behind: int) -> None:
        bit = 1 << behind
        if self._seen & bit:
            self.duplicates += 1
        else:
            self._seen |= bit
            self.reordered += 1

    def _update_jitter(self, timestamp: int, now: float) -> None:
        transit = now * self.clock_rate - timestamp
        if self._transit is not None:
            self.jitter += (abs(_nearer_way(transit - self._transit)) - self.jitter) / 16
        self._transit = transit


def _nearer_way(difference: float) -> float:
    """The timestamp wraps round."""
    return (difference + _HALF_RANGE) % _RANGE - _HALF_RANGE
