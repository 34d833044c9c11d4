"""What the device does next, by playback deadline: a pure core. Time is an argument, plans are plain data.

A *result* is one token sampled: of a sequence's prefill, or of one of its steps. A worker launches what is planned, one
step ahead of the results it has seen, and reports those in order.

**Plans are to be launched in the order in which they were made**, all of T3 on one stream. Then slots and pages can be
handed on the moment a sequence ends, even while a step launched ahead still has it as a row: the device runs that step
first, and whoever comes next writes over what it left, in a later launch.

Nobody starves: all queues are by deadline, deadlines are points in time, and time passes. Somebody who waits is
overtaken only by those whose audio runs out before his does, and the later it is, the fewer those can become.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf

from tts_engine.chatterbox.chunk_plan import ChunkPlan, ladder
from tts_engine.serving.ahead import AheadBound
from tts_engine.serving.chunk_queue import ChunkQueue
from tts_engine.serving.decoding import Decoding, StepPlan
from tts_engine.serving.limits import Limits
from tts_engine.serving.sequence import Sequence, State, by_deadline

__all__ = ["ChunkJob", "Limits", "Prefill", "Scheduler", "Sequence", "State", "StepPlan"]


@dataclass(frozen=True)
class Prefill:
    """A row of the next prefill: these are the slot's first pages."""

    id: int
    slot: int
    pages: tuple[int, ...]


@dataclass(frozen=True)
class ChunkJob:
    """A row of the next batch for S3Gen."""

    id: int
    plan: ChunkPlan


