import random

import aiortc.rtcrtpreceiver
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mediaserver.rtp.stats import ReceiverStats

SSRC = 0x1234
BEFORE = range(65530, 65536)
"Numbers up to the wrap-around."


def feed(stats: ReceiverStats, sequences, ssrc: int = SSRC) -> list[bool]:
    """Packets of 20 ms, each at its time."""
    return [stats.update(ssrc, sequence % 65536, sequence * 160 % 2**32, sequence * 0.02) for sequence in sequences]


def test_a_source_is_valid_from_its_second_packet_in_sequence() -> None:
    stats = ReceiverStats()
    assert feed(stats, [7, 8, 9]) == [False, True, True]
    assert (stats.received, stats.expected, stats.lost, stats.extended_highest) == (2, 2, 0, 9)


def test_probation_begins_anew_with_each_jump() -> None:
    stats = ReceiverStats()
    assert feed(stats, [7, 9, 100, 50, 51]) == [False, False, False, False, True]


def test_nothing_received_is_nothing_lost() -> None:
    stats = ReceiverStats()
    assert (stats.expected, stats.lost, stats.fraction_lost(), stats.jitter_seconds) == (0, 0, 0, 0)
    feed(stats, [40000])
    assert (stats.expected, stats.lost) == (0, 0)


def test_loss() -> None:
    stats = ReceiverStats()
    feed(stats, [0, 1, 2, 5, 6, 9])
    assert (stats.expected, stats.received, stats.lost) == (9, 5, 4)


def test_wrap_counts_a_cycle() -> None:
    stats = ReceiverStats()
    feed(stats, range(65530, 65545))
    assert (stats.cycles, stats.highest, stats.extended_highest) == (1, 8, 65536 + 8)
    assert stats.lost == 0


def test_late_packet_across_the_wrap_is_no_cycle() -> None:
    stats = ReceiverStats()
    feed(stats, [65532, 65533, 65534, 65536, 65535, 65537])
    assert (stats.cycles, stats.reordered, stats.duplicates, stats.lost) == (1, 1, 0, 0)


def test_duplicates_are_told_from_reordered() -> None:
    stats = ReceiverStats()
    feed(stats, [0, 1, 2, 2, 4, 3, 3, 1, 5])
    assert (stats.reordered, stats.duplicates) == (1, 3)
    assert stats.lost == -3 + 0, "A.3 counts duplicates as received"


@pytest.mark.parametrize("start", [0, 65400])
@pytest.mark.parametrize("behind", [1, 2, 50, 97, 98, 99])
def test_after_a_long_run_a_late_packet_is_known_as_far_back_as_it_may_come(start: int, behind: int) -> None:
    stats = ReceiverStats()
    last = start + 300
    missing = last - behind
    feed(stats, [number for number in range(start, last + 1) if number != missing])
    assert feed(stats, [missing]) == [True]
    assert (stats.reordered, stats.duplicates) == (1, 0)
    feed(stats, [missing, missing + 1])
    assert (stats.reordered, stats.duplicates) == (1, 2)
    assert feed(stats, [last - 100]) == [False], "too far back to be believed"


def test_small_forward_jump_is_loss_large_one_is_not_believed() -> None:
    stats = ReceiverStats()
    assert feed(stats, [0, 1, 2, 2999])[-1]
    assert stats.lost == 2996
    stats = ReceiverStats()
    assert not feed(stats, [0, 1, 2, 3002])[-1]
    assert (stats.highest, stats.lost) == (2, 0)


def test_sender_that_restarts_is_followed_at_its_second_packet() -> None:
    stats = ReceiverStats()
    feed(stats, [0, 1, 2])
    assert feed(stats, [30000, 30001, 30002]) == [False, True, True]
    assert (stats.highest, stats.expected, stats.received, stats.lost) == (30002, 2, 2, 0)


def test_new_ssrc_starts_over() -> None:
    stats = ReceiverStats()
    feed(stats, [0, 1, 5])
    feed(stats, [900, 901, 902], ssrc=99)
    assert (stats.streams, stats.ssrc, stats.lost, stats.extended_highest) == (2, 99, 0, 902)


def test_fraction_lost_is_of_the_interval() -> None:
    stats = ReceiverStats()
    feed(stats, [0, 1, 2, 3, 4])  # 4 valid
    assert stats.fraction_lost() == 0
    feed(stats, [5, 7, 8])  # one of four
    assert stats.fraction_lost() == 64
    feed(stats, [9, 10])
    assert stats.fraction_lost() == 0
    assert stats.fraction_lost() == 0, "nothing expected since"


