import itertools
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mediaserver.rtp.pacer import CATCH_UP, FILL, LATENESS_BOUNDS, Pacer

ORIGIN = 1000.0


class Leg:
    """Writes down when it was asked."""

    def __init__(self, interval_ms: int = 20) -> None:
        self.interval_ms = interval_ms
        self.due: list[int] = []
        self.error: Exception | None = None

    def tick(self, due_ms: int) -> None:
        if self.error is not None:
            raise self.error
        self.due.append(due_ms)


def run(pacer: Pacer, until: float) -> None:
    """As a thread that is always on time would."""
    deadline, _ = pacer.advance(ORIGIN)
    while deadline is not None and deadline <= until:
        deadline, failed = pacer.advance(deadline)
        assert failed == []


def test_no_leg_no_deadline() -> None:
    assert Pacer(ORIGIN).advance(ORIGIN + 5) == (None, [])


def test_deadlines_are_the_legs_absolute_times() -> None:
    pacer = Pacer(ORIGIN)
    first = pacer.add(Leg(), ORIGIN)
    deadline, _ = pacer.advance(ORIGIN)
    assert deadline == first
    for n in range(1, 5000):
        deadline, _ = pacer.advance(deadline)
        assert deadline == pytest.approx(first + n * 0.020, abs=1e-9), "no drift"


@example([10, 10], 0.09999999999999999)  # which is 0.1 for a pacer that rounds by a microsecond
@given(st.lists(st.integers(10, 60), min_size=1, max_size=12), st.floats(0, 0.1))
def test_each_leg_is_due_at_its_own_interval(intervals: list[int], start: float) -> None:
    pacer = Pacer(ORIGIN)
    legs = [Leg(interval) for interval in intervals]
    for leg in legs:
        pacer.add(leg, ORIGIN + start)
    run(pacer, ORIGIN + 2)
    for leg in legs:
        assert leg.due[0] > start * 1000 - 1
        assert leg.due[0] <= start * 1000 + leg.interval_ms + 0.001
        assert leg.due == list(range(leg.due[0], 2001, leg.interval_ms))
    assert pacer.metrics.max_lateness < 1e-6
    assert pacer.metrics.skipped_intervals == 0


def phases_of(count: int, interval_ms: int = 20) -> Counter[int]:
    """How many of so many legs are on each phase."""
    pacer = Pacer(ORIGIN)
    legs = [Leg(interval_ms) for _ in range(count)]
    for leg in legs:
        pacer.add(leg, ORIGIN)
    run(pacer, ORIGIN + 0.2)
    return Counter(leg.due[0] % interval_ms for leg in legs)


def test_few_legs_share_few_wakeups() -> None:
    assert phases_of(50) == {0: 12, 5: 13, 10: 13, 15: 12}
    assert set(phases_of(50, 30)) == {0, 5, 10, 15, 20, 25}


def test_more_legs_are_given_more_ticks_between() -> None:
    phases = phases_of(4 * FILL + 8)
    assert {phase: phases[phase] for phase in (0, 5, 10, 15)} == dict.fromkeys((0, 5, 10, 15), FILL)
    assert {phase: phases[phase] for phase in (2, 7, 12, 17)} == dict.fromkeys((2, 7, 12, 17), 2)


