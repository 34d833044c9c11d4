"""The budget that all legs of a media thread share for their close looks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.rtp.look_budget import LOOK_MS, LookBudget, new_leg


def spend_all(budget: LookBudget, at_ms: int, leg: int) -> int:
    """Take what was saved up; the first tick without any."""
    while budget.take(leg, at_ms, at_ms):
        at_ms += 1
    return at_ms


class Crowd:
    """Legs that all want a look again as soon as they had one, and ask every 20 ms, each in its own tick."""

    def __init__(self, count: int, budget: LookBudget, yields_ms: int = 0) -> None:
        self.legs = [new_leg() for _ in range(count)]
        self.budget = budget
        self.yields_ms = yields_ms
        self.due: dict[int, int] = {}
        self.looks: dict[int, list[int]] = {leg: [] for leg in self.legs}

    def tick(self, at_ms: int) -> None:
        for place, leg in enumerate(self.legs):
            if (at_ms + place) % 20 == 0 and self.budget.take(
                leg, self.due.setdefault(leg, at_ms + self.yields_ms), at_ms
            ):
                self.looks[leg].append(at_ms)
                del self.due[leg]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_that_cannot_be(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        LookBudget(share)


def test_numbers_differ() -> None:
    assert len({new_leg() for _ in range(100)}) == 100


def test_a_tick_has_one_look() -> None:
    budget = LookBudget()
    legs = [new_leg() for _ in range(50)]

    assert [budget.take(leg, 1000, 1000) for leg in legs] == [True] + [False] * 49
    assert sum(budget.take(leg, 1000, 1001) for leg in legs) == 1


@pytest.mark.parametrize("share", [0.02, 0.04, 0.08])
def test_the_share_of_time_is_kept(share: float) -> None:
    crowd = Crowd(60, LookBudget(share))
    for at_ms in range(5000, 15000):
        crowd.tick(at_ms)

    spent = sum(map(len, crowd.looks.values())) * LOOK_MS / 10000
    # What was saved up comes on top; less is used as the leg that is first may ask a frame later.
    assert 0.75 * share <= spent <= share + 0.001


def test_a_look_that_cost_twice_is_paid_for() -> None:
    budget, leg = LookBudget(0.1), new_leg()
    now = spend_all(budget, 0, leg)
    budget.charge()

    waits = 0
    while not budget.take(leg, now, now + waits):
        waits += 1
    assert 2 * LOOK_MS / 0.1 - 2 <= waits + 1 <= 2 * LOOK_MS / 0.1 + 2


def test_a_stall_saves_up_no_more_than_two() -> None:
    budget, leg = LookBudget(), new_leg()
    now = spend_all(budget, 0, leg) + 60_000

    assert spend_all(budget, now, leg) - now == 2


def test_who_waited_longest_is_next() -> None:
    """Every leg has its turn: none waits much longer than all others need together."""
    crowd = Crowd(30, LookBudget())
    for at_ms in range(1000, 13000):
        crowd.tick(at_ms)

    counts = [len(looks) for looks in crowd.looks.values()]
    assert min(counts) >= 0.7 * max(counts)
    longest = max(int(np.max(np.diff(looks))) for looks in crowd.looks.values())
    assert longest <= 1.5 * 30 * LOOK_MS / 0.08


def test_a_fresh_leg_goes_before_those_that_yield_and_they_do_not_starve() -> None:
    budget = LookBudget()
    crowd = Crowd(40, budget, yields_ms=2000)
    caller, waits, asked = new_leg(), [], None
    for at_ms in range(1000, 21000):
        crowd.tick(at_ms)
        if at_ms % 500 == 107 and asked is None:
            asked = at_ms
        if asked is not None and (at_ms - asked) % 20 == 0 and budget.take(caller, asked, at_ms):
            waits.append(at_ms - asked)
            asked = None

    assert len(waits) >= 38
    assert max(waits) <= 80
    assert min(len(looks) for looks in crowd.looks.values()) >= 12


def test_who_asks_no_more_holds_up_nobody_for_long() -> None:
    budget, gone, other = LookBudget(), new_leg(), new_leg()
    now = spend_all(budget, 0, gone)

    taken = [at_ms for at_ms in range(now, now + 200, 20) if budget.take(other, now, at_ms)]
    assert taken[0] - now <= 80


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-40, 200), st.integers(-3000, 3000)), max_size=200))
def test_whatever_is_asked_the_share_is_kept(asked: list[tuple[int, int, int]]) -> None:
    """Clocks of legs differ, and go back after a stall."""
    budget = LookBudget()
    legs = [new_leg() for _ in range(6)]
    at_ms = 1000
    times: list[int] = []
    looks: list[int] = []
    for leg, step, due in asked:
        at_ms += step
        times.append(at_ms)
        if budget.take(legs[leg], at_ms + due, at_ms):
            looks.append(at_ms)
    passed_ms = max(times) - times[0] if times else 0
    assert len(looks) * LOOK_MS <= 2 * LOOK_MS + passed_ms * 0.08 + 1e-6
    assert all(before != after for before, after in itertools.pairwise(looks))
