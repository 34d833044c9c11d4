"""A pool of worker threads that serves first the listener who runs out of audio soonest.

The workers run at the process's own priority. Lowering it made RTP pacing worse, not better: a worker that the
kernel puts aside while it holds the interpreter lock keeps the pacer from it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)


class PoolFullError(Exception):
    """As many jobs wait as the pool holds."""


class PoolStoppedError(Exception):
    """The pool has not started or has stopped."""


class Job(Generic[T]):
    """One piece of work: waiting, then running, then done; or cancelled."""

    def __init__(
        self,
        work: Callable[[], T],
        buffered_seconds: Callable[[], float],
        future: asyncio.Future[T],
        withdraw: Callable[[Job[T]], None],
    ) -> None:
        self.work = work
        self.buffered_seconds = buffered_seconds
        self.future = future
        self._withdraw = withdraw

    def cancel(self) -> None:
        """Take the job off the queue; if it runs already, drop its result. On the event loop's thread only."""
        self._withdraw(self)
        self.future.cancel()


def urgency(job: Job[Any]) -> float:
    """Seconds until the job's listener runs out of audio; 0.0 if that cannot be found out."""
    try:
        return job.buffered_seconds()
    except Exception:
        # The caller's code: its failure must not end a worker.
        logger.warning("buffered_seconds() failed; the job is taken as urgent", exc_info=True)
        return 0.0


def most_urgent(jobs: Sequence[Job[Any]]) -> Job[Any]:
    """The job whose listener runs out of audio soonest; among equals the first in the sequence."""
    return min(jobs, key=urgency)


class WorkerPool:
    """Runs jobs on `workers` threads, at most `max_waiting` waiting. Made, fed and stopped on one event loop."""

    def __init__(self, workers: int, max_waiting: int, *, name: str = "tts") -> None:
        if workers < 1 or max_waiting < 1:
            raise ValueError("a pool needs at least one worker and room for one job")
        self._max_waiting = max_waiting
        self._waiting: list[Job[Any]] = []
        self._changed = threading.Condition()
        self._accepting = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True) for number in range(workers)
        ]

    @property
    def waiting(self) -> int:
        """Jobs that no worker has taken yet."""
        with self._changed:
            return len(self._waiting)

    def start(self) -> None:
        """Start the threads; results will reach the event loop that runs now. Once only."""
        self._loop = asyncio.get_running_loop()
        self._accepting = True
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], T], buffered_seconds: Callable[[], float]) -> Job[T]:
        """Queue `work`, called later on a worker thread; its result or exception arrives in the job's future.

        `buffered_seconds` is asked, on a worker thread, each time a worker chooses.
        Raises PoolStoppedError, PoolFullError.
        """
        if self._loop is None:
            raise PoolStoppedError("the worker pool has not started")
        job = Job(work, buffered_seconds, self._loop.create_future(), self._withdraw)
        with self._changed:
            if not self._accepting:
                raise PoolStoppedError("the worker pool has stopped")
            if len(self._waiting) >= self._max_waiting:
                raise PoolFullError(f"{self._max_waiting} jobs are waiting")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def close(self) -> None:
        """Take no more jobs and cancel those that wait. Idempotent; join() waits for those that run."""
        with self._changed:
            self._accepting = False
            dropped, self._waiting = self._waiting, []
            self._changed.notify_all()
        for job in dropped:
            job.future.cancel()

    def join(self, seconds: float | None = None) -> None:
        """Block until every worker has ended, or for that long; after close(), and off the event loop."""
        deadline = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def _withdraw(self, job: Job[Any]) -> None:
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def _serve(self) -> None:
        while (job := self._take()) is not None:
            self._run(job)
            # A local would keep the last job, and the audio it made, alive until the next one comes.
            del job

    def _take(self) -> Job[Any] | None:
        """Wait for a job and take the most urgent; None when the pool is closed."""
        while True:
            with self._changed:
                while self._accepting and not self._waiting:
                    self._changed.wait()
                if not self._accepting:
                    return None
                candidates = list(self._waiting)
            # The callers' functions run without the lock: they may take locks of their own.
            chosen = most_urgent(candidates)
            with self._changed:
                if chosen in self._waiting:
                    self._waiting.remove(chosen)
                    return chosen
            del candidates, chosen  # another worker was quicker; hold nothing while waiting

    def _run(self, job: Job[Any]) -> None:
        try:
            result = job.work()
        except Exception as error:  # noqa: BLE001 - whatever a job raises is its own, and goes to its future
            self._report(_set_exception, job.future, error)
        else:
            self._report(_set_result, job.future, result)

    def _report(self, deliver: Callable[..., None], future: asyncio.Future[Any], outcome: object) -> None:
        assert self._loop is not None  # noqa: S101 - threads start after the loop is known
        try:
            self._loop.call_soon_threadsafe(deliver, future, outcome)
        except RuntimeError:
            logger.debug("the event loop closed before a job ended")


def _set_result(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[Any], error: BaseException) -> None:
    if isinstance(error, StopIteration):
        # Futures refuse it, because it would end the coroutine that awaits them (PEP 479).
        error = RuntimeError("the job raised StopIteration")
    if not future.done():
        future.set_exception(error)
