import random

import aiortc.rtcrtpreceiver
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.stats import ReceiverStats

SSRC = 0x1234


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


@given(st.integers(0, 65535), st.integers(2, 400), st.data())
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
