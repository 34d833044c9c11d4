"""A GPU of fake time under the real scheduler: what it gives is what the scheduler's order alone can give.

T3 and S3Gen are two queues that run beside each other, as two streams do. The worker launches one step ahead, keeps up
to two batches of chunks in flight, and spends no time itself.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from tts_engine.serving.scheduler import Limits, Scheduler, Sequence

PROMPT = 250


@dataclass(frozen=True)
class Costs:
    """Seconds."""

    step: float = 0.002
    step_row: float = 5e-6
    prefill: float = 0.003
    prefill_row: float = 1e-4
    batch: float = 0.003
    chunk_token: float = 4.5e-6


@dataclass
class Heard:
    """An utterance as its listener hears it."""

    arrived: float
    length: int
    first: float | None = None
    runs_out: float = 0.0
    gaps: list[float] = field(default_factory=list)
    done: bool = False


class FakeGpu:
    """Streams that speak one utterance after the other, each when the one before has been heard."""

    def __init__(self, limits: Limits, costs: Costs, streams: int, *, seconds: float, seed: int = 1) -> None:
        self.scheduler = Scheduler(limits)
        self.now = 0.0
        self.utterances: list[Heard] = []
        self.launches = 0
        self._costs = costs
        self._seconds = seconds
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._t3: deque[list[int]] = deque()
        self._t3_free = 0.0
        self._s3gen_in_flight = 0
        self._s3gen_free = 0.0
        self._sampled: dict[int, int] = {}
        self._wake = 0.0
        for _ in range(streams):
            self._at(self._random.uniform(0, 5), self._arrive)

    def run(self) -> None:
        """Until all are silent."""
        while self._events:
            self.now, _, action = heapq.heappop(self._events)
            action()
            self._work()

    def first_audio(self, share: float) -> float:
        """That quantile of the seconds from arrival to the first sample."""
        waits = sorted(each.first - each.arrived for each in self.utterances if each.first is not None)
        return waits[min(len(waits) - 1, int(share * len(waits)))]

    @property
    def gaps(self) -> list[float]:
        """Seconds of every underrun."""
        return [gap for each in self.utterances for gap in each.gaps]

    def _at(self, time: float, action: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (time, self._number, action))

    def _arrive(self) -> None:
        if self.now >= self._seconds:
            return
        id = len(self.utterances)
        length = int(25 * self._random.uniform(2, 8))
        self.utterances.append(Heard(self.now, length))
        self.scheduler.add(Sequence(id, length // 3, PROMPT, 2 * length, None, 8000, self.now))

    def _work(self) -> None:
        while len(self._t3) < 2:
            costs = self._costs
            if prefills := self.scheduler.plan_prefill(self.now):
                self._launch([each.id for each in prefills], costs.prefill + costs.prefill_row * len(prefills))
            plan = self.scheduler.plan_step(self.now)
            assert not plan.failed
            if plan.rows:
                self._launch([id for id, _ in plan.rows], costs.step + costs.step_row * len(plan.rows))
            if not (plan.rows or prefills):
                break
        while self._s3gen_in_flight < 2 and (jobs := self.scheduler.plan_chunks(self.now)):
            tokens = sum(PROMPT + job.plan.given_tokens for job in jobs)
            self._s3gen_free = max(self.now, self._s3gen_free) + self._costs.batch + self._costs.chunk_token * tokens
            self._s3gen_in_flight += 1
            speech = [(job.id, job.plan.speech_frames * 0.02, job.plan.final) for job in jobs]
            self._at(self._s3gen_free, partial(self._decoded, speech))
        wake = self.scheduler.next_wake(self.now)
        if wake is not None and wake > self.now and wake != self._wake:
            self._wake = wake
            self._at(wake, lambda: None)

    def _launch(self, ids: list[int], seconds: float) -> None:
        self.launches += 1
        self._t3_free = max(self.now, self._t3_free) + seconds
        self._t3.append(ids)
        self._at(self._t3_free, self._collect)

    def _collect(self) -> None:
        for id in self._t3.popleft():
            self._sampled[id] = self._sampled.get(id, 0) + 1
            ended = self._sampled[id] > self.utterances[id].length
            self.scheduler.sampled(id, 0 if ended else 1, ended)

    def _decoded(self, speech: list[tuple[int, float, bool]]) -> None:
        self._s3gen_in_flight -= 1
        for id, seconds, final in speech:
            heard = self.utterances[id]
            if heard.first is None:
                heard.first = heard.runs_out = self.now
            elif self.now > heard.runs_out:
                heard.gaps.append(self.now - heard.runs_out)
                heard.runs_out = self.now
            heard.runs_out += seconds
            self.scheduler.set_deadline(id, heard.runs_out)
            self.scheduler.chunk_done(id)
            if final:
                heard.done = True
                self._at(heard.runs_out, self._arrive)
