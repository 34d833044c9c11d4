"""The scheduler's promises under anything a worker may do, in any order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.serving.scheduler import ChunkJob, Limits, Scheduler, Sequence, State

PAGE = 4


@dataclass
class Played:
    """What the device and the listener know of a sequence, kept apart from the scheduler."""

    sequence: Sequence
    length: int
    "Results after which it ends of its own."
    after: int | None
    slot: int | None = None
    pages: list[int] = field(default_factory=list)
    launched: int = 0
    reported: int = 0
    spoken: int = 0
    in_batch: bool = False
    over: bool = False
    "Done, cancelled or failed."
    complete: bool = False


class WorkerMachine(RuleBasedStateMachine):
    @initialize(
        slots=st.integers(1, 4),
        pages=st.integers(4, 30),
        rows=st.integers(1, 4),
        tokens=st.integers(50, 400),
        ahead=st.floats(0.5, 20),
    )
    def begin(self, slots: int, pages: int, rows: int, tokens: int, ahead: float) -> None:
        self.limits = Limits(
            slots=slots,
            pages=pages,
            page=PAGE,
            positions=120,
            prefill_rows=rows,
            step_rows=rows,
            chunk_rows=rows,
            chunk_tokens=tokens,
            urgent_tokens=tokens // 2,
            urgent_seconds=0.5,
            window_frames=200,
            ahead_seconds=ahead,
        )
        self.scheduler = Scheduler(self.limits)
        self.now = 0.0
        self.all: dict[int, Played] = {}
        self.t3: deque[list[int]] = deque()  # launched: prefills and steps, oldest first
        self.steps_in_flight = 0
        self.batches: deque[list[ChunkJob]] = deque()

    def live(self) -> list[Played]:
        return [each for each in self.all.values() if not each.over]

    def pick(self, index: int) -> Played | None:
        live = self.live()
        return live[index % len(live)] if live else None

    def end(self, played: Played) -> None:
        """The device has no more use for it."""
        played.slot, played.pages = None, []

    # Who comes and goes.

    @rule(
        text=st.integers(0, 9),
        length=st.integers(1, 90),
        limit=st.integers(1, 90),
        first=st.integers(14, 40),
        rate=st.sampled_from([8000, 8000, 16000]),
        held=st.floats(-1, 10),
        after=st.none() | st.integers(0, 9),
        ladder=st.booleans(),
    )
    def add(
        self,
        text: int,
        length: int,
        limit: int,
        first: int,
        rate: int,
        held: float,
        after: int | None,
        ladder: bool,
    ) -> None:
        id = len(self.all)
        before = None if after is None else self.pick(after)
        sequence = Sequence(
            id=id,
            text_tokens=text,
            prompt_tokens=30,
            limit=limit,
            policy=None if ladder else ChunkPolicy(sizes=(first, 20)),
            sample_rate=rate,
            deadline=self.now + held,
            after=None if before is None else before.sequence.id,
        )
        played = Played(sequence, min(length, limit), sequence.after)
        self.scheduler.add(sequence)
        self.all[id] = played

    @precondition(lambda self: self.live())
    @rule(index=st.integers(0, 99), failed=st.booleans())
    def cancel(self, index: int, failed: bool) -> None:
        played = self.pick(index)
        assert played is not None
        (self.scheduler.fail if failed else self.scheduler.cancel)(played.sequence.id)
        assert played.sequence.state is (State.FAILED if failed else State.CANCELLED)
        played.over = True
        self.end(played)

    @precondition(lambda self: self.live())
    @rule(index=st.integers(0, 99), held=st.floats(-5, 20))
    def move_deadline(self, index: int, held: float) -> None:
        played = self.pick(index)
        assert played is not None
        self.scheduler.set_deadline(played.sequence.id, self.now + held)

    @rule(seconds=st.floats(0.001, 3))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    # T3.

    @rule()
    def prefill(self) -> None:
        waiting = [each for each in self.live() if each.sequence.state is State.WAITING]
        plan = self.scheduler.plan_prefill(self.now)
        assert len(plan) <= self.limits.prefill_rows
        for each in plan:
            played = self.all[each.id]
            assert played in waiting
            assert not played.launched
            assert each.slot not in self.slots()
            assert not set(each.pages) & self.pages()
            assert len(each.pages) * PAGE >= played.sequence.text_tokens + 1
            assert self.spoken_by_t3(played.after)
            played.slot, played.pages, played.launched = each.slot, list(each.pages), 1
        if plan:
            self.t3.append([each.id for each in plan])

    def spoken_by_t3(self, id: int | None) -> bool:
        """Whether that one and those before it take no more steps."""
        return id is None or (
            (self.all[id].over or self.all[id].sequence.state is State.SPOKEN) and self.spoken_by_t3(self.all[id].after)
        )

    def slots(self) -> set[int]:
        return {each.slot for each in self.live() if each.slot is not None}

    def pages(self) -> set[int]:
        return {page for each in self.live() for page in each.pages}

    @precondition(lambda self: self.steps_in_flight < 2)
    @rule()
    def step(self) -> None:
        plan = self.scheduler.plan_step(self.now)
        if plan.failed:
            # Nobody else could have freed a page: nothing of a live one was on its way.
            assert all(each.launched == each.reported for each in self.live() if each.slot is not None)
        for id in plan.failed:
            self.all[id].over = True
            assert self.all[id].sequence.state is State.FAILED
            self.end(self.all[id])
        by_slot = {each.slot: each for each in self.live() if each.slot is not None}
        for slot, index, page in plan.new_pages:
            assert page not in self.pages()
            assert index == len(by_slot[slot].pages)
            by_slot[slot].pages.append(page)
        assert len(plan.rows) <= self.limits.step_rows
        assert len({slot for _, slot in plan.rows}) == len(plan.rows)
        deadlines = []
        for id, slot in plan.rows:
            played = self.all[id]
            assert played.slot == slot
            assert not played.over
            played.launched += 1
            assert played.launched - played.reported <= 2
            assert played.launched <= played.sequence.limit
            assert played.sequence.text_tokens + played.launched <= len(played.pages) * PAGE
            deadlines.append(played.sequence.deadline)
        assert deadlines == sorted(deadlines)
        if plan.rows:
            self.t3.append([id for id, _ in plan.rows])
            self.steps_in_flight += 1

    @precondition(lambda self: self.t3)
    @rule(held_back=st.integers(0, 3))
    def collect(self, held_back: int) -> None:
        """Results of the oldest launch; the guard releases nothing for a while, and then several."""
        before = len(self.t3)
        for id in self.t3.popleft():
            played = self.all[id]
            if played.slot is None:
                tokens = played.sequence.tokens
                self.scheduler.sampled(id, 1, False)  # of who is gone
                assert played.sequence.tokens == tokens
                continue
            played.reported += 1
            ended = played.reported >= played.length
            released = played.reported if ended or played.reported % 4 >= held_back else played.sequence.tokens
            released = max(released, played.sequence.tokens)
            self.scheduler.sampled(id, released - played.sequence.tokens, ended)
            if ended:
                assert played.sequence.state is State.SPOKEN
                self.end(played)
        assert before > 0
        self.steps_in_flight = min(self.steps_in_flight, len(self.t3))

    @rule(rounds=st.integers(2, 60), ahead=st.booleans())
    def decode(self, rounds: int, ahead: bool) -> None:
        """What a worker does most of the time, so that sequences get somewhere."""
        for _ in range(rounds):
            self.prefill()
            for _ in range(1 + ahead):
                if self.steps_in_flight < 2:
                    self.step()
            if self.t3:
                self.collect(0)

    # S3Gen.

    @precondition(lambda self: len(self.batches) < 2)
    @rule()
    def chunks(self) -> None:
        due = self.due()
        jobs = self.scheduler.plan_chunks(self.now)
        assert bool(jobs) == bool(due)
        if not jobs:
            return
        batch = [self.all[job.id] for job in jobs]
        sequences = [each.sequence for each in batch]
        costs = [each.prompt_tokens + job.plan.given_tokens for each, job in zip(sequences, jobs, strict=True)]
        frames = [job.plan.window_frames for job in jobs]
        assert len({each.sample_rate for each in sequences}) == 1
        # The most urgent, in order; whoever of the rate is left out comes later than all who are not.
        deadlines = [(each.deadline, each.id) for each in sequences]
        assert deadlines == sorted(deadlines)
        assert deadlines[0] == min((each.sequence.deadline, each.sequence.id) for each in due)
        left = [each for each in due if each not in batch and each.sequence.sample_rate == sequences[0].sample_rate]
        assert all((each.sequence.deadline, each.sequence.id) > deadlines[-1] for each in left)
        assert len(jobs) <= self.limits.chunk_rows
        if len(jobs) > 1:
            assert sum(costs) <= self.limits.chunk_tokens
            assert sum(frames) <= self.limits.window_frames
            urgent = [each.deadline < self.now + self.limits.urgent_seconds for each in sequences]
            if urgent[0] and not urgent[-1]:
                assert sum(costs) <= self.limits.urgent_tokens
        for played, job in zip(batch, jobs, strict=True):
            assert not played.in_batch
            assert not played.complete
            assert job.plan.spoken == played.spoken
            assert self.heard(played.after)
            played.in_batch = True
        self.batches.append(list(jobs))

    def due(self) -> list[Played]:
        """Whose next chunk could be decoded, found from scratch."""
        return [
            each
            for each in self.live()
            if each.launched and not each.in_batch and each.sequence.plan is not None and self.heard(each.after)
        ]

    def heard(self, id: int | None) -> bool:
        return id is None or (self.all[id].over and self.heard(self.all[id].after))

    @precondition(lambda self: self.batches)
    @rule()
    def decoded(self) -> None:
        for job in self.batches.popleft():
            played = self.all[job.id]
            self.scheduler.chunk_done(job.id)
            if played.over:
                continue
            played.in_batch = False
            played.spoken = job.plan.until
            if job.plan.final:
                assert played.sequence.state is State.DONE
                assert played.spoken == 2 * (played.reported + 3)
                played.over = played.complete = True
            else:
                ends = self.now + 0.02 * job.plan.speech_frames
                self.scheduler.set_deadline(job.id, max(played.sequence.deadline, self.now) + ends - self.now)

    # Always.

    @invariant()
    def nothing_leaks(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        live = self.live()
        assert len(self.scheduler) == len(live)
        assert {each.id for each in self.scheduler} == {each.sequence.id for each in live}
        assert self.scheduler.slots_used == len(self.slots()) == self.scheduler.decoding <= self.limits.slots
        assert self.scheduler.pages_used == len(self.pages()) == sum(len(each.pages) for each in live)
        states = [each.sequence.state for each in live]
        assert self.scheduler.waiting == states.count(State.WAITING)
        assert self.scheduler.speaking == states.count(State.SPOKEN)
        assert self.scheduler.chunks_due == len(self.due())
        wake = self.scheduler.next_wake(self.now)
        assert wake is None or wake >= self.now

    def teardown(self) -> None:
        """Whatever happened, everybody comes to an end if the worker goes on."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(3000 * (1 + len(self.all))):
            if not self.live():
                break
            self.prefill()
            if self.steps_in_flight < 2:
                self.step()
            if self.t3:
                self.collect(0)
            self.chunks()
            if self.batches:
                self.decoded()
            elif not self.t3:
                wake = self.scheduler.next_wake(self.now)
                self.now = self.now if wake is None else wake + 0.001
        assert not self.live()
        self.nothing_leaks()
        assert (self.scheduler.slots_used, self.scheduler.pages_used) == (0, 0)
        assert not self.scheduler._followers  # nothing is kept of who is gone


TestWorker = WorkerMachine.TestCase
TestWorker.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)
