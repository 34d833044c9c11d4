"""When an engine that had no room is asked again. Time is moved by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mediaserver.speech.patience import FIRST_PAUSE_S, LONGEST_PAUSE_S, Patience


def pauses(patience: Patience, now: float, late: float = 0.0) -> list[float]:
    """All pauses to the end, each kept to, and `late` seconds more."""
    found = []
    while (pause := patience.pause(now)) is not None:
        found.append(pause)
        now += pause + late
    return found


def test_without_patience_nothing_is_asked_again() -> None:
    assert Patience(0.0, 10.0).pause(10.0) is None


def test_pauses_grow_to_their_bound() -> None:
    found = pauses(Patience(3.0, 10.0), 10.0)
    assert found[0] <= 1.25 * FIRST_PAUSE_S
    assert max(found) <= 1.25 * LONGEST_PAUSE_S
    assert min(found[5:-1]) >= 0.75 * LONGEST_PAUSE_S


def test_those_refused_together_do_not_ask_together() -> None:
    assert len({Patience(3.0, 0.0).pause(0.0) for _ in range(50)}) > 40


@given(st.floats(0.001, 60), st.floats(-1e4, 1e4), st.floats(0, 0.5))
def test_it_ends_at_the_limit(limit: float, now: float, late: float) -> None:
    """The last pause ends at the limit, whatever happens in between; and there are not many."""
    found = pauses(Patience(limit, now), now, late)
    assert all(pause > 0 for pause in found)
    assert sum(found) + late * (len(found) - 1) <= limit + 1e-6
    assert len(found) <= 4 + limit / (0.75 * LONGEST_PAUSE_S) + 1
    if late == 0:
        assert abs(sum(found) - limit) < 1e-6


def test_a_clock_that_has_jumped_past_the_limit() -> None:
    assert Patience(3.0, 0.0).pause(3.0) is None
    assert Patience(3.0, 0.0).pause(1e9) is None
