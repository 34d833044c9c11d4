"""The rate of a sender: a token bucket, with time moved by hand."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.api.limits import MAX_KEYS, RateLimiter, Turns


def test_a_burst_and_then_the_rate() -> None:
    limiter = RateLimiter(10, burst=3)
    assert [limiter.take("a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limiter.take("a", 0.0) == 0.1
    assert limiter.take("a", 0.05) > 0
    assert limiter.take("a", 0.11) == 0.0
    assert limiter.take("a", 0.11) > 0
    assert [limiter.take("a", 100.0) for _ in range(4)].count(0.0) == 3


def test_senders_do_not_share() -> None:
    limiter = RateLimiter(1, burst=1)
    assert limiter.take("a", 0.0) == 0.0
    assert limiter.take("b", 0.0) == 0.0
    assert limiter.take("a", 0.0) > 0


def test_no_limit() -> None:
    limiter = RateLimiter(0)
    assert all(limiter.take("a", 0.0) == 0.0 for _ in range(10_000))


def test_a_slow_rate_lets_one_through() -> None:
    limiter = RateLimiter(0.1)
    assert limiter.take("a", 0.0) == 0.0
    assert limiter.take("a", 0.0) == 10.0


def test_senders_are_forgotten() -> None:
    limiter = RateLimiter(1, burst=1)
    limiter.take("first", 0.0)
    for number in range(MAX_KEYS):
        limiter.take(str(number), 0.0)
    assert limiter.take("first", 0.0) == 0.0  # as if it were new
    assert limiter.take(str(MAX_KEYS - 1), 0.0) > 0


@given(st.lists(st.floats(0, 2), max_size=200), st.floats(0.5, 50), st.floats(1, 20))
def test_never_more_than_the_rate(gaps: list[float], per_s: float, burst: float) -> None:
    """However they come: in no time from the first on are there more than the burst and the rate allow."""
    limiter, now, taken = RateLimiter(per_s, burst), 0.0, 0
    for gap in gaps:
        now += gap
        wait = limiter.take("a", now)
        assert wait >= 0.0
        taken += wait == 0.0
        assert taken <= burst + per_s * now + 1e-6


@given(st.floats(0.5, 50), st.floats(0, 1e9))
def test_who_waits_as_told_gets_through(per_s: float, start: float) -> None:
    limiter = RateLimiter(per_s, burst=1)
    assert limiter.take("a", start) == 0.0
    wait = limiter.take("a", start)
    assert limiter.take("a", start + wait * 1.0001 + 1e-6) == 0.0


class TestTurns:
    def test_one_after_the_other(self) -> None:
        turns = Turns(10, burst=1)
        assert [turns.take(5.0) for _ in range(3)] == pytest.approx([0.0, 0.1, 0.2])
        assert turns.take(5.25) == pytest.approx(0.05)
        assert turns.take(9.0) == 0.0

    @given(st.lists(st.floats(0, 5), min_size=1, max_size=60), st.integers(1, 10))
    def test_no_more_than_the_rate_and_the_burst(self, steps: list[float], burst: int) -> None:
        turns = Turns(10, burst)
        now, begun = 0.0, []
        for step in steps:
            now += step
            wait = turns.take(now)
            assert wait >= 0
            begun.append(now + wait)
        assert begun == sorted(begun)
        for first, at in enumerate(begun):
            within = sum(at <= other < at + 1.0 - 1e-6 for other in begun[first:])
            assert within <= burst + 10

    def test_a_quiet_time_is_saved_up_and_no_more(self) -> None:
        turns = Turns(10, burst=3)
        assert [turns.take(100.0) for _ in range(4)] == pytest.approx([0.0, 0.0, 0.0, 0.1])

    async def test_they_come_in_order(self) -> None:
        turns = Turns(50, burst=2)
        begun: list[tuple[int, float]] = []

        async def come(number: int) -> None:
            await turns.wait()
            begun.append((number, time.monotonic() - begin))

        begin = time.monotonic()
        await asyncio.gather(*(come(number) for number in range(5)))
        assert [number for number, _ in begun] == [0, 1, 2, 3, 4]
        assert all(at >= 0.02 * (number - 1) for number, at in begun)

    async def test_who_leaves_the_queue_delays_nobody(self) -> None:
        turns = Turns(10, burst=1)
        await turns.wait()
        crowd = [asyncio.create_task(turns.wait()) for _ in range(100)]
        await asyncio.sleep(0.01)
        for one in crowd:
            one.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
        assert 0 < turns.take(time.monotonic()) < 0.1
