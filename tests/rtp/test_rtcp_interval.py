import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.rtcp_interval import (
    LOWER_LAYERS,
    MINIMUM_INTERVAL,
    RtcpTimer,
    deterministic_interval,
    randomised,
    reconsidered,
)

COMPENSATION = math.e - 1.5


def interval(members: int, senders: int, *, we_sent: bool = True, size: float = 128, initial: bool = False) -> float:
    return deterministic_interval(members, senders, 500, we_sent=we_sent, average_size=size, initial=initial)


def test_two_members_are_held_to_the_minimum() -> None:
    assert interval(2, 2) == MINIMUM_INTERVAL
    assert interval(2, 0, we_sent=False) == MINIMUM_INTERVAL
    assert interval(2, 2, initial=True) == MINIMUM_INTERVAL / 2


def test_bandwidth_stretches_the_interval() -> None:
    """Section 6.3.1, steps 1 to 3, by hand."""
    assert interval(100, 50) == pytest.approx(128 * 100 / 500), "senders over a quarter: all share"
    assert interval(100, 20) == pytest.approx(128 * 20 / (500 * 0.25)), "senders have a quarter to themselves"
    assert interval(100, 20, we_sent=False) == pytest.approx(128 * 80 / (500 * 0.75))
    assert interval(2, 2, size=1500) == pytest.approx(6.0)


@given(st.integers(1, 1000), st.data(), st.booleans(), st.floats(40, 1500))
def test_never_below_the_minimum_nor_beyond_the_bandwidth(members, data, we_sent, size) -> None:
    senders = data.draw(st.integers(int(we_sent), members))
    t = interval(members, senders, we_sent=we_sent, size=size)
    assert t >= MINIMUM_INTERVAL
    sharers = senders if we_sent and senders <= members / 4 else members
    assert t <= max(MINIMUM_INTERVAL, size * sharers / 125)


def test_randomised_covers_half_to_one_and_a_half() -> None:
    rng = random.Random(1)
    draws = [randomised(5, rng) for _ in range(5000)]
    assert min(draws) == pytest.approx(2.5 / COMPENSATION, abs=0.01)
    assert max(draws) == pytest.approx(7.5 / COMPENSATION, abs=0.01)


def test_reconsidered_has_the_distribution_of_the_timer_rule() -> None:
    """Section 6.3.6 carried out at each expiry, against all of its draws made at once."""

    def by_the_rule(rng: random.Random) -> float:
        previous, due = 0.0, randomised(5, rng)
        while True:
            now = due  # the timer expires
            due = previous + randomised(5, rng)
            if due <= now:
                return now

    rule, ours = random.Random(2), random.Random(3)
    a = sorted(by_the_rule(rule) for _ in range(5000))
    b = sorted(reconsidered(5, ours) for _ in range(5000))
    assert all(abs(x - y) < 0.2 for x, y in zip(a[::250], b[::250], strict=True))
    assert sum(b) / len(b) == pytest.approx(5, rel=0.03), "what the compensation is for"


def test_reports_of_a_thousand_legs_that_start_at_once_spread() -> None:
    dues = [RtcpTimer(random.Random(seed), 500, 100).started(10.0) for seed in range(1000)]
    assert min(dues) >= 10 + 1.25 / COMPENSATION
    assert max(dues) <= 10 + 3.75 / COMPENSATION
    ticks = Counter(int(due / 0.02) for due in dues)
    assert max(ticks.values()) <= 40, "of 1000 in about 100 ticks"


def test_thousand_legs_stay_spread() -> None:
    timers = [RtcpTimer(random.Random(seed), 500, 100) for seed in range(1000)]
    dues = [timer.started(0.0) for timer in timers]
    for _ in range(5):
        dues = [timer.sent(due, 100, senders=2, we_sent=True) for timer, due in zip(timers, dues, strict=True)]
    ticks = Counter(int(due / 0.02) for due in dues)
    assert max(ticks.values()) <= 15


def test_intervals_of_a_session() -> None:
    rng = random.Random(4)
    timer = RtcpTimer(rng, 500, 100)
    now = timer.started(0.0)
    assert 1.25 / COMPENSATION <= now <= 3.75 / COMPENSATION
    gaps = []
    for _ in range(2000):
        due = timer.sent(now, 100, senders=2, we_sent=True)
        gaps.append(due - now)
        now = due
    assert min(gaps) >= 2.5 / COMPENSATION
    assert max(gaps) <= 7.5 / COMPENSATION
    assert now / 2000 == pytest.approx(5, rel=0.03)


def test_enormous_compounds_of_the_peer_slow_us_down() -> None:
    timer = RtcpTimer(random.Random(5), 500, 100)
    for _ in range(100):
        timer.received(3000)
    due = timer.sent(0.0, 100, senders=2, we_sent=True)
    assert due >= 0.9 * (3000 + LOWER_LAYERS) * 2 / 500 * 0.5 / COMPENSATION
