"""Counters, gauges and histograms, and that they can be read while they are written."""

from __future__ import annotations

import pickle
import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.measures import Counter, Gauge, Histogram, Measure


def test_a_counter_counts() -> None:
    counter = Counter("streams", "Streams begun", labels={"device": "cuda:0"})
    assert (counter.name, counter.text, counter.labels, counter.value) == (
        "streams",
        "Streams begun",
        {"device": "cuda:0"},
        0,
    )
    counter.add()
    counter.add(2.5)
    counter.add(0)
    assert counter.value == 3.5


def test_a_counter_does_not_go_down() -> None:
    counter = Counter("streams", "")
    counter.add(2)
    with pytest.raises(ValueError, match="streams: a counter cannot go down"):
        counter.add(-1)
    assert counter.value == 2


def test_a_gauge_is_set() -> None:
    gauge = Gauge("memory_bytes", "")
    assert gauge.value == 0
    gauge.set(7)
    gauge.set(-2.5)
    assert gauge.value == -2.5


@pytest.mark.parametrize("kind", [Counter, Gauge])
def test_what_is_kept_elsewhere_is_asked_for_at_each_reading(kind: type[Counter | Gauge]) -> None:
    kept = [3]
    measure = kind("work_seconds", "", lambda: kept[0])
    assert measure.value == 3
    kept[0] = 4
    assert measure.value == 4
    with pytest.raises(RuntimeError, match="work_seconds is kept elsewhere"):
        measure.add(1) if isinstance(measure, Counter) else measure.set(1)
    assert measure.value == 4


def test_a_reading_that_fails_says_so() -> None:
    gauge = Gauge("memory_bytes", "", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _ = gauge.value


@pytest.mark.parametrize("name", ["", "Steps", "step-seconds", "1st", "_steps", "steps{}", "größe", "steps\n"])
def test_names_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match="no name of a measure or label"):
        Gauge(name, "")
    with pytest.raises(ValueError, match="no name of a measure or label"):
        Histogram("steps", "", [1], labels={name: "x"})


def test_labels_are_the_measures_own() -> None:
    labels = {"device": "cuda:0"}
    counter = Counter("steps", "", labels=labels)
    labels["device"] = "cuda:1"
    assert counter.labels == {"device": "cuda:0"}


@pytest.mark.parametrize("bounds", [[], [1, 1], [2, 1], [1, float("inf")], [float("nan")], [0, float("nan")]])
def test_bounds_are_checked(bounds: list[float]) -> None:
    with pytest.raises(ValueError, match="histogram step_seconds: bounds must be finite and ascend"):
        Histogram("step_seconds", "", bounds)


def test_a_bound_is_within_its_bucket() -> None:
    histogram = Histogram("step_seconds", "", [0.1, 0.2])
    for value in (0.05, 0.1, 0.10001, 0.2, 0.3):
        histogram.observe(value)
    assert histogram.cumulative() == [2, 4, 5]
    assert histogram.count == 5
    assert histogram.sum == pytest.approx(0.75001)


def test_what_is_no_number_spoils_nothing() -> None:
    histogram = Histogram("step_seconds", "", [1])
    for value in (float("nan"), float("inf"), -float("inf"), 0.5):
        histogram.observe(value)
    assert (histogram.cumulative(), histogram.sum) == ([1, 1], 0.5)


@given(
    bounds=st.lists(st.integers(-50, 50), min_size=1, max_size=8, unique=True).map(sorted),
    values=st.lists(st.floats(-100, 100), max_size=40),
)
def test_any_values_are_counted_once(bounds: list[int], values: list[float]) -> None:
    histogram = Histogram("slack_seconds", "", bounds)
    for value in values:
        histogram.observe(value)
    expected = [sum(value <= bound for value in values) for bound in bounds]
    assert histogram.cumulative() == [*expected, len(values)]
    assert histogram.sum == pytest.approx(sum(values), abs=1e-9)


def test_a_worker_in_another_process_can_send_them() -> None:
    counter, gauge = Counter("steps", "Steps", labels={"device": "cuda:0"}), Gauge("pages", "Pages")
    histogram = Histogram("step_seconds", "Time", [0.1, 1])
    counter.add(3)
    gauge.set(4)
    histogram.observe(0.5)
    sent: tuple[Measure, ...] = pickle.loads(pickle.dumps((counter, gauge, histogram)))
    assert [vars(measure) for measure in sent] == [vars(counter), vars(gauge), vars(histogram)]


def test_reading_while_another_thread_writes() -> None:
    """What is read is never torn, and only grows."""
    histogram, counter = Histogram("step_seconds", "", [1, 2, 3]), Counter("steps", "")
    wanted = 20_000

    def write() -> None:
        for number in range(wanted):
            histogram.observe(number % 5)
            counter.add()

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[tuple[list[int], float]] = []
    while writer.is_alive():
        seen.append((histogram.cumulative(), counter.value))
    writer.join()
    seen.append((histogram.cumulative(), counter.value))
    assert seen[-1] == ([wanted * 2 // 5, wanted * 3 // 5, wanted * 4 // 5, wanted], wanted)
    for (counts, total), (more, later) in pairwise(seen):
        assert counts == sorted(counts)
        assert all(before <= after for before, after in zip(counts, more, strict=True))
        assert total <= later