def test_jitter_converges_to_the_mean_difference() -> None:
    """Packets alternately on time and 10 ms late: |D| is 80 units each time."""
    stats = ReceiverStats()
    for n in range(400):
        stats.update(SSRC, n, n * 160, n * 0.02 + (0.010 if n % 2 else 0.0))
    assert stats.jitter == pytest.approx(80, rel=0.01)
    assert stats.jitter_seconds == pytest.approx(0.010, rel=0.01)


def test_jitter_ignores_constant_delay_and_the_timestamps_wrap() -> None:
    stats = ReceiverStats()
    start = 2**32 - 800
    for n in range(20):
        stats.update(SSRC, n, (start + n * 160) % 2**32, 5.0 + n * 0.02)
    assert stats.jitter == pytest.approx(0, abs=1e-3)


def test_untimed_packets_leave_jitter_alone() -> None:
    stats = ReceiverStats()
    feed(stats, [0, 1, 2])
    for n in range(3, 20):
        stats.update(SSRC, n, 480, n * 0.02, timed=False)
    assert stats.jitter == pytest.approx(0, abs=1e-6)
    assert stats.received == 19


@given(st.integers(0, 65535), st.integers(2, 200), st.data())
def test_loss_and_reordering_are_counted_exactly(start: int, count: int, data: st.DataObject) -> None:
    """Any loss, and neighbours swapped: counted as they happened."""
    lost = data.draw(st.sets(st.integers(2, count), max_size=count // 2))
    sent = [start + n for n in range(count) if n not in lost]
    swaps = 0
    at = 2
    while at + 1 < len(sent):
        if data.draw(st.booleans()):
            sent[at], sent[at + 1] = sent[at + 1], sent[at]
            swaps += 1
            at += 1
        at += 1
    stats = ReceiverStats()
    feed(stats, sent)
    assert stats.reordered == swaps
    assert stats.duplicates == 0
    assert stats.received == len(sent) - 1
    assert stats.expected == max(sent) - start
    assert stats.lost == stats.expected - stats.received
    assert stats.extended_highest == max(sent) - (65536 if start == 65535 else 0)


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 2**32 - 1)), max_size=60), st.randoms())
def test_arbitrary_numbers_never_break_the_invariants(packets, rng: random.Random) -> None:
    stats = ReceiverStats()
    now = 0.0
    for sequence, timestamp in packets:
        now += rng.random()
        stats.update(rng.choice([1, 2]), sequence, timestamp, now)
        assert 0 <= stats.extended_highest < 2**32
        assert stats.jitter >= 0
        assert stats.duplicates + stats.reordered <= stats.received <= len(packets)
        assert 0 <= stats.fraction_lost() <= 255


@given(st.integers(0, 65535), st.lists(st.integers(1, 5), min_size=1, max_size=100))
def test_agrees_with_aiortc_on_loss(start: int, steps: list[int]) -> None:
    """aiortc has no probation: its count begins one packet earlier."""
    oracle = aiortc.rtcrtpreceiver.StreamStatistics(clockrate=8000)
    stats = ReceiverStats()
    sequence = start
    for step in [0, 1, *steps]:
        sequence += step
        number, timestamp = sequence % 65536, sequence * 160 % 2**32
        stats.update(SSRC, number, timestamp, sequence * 0.02)
        oracle.add(aiortc.rtp.RtpPacket(sequence_number=number, timestamp=timestamp))
    assert stats.lost == oracle.packets_lost
    assert stats.received == oracle.packets_received - 1


