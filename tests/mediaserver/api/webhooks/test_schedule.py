"""Which call's event is posted when; time is moved by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mediaserver.api.webhooks.schedule import (
    AWAY_AFTER,
    MAX_PAUSE_S,
    MAX_RETRY_S,
    DeliverySchedule,
    backoff,
)


def schedule(slots: int = 4) -> DeliverySchedule:
    return DeliverySchedule(slots, draw=lambda: 1.0)  # the longest of each wait


def test_a_call_has_one_event_in_flight() -> None:
    plan = schedule()
    plan.add("a", 0.0)
    plan.add("a", 0.0)

    assert plan.take(0.0) == ["a"]
    assert plan.take(0.0) == []
    plan.delivered("a", 1.0, empty=False)
    assert plan.take(1.0) == ["a"]
    plan.delivered("a", 2.0, empty=True)
    assert plan.take(2.0) == []
    assert plan.waiting == 0
    assert plan.next_due() is None


def test_an_event_that_comes_while_the_last_is_in_flight_is_not_forgotten() -> None:
    plan = schedule()
    plan.add("a", 0.0)
    plan.take(0.0)
    plan.add("a", 0.5)
    plan.delivered("a", 1.0, empty=True)  # the disk was looked at before

    assert plan.take(1.0) == ["a"]


def test_calls_go_side_by_side_up_to_the_slots() -> None:
    plan = schedule(slots=2)
    for name in "abc":
        plan.add(name, 0.0)

    assert plan.take(0.0) == ["a", "b"]
    assert plan.next_due() is None
    plan.delivered("a", 0.1, empty=True)
    assert plan.take(0.1) == ["c"]


def test_a_failed_event_waits_longer_each_time_and_others_do_not() -> None:
    plan = schedule()
    plan.add("a", 0.0)
    now, waits = 0.0, []
    for _ in range(12):
        assert plan.take(now) == ["a"]
        plan.failed("a", now, away=False)
        due = plan.next_due()
        assert due is not None
        waits.append(due - now)
        assert plan.take(due - 0.001) == []
        now = due

    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, *[MAX_RETRY_S] * 3]
    plan.add("b", now - 200.0)
    assert "b" in plan.take(now - 200.0)


def test_a_success_begins_the_waits_anew() -> None:
    plan = schedule()
    plan.add("a", 0.0)
    for now in (0.0, 10.0, 20.0):
        plan.take(now)
        plan.failed("a", now, away=False)
    plan.take(100.0)
    plan.delivered("a", 100.0, empty=False)
    plan.take(100.0)
    plan.failed("a", 100.0, away=False)

    assert plan.next_due() == 101.0


def test_an_application_that_is_away_is_tried_with_one_event_at_a_time() -> None:
    plan = schedule(slots=4)
    for name in "abcdef":
        plan.add(name, 0.0)
    for name in plan.take(0.0):
        plan.failed(name, 0.0, away=True)

    assert plan.away
    assert plan.take(0.0) == []
    due = plan.next_due()
    assert due is not None
    assert due > 0.0
    assert plan.take(due) == ["e"]
    assert plan.next_due() is None
    plan.failed("e", due, away=True)
    again = plan.next_due()
    assert again is not None
    assert again - due > due  # longer than before
    assert plan.take(again) == ["f"]  # each in turn


def test_when_it_is_back_nobody_waits_any_longer() -> None:
    plan = schedule(slots=4)
    for name in "abcdef":
        plan.add(name, 0.0)
    for name in plan.take(0.0):
        plan.failed(name, 0.0, away=True)
    now = 500.0
    [probe] = plan.take(now)
    plan.delivered(probe, now, empty=True)

    assert not plan.away
    assert len(plan.take(now)) == 4


def test_pauses_are_bounded() -> None:
    plan = schedule()
    plan.add("a", 0.0)
    now = 0.0
    for _ in range(40):
        plan.take(now)
        plan.failed("a", now, away=True)
        due = plan.next_due()
        assert due is not None
        assert due - now <= MAX_PAUSE_S
        now = due


def test_what_the_application_asks_for_holds_for_all() -> None:
    plan = schedule()
    plan.add("a", 0.0)
    plan.add("b", 0.0)
    plan.take(0.0)
    plan.failed("a", 0.0, away=True, retry_after_s=30.0)
    plan.add("c", 1.0)

    assert plan.take(29.9) == []
    assert plan.next_due() == 30.0
    assert "c" in plan.take(30.0)


def test_a_message_that_had_to_make_room_says_nothing_about_the_application() -> None:
    plan = schedule(slots=3)
    for name in "abc":
        plan.add(name, 0.0)
    for name in plan.take(0.0):
        plan.failed(name, 0.0, away=True)
    [gone] = plan.take(100.0)
    plan.skipped(gone, 100.0, empty=True)

    assert plan.away
    assert plan.waiting == 2


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_backoff_is_within_its_bounds(failures: int, draw: float) -> None:
    wait = backoff(failures, MAX_RETRY_S, draw)

    assert 0.5 <= wait <= MAX_RETRY_S
    assert wait >= min(MAX_RETRY_S, 2.0 ** min(failures - 1, 60)) / 2


@pytest.mark.parametrize("draw", [0.0, 0.25, 1.0])
def test_the_lot_decides_half_of_the_wait(draw: float) -> None:
    assert backoff(4, MAX_RETRY_S, draw) == 8 * (0.5 + draw / 2)


class Deliveries(RuleBasedStateMachine):
    """Whatever comes, each call's events are delivered in order, once, and none is stuck."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.plan = DeliverySchedule(3, draw=lambda: 0.5)
        self.disk: dict[str, int] = {}
        self.flying: set[str] = set()

    @rule(name=st.sampled_from("abcde"))
    def event(self, name: str) -> None:
        self.disk[name] = self.disk.get(name, 0) + 1
        self.plan.add(name, self.now)

    @rule(seconds=st.floats(0, 400))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        taken = self.plan.take(self.now)
        assert not self.flying & set(taken)
        assert all(self.disk[name] for name in taken)
        self.flying |= set(taken)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), outcome=st.sampled_from(["delivered", "failed", "away", "asked"]))
    def answer(self, data: st.DataObject, outcome: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.flying)))
        self.flying.remove(name)
        if outcome == "delivered":
            self.disk[name] -= 1
            self.plan.delivered(name, self.now, empty=not self.disk[name])
        else:
            wait = 20.0 if outcome == "asked" else None
            self.plan.failed(name, self.now, away=outcome != "failed", retry_after_s=wait)

    @invariant()
    def bounds_hold(self) -> None:
        assert self.plan.in_flight == len(self.flying) <= 3
        assert self.plan.waiting == len([name for name, count in self.disk.items() if count])

    def teardown(self) -> None:
        """The application takes everything from now on: nothing is left."""
        for _ in range(300):
            for name in sorted(self.flying):
                self.answer_well(name)
            self.flying.clear()
            if not self.plan.waiting:
                break
            due = self.plan.next_due()
            assert due is not None
            self.now = max(self.now, due)
            self.flying |= set(self.plan.take(self.now))
        assert not self.plan.waiting
        assert not any(self.disk.values())

    def answer_well(self, name: str) -> None:
        self.disk[name] -= 1
        self.plan.delivered(name, self.now, empty=not self.disk[name])


TestDeliveries = Deliveries.TestCase
TestDeliveries.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_one_failure_is_not_yet_away() -> None:
    plan = schedule(slots=8)
    for index in range(8):
        plan.add(str(index), 0.0)
    for name in plan.take(0.0)[: AWAY_AFTER - 1]:
        plan.failed(name, 0.0, away=True)

    assert not plan.away
