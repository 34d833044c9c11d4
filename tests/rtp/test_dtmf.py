"""Named telephone events: digits sent, through any network, and received."""

from __future__ import annotations

import struct
from collections import deque
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.rtp.dtmf import (
    END_PACKETS,
    MAX_QUEUED,
    DtmfEvent,
    DtmfQueueFullError,
    DtmfReceiver,
    DtmfSender,
    EventPacket,
)
from mediaserver.rtp.dtmf_event import DIGITS, MAX_SEGMENT, EventPayload, check_digits

PTIMES = (10, 20, 30, 40, 60)
CLOCK = 8000


class Tick(NamedTuple):
    at_ms: int
    packet: EventPacket


def run(sender: DtmfSender, *, ptime: int = 20, timestamp: int = 0, at_ms: int = 0, ticks: int = 10_000) -> list[Tick]:
    """Tick until the sender has nothing left; the packets, with their times."""
    sent = []
    for n in range(ticks):
        if not sender.active:
            break
        due = at_ms + n * ptime
        packet = sender.next(due, (timestamp + n * ptime * CLOCK // 1000) % 2**32, ptime, CLOCK)
        if packet is not None:
            sent.append(Tick(due, packet))
    return sent


def packets(
    digits: str, *, duration_ms: int = 100, gap_ms: int = 50, ptime: int = 20, timestamp: int = 0
) -> list[Tick]:
    sender = DtmfSender()
    sender.send(digits, duration_ms=duration_ms, gap_ms=gap_ms)
    return run(sender, ptime=ptime, timestamp=timestamp)


def hear(receiver: DtmfReceiver, ticks: list[Tick], *, drain_s: float = 2.0) -> list[DtmfEvent]:
    """Give a receiver packets at their times, polled every 10 ms as a leg does."""
    events: list[DtmfEvent] = []
    now = ticks[0].at_ms / 1000 if ticks else 0.0

    def poll_until(end: float) -> None:
        nonlocal now
        while now + 0.01 <= end:
            now += 0.01
            take(receiver.poll(now))

    def take(event: DtmfEvent | None) -> None:
        while event is not None:
            events.append(event)
            event = receiver.poll(now)

    for tick in ticks:
        poll_until(tick.at_ms / 1000)
        now = max(now, tick.at_ms / 1000)
        take(receiver.receive(tick.packet.payload, tick.packet.timestamp, now))
    poll_until(now + drain_s)
    return events


def digits_of(events: list[DtmfEvent], kind: str = "started") -> str:
    return "".join(event.digit for event in events if event.kind == kind)


def payload(event: int, duration: int, *, end: bool = False) -> bytes:
    return struct.pack("!BBH", event, 0x80 * end | 10, duration)


class TestPayload:
    def test_layout(self) -> None:
        """RFC 4733 section 2.3: event, E, R, volume, duration."""
        assert bytes(EventPayload(11, True, 10, 800)) == b"\x0b\x8a\x03\x20"
        assert EventPayload.parse(b"\x0b\x8a\x03\x20") == (11, True, 10, 800)

    def test_the_reserved_bit_and_what_follows_are_ignored(self) -> None:
        assert EventPayload.parse(b"\x05\xca\x00\xa0\x06\x0a\x00\xa0") == (5, True, 10, 160)

    @given(st.binary(max_size=3))
    def test_too_short(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="octets"):
            EventPayload.parse(data)

    @given(st.integers(0, 255), st.booleans(), st.integers(0, 63), st.integers(0, 0xFFFF))
    def test_round_trip(self, event: int, end: bool, volume: int, duration: int) -> None:
        made = EventPayload(event, end, volume, duration)
        assert EventPayload.parse(bytes(made)) == made


class TestSender:
    def test_one_digit(self) -> None:
        """The first has the marker; durations grow; the end is told three times; all have one timestamp."""
        sent = packets("#", timestamp=4000)
        told = [EventPayload.parse(tick.packet.payload) for tick in sent]
        assert [p.duration for p in told] == [160, 320, 480, 640, 800, 800, 800]
        assert [p.end for p in told] == [False] * 4 + [True] * END_PACKETS
        assert {p.event for p in told} == {11}
        assert [tick.packet.marker for tick in sent] == [True] + [False] * 6
        assert {tick.packet.timestamp for tick in sent} == {4000}
        assert [tick.at_ms for tick in sent] == list(range(0, 140, 20))

    def test_the_gap_is_kept_between_digits(self) -> None:
        first = [tick.at_ms for tick in packets("12", duration_ms=100, gap_ms=50) if tick.packet.marker]
        assert first == [0, 160]
        first = [tick.at_ms for tick in packets("12", duration_ms=100, gap_ms=200) if tick.packet.marker]
        assert first == [0, 300]

    @pytest.mark.parametrize(("pause", "begins"), [("w", 660), ("W", 1160), ("ww", 1160)])
    def test_pauses(self, pause: str, begins: int) -> None:
        first = [tick.at_ms for tick in packets(f"1{pause}2") if tick.packet.marker]
        assert first[0] == 0
        assert begins <= first[1] <= begins + 40

    def test_a_digit_within_one_packet_is_marker_and_end_at_once(self) -> None:
        sent = packets("1", duration_ms=40, ptime=60)
        assert [EventPayload.parse(tick.packet.payload)[1::2] for tick in sent] == [(True, 320)] * 3
        assert [tick.packet.marker for tick in sent] == [True, False, False]

    def test_a_long_event_is_split(self) -> None:
        """Section 2.5.1.3: segments that end at 0xFFFF without E bit; no marker on the next; one end."""
        sent = packets("7", duration_ms=20_000, timestamp=2**32 - 100)
        starts = list(dict.fromkeys(tick.packet.timestamp for tick in sent))
        assert starts == [(2**32 - 100 + n * MAX_SEGMENT) % 2**32 for n in range(3)]
        assert [n for n, tick in enumerate(sent) if tick.packet.marker] == [0]
        for start in starts[:2]:
            told = [EventPayload.parse(tick.packet.payload) for tick in sent if tick.packet.timestamp == start]
            assert told[-1].duration == MAX_SEGMENT
            assert not any(p.end for p in told)
        last = EventPayload.parse(sent[-1].packet.payload)
        assert last.end
        assert last.duration == 160_000 - 2 * MAX_SEGMENT

    def test_a_stall_tells_the_time_that_has_passed(self) -> None:
        sender = DtmfSender()
        sender.send("1", duration_ms=1000)
        assert sender.next(0, 0, 20, CLOCK) is not None
        packet = sender.next(300, 2400, 20, CLOCK)
        assert packet is not None
        assert EventPayload.parse(packet.payload) == (1, False, 10, 2560)
        packet = sender.next(5000, 40_000, 20, CLOCK)
        assert packet is not None
        assert EventPayload.parse(packet.payload) == (1, True, 10, 8000)

    def test_done_once_everything_is_out(self) -> None:
        done: list[int] = []
        sender = DtmfSender(lambda: done.append(1))
        sender.send("12")
        assert sender.active
        run(sender)
        assert done == [1]
        assert not sender.active
        sender.send("3")
        assert digits_of(hear(DtmfReceiver(), run(sender, at_ms=9000, timestamp=72_000))) == "3"
        assert done == [1, 1]

    def test_clear_ends_the_digit_under_way_and_forgets_the_rest(self) -> None:
        done: list[int] = []
        sender = DtmfSender(lambda: done.append(1))
        sender.send("123", duration_ms=1000)
        for n in range(3):
            assert sender.next(n * 20, n * 160, 20, CLOCK) is not None
        sender.clear()
        rest = run(sender, at_ms=60, timestamp=480)
        told = [EventPayload.parse(tick.packet.payload) for tick in rest]
        assert told == [(1, True, 10, 640)] * END_PACKETS
        assert {tick.packet.timestamp for tick in rest} == {0}
        assert done == [1]

    def test_clear_ends_a_pause_and_spares_what_is_sent_after_it(self) -> None:
        sender = DtmfSender()
        sender.send("WWW1")
        assert sender.next(0, 0, 20, CLOCK) is None
        sender.clear()
        sender.send("2")
        sent = run(sender, at_ms=20, timestamp=160)
        assert sent[0].at_ms == 20
        assert digits_of(hear(DtmfReceiver(), sent)) == "2"

    def test_a_shorter_packet_time_just_after_a_segment(self) -> None:
        """The segment may end after the tick that tells it: time does not run backwards for that."""
        sender = DtmfSender()
        sender.send("1", duration_ms=10_000)
        timestamp = 0
        while True:
            packet = sender.next(timestamp // 8, timestamp, 60, CLOCK)
            assert packet is not None
            if EventPayload.parse(packet.payload).duration == MAX_SEGMENT:
                break
            timestamp += 480
        packet = sender.next(timestamp // 8 + 10, timestamp + 80, 10, CLOCK)
        assert packet is not None
        assert packet.timestamp == MAX_SEGMENT > timestamp + 80
        assert EventPayload.parse(packet.payload) == (1, False, 10, 80)

    def test_digits_sent_while_the_end_is_being_noticed(self) -> None:
        """The other thread may call send() between any two steps of next()."""

        class Interrupted(deque[object]):
            def popleft(self) -> object:
                if not self and not done:
                    done.append("asked")
                    super().extend(later)
                    raise IndexError
                return super().popleft()

        done: list[str] = []
        other = DtmfSender()
        other.send("2")
        later = list(other._queue)
        sender = DtmfSender(lambda: done.append("done"))
        sender._queue = Interrupted()  # type: ignore[assignment]
        sender.send("1")
        assert digits_of(hear(DtmfReceiver(), run(sender))) == "12"
        assert done == ["asked", "done"]

    @pytest.mark.parametrize("digits", ["", "12x", "é", "1 2", "+44", "12ab"])
    def test_what_is_no_digit_is_refused_unquoted(self, digits: str) -> None:
        sender = DtmfSender()
        with pytest.raises(ValueError, match="digits are not all") as error:
            sender.send(digits)
        assert not digits or digits not in str(error.value)
        assert not sender.active

    @pytest.mark.parametrize(("duration", "gap"), [(39, 50), (60_001, 50), (100, 39), (100, 10_001), (-1, 50)])
    def test_durations_are_bounded(self, duration: int, gap: int) -> None:
        with pytest.raises(ValueError, match="outside"):
            check_digits("1", duration, gap)

    def test_the_queue_is_bounded_and_takes_all_or_nothing(self) -> None:
        sender = DtmfSender()
        sender.send("1" * (MAX_QUEUED - 1))
        with pytest.raises(DtmfQueueFullError):
            sender.send("22")
        sender.send("3")
        assert digits_of(hear(DtmfReceiver(), run(sender))) == "1" * (MAX_QUEUED - 1) + "3"


class TestReceiver:
    def test_started_at_the_first_packet_and_ended_at_the_end(self) -> None:
        receiver = DtmfReceiver()
        assert receiver.receive(payload(5, 160), 1000, 0.0) == ("started", "5", 20, "rfc4733")
        assert receiver.receive(payload(5, 320), 1000, 0.02) is None
        assert receiver.receive(payload(5, 480, end=True), 1000, 0.04) == ("ended", "5", 60, "rfc4733")
        for n in range(2):
            assert receiver.receive(payload(5, 480, end=True), 1000, 0.06 + n / 50) is None
        assert receiver.poll(9.0) is None
        assert (receiver.received, receiver.retransmitted) == (5, 2)

    def test_an_end_alone_is_a_whole_digit(self) -> None:
        receiver = DtmfReceiver()
        assert receiver.receive(payload(9, 800, end=True), 7, 0.0) == ("started", "9", 100, "rfc4733")
        assert receiver.active
        assert receiver.poll(0.0) == ("ended", "9", 100, "rfc4733")
        assert not receiver.active

    def test_an_end_that_never_comes(self) -> None:
        receiver = DtmfReceiver()
        for n in range(1, 5):
            receiver.receive(payload(1, n * 400), 0, n * 0.05)
        assert receiver.poll(0.34) is None
        assert receiver.poll(0.36) == ("ended", "1", 200, "rfc4733")
        assert receiver.timeouts == 1
        assert receiver.receive(payload(1, 3000, end=True), 0, 0.5) is None, "it has been reported as ended"

    def test_the_timeout_is_at_least_100_ms(self) -> None:
        receiver = DtmfReceiver()
        receiver.receive(payload(1, 160), 0, 0.0)
        assert receiver.poll(0.099) is None
        assert receiver.poll(0.1) is not None

    def test_a_lost_end_before_the_next_digit(self) -> None:
        receiver = DtmfReceiver()
        assert receiver.receive(payload(1, 160), 0, 0.0) is not None
        assert receiver.receive(payload(2, 160), 1200, 0.09) == ("ended", "1", 20, "rfc4733")
        assert receiver.poll(0.09) == ("started", "2", 20, "rfc4733")

    def test_the_same_key_twice(self) -> None:
        receiver = DtmfReceiver()
        assert digits_of(hear(receiver, packets("5555"))) == "5555"

    def test_the_same_key_twice_with_all_ends_lost(self) -> None:
        ticks = [tick for tick in packets("555") if not EventPayload.parse(tick.packet.payload).end]
        assert digits_of(hear(DtmfReceiver(), ticks)) == "555"

    @pytest.mark.parametrize("ptime", PTIMES)
    def test_a_long_digit_is_one(self, ptime: int) -> None:
        ticks = packets("0", duration_ms=25_000, ptime=ptime, timestamp=2**32 - 70_000)
        events = hear(DtmfReceiver(), ticks)
        assert [(e.kind, e.duration_ms) for e in events] == [("started", ptime), ("ended", 25_000)]

    def test_a_long_digit_whose_segments_arrive_out_of_order(self) -> None:
        ticks = packets("0", duration_ms=10_000)
        change = next(n for n, tick in enumerate(ticks) if tick.packet.timestamp == MAX_SEGMENT)
        ticks[change - 1], ticks[change + 1] = (
            Tick(ticks[change - 1].at_ms, ticks[change + 1].packet),
            Tick(ticks[change + 1].at_ms, ticks[change - 1].packet),
        )
        receiver = DtmfReceiver()
        assert [(e.kind, e.duration_ms) for e in hear(receiver, ticks)] == [("started", 20), ("ended", 10_000)]
        assert receiver.late == 1

    def test_a_long_digit_that_is_given_up_is_not_told_again(self) -> None:
        ticks = [tick for tick in packets("0", duration_ms=20_000) if not 5000 < tick.at_ms < 6000]
        assert digits_of(hear(DtmfReceiver(), ticks)) == "0"

    def test_durations_that_wrap_around(self) -> None:
        """Not what section 2.5.1.3 asks for, but what some senders do."""
        receiver = DtmfReceiver()
        for n in range(1, 501):
            receiver.receive(payload(3, n * 160 & 0xFFFF), 0, n * 0.02)
        assert receiver.receive(payload(3, 80_000 & 0xFFFF, end=True), 0, 10.02) == ("ended", "3", 10_000, "rfc4733")

    def test_durations_that_shrink_or_are_0(self) -> None:
        receiver = DtmfReceiver()
        assert receiver.receive(payload(3, 0), 0, 0.0) == ("started", "3", 0, "rfc4733")
        receiver.receive(payload(3, 320), 0, 0.02)
        receiver.receive(payload(3, 160), 0, 0.04)
        assert receiver.receive(payload(3, 0, end=True), 0, 0.06) == ("ended", "3", 40, "rfc4733")
        assert receiver.shrunk == 2

    def test_a_wrong_long_duration_does_not_swallow_the_next_press(self) -> None:
        receiver = DtmfReceiver()
        receiver.receive(payload(3, 160), 0, 0.0)
        receiver.receive(payload(3, 0x7000, end=True), 0, 0.1)
        assert receiver.receive(payload(3, 160), 3200, 0.4) == ("started", "3", 20, "rfc4733")

    def test_a_sender_that_moves_the_timestamp_within_an_event(self) -> None:
        receiver = DtmfReceiver()
        events = []
        for n in range(8):
            end = n >= 5
            events.append(receiver.receive(payload(8, 160 * min(n + 1, 6), end=end), 160 * min(n, 5), n * 0.02))
        assert [e.kind for e in events if e] == ["started", "ended"]

    def test_late_packets_of_an_old_event(self) -> None:
        receiver = DtmfReceiver()
        receiver.receive(payload(1, 800, end=True), 0, 0.0)
        receiver.poll(0.0)
        assert receiver.receive(payload(2, 160), 1280, 0.16) is not None
        assert receiver.receive(payload(1, 800, end=True), 0, 0.17) is None
        assert receiver.late == 1
        assert receiver.receive(payload(2, 320, end=True), 1280, 0.18) == ("ended", "2", 40, "rfc4733")

    def test_a_sender_that_counts_anew(self) -> None:
        receiver = DtmfReceiver()
        assert receiver.receive(payload(1, 800, end=True), 3_000_000_000, 0.0) is not None
        receiver.poll(0.0)
        assert receiver.receive(payload(1, 160), 2_000_000_000, 1.0) is not None
        receiver.poll(5.0)
        assert receiver.receive(payload(4, 160), 1_999_999_000, 9.0) is not None

    def test_a_new_stream_starts_over(self) -> None:
        receiver = DtmfReceiver()
        receiver.receive(payload(1, 160), 1_000_000, 0.0)
        receiver.reset()
        assert receiver.poll(0.0) == ("ended", "1", 20, "rfc4733")
        assert receiver.receive(payload(1, 160), 999_000, 0.01) == ("started", "1", 20, "rfc4733")

    def test_another_clock_rate(self) -> None:
        receiver = DtmfReceiver(48_000)
        assert receiver.receive(payload(1, 4800, end=True), 0, 0.0) == ("started", "1", 100, "rfc4733")

    def test_what_is_no_digit_is_counted(self) -> None:
        receiver = DtmfReceiver()
        for event in (16, 32, 255):
            assert receiver.receive(payload(event, 160), 0, 0.0) is None
        for data in (b"", b"\x01", b"\x01\x0a\x00"):
            assert receiver.receive(data, 0, 0.0) is None
        assert (receiver.unknown, receiver.malformed) == (3, 3)
        assert not receiver.active

    @given(st.lists(st.tuples(st.binary(max_size=6), st.integers(0, 2**32 - 1), st.floats(0, 0.3)), max_size=60))
    def test_never_raises_and_starts_and_ends_alternate(self, stream: list[tuple[bytes, int, float]]) -> None:
        receiver = DtmfReceiver()
        events = []
        now = 0.0
        for data, timestamp, wait in stream:
            now += wait
            events += [receiver.receive(data, timestamp, now), receiver.poll(now)]
        while receiver.active:
            now += 1.0
            events.append(receiver.poll(now))
        heard = [event for event in events if event]
        assert [event.kind for event in heard] == ["started", "ended"] * (len(heard) // 2)
        assert all(a.digit == b.digit for a, b in zip(heard[::2], heard[1::2], strict=True))
        assert all(event.duration_ms >= 0 for event in heard)


class TestThroughANetwork:
    @settings(max_examples=50)
    @given(
        st.text(DIGITS + "w", min_size=1, max_size=12), st.sampled_from(PTIMES), st.integers(0, 2**32 - 1), st.data()
    )
    def test_what_was_sent_is_heard(self, digits: str, ptime: int, timestamp: int, data: st.DataObject) -> None:
        duration = data.draw(st.integers(40, 400))
        ticks = packets(
            digits, duration_ms=duration, gap_ms=data.draw(st.integers(40, 200)), ptime=ptime, timestamp=timestamp
        )
        events = hear(DtmfReceiver(), ticks)
        pressed = digits.replace("w", "")
        assert digits_of(events) == digits_of(events, "ended") == pressed
        assert {event.duration_ms for event in events if event.kind == "ended"} <= {duration}

    @settings(max_examples=60)
    @given(
        st.text(DIGITS, min_size=1, max_size=8),
        st.sampled_from(PTIMES),
        st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 9000, 2**32 - 1)),
        st.data(),
    )
    def test_loss_duplicates_and_reordering_change_no_digit(
        self, digits: str, ptime: int, timestamp: int, data: st.DataObject
    ) -> None:
        """Wherever a packet of each event comes before one of a later event."""
        duration = data.draw(st.integers(40, 90))  # so short that no timeout falls into it
        gap = data.draw(st.integers(40, 120))
        sent = packets(digits, duration_ms=duration, gap_ms=gap, ptime=ptime, timestamp=timestamp)
        events = list(dict.fromkeys(tick.packet.timestamp for tick in sent))
        copies = st.sampled_from((0, 0, 1, 1, 1, 2))
        arrivals = [
            Tick(tick.at_ms + data.draw(st.integers(0, 80)), tick.packet)
            for tick in sent
            for _ in range(data.draw(copies))
        ]
        arrivals.sort(key=lambda tick: tick.at_ms)
        come, latest = set(), -1
        for tick in arrivals:
            number = events.index(tick.packet.timestamp)
            if number >= latest:
                come.add(number)
                latest = number
        heard = digits_of(hear(DtmfReceiver(), arrivals))
        assert heard == "".join(digits[number] for number in sorted(come))