class TestLosses:
    def losses(self, sequences) -> list[tuple[int, int]]:
        stats = ReceiverStats()
        told: list[tuple[int, int]] = []
        stats.on_loss = lambda first, count: told.append((first, count))
        feed(stats, sequences)
        return told

    def test_none(self) -> None:
        assert self.losses(range(65500, 65600)) == []

    def test_each_gap_is_told_with_its_first_and_its_length(self) -> None:
        assert self.losses([0, 1, 3, 4, 8]) == [(2, 1), (5, 3)]

    def test_a_gap_across_the_wrap_is_one(self) -> None:
        assert self.losses([*BEFORE[:-1], 65538]) == [(65535, 3)]

    @pytest.mark.parametrize(("after", "expected"), [(65537, (65536, 1)), (65538, (65536, 2))])
    def test_a_gap_that_begins_at_the_wrap(self, after: int, expected: tuple[int, int]) -> None:
        assert self.losses([*BEFORE, after, after + 1]) == [expected]

    def test_a_gap_that_ends_at_the_wrap(self) -> None:
        assert self.losses([*BEFORE[:-1], 65536, 65537]) == [(65535, 1)]

    def test_later_cycles_are_counted_in(self) -> None:
        missing = 3 * 65536 + 7
        assert self.losses(n for n in range(65500, 4 * 65536) if n != missing) == [(missing, 1)]

    def test_what_comes_late_is_not_taken_back(self) -> None:
        assert self.losses([0, 1, 3, 2, 4]) == [(2, 1)]

    def test_jumps_and_probation_lose_nothing(self) -> None:
        assert self.losses([5, 9, 10, 11, 30000, 30001, 30002]) == []


class TestStreams:
    def streams(self, *sequences: tuple[int, list[int]]) -> list[int]:
        """How many packets had come when each stream began."""
        stats = ReceiverStats()
        told: list[int] = []
        count = 0
        stats.on_stream = lambda: told.append(count)
        for ssrc, numbers in sequences:
            for number in numbers:
                feed(stats, [number], ssrc)
                count += 1
        return told

    def test_the_first(self) -> None:
        assert self.streams((1, [0, 1, 2])) == [0]

    def test_another_source(self) -> None:
        assert self.streams((1, [0, 1, 2]), (2, [7, 8]), (1, [3])) == [0, 4], (
            "at the second packet of each, but the first"
        )

    def test_a_sender_that_restarts(self) -> None:
        assert self.streams((1, [0, 1, 2, 30000, 30001, 30002])) == [0, 4]

    def test_a_stray_is_none(self) -> None:
        assert self.streams((1, [0, 1, 2, 30000, 3, 4, 40000, 5])) == [0]

    def test_a_wrap_is_none(self) -> None:
        assert self.streams((1, [*BEFORE, *range(65536, 65600)])) == [0]

    def test_it_is_told_before_losses_of_the_stream(self) -> None:
        stats = ReceiverStats()
        told: list[str] = []
        stats.on_stream = lambda: told.append("stream")
        stats.on_loss = lambda *_: told.append("loss")
        feed(stats, [0, 1, 4])
        feed(stats, [50, 51, 55], ssrc=2)
        assert told == ["stream", "loss", "stream", "loss"]


class Model:
    """RFC 3550 A.1, A.3 and A.8 written plainly, with numbers that never wrap."""

    def __init__(self) -> None:
        self.ssrc: int | None = None
        self.told: list[object] = []
        self.streams = 0
        self.valid = False
        self.candidate: tuple[int, int] | None = None
        self.last = self.base = self.top = self.bad = -1
        self.received = self.duplicates = self.reordered = 0
        self.came: set[int] = set()
        self.transit: float | None = None
        self.jitter = 0.0

    def update(self, ssrc: int, sequence: int, timestamp: int, now: float, *, timed: bool) -> bool:
        if ssrc != self.ssrc:
            proven = self.candidate == (ssrc, sequence)
            if self.valid and not proven:
                self.candidate = (ssrc, (sequence + 1) % 65536)
                return False
            self.ssrc, self.valid, self.last = ssrc, False, (sequence - 1) % 65536 if proven else -1
            self.candidate = None
            self.streams += 1
            self.received = self.duplicates = self.reordered = 0
            self.jitter, self.transit = 0.0, None
            self.told.append("stream")
        if self.valid:
            taken = self._continue(sequence)
        else:
            follows = self.last >= 0 and sequence == (self.last + 1) % 65536
            self.last = sequence
            if follows:
                self._begin(sequence)
            taken = follows
        if taken:
            self.received += 1
            if timed:
                self._time(timestamp, now)
        return taken

    def _begin(self, sequence: int) -> None:
        self.valid, self.base, self.top, self.bad = True, sequence, sequence, -1
        self.received = self.duplicates = self.reordered = 0
        self.came = {sequence}
        self.jitter, self.transit = 0.0, None

    def _continue(self, sequence: int) -> bool:
        ahead = (sequence - self.top) % 65536
        if ahead < 3000:
            number = self.top + ahead
        elif ahead > 65536 - 100:
            number = self.top + ahead - 65536
        elif sequence != self.bad:
            self.bad = (sequence + 1) % 65536
            return False
        else:
            self._begin(sequence)
            self.told.append("stream")
            return True
        if number in self.came:
            self.duplicates += 1
        elif number < self.top:
            self.reordered += 1
        elif number > self.top + 1:
            self.told.append((self.top + 1, number - self.top - 1))
        self.came.add(number)
        self.top = max(self.top, number)
        return True

    def _time(self, timestamp: int, now: float) -> None:
        transit = now * 8000 - timestamp
        if self.transit is not None:
            difference = transit - self.transit
            while difference < -(2**31):
                difference += 2**32
            while difference >= 2**31:
                difference -= 2**32
            self.jitter += (abs(difference) - self.jitter) / 16
        self.transit = transit


