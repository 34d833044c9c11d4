"""The largest load that passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.search import largest


class Measured:
    """Passes up to a limit, and remembers what it was asked."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.trials: list[int] = []

    def __call__(self, streams: int) -> bool:
        self.trials.append(streams)
        return streams <= self.limit


@given(st.integers(0, 2500), st.integers(1, 2000), st.integers(1, 2000), st.floats(0, 0.5))
def test_finds_the_limit_to_the_resolution(limit: int, start: int, most: int, resolution: float) -> None:
    start = min(start, most)
    measured = Measured(limit)

    found = largest(measured, start, most, resolution)

    assert found <= min(limit, most)
    assert found == min(limit, most) or found + max(1, int(resolution * found)) >= min(limit + 1, most)
    assert len(set(measured.trials)) == len(measured.trials), "nothing is tried twice"
    assert all(1 <= trial <= most for trial in measured.trials)
    assert found == 0 or found in measured.trials, "what is said to pass was tried"


def test_doubles_then_bisects() -> None:
    measured = Measured(300)

    assert largest(measured, 50, 1000) in range(285, 301)
    assert measured.trials[:4] == [50, 100, 200, 400]
    assert len(measured.trials) <= 8


def test_resolution_of_one_is_exact() -> None:
    assert largest(Measured(137), 1, 1000, resolution=0) == 137


@pytest.mark.parametrize(("start", "most"), [(0, 10), (11, 10)])
def test_start_must_be_within(start: int, most: int) -> None:
    with pytest.raises(ValueError, match="must start from 1"):
        largest(Measured(5), start, most)
