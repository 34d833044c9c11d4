"""What a run is to do."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from benchmarks.load.plan import Plan

PLAN = Plan(("127.0.0.1", 5060), 5.0, 20.0, [["a"]] * 50, 100.0, "t")


def test_arrivals_are_one_a_slot_and_the_same_for_a_seed() -> None:
    arrivals = PLAN.arrivals()

    assert arrivals == PLAN.arrivals()
    assert all(100.0 + i / 5 <= at < 100.0 + (i + 1) / 5 for i, at in enumerate(arrivals))
    phases = {round(at / 0.020 % 1, 1) for at in arrivals}
    assert len(phases) > 5, "the calls share one phase of the frame period"
    assert all(later > earlier for earlier, later in pairwise(arrivals))
    # The first call still stands when the last one has been up for `seconds`.
    assert arrivals[0] + PLAN.hold >= PLAN.window[1]
    assert PLAN.window == (110.0, 130.0)


def test_plan_survives_its_file(tmp_path: Path) -> None:
    plan = replace(PLAN, scripts=[["one", "two"], ["two", "one"]], sound="none", keep=False)

    plan.write(tmp_path / "plan.json")

    assert Plan.read(tmp_path / "plan.json") == plan


def test_room_is_bounded_where_nothing_is_kept() -> None:
    hour = replace(PLAN, seconds=3600.0)

    assert PLAN.capacity(50) > 50 * 50 * PLAN.hold
    assert hour.capacity(50) > 50 * 50 * 3600
    assert replace(hour, keep=False).capacity(50) == replace(PLAN, keep=False).capacity(50) < 50 * 50 * 20