class Plodding(ReceiverStats):
    """Takes the long way with each packet."""

    @property
    def _following(self) -> int:
        return -1

    @_following.setter
    def _following(self, value: int) -> None:
        pass


near = st.sampled_from([1] * 12 + [2, 3, 0, -1, -2, -3, 40, -98, -99, -100, -101, 2998, 2999, 3000, 3001])
moves = st.lists(st.tuples(near | st.integers(0, 65535), st.sampled_from([1] * 12 + [2]), st.booleans()), max_size=80)


@given(st.sampled_from([0, 1, 65000, 65533, 65535]) | st.integers(0, 65535), moves, st.randoms())
@example(65534, [(1, 1, True)] * 6, random.Random(0))
def test_the_short_way_the_long_way_and_the_rfc_agree(start: int, moves, rng: random.Random) -> None:
    short, long, model = ReceiverStats(), Plodding(), Model()
    told: tuple[list[object], list[object]] = ([], [])
    for stats, log in zip((short, long), told, strict=True):
        stats.on_loss = lambda first, count, log=log: log.append((first, count))
        stats.on_stream = lambda log=log: log.append("stream")
    sequence, timestamp, now = start, rng.randrange(2**32), 1000.0
    for move, ssrc, timed in moves:
        sequence = (sequence + move) % 65536
        timestamp = (timestamp + rng.choice([160, 160, 160, 0, -160, 2**31, 12345])) % 2**32
        now += rng.random() * 0.04
        packet = (ssrc, sequence, timestamp, now)
        answers = [stats.update(*packet, timed=timed) for stats in (short, long, model)]
        assert len(set(answers)) == 1
        for stats in (short, long):
            assert (stats.ssrc, stats.streams) == (model.ssrc, model.streams)
            if model.valid:
                assert (stats.received, stats.duplicates, stats.reordered) == (
                    model.received,
                    model.duplicates,
                    model.reordered,
                )
                assert stats.expected == model.top - model.base + 1
                assert stats.lost == stats.expected - stats.received
                assert stats.extended_highest == model.top
                assert stats.jitter == pytest.approx(model.jitter, rel=1e-9, abs=1e-4)
            else:
                assert stats.expected == 0
        assert short.fraction_lost() == long.fraction_lost()
    assert told[0] == told[1] == model.told


@given(st.integers(65000, 65535), st.sets(st.integers(2, 1500), max_size=60))
def test_the_losses_told_are_the_packets_lost(start: int, lost: set[int]) -> None:
    stats = ReceiverStats()
    told: list[int] = []
    stats.on_loss = lambda first, count: told.extend(range(first, first + count))
    feed(stats, [start + n for n in range(1502) if n not in lost])
    # The first packet only proves the source, and if it is the wrap's last, the count begins after the wrap.
    wrapped = 65536 if start == 65535 else 0
    assert told == sorted(start + n - wrapped for n in lost)
    assert stats.lost == len(lost)


def test_one_packet_of_another_stream_is_a_stray() -> None:
    """Or an attacker's guess: what is known of the stream that goes on stays."""
    stats, began = ReceiverStats(), []
    stats.on_stream = lambda: began.append(stats.ssrc)
    feed(stats, [0, 1, 2])
    assert feed(stats, [900], ssrc=99) == [False]
    assert feed(stats, [3, 4]) == [True, True]
    assert (stats.ssrc, stats.received, stats.lost, began) == (SSRC, 4, 0, [SSRC])


def test_two_streams_in_turns_leave_the_first_alone() -> None:
    stats = ReceiverStats()
    feed(stats, [0, 1, 2])
    for n in range(3, 60):
        assert feed(stats, [n]) == [True]
        assert feed(stats, [5000 + 2 * n], ssrc=99) == [False]
    assert (stats.streams, stats.lost) == (1, 0)
