import itertools
import logging
import threading
import time
from collections.abc import Iterator

import pytest

from mediaserver.rtp.pacer_thread import PacerThread

TIMEOUT = 10


class Leg:
    """Counts its packets; `reached` is set at the one awaited."""

    def __init__(self, interval_ms: int = 10, awaited: int = 5) -> None:
        self.interval_ms = interval_ms
        self.awaited = awaited
        self.due: list[int] = []
        self.reached = threading.Event()

    def tick(self, due_ms: int) -> None:
        self.due.append(due_ms)
        if len(self.due) >= self.awaited:
            self.reached.set()


@pytest.fixture
def pacer() -> Iterator[PacerThread]:
    thread = PacerThread()
    thread.start()
    yield thread
    thread.stop()


def test_paces_on_the_grid(pacer: PacerThread) -> None:
    leg = Leg(awaited=20)
    pacer.add(leg)
    assert leg.reached.wait(TIMEOUT)
    pacer.remove(leg)
    # Whatever this machine's load, packets are whole intervals apart, and every missed one is counted.
    steps = [b - a for a, b in itertools.pairwise(leg.due)]
    assert all(step > 0 and step % 10 == 0 for step in steps)
    assert sum(step // 10 - 1 for step in steps) == pacer.metrics.skipped_intervals


def test_a_sleeping_pacer_is_woken_by_a_leg(pacer: PacerThread) -> None:
    for _ in range(3):
        leg = Leg(awaited=1)
        pacer.add(leg)
        assert leg.reached.wait(TIMEOUT)
        assert pacer.remove(leg)
    assert len(pacer) == 0


def test_after_remove_nothing_is_sent(pacer: PacerThread) -> None:
    sending, may_return = threading.Event(), threading.Event()
    removed = threading.Event()
    sent_after = []

    class Slow(Leg):
        def tick(self, due_ms: int) -> None:
            sending.set()
            may_return.wait(TIMEOUT)
            sent_after.append(removed.is_set())

    leg = Slow()
    pacer.add(leg)
    assert sending.wait(TIMEOUT)

    def remove() -> None:
        pacer.remove(leg)
        removed.set()

    remover = threading.Thread(target=remove)
    remover.start()
    assert not removed.wait(0.05), "remove() waits for the packet that is being sent"
    may_return.set()
    remover.join(TIMEOUT)
    assert removed.is_set()
    other = Leg()
    pacer.add(other)
    assert other.reached.wait(TIMEOUT)
    assert not any(sent_after)


def test_a_failing_leg_is_reported_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    reports: list[tuple[object, str]] = []
    reported = threading.Event()

    def on_failure(leg: object, error: Exception) -> None:
        reports.append((leg, str(error)))
        reported.set()
        raise RuntimeError("the observer fails too")

    class Broken(Leg):
        def tick(self, due_ms: int) -> None:
            raise ZeroDivisionError("broken leg")

    pacer = PacerThread(on_failure)
    pacer.start()
    good, broken = Leg(), Broken()
    with caplog.at_level(logging.ERROR):
        pacer.add(good)
        pacer.add(broken)
        assert reported.wait(TIMEOUT)
        good.reached.clear()
        good.awaited = len(good.due) + 5
        assert good.reached.wait(TIMEOUT)
        pacer.stop()
    assert reports == [(broken, "broken leg")]
    assert not pacer.remove(broken)
    assert "the observer fails too" in caplog.text


def test_stop_ends_at_once_and_twice() -> None:
    pacer = PacerThread()
    pacer.start()
    leg = Leg(awaited=1)
    pacer.add(leg)
    assert leg.reached.wait(TIMEOUT)
    pacer.stop()
    sent = len(leg.due)
    pacer.stop()
    assert not pacer._thread.is_alive()
    assert len(leg.due) == sent


def test_stop_without_start() -> None:
    PacerThread().stop()


def test_legs_come_and_go_from_several_threads(pacer: PacerThread) -> None:
    errors: list[BaseException] = []

    def churn(interval: int) -> None:
        try:
            for _ in range(5):
                legs = [Leg(interval, awaited=1) for _ in range(10)]
                for leg in legs:
                    pacer.add(leg)
                for leg in legs:
                    assert leg.reached.wait(TIMEOUT)
                for leg in legs:
                    assert pacer.remove(leg)
                counts = [len(leg.due) for leg in legs]
                assert counts == [len(leg.due) for leg in legs]
        except BaseException as error:  # noqa: BLE001 - for the main thread to see
            errors.append(error)

    threads = [threading.Thread(target=churn, args=(interval,)) for interval in (10, 15, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT * 3)
    assert errors == []
    assert len(pacer) == 0


def test_the_load_is_the_share_of_time_at_work() -> None:
    class Busy(Leg):
        def tick(self, due_ms: int) -> None:
            super().tick(due_ms)
            end = time.monotonic() + 0.008
            while time.monotonic() < end:
                pass

    pacer = PacerThread()
    assert pacer.load == 0
    pacer.start()
    leg = Busy()
    pacer.add(leg)
    try:
        deadline = time.monotonic() + 10
        while not pacer.load:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert 0.3 < pacer.load <= 1
    finally:
        pacer.stop()
