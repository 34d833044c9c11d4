from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.worker_pool import Job, PoolFullError, PoolStoppedError, WorkerPool, most_urgent


def nothing_buffered() -> float:
    return 0.0


def unrun_job(buffered: Callable[[], float]) -> Job[None]:
    """A job for the pure part, which touches nothing but its urgency."""
    return Job(lambda: None, buffered, None, lambda job: None)  # type: ignore[arg-type]


class Gate:
    """A job that holds its worker until opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._opened = threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        assert self._opened.wait(10)
        return "opened"

    def open(self) -> None:
        self._opened.set()

    async def wait_until_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 10)


@pytest.fixture
async def single() -> AsyncIterator[WorkerPool]:
    """A pool of one worker, so that jobs run one after the other."""
    pool = WorkerPool(1, max_waiting=50)
    pool.start()
    yield pool
    pool.close()
    await asyncio.to_thread(pool.join)


class TestMostUrgent:
    @given(st.lists(st.floats(0, 1000), min_size=1, max_size=30))
    def test_is_the_one_with_least_buffered_and_the_first_of_equals(self, buffered: list[float]) -> None:
        jobs = [unrun_job(lambda value=value: value) for value in buffered]
        assert jobs.index(most_urgent(jobs)) == buffered.index(min(buffered))

    def test_asks_each_time(self) -> None:
        buffered = {"a": 1.0, "b": 2.0}
        a, b = unrun_job(lambda: buffered["a"]), unrun_job(lambda: buffered["b"])
        assert most_urgent([a, b]) is a
        buffered["b"] = 0.5
        assert most_urgent([a, b]) is b

    def test_a_failing_callable_counts_as_run_out(self, caplog: pytest.LogCaptureFixture) -> None:
        def fail() -> float:
            raise LookupError("leg is gone")

        failing = unrun_job(fail)
        assert most_urgent([unrun_job(lambda: 0.1), failing]) is failing
        assert "buffered_seconds() failed" in caplog.text


async def test_result_reaches_the_loop(single: WorkerPool) -> None:
    caller = threading.get_ident()
    worker = await single.submit(threading.get_ident, nothing_buffered).future
    assert worker != caller


async def test_order_is_by_urgency_at_pick_time_then_first_come(single: WorkerPool) -> None:
    gate = Gate()
    blocking = single.submit(gate, nothing_buffered)
    await gate.wait_until_entered()
    ran: list[str] = []
    buffered = {"later": 3.0, "soon": 1.0, "soon too": 1.0, "changed": 9.0}
    jobs = [single.submit(lambda name=name: ran.append(name), lambda name=name: buffered[name]) for name in buffered]
    buffered["changed"] = 0.0
    gate.open()
    await asyncio.gather(blocking.future, *(job.future for job in jobs))
    assert ran == ["changed", "soon", "soon too", "later"]


async def test_a_job_that_raises_fails_only_itself(single: WorkerPool) -> None:
    def fail() -> None:
        raise ZeroDivisionError("half way")

    with pytest.raises(ZeroDivisionError, match="half way"):
        await single.submit(fail, nothing_buffered).future
    assert await single.submit(lambda: 7, nothing_buffered).future == 7


async def test_stop_iteration_is_delivered_as_an_error_and_ends_no_worker(single: WorkerPool) -> None:
    # asyncio refuses StopIteration in futures; an iterator's next() passed as a job may raise it.
    job = single.submit(lambda: next(iter(())), nothing_buffered)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(job.future, 5)
    assert await single.submit(lambda: 7, nothing_buffered).future == 7


async def test_cancelled_before_start_never_runs(single: WorkerPool) -> None:
    gate = Gate()
    single.submit(gate, nothing_buffered)
    await gate.wait_until_entered()
    ran: list[int] = []
    job = single.submit(lambda: ran.append(1), nothing_buffered)
    job.cancel()
    assert single.waiting == 0
    gate.open()
    await single.submit(lambda: None, nothing_buffered).future
    assert job.future.cancelled()
    assert ran == []


async def test_cancelled_while_running_drops_the_result(single: WorkerPool) -> None:
    gate = Gate()
    job = single.submit(gate, nothing_buffered)
    await gate.wait_until_entered()
    job.cancel()
    gate.open()
    await single.submit(lambda: None, nothing_buffered).future
    assert job.future.cancelled()


async def test_full(single: WorkerPool) -> None:
    gate = Gate()
    single.submit(gate, nothing_buffered)
    await gate.wait_until_entered()
    jobs = [single.submit(lambda: None, nothing_buffered) for _ in range(50)]
    with pytest.raises(PoolFullError, match="50 jobs"):
        single.submit(lambda: None, nothing_buffered)
    jobs[7].cancel()
    replacement = single.submit(lambda: 1, nothing_buffered)
    gate.open()
    assert await replacement.future == 1


async def test_workers_run_side_by_side() -> None:
    pool = WorkerPool(3, max_waiting=3)
    pool.start()
    barrier = threading.Barrier(3, timeout=10)
    await asyncio.gather(*(pool.submit(barrier.wait, nothing_buffered).future for _ in range(3)))
    pool.close()
    await asyncio.to_thread(pool.join)


async def test_close_cancels_what_waits_and_lets_what_runs_end() -> None:
    pool = WorkerPool(1, max_waiting=5)
    pool.start()
    gate = Gate()
    running = pool.submit(gate, nothing_buffered)
    await gate.wait_until_entered()
    waiting = pool.submit(lambda: 1, nothing_buffered)
    pool.close()
    pool.close()
    with pytest.raises(PoolStoppedError):
        pool.submit(lambda: 1, nothing_buffered)
    gate.open()
    await asyncio.to_thread(pool.join)
    assert await running.future == "opened"
    assert waiting.future.cancelled()


async def test_submit_before_start() -> None:
    with pytest.raises(PoolStoppedError, match="not started"):
        WorkerPool(1, 1).submit(lambda: 1, nothing_buffered)


async def test_close_without_start() -> None:
    pool = WorkerPool(2, 1)
    pool.close()
    pool.join()


def test_the_loop_may_close_before_a_job_ends() -> None:
    pool = WorkerPool(1, max_waiting=1)
    gate = Gate()

    async def main() -> None:
        pool.start()
        pool.submit(gate, nothing_buffered)
        await gate.wait_until_entered()
        pool.close()

    asyncio.run(main())
    gate.open()
    pool.join()


async def test_a_done_job_is_not_kept(single: WorkerPool) -> None:
    class Work:
        def __call__(self) -> None:
            return None

    work = Work()
    kept = weakref.ref(work)
    await single.submit(work, nothing_buffered).future
    await single.submit(lambda: None, nothing_buffered).future
    del work
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize(("workers", "max_waiting"), [(0, 1), (1, 0)])
def test_refuses_a_useless_pool(workers: int, max_waiting: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        WorkerPool(workers, max_waiting)


async def test_join_gives_up_on_a_job_that_does_not_end() -> None:
    pool = WorkerPool(1, max_waiting=1)
    pool.start()
    begun, end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        end.wait(30)

    pool.submit(work, nothing_buffered)
    await asyncio.to_thread(begun.wait, 10)
    pool.close()
    await asyncio.wait_for(asyncio.to_thread(pool.join, 0.05), 10)
    end.set()
    await asyncio.to_thread(pool.join)
