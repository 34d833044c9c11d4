"""Quantiles by the nearest rank."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.quantiles import quantile, quantiles

NUMBERS = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=200)


def test_nothing_has_no_quantiles() -> None:
    assert quantiles([]) == {"p50": None, "p95": None, "p99": None, "max": None, "count": 0}


def test_hundred_numbers() -> None:
    found = quantiles(range(100, 0, -1), (50, 95, 99.9), scale=1000)

    assert found == {"p50": 50_000, "p95": 95_000, "p99.9": 100_000, "max": 100_000, "count": 100}


@pytest.mark.parametrize("count", [1, 19, 20, 21])
def test_p95_of_few(count: int) -> None:
    assert quantile(range(1, count + 1), 95) == {1: 1, 19: 19, 20: 19, 21: 20}[count]


@given(NUMBERS, st.floats(0, 100))
def test_quantile_was_measured_and_covers_its_share(values: list[float], percent: float) -> None:
    ordered = sorted(values)
    found = quantile(ordered, percent)

    assert found in ordered
    assert sum(value <= found for value in ordered) >= percent / 100 * len(ordered) - 1e-9
    assert sum(value < found for value in ordered) <= max(0, percent / 100 * len(ordered))
