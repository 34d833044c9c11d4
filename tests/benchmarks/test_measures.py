"""What an engine's measures say of a stretch of time."""

from __future__ import annotations

import copy

import pytest

from benchmarks.load.measures import Period, fill, name_of, rows, total_of
from tts_engine.measures import Counter, Gauge, Histogram, Measure


def measures() -> tuple[Counter, Gauge, Histogram]:
    return (
        Counter("late_chunks", "Late", labels={"device": "cpu"}),
        Gauge("sequences_waiting", "Waiting"),
        Histogram("step_seconds", "Steps", (0.001, 0.01, 0.1)),
    )


def test_only_what_happened_in_the_period_counts() -> None:
    counter, gauge, histogram = measures()
    counter.add(5)
    histogram.observe(0.05)
    period = Period(lambda: (counter, gauge, histogram))
    counter.add(6)
    for value in (0.002, 0.004):
        histogram.observe(value)
    for value in (1, 4):
        gauge.set(value)
        period.sample()
    gauge.set(100)

    found = period.figures(2.0)

    assert found["late_chunks{device=cpu}"] == {"count": 6, "rate": 3}
    assert found["sequences_waiting"] == {"mean": 2.5, "max": 4}
    assert found["step_seconds"] == {"mean": pytest.approx(0.003), "count": 2, "p95_at_most": 0.01}


def test_what_never_happened_has_no_mean() -> None:
    found = Period(measures).figures(1.0)

    assert found == {"late_chunks{device=cpu}": {"count": 0, "rate": 0}}


def test_values_above_every_bound_have_none() -> None:
    _, _, histogram = measures()
    period = Period(lambda: (histogram,))
    histogram.observe(5.0)

    assert period.figures(1.0)["step_seconds"]["p95_at_most"] is None


def test_measures_may_be_new_objects_each_time_and_begin_again() -> None:
    """A worker in another process tells copies; one that was restarted counts from nothing."""
    counter, gauge, histogram = measures()
    told: list[tuple[Measure, ...]] = [()]

    def tell() -> None:
        told[0] = copy.deepcopy((counter, gauge, histogram))

    counter.add(10)
    tell()
    period = Period(lambda: told[0])
    counter.add(1)
    tell()
    assert period.figures(1.0)["late_chunks{device=cpu}"]["count"] == 1
    counter, gauge, histogram = measures()
    counter.add(3)
    tell()
    assert period.figures(1.0)["late_chunks{device=cpu}"]["count"] == 3


def test_measure_that_appears_later_counts_from_nothing() -> None:
    counter, _, histogram = measures()
    known: list[Measure] = []
    period = Period(lambda: known)
    counter.add(2)
    histogram.observe(0.002)
    known += [counter, histogram]

    assert period.figures(1.0)["late_chunks{device=cpu}"]["count"] == 2
    assert period.figures(1.0)["step_seconds"]["count"] == 1


def test_names_carry_their_labels() -> None:
    assert name_of(Gauge("a", "", labels={"b": "c", "d": "e"})) == "a{b=c,d=e}"
    assert name_of(Gauge("a", "")) == "a"


def test_rows_are_in_milliseconds_and_leave_out_what_is_zero() -> None:
    shown = list(
        rows(
            {
                "step_seconds{device=cpu}": {"mean": 0.003, "count": 2, "p95_at_most": None},
                "audio_seconds": {"count": 100, "rate": 10.0},
                "late": {"count": 0, "rate": 0.0},
                "waiting": {"mean": 0.5, "max": 2},
            }
        )
    )

    assert shown == [
        ("step_ms{device=cpu}", 3.0, None, 2),
        ("audio_seconds", 10.0, None, 100),
        ("waiting", 0.5, 2.0, None),
    ]


def test_fill_is_the_share_that_is_no_padding_over_all_workers() -> None:
    figures = {
        "step_rows{device=a}": {"mean": 30.0, "count": 2, "p95_at_most": 32.0},
        "step_rows{device=b}": {"mean": 20.0, "count": 1, "p95_at_most": 32.0},
        "step_padding_rows{device=a}": {"count": 20, "rate": 1.0},
        "vocoder_frames": {"count": 900, "rate": 1.0},
        "vocoder_padding_frames": {"count": 100, "rate": 1.0},
    }

    assert fill(figures) == {"step": 0.8, "vocoder": 0.9}


def test_totals_of_a_gauge_go_over_its_labels() -> None:
    figures = {"memory{device=a}": {"mean": 1.0, "max": 2.0}, "memory{device=b}": {"mean": 1.0, "max": 3.0}}

    assert total_of(figures, "memory") == 5
    assert total_of(figures, "other") is None