class Scheduler:
    """All sequences of one GPU. Not thread-safe: it belongs to the worker's thread."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._bound = AheadBound(limits.ahead_seconds)
        self._live: dict[int, Sequence] = {}
        self._followers: dict[int, list[Sequence]] = {}  # by the id they come after
        self._waiting: dict[int, Sequence] = {}  # those who could begin
        self._t3 = Decoding(limits, self._runs_out)
        self._chunks = ChunkQueue(limits)

    # Who comes and goes.

    def add(self, sequence: Sequence) -> None:
        """Raises ValueError for a second one of its id, and for one that no slot or not all pages could hold.

        One that comes `after` another has the same listener, so the same deadline; if that one is gone, it is free.
        """
        limits = self.limits
        if sequence.id in self._live:
            raise ValueError(f"there is a sequence {sequence.id} already")
        if sequence.state is not State.WAITING:
            raise ValueError(f"sequence {sequence.id} is {sequence.state.value} already")
        if sequence.text_tokens + sequence.limit > limits.positions:
            raise ValueError(
                f"{sequence.text_tokens} tokens of text and {sequence.limit} of speech are more than the "
                f"{limits.positions} positions of a slot"
            )
        if self._t3.first_pages(sequence) > limits.pages:
            raise ValueError(f"the KV cache of {limits.pages} pages cannot hold {sequence.text_tokens} tokens of text")
        before = self._live.get(sequence.after) if sequence.after is not None else None
        if before is None:
            sequence.after = None
        else:
            sequence.deadline = before.deadline
        self._live[sequence.id] = sequence
        self._follow(sequence)

    def cancel(self, id: int) -> None:
        """At any moment: it is in no plan from now on, and its results are ignored. Who comes after it goes on."""
        self._remove(id, State.CANCELLED)

    def fail(self, id: int) -> None:
        """As cancel."""
        self._remove(id, State.FAILED)

    def set_deadline(self, id: int, deadline: float) -> None:
        """When its listener's audio, delivered and undelivered, runs out; as yet nothing: the time of arrival.

        Those that come after it have the same listener: theirs is set, too.
        """
        same_listener = [self._live[id]] if id in self._live else []
        for sequence in same_listener:
            same_listener += self._followers.get(sequence.id, ())
            sequence.deadline = deadline
            if sequence.state is State.DECODING:
                self._t3.look_again(sequence)

    # T3.

    def plan_prefill(self, now: float) -> tuple[Prefill, ...]:
        """Who begins: those waiting, by deadline, as far as there are slots and pages. Nobody overtakes the first."""
        self._t3.crowded = False
        if not self._waiting:
            return ()
        plan: list[Prefill] = []
        for sequence in sorted(self._waiting.values(), key=by_deadline):
            runs_out = self._runs_out(sequence)
            if now < self._bound.begin_at(sequence, runs_out):
                continue
            if len(plan) == self.limits.prefill_rows:
                break
            if not self._t3.room_for(sequence):
                self._t3.crowded = True
                break
            if sequence.policy is None:
                sequence.policy = ladder(runs_out - now)
            del self._waiting[sequence.id]
            self._t3.begin(sequence)
            plan.append(Prefill(sequence.id, sequence.slot, tuple(sequence.pages)))
        return tuple(plan)

    def plan_step(self, now: float) -> StepPlan:
        """The next step; no rows: there is nothing to launch, but `failed` may say who was given up.

        Who lacks a page is left out and tries again next time.
        """
        plan = self._t3.plan_step(now)
        failed: list[int] = []
        while (given_up := self._t3.to_give_up(plan)) is not None:
            failed.append(given_up.id)
            self._remove(given_up.id, State.FAILED)
            plan = self._t3.plan_step(now)
        return replace(plan, failed=tuple(failed)) if failed else plan

    def sampled(self, id: int, tokens: int, ended: bool) -> None:
        """A result: how many tokens its guard released, and whether it was the last. Unknown ids are ignored: of who
        has ended meanwhile, one further result may come.
        """
        sequence = self._t3.sequences.get(id)
        if sequence is None:
            return
        sequence.reported += 1
        sequence.tokens += tokens
        if ended or sequence.reported >= sequence.limit:
            self._t3.leave(sequence)
            sequence.state = State.SPOKEN
            for follower in self._followers.get(id, ()):
                self._place(follower)
            self._plan_chunk(sequence)
        elif sequence.tokens >= sequence.target:
            self._plan_chunk(sequence)

    # S3Gen.

    def plan_chunks(self, now: float) -> tuple[ChunkJob, ...]:
        """The next batch: see ChunkQueue.take. Several may be in flight; a sequence is in one of them at most."""
        jobs = []
        for sequence in self._chunks.take(now):
            if sequence.plan is not None:
                sequence.in_chunk = True
                jobs.append(ChunkJob(sequence.id, sequence.plan))
        return tuple(jobs)

    def chunk_done(self, id: int) -> None:
        """Its chunk is decoded; after the final one it is done. Unknown ids are ignored."""
        sequence = self._live.get(id)
        if sequence is None or not sequence.in_chunk:
            return
        if sequence.finish_chunk():
            self._remove(id, State.DONE)
            return
        self._plan_chunk(sequence)
        if sequence.state is State.DECODING:
            self._t3.look_again(sequence)

    # What a worker and its gauges ask.

    def next_wake(self, now: float) -> float | None:
        """When somebody who is too far ahead is due, if nothing happens before; None: nobody is."""
        begin = (self._bound.begin_at(each, self._runs_out(each)) for each in self._waiting.values())
        at = min((each for each in begin if each > now), default=inf)
        at = min(at, self._t3.next_resume())
        return None if at == inf else max(now, at)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._live.values())

    def __len__(self) -> int:
        return len(self._live)

    @property
    def waiting(self) -> int:
        """Sequences that have no slot yet, those after another included."""
        return sum(each.state is State.WAITING for each in self._live.values())

    @property
    def decoding(self) -> int:
        """Sequences with a slot."""
        return len(self._t3.sequences)

    @property
    def resting(self) -> int:
        """Of them, those too far ahead."""
        return self._t3.resting

    @property
    def stalled(self) -> int:
        """Of them, those who lacked a page in the last step."""
        return self._t3.stalled

    @property
    def speaking(self) -> int:
        """Sequences that T3 is done with, and S3Gen not."""
        return sum(each.state is State.SPOKEN for each in self._live.values())

    @property
    def slots_used(self) -> int:
        """Of T3."""
        return self._t3.slots_used

    @property
    def pages_used(self) -> int:
        """Of the KV cache."""
        return self._t3.pages_used

    @property
    def chunks_due(self) -> int:
        """Chunks that are in no batch yet."""
        return len(self._chunks)

    def chunk_tokens(self, before: float = inf) -> int:
        """What S3Gen has to do before a chunk of that deadline: what is in flight, and what is due earlier."""
        in_flight = sum(each.chunk_cost for each in self._live.values() if each.in_chunk)
        return in_flight + self._chunks.tokens(before)

    def slack(self, now: float) -> float | None:
        """Seconds of audio that the listener nearest to an underrun holds; negative: for so long he hears nothing."""
        return min((each.deadline for each in self._live.values()), default=inf) - now if self._live else None

    # One after the other.

    def _runs_out(self, sequence: Sequence) -> float:
        """When its listener's audio runs out, with what the sequences before have still to give."""
        at, after = sequence.deadline, sequence.after
        while after is not None:
            before = self._live[after]
            at += before.undecoded_seconds
            after = before.after
        return at

    def _remove(self, id: int, state: State) -> None:
        sequence = self._live.pop(id, None)
        if sequence is None:
            return
        self._waiting.pop(id, None)
        if sequence.state is State.DECODING:
            self._t3.leave(sequence)
        self._chunks.discard(sequence)
        sequence.state, sequence.in_chunk = state, False
        if sequence.after is not None:
            self._followers[sequence.after].remove(sequence)
        for follower in self._followers.pop(id, []):
            # Of three in a row, the middle may be cancelled while the first still speaks.
            follower.after = sequence.after
            self._follow(follower)

    def _follow(self, sequence: Sequence) -> None:
        if sequence.after is not None:
            self._followers.setdefault(sequence.after, []).append(sequence)
        self._place(sequence)

    def _place(self, sequence: Sequence) -> None:
        """Into the queue that it may be in: T3 begins when that of the one before has ended, S3Gen when all has."""
        before = None if sequence.after is None else self._live[sequence.after]
        if sequence.state is State.WAITING:
            if before is None or before.ended:
                self._waiting[sequence.id] = sequence
        elif sequence.plan is not None and not sequence.in_chunk and before is None:
            self._chunks.add(sequence)

    def _plan_chunk(self, sequence: Sequence) -> None:
        if sequence.plan_chunk():
            self._place(sequence)