@pytest.mark.parametrize("count", [20 * FILL, 40 * FILL])
def test_many_legs_are_spread_evenly(count: int) -> None:
    assert phases_of(count) == dict.fromkeys(range(20), count // 20)


@given(st.lists(st.booleans(), max_size=300), st.integers(10, 60))
def test_no_phase_is_overfull_while_another_has_room(coming: list[bool], interval: int) -> None:
    """Legs come and go."""
    pacer, legs, now = Pacer(ORIGIN), list[Leg](), ORIGIN
    for comes in coming * 4:
        if comes or not legs:
            legs.append(Leg(interval))
            pacer.add(legs[-1], now)
        else:
            pacer.remove(legs.pop(0))
        now += 0.001
    wheel = pacer._wheels.get(interval, [])
    if len(legs) <= interval * FILL:
        assert all(len(slot) <= FILL for slot in wheel)


def test_a_gap_left_by_a_leg_is_filled_first() -> None:
    pacer = Pacer(ORIGIN)
    legs = [Leg() for _ in range(20)]
    for leg in legs:
        pacer.add(leg, ORIGIN)
    run(pacer, ORIGIN + 0.05)
    pacer.remove(legs[7])
    newcomer = Leg()
    pacer.add(newcomer, ORIGIN + 0.05)
    run(pacer, ORIGIN + 0.1)
    assert newcomer.due[0] % 20 == legs[7].due[0] % 20


def test_late_packets_are_made_up_for_at_once() -> None:
    pacer = Pacer(ORIGIN)
    leg = Leg()
    first = pacer.add(leg, ORIGIN)
    pacer.advance(first)
    pacer.advance(first + 0.0595)
    assert leg.due == [5, 25, 45]
    assert pacer.metrics.skipped_intervals == 0


def test_what_is_due_for_longer_is_skipped_and_counted() -> None:
    pacer = Pacer(ORIGIN)
    leg = Leg()
    first = pacer.add(leg, ORIGIN)
    pacer.advance(first)
    deadline, _ = pacer.advance(first + 0.2)
    assert leg.due == [5, 165, 185, 205], "no more than CATCH_UP at once"
    assert pacer.metrics.skipped_intervals == 7
    assert deadline == pytest.approx(first + 0.22)


def test_a_leg_that_came_after_an_idle_time_has_missed_nothing() -> None:
    pacer = Pacer(ORIGIN)
    pacer.advance(ORIGIN)
    leg = Leg()
    first = pacer.add(leg, ORIGIN + 3600)
    assert first == pytest.approx(ORIGIN + 3600.005)
    pacer.advance(first)
    assert leg.due == [3_600_005]
    assert pacer.metrics.skipped_intervals == 0


def test_a_leg_added_while_the_pacer_is_late_starts_in_the_future() -> None:
    pacer = Pacer(ORIGIN)
    early, late = Leg(), Leg()
    pacer.add(early, ORIGIN)
    pacer.add(late, ORIGIN + 0.050)
    pacer.advance(ORIGIN + 0.080)
    assert early.due == [25, 45, 65]
    assert late.due[0] > 50


@given(
    st.lists(st.integers(10, 60), min_size=1, max_size=8),
    st.lists(st.floats(0, 0.3), min_size=1, max_size=20),
)
def test_late_or_not_each_tick_is_sent_once_or_counted(intervals: list[int], waits: list[float]) -> None:
    pacer = Pacer(ORIGIN)
    legs = [Leg(interval) for interval in intervals]
    firsts = {}
    for leg in legs:
        firsts[leg] = round((pacer.add(leg, ORIGIN) - ORIGIN) * 1000)
    now = ORIGIN
    for wait in waits:
        before = {leg: len(leg.due) for leg in legs}
        now += wait
        deadline, _ = pacer.advance(now)
        assert deadline is not None
        assert deadline > now - 1e-5
        assert deadline <= now + 0.001 + max(intervals) / 1000
        for leg in legs:
            at_once = leg.due[before[leg] :]
            assert len(at_once) <= CATCH_UP
            assert all(tick > (now - ORIGIN) * 1000 - CATCH_UP * leg.interval_ms - 1 for tick in at_once)
    end = int((now - ORIGIN + 1e-6) * 1000)
    owed = 0
    for leg in legs:
        assert all(step % leg.interval_ms == 0 and step for step in steps(leg.due))
        assert all(tick % leg.interval_ms == firsts[leg] % leg.interval_ms for tick in leg.due)
        owed += len(range(firsts[leg], end + 1, leg.interval_ms))
    assert sum(len(leg.due) for leg in legs) + pacer.metrics.skipped_intervals == owed


def steps(values: list[int]) -> list[int]:
    return [b - a for a, b in itertools.pairwise(values)]


def test_remove() -> None:
    pacer = Pacer(ORIGIN)
    leg, other = Leg(), Leg(30)
    pacer.add(leg, ORIGIN)
    pacer.add(other, ORIGIN)
    assert pacer.remove(leg)
    assert not pacer.remove(leg)
    run(pacer, ORIGIN + 0.1)
    assert leg.due == []
    assert len(other.due) == 4
    assert len(pacer) == 1
    pacer.remove(other)
    assert pacer.advance(ORIGIN + 0.2) == (None, [])


def test_a_leg_can_come_back_with_another_interval() -> None:
    pacer = Pacer(ORIGIN)
    leg = Leg()
    pacer.add(leg, ORIGIN)
    run(pacer, ORIGIN + 0.05)
    pacer.remove(leg)
    leg.interval_ms = 30
    pacer.add(leg, ORIGIN + 0.05)
    run(pacer, ORIGIN + 0.2)
    assert leg.due[:3] == [5, 25, 45]
    assert set(steps(leg.due[3:])) == {30}


def test_a_leg_is_added_once() -> None:
    pacer = Pacer(ORIGIN)
    leg = Leg()
    pacer.add(leg, ORIGIN)
    with pytest.raises(ValueError, match="already"):
        pacer.add(leg, ORIGIN)


@pytest.mark.parametrize("interval", [0, 9, 61])
def test_intervals_have_bounds(interval: int) -> None:
    pacer = Pacer(ORIGIN)
    with pytest.raises(ValueError, match="10-60"):
        pacer.add(Leg(interval), ORIGIN)
    assert len(pacer) == 0


def test_a_leg_that_raises_goes_and_the_others_stay() -> None:
    pacer = Pacer(ORIGIN)
    legs = [Leg() for _ in range(60)]  # three in each slot
    for leg in legs:
        pacer.add(leg, ORIGIN)
    pacer.advance(ORIGIN + 0.0201)
    broken = [legs[0], legs[20]]
    for leg in broken:
        leg.error = RuntimeError("broken")
    _, failed = pacer.advance(ORIGIN + 0.0401)
    assert [(leg, str(error)) for leg, error in failed] == [(leg, "broken") for leg in broken]
    assert len(pacer) == 58
    assert pacer.metrics.failures == 2
    pacer.advance(ORIGIN + 0.0601)
    assert all(len(leg.due) == (1 if leg in broken else 3) for leg in legs)


def test_lateness_is_measured_per_slot() -> None:
    pacer = Pacer(ORIGIN)
    first = pacer.add(Leg(), ORIGIN)
    for n, late in enumerate([0.0, 0.0015, 0.004, 0.0004]):
        pacer.advance(first + n * 0.020 + late)
    assert pacer.metrics.max_lateness == pytest.approx(0.004)
    assert pacer.metrics.slots == 4
    assert dict(zip(LATENESS_BOUNDS, pacer.metrics.lateness, strict=False)) == {
        0.001: 2,
        0.002: 1,
        0.005: 1,
        0.010: 0,
        0.020: 0,
        0.050: 0,
        0.100: 0,
    }
    pacer.advance(first + 3 * 0.020 + 0.506)
    assert pacer.metrics.lateness[3:] == [1, 0, 2, 0, 0], "the three made up for: 6, 26 and 46 ms late"
    assert pacer.metrics.max_lateness == pytest.approx(0.486, abs=0.001), "the first one skipped"


def test_waking_a_hair_early_by_rounding_still_runs_the_slot() -> None:
    pacer = Pacer(12345.678901)
    leg = Leg()
    deadline = pacer.add(leg, 12345.678901)
    for _ in range(2000):
        deadline, _ = pacer.advance(deadline)
    assert len(leg.due) == 2000
