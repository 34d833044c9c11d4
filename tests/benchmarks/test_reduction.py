"""Figures as packets come, held against those of the analysis that has all packets at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.load.analysis import RECORD, analyse, by_call
from benchmarks.load.reduction import BIN_US, Reduction, Spacing
from tests.benchmarks.test_analysis import FRAME_NS, START, records


def reduced(arrivals: np.ndarray, calls: int = 1, parts: int = 7) -> Reduction:
    reduction = Reduction(calls)
    for part in np.array_split(arrivals, parts):
        reduction.add(part)
    return reduction


def test_faultless_call() -> None:
    reduction = reduced(records())

    totals = reduction.totals()
    assert (totals.packets, totals.lost, totals.duplicated, totals.reordered, totals.malformed) == (300, 0, 0, 0, 0)
    assert reduction.spacing.figures() == {"p50": 0.0, "p99": 0.0, "p99.9": 0.0, "max": 0.0, "count": 299}
    assert reduction.drift_ppm() == pytest.approx([0.0], abs=1e-6)
    reception = reduction.reception(0)
    assert reception is not None
    assert (reception.ssrc, reception.received, reception.expected, reception.lost) == (0xCAFE, 300, 300, 0)
    assert reception.highest == 65_400 + 299
    assert reception.jitter == 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 30))
def test_agrees_with_the_analysis_of_all_packets(seed: int, calls: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    made = []
    for call in range(calls):
        one = records(200, call=call)
        one["stamp"] += rng.normal(0, 2e6, 200).astype(np.int64) + call * 1_000_003
        copies = rng.choice(200, 5, replace=False) + 1
        one = np.insert(one, copies, one[copies - 1])
        late = rng.choice(np.arange(5, len(one) - 5), 4, replace=False)
        for at in late:  # a packet overtaken by up to three
            one[at : at + 4] = np.roll(one[at : at + 4], -1)
        one = np.delete(one, rng.choice(np.arange(5, len(one) - 5), 6, replace=False))
        one["stamp"].sort()
        made.append(one)
    arrivals = np.concatenate(made)
    arrivals = arrivals[np.argsort(arrivals["stamp"], kind="stable")]

    reduction = reduced(arrivals, calls, parts)
    found = [analyse(r) for r in by_call(arrivals, calls)]

    totals = reduction.totals()
    assert totals.lost == sum(f.lost for f in found)
    assert totals.duplicated == sum(f.duplicated for f in found)
    assert totals.reordered == sum(f.reordered for f in found)
    assert reduction.drift_ppm() == pytest.approx([f.drift_ppm for f in found], abs=1e-3)


def test_spacing_agrees_with_the_analysis() -> None:
    made = records(3000)
    made["stamp"] += np.random.default_rng(1).exponential(4e5, 3000).astype(np.int64)

    figures = reduced(made).spacing.figures()

    errors = analyse(made).spacing_error
    assert figures["max"] == pytest.approx(errors.max(), abs=1e-3)
    for name, percent in (("p50", 50), ("p99", 99), ("p99.9", 99.9)):
        assert figures[name] == pytest.approx(np.percentile(errors, percent, method="inverted_cdf"), abs=0.011)


def test_jitter_is_that_of_rfc_3550() -> None:
    made = records(200)
    made["stamp"] += np.random.default_rng(2).integers(0, 3_000_000, 200)
    transit = (made["stamp"] - made["stamp"][0]) * 8e-6 - np.arange(200) * 160
    expected = 0.0
    for difference in np.abs(np.diff(transit)):
        expected += (difference - expected) / 16

    reception = reduced(made).reception(0)

    assert reception is not None
    assert reception.jitter == pytest.approx(expected, abs=1e-6)


def test_a_slow_clock_is_drift() -> None:
    made = records(2000)
    made["stamp"] = START + np.arange(2000) * round(FRAME_NS * 1.00002)

    assert reduced(made).drift_ppm() == pytest.approx([20.0], abs=0.01)


def test_an_hour_keeps_its_precision() -> None:
    n = np.arange(0, 180_000, 25)  # of the packets of an hour every 25th
    made = np.zeros(len(n), RECORD)
    made["stamp"] = START + n * (FRAME_NS + 20) + np.random.default_rng(3).integers(0, 200_000, len(n))
    made["size"], made["vpxcc"], made["ssrc"] = 172, 0x80, 1
    made["sequence"], made["timestamp"] = n & 0xFFFF, (n * 160) & 0xFFFFFFFF

    reduction = reduced(made, parts=50)

    assert reduction.drift_ppm() == pytest.approx([1.0], abs=0.01)
    assert reduction.totals().lost == (len(n) - 1) * 24


def test_intervals_that_the_pacer_skipped_are_a_gap_of_spacing() -> None:
    made = records()
    made["stamp"][200:] += 60_000_000  # late, and no more than a pacer makes up for
    made["timestamp"][100:] += np.uint32(160 * 10)
    made["stamp"][100:] += FRAME_NS * 10
    made["mpt"][100] = 0x80

    reduction = reduced(made)

    assert reduction.spacing.figures()["max"] == 200.0
    assert reduction.spacing.figures()["count"] == 299
    assert reduction.spacing.gaps == analyse(made).gaps == 1
    assert reduction.totals().lost == 0


def test_a_new_source_starts_over_and_keeps_what_was_lost_before() -> None:
    made = np.delete(records(), [10, 250])
    made["ssrc"][200:] = 5
    made["sequence"][200:] += 10_000

    reduction = reduced(made)

    assert reduction.restarts == 1
    assert reduction.totals().lost == 2
    reception = reduction.reception(0)
    assert reception is not None
    assert (reception.ssrc, reception.lost) == (5, 1)
    assert reduction.lost_by_call().tolist() == [2]
    assert reduction.received_ever.tolist() == [298]


def test_what_was_lost_before_is_the_calls_own() -> None:
    first, second = np.delete(records(), [10, 11]), np.delete(records(call=1), 20)
    for made in (first, second):
        made["ssrc"][200:] = 5
    again = records(100, call=1)
    again["ssrc"] = 6

    reduction = reduced(np.concatenate((first, second, again)), 3)

    assert reduction.lost_by_call().tolist() == [2, 1, 0]
    assert reduction.received_ever.tolist() == [298, 399, 0]
    assert (reduction.restarts, reduction.totals().lost) == (3, 3)


def test_malformed_packets_are_counted_and_left_out() -> None:
    made = records(100)
    made["vpxcc"][3], made["mpt"][5], made["size"][7] = 0x90, 8, -1

    totals = reduced(made).totals()

    assert (totals.packets, totals.malformed, totals.lost) == (97, 3, 3)


def test_nothing() -> None:
    reduction = Reduction(3)
    reduction.add(np.zeros(0, RECORD))

    assert reduction.reception(1) is None
    assert len(reduction.drift_ppm()) == 0
    assert reduction.spacing.figures()["p99"] is None
    assert reduction.take_worst_jitter_ms() == 0.0


def test_histogram_is_taken_once() -> None:
    reduction = reduced(records())
    assert reduction.take_spacing().figures()["count"] == 299
    assert reduction.take_spacing().figures()["count"] == 0


def test_the_last_bin_has_all_beyond() -> None:
    spacing = Spacing()
    spacing.add(np.array([5.0, 15.0, 5e6]))

    assert spacing.figures((50, 100)) == {"p50": 2 * BIN_US / 1000, "p100": 1000.0, "max": 5000.0, "count": 3}
