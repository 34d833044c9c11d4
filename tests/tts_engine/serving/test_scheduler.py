from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.serving.scheduler import Limits, Scheduler, Sequence, State, StepPlan

LIMITS = Limits(
    slots=4,
    pages=64,
    page=8,
    positions=1500,
    prefill_rows=4,
    step_rows=4,
    chunk_rows=8,
    chunk_tokens=600,
    urgent_tokens=300,
    urgent_seconds=0.5,
    window_frames=1000,
    ahead_seconds=100.0,
)


def _sequence(id: int, **given: Any) -> Sequence:
    values: dict[str, Any] = {
        "text_tokens": 5,
        "prompt_tokens": 100,
        "limit": 200,
        "policy": ChunkPolicy(sizes=(20, 40)),
        "sample_rate": 8000,
        "deadline": 0.0,
    }
    return Sequence(id=id, **(values | given))


def _scheduler(*sequences: Sequence, **limits: Any) -> Scheduler:
    scheduler = Scheduler(replace(LIMITS, **limits))
    for sequence in sequences:
        scheduler.add(sequence)
    return scheduler


def _steps(scheduler: Scheduler, count: int, now: float = 0.0, ended: bool = False) -> StepPlan:
    """So many steps and their results, the prefill's first where it has not come."""
    plan = StepPlan()
    for each in scheduler:
        if each.slot >= 0 and not each.reported:
            scheduler.sampled(each.id, 1, False)
    for step in range(count):
        plan = scheduler.plan_step(now)
        for id, _ in plan.rows:
            scheduler.sampled(id, 1, ended and step == count - 1)
    return plan


# T3.


def test_the_most_urgent_begin_and_nobody_overtakes_them() -> None:
    scheduler = _scheduler(*(_sequence(id, deadline=10.0 - id) for id in range(6)), slots=3, prefill_rows=2)
    assert [each.id for each in scheduler.plan_prefill(9.0)] == [5, 4]
    assert [each.id for each in scheduler.plan_prefill(9.0)] == [3]
    assert scheduler.plan_prefill(9.0) == ()
    assert (scheduler.waiting, scheduler.decoding, scheduler.slots_used) == (3, 3, 3)


def test_a_prefill_brings_pages_for_the_text_and_a_page_of_speech() -> None:
    scheduler = _scheduler(_sequence(1, text_tokens=10))
    (prefill,) = scheduler.plan_prefill(0.0)
    assert len(prefill.pages) == len(set(prefill.pages)) == 3  # 10 + 1 + 8 positions, 8 a page
    assert scheduler.pages_used == 3


def test_a_step_may_follow_its_prefill_at_once_and_one_more_is_launched_ahead() -> None:
    scheduler = _scheduler(_sequence(1))
    (prefill,) = scheduler.plan_prefill(0.0)
    assert scheduler.plan_step(0.0).rows == ((1, prefill.slot),)
    assert scheduler.plan_step(0.0).rows == ()
    scheduler.sampled(1, 1, False)
    assert scheduler.plan_step(0.0).rows == ((1, prefill.slot),)


def test_a_page_is_added_when_a_step_would_write_beyond_the_last() -> None:
    scheduler = _scheduler(_sequence(1, text_tokens=5))
    (prefill,) = scheduler.plan_prefill(0.0)  # 2 pages: 16 positions
    assert len(prefill.pages) == 2
    seen: list[tuple[int, int, int]] = []
    for step in range(1, 30):
        plan = _steps(scheduler, 1)
        seen += plan.new_pages
        written = 5 + 1 + step
        assert len(prefill.pages) + len(seen) == max(2, -(-written // 8))
    assert [(slot, index) for slot, index, _ in seen] == [(prefill.slot, 2), (prefill.slot, 3), (prefill.slot, 4)]
    assert len({*prefill.pages, *(page for *_, page in seen)}) == 5


def test_the_end_frees_slot_and_pages_while_a_step_is_in_flight_and_its_result_is_ignored() -> None:
    scheduler = _scheduler(_sequence(1), _sequence(2), slots=1)
    (first,) = scheduler.plan_prefill(0.0)
    scheduler.plan_step(0.0)
    scheduler.sampled(1, 1, True)
    assert (scheduler.slots_used, scheduler.pages_used, scheduler.speaking) == (0, 0, 1)
    (second,) = scheduler.plan_prefill(0.0)
    assert (second.id, second.slot) == (2, first.slot)
    scheduler.sampled(1, 1, False)  # of the step launched ahead
    assert len(scheduler.plan_step(0.0).rows) == 1


def test_at_its_limit_a_sequence_has_ended_whoever_says_so() -> None:
    sequence = _sequence(1, limit=5)
    scheduler = _scheduler(sequence)
    scheduler.plan_prefill(0.0)
    assert scheduler.plan_step(0.0).rows
    for _ in range(3):
        scheduler.sampled(1, 1, False)
        assert scheduler.plan_step(0.0).rows
    scheduler.sampled(1, 1, False)
    assert scheduler.plan_step(0.0).rows == ()  # that would be the sixth
    scheduler.sampled(1, 1, False)
    assert sequence.state is State.SPOKEN


def test_a_step_takes_the_most_urgent_and_deadlines_move() -> None:
    scheduler = _scheduler(*(_sequence(id, deadline=float(id)) for id in range(4)), step_rows=2)
    scheduler.plan_prefill(0.0)
    for id in range(4):
        scheduler.sampled(id, 1, False)
    assert [id for id, _ in scheduler.plan_step(0.0).rows] == [0, 1]
    scheduler.set_deadline(3, -1.0)
    scheduler.set_deadline(0, 9.0)
    scheduler.set_deadline(77, 0.0)
    assert [id for id, _ in scheduler.plan_step(0.0).rows] == [3, 1]


def test_without_pages_a_row_stalls_and_goes_on_when_some_come_free() -> None:
    scheduler = _scheduler(_sequence(1), _sequence(2, deadline=1.0), pages=5)
    assert len(scheduler.plan_prefill(0.0)) == 2  # 2 pages each, and one to spare
    assert [id for id, _ in _steps(scheduler, 10).rows] == [1, 2]
    assert [id for id, _ in _steps(scheduler, 1).rows] == [1]
    assert (scheduler.stalled, scheduler.pages_used) == (1, 5)
    scheduler.cancel(1)
    assert [id for id, _ in _steps(scheduler, 1).rows] == [2]


def test_nobody_begins_on_the_last_pages_of_those_who_decode() -> None:
    scheduler = _scheduler(_sequence(1), _sequence(2), pages=4)
    assert len(scheduler.plan_prefill(0.0)) == 1
    _steps(scheduler, 5)
    assert scheduler.plan_prefill(0.0) == ()
    _steps(scheduler, 1, ended=True)
    assert len(scheduler.plan_prefill(0.0)) == 1


def test_when_all_stall_the_least_urgent_is_given_up_and_only_after_all_results_came() -> None:
    scheduler = _scheduler(_sequence(1, deadline=1.0), _sequence(2, deadline=2.0), pages=5)
    scheduler.plan_prefill(0.0)
    for id in (1, 2):
        scheduler.sampled(id, 1, False)
    in_flight: deque[StepPlan] = deque()
    failed: list[int] = []
    while len(scheduler):
        plan = scheduler.plan_step(0.0)
        if plan.failed:
            assert not in_flight
            failed += plan.failed
            assert bool(plan.rows) == bool(len(scheduler))  # with the pages that came free
        if plan.rows:
            in_flight.append(plan)
        if in_flight and (len(in_flight) == 2 or not plan.rows):
            for id, _ in in_flight.popleft().rows:
                scheduler.sampled(id, 1, False)
    assert failed == [2, 1]  # in the end the first is alone, and larger than the cache
    assert (scheduler.pages_used, scheduler.slots_used, len(scheduler)) == (0, 0, 0)


def test_before_somebody_is_given_up_those_who_rest_go_on_in_the_pages_they_have() -> None:
    scheduler = _scheduler(_sequence(1), _sequence(2, deadline=1.0), pages=5)
    scheduler.plan_prefill(0.0)
    _steps(scheduler, 1)
    scheduler.set_deadline(2, 500.0)
    for _ in range(17):  # the first takes the page that was to spare, and fills it
        assert [id for id, _ in _steps(scheduler, 1).rows] == [1]
    assert scheduler.resting == 1
    plan = scheduler.plan_step(0.0)
    assert (plan.failed, [id for id, _ in plan.rows]) == ((), [2])
    scheduler.sampled(2, 1, True)
    assert [id for id, _ in scheduler.plan_step(0.0).rows] == [1]


def test_who_is_far_ahead_rests_until_time_has_passed() -> None:
    scheduler = _scheduler(_sequence(1, deadline=0.0, limit=1000), ahead_seconds=4.0, pages=200)
    scheduler.plan_prefill(0.0)
    _steps(scheduler, 19)
    while not scheduler.resting:
        _steps(scheduler, 1)
        for job in scheduler.plan_chunks(0.0):
            scheduler.chunk_done(job.id)
            scheduler.set_deadline(1, next(iter(scheduler)).decoded_frames / 50)
    (sequence,) = scheduler
    assert sequence.tokens == 100  # 4 s
    wake = scheduler.next_wake(0.0)
    assert wake == pytest.approx(1.0, abs=0.05)  # hysteresis: 3 s
    assert wake is not None
    assert scheduler.plan_step(wake - 0.01).rows == ()
    assert scheduler.plan_step(wake + 0.01).rows
    assert scheduler.next_wake(wake + 0.01) is None


def test_a_later_deadline_brings_rest_and_an_earlier_one_ends_it() -> None:
    scheduler = _scheduler(_sequence(1), ahead_seconds=4.0)
    scheduler.plan_prefill(0.0)
    assert _steps(scheduler, 3).rows
    scheduler.set_deadline(1, 50.0)
    assert scheduler.plan_step(0.0).rows == ()
    assert scheduler.resting == 1
    scheduler.set_deadline(1, 1.0)
    assert scheduler.plan_step(0.0).rows


@pytest.mark.parametrize("held", [2.5, 3.5, 10.0])
def test_nobody_rests_so_long_that_his_next_chunk_comes_late(held: float) -> None:
    """A chunk larger than the bound: 10 s of tokens, where T3 is to be no more than 4 s ahead."""
    policy = ChunkPolicy(sizes=(250,))
    scheduler = _scheduler(_sequence(1, policy=policy, limit=1000, deadline=held), ahead_seconds=4.0)
    now = 0.0
    while not (jobs := scheduler.plan_chunks(now)):
        for prefill in scheduler.plan_prefill(now):
            scheduler.sampled(prefill.id, 1, False)
        now += 0.008
        assert now < held - 0.4
        _steps(scheduler, 1, now)
    assert jobs[0].plan.tokens == 250


def test_nobody_rests_on_pages_or_slots_that_others_wait_for() -> None:
    scheduler = _scheduler(_sequence(1, deadline=50.0), slots=1, ahead_seconds=4.0)
    assert scheduler.plan_prefill(0.0) == ()  # too far ahead to begin
    assert scheduler.next_wake(0.0) == pytest.approx(47.0)
    assert scheduler.plan_prefill(47.1)
    scheduler.set_deadline(1, 90.0)
    assert _steps(scheduler, 1, now=47.1).rows == ()
    scheduler.add(_sequence(2, deadline=47.1))
    assert scheduler.plan_prefill(47.1) == ()
    assert _steps(scheduler, 1, now=47.1).rows
    scheduler.cancel(2)
    scheduler.plan_prefill(47.1)
    scheduler.set_deadline(1, 91.0)
    assert _steps(scheduler, 1, now=47.1).rows == ()


def test_what_cannot_be_served_is_refused() -> None:
    scheduler = _scheduler(_sequence(1))
    with pytest.raises(ValueError, match="there is a sequence 1 already"):
        scheduler.add(_sequence(1))
    with pytest.raises(ValueError, match="1300 tokens of text and 201 of speech are more than the 1500 positions"):
        scheduler.add(_sequence(2, text_tokens=1300, limit=201))
    with pytest.raises(ValueError, match="64 pages cannot hold 600 tokens"):
        scheduler.add(_sequence(3, text_tokens=600))
    done = _sequence(4)
    done.state = State.DONE
    with pytest.raises(ValueError, match="sequence 4 is done already"):
        scheduler.add(done)
    assert len(scheduler) == 1
    with pytest.raises(ValueError, match="page must be positive, not 0"):
        replace(LIMITS, page=0)


# S3Gen.


def _due(scheduler: Scheduler, now: float = 0.0) -> None:
    """Prefills all and steps until each has its first 20 tokens."""
    while scheduler.plan_prefill(now):
        pass
    _steps(scheduler, 19, now)


def test_a_chunk_is_planned_once_its_tokens_are_there_and_never_twice() -> None:
    scheduler = _scheduler(_sequence(1))
    scheduler.plan_prefill(0.0)
    _steps(scheduler, 18)
    assert scheduler.plan_chunks(0.0) == ()
    _steps(scheduler, 1)
    assert scheduler.chunk_tokens() == 120
    (job,) = scheduler.plan_chunks(0.0)
    assert (job.id, job.plan.tokens, job.plan.final) == (1, 20, False)
    _steps(scheduler, 45)
    assert scheduler.plan_chunks(0.0) == ()
    assert scheduler.chunk_tokens() == 120
    scheduler.chunk_done(1)
    scheduler.chunk_done(1)
    (job,) = scheduler.plan_chunks(0.0)
    assert (job.plan.tokens, job.plan.spoken) == (60, 14)


def test_the_final_chunk_ends_it() -> None:
    sequence = _sequence(1)
    scheduler = _scheduler(sequence)
    scheduler.plan_prefill(0.0)
    _steps(scheduler, 9, ended=True)
    (job,) = scheduler.plan_chunks(0.0)
    assert (job.plan.final, job.plan.tokens) == (True, 13)
    assert scheduler.speaking == 1
    scheduler.chunk_done(1)
    assert sequence.state is State.DONE
    assert len(scheduler) == 0
    assert scheduler.slack(0.0) is None


def test_a_batch_has_one_sample_rate_that_of_the_most_urgent() -> None:
    rates = (16000, 8000, 16000, 8000)
    scheduler = _scheduler(*(_sequence(id, deadline=float(id), sample_rate=rate) for id, rate in enumerate(rates)))
    _due(scheduler)
    assert [job.id for job in scheduler.plan_chunks(0.0)] == [0, 2]
    assert [job.id for job in scheduler.plan_chunks(0.0)] == [1, 3]


@pytest.mark.parametrize(
    ("deadlines", "batch"),
    [
        ((9, 9.1, 9.2, 9.3, 9.4, 9.5), [0, 1, 2, 3, 4]),  # nobody is urgent: 5 of 120 fill 600
        ((0, 9.1, 9.2, 9.3, 9.4, 9.5), [0, 1]),  # one is: filled up to 300
        ((0, 0.1, 0.2, 0.3, 9.4, 9.5), [0, 1, 2, 3]),  # all urgent ones, and no other
        ((0, 0.1, 0.2, 0.3, 0.4, 0.45), [0, 1, 2, 3, 4]),
    ],
)
def test_while_somebody_is_urgent_a_batch_is_small(deadlines: tuple[float, ...], batch: list[int]) -> None:
    scheduler = _scheduler(
        *(_sequence(id, deadline=float(at)) for id, at in enumerate(deadlines)), slots=6, step_rows=6
    )
    _due(scheduler)
    assert [job.id for job in scheduler.plan_chunks(0.0)] == batch


@pytest.mark.parametrize("limits", [{"chunk_rows": 2}, {"window_frames": 68}, {"chunk_tokens": 240}])
def test_each_budget_bounds_a_batch(limits: dict[str, Any]) -> None:
    scheduler = _scheduler(*(_sequence(id) for id in range(3)), **limits)
    _due(scheduler)
    assert [job.id for job in scheduler.plan_chunks(0.0)] == [0, 1]
    assert [job.id for job in scheduler.plan_chunks(0.0)] == [2]


@pytest.mark.parametrize("limits", [{"chunk_tokens": 10, "urgent_tokens": 5}, {"window_frames": 1}])
def test_what_is_larger_than_a_batch_runs_alone(limits: dict[str, Any]) -> None:
    scheduler = _scheduler(_sequence(1), _sequence(2), **limits)
    _due(scheduler)
    assert [job.id for job in scheduler.plan_chunks(0.0)] == [1]
    assert [job.id for job in scheduler.plan_chunks(0.0)] == [2]


def test_backlog_before_a_deadline() -> None:
    scheduler = _scheduler(*(_sequence(id, deadline=float(id)) for id in range(3)), chunk_rows=1)
    _due(scheduler)
    scheduler.plan_chunks(0.0)
    assert scheduler.chunk_tokens(0.0) == 120  # in flight
    assert scheduler.chunk_tokens(1.5) == 240
    assert scheduler.chunks_due == 2
    assert scheduler.slack(5.0) == -5.0


def test_a_cancelled_one_is_in_no_plan_and_its_chunk_in_flight_is_ignored() -> None:
    scheduler = _scheduler(_sequence(1), _sequence(2))
    _due(scheduler)
    assert len(scheduler.plan_chunks(0.0)) == 2
    scheduler.cancel(1)
    scheduler.cancel(1)
    scheduler.chunk_done(1)
    scheduler.chunk_done(2)
    scheduler.fail(2)
    assert scheduler.plan_step(0.0) == StepPlan()
    assert (len(scheduler), scheduler.slots_used, scheduler.pages_used) == (0, 0, 0)


# One after the other.


def test_t3_of_the_next_begins_when_that_of_the_one_before_ends_and_its_sound_when_all_has() -> None:
    scheduler = _scheduler(_sequence(1), _sequence(2, after=1, deadline=-5.0))
    assert [each.id for each in scheduler.plan_prefill(0.0)] == [1]
    _steps(scheduler, 10, ended=True)
    assert [each.id for each in scheduler.plan_prefill(0.0)] == [2]
    _steps(scheduler, 10, ended=True)
    assert [job.id for job in scheduler.plan_chunks(0.0)] == [1]
    assert scheduler.plan_chunks(0.0) == ()
    scheduler.chunk_done(1)
    assert [job.id for job in scheduler.plan_chunks(0.0)] == [2]


def test_the_middle_one_cancelled_the_last_still_comes_after_the_first() -> None:
    scheduler = _scheduler(_sequence(1), _sequence(2, after=1), _sequence(3, after=2))
    scheduler.plan_prefill(0.0)
    scheduler.cancel(2)
    assert scheduler.plan_prefill(0.0) == ()
    _steps(scheduler, 10, ended=True)
    assert [each.id for each in scheduler.plan_prefill(0.0)] == [3]
    scheduler.fail(1)
    _steps(scheduler, 10, ended=True)
    assert [job.id for job in scheduler.plan_chunks(0.0)] == [3]


def test_all_of_an_utterance_have_its_listener_s_deadline() -> None:
    sequences = [_sequence(1, deadline=3.0), _sequence(2, after=1), _sequence(3, after=2)]
    scheduler = _scheduler(*sequences)
    assert [each.deadline for each in sequences] == [3.0, 3.0, 3.0]
    scheduler.set_deadline(1, 8.0)
    assert [each.deadline for each in sequences] == [8.0, 8.0, 8.0]


def test_one_after_one_that_is_gone_is_free() -> None:
    scheduler = _scheduler(_sequence(2, after=1))
    assert len(scheduler.plan_prefill(0.0)) == 1


def test_sizes_are_chosen_by_what_the_listener_holds_when_it_begins() -> None:
    """What the sequence before has still to give counts."""
    first, second = _sequence(1, policy=None), _sequence(2, policy=None, after=1)
    scheduler = _scheduler(first, second)
    scheduler.plan_prefill(0.0)
    assert first.policy is not None
    assert first.policy.sizes == (24, 40, 200)
    _steps(scheduler, 99, ended=True)
    scheduler.plan_prefill(0.0)
    assert second.policy is not None
    assert second.policy.sizes == (75, 200)


def test_ten_thousand_segments_in_a_row_are_no_deep_recursion() -> None:
    scheduler = _scheduler(_sequence(0), *(_sequence(id, after=id - 1) for id in range(1, 10_000)))
    scheduler.set_deadline(0, 1.0)
    for id in range(10_000):
        scheduler.cancel(id)
    assert len(scheduler) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), st.lists(st.integers(0, 2), min_size=50, max_size=50))
def test_nobody_starves(slots: int, deadline: int, arrivals: list[int]) -> None:
    """Others come all the time, more than can be served, each due when it comes. Once the deadline of one has passed,
    none that comes later takes a slot, a step or a batch before it.
    """
    scheduler = _scheduler(slots=slots, step_rows=1, chunk_rows=1, prefill_rows=1, pages=30)
    victim = _sequence(0, deadline=float(deadline), limit=6)
    scheduler.add(victim)
    late = set[int]()
    now, ids, before = 0.0, 1, slots + 1
    while victim.state is not State.DONE:
        now += 0.25
        for _ in range(arrivals[int(4 * now) % 50] + 1):
            scheduler.add(_sequence(ids, deadline=now, limit=6))
            before += now <= deadline
            if now > deadline:
                late.add(ids)
            ids += 1
        waits = victim.state is State.WAITING
        prefills = scheduler.plan_prefill(now)
        assert not (waits and late & {each.id for each in prefills} and victim.state is State.WAITING)
        plan = scheduler.plan_step(now)
        assert not (late & {id for id, _ in plan.rows} and victim.state is State.DECODING and victim.launched < 6)
        due = victim.plan is not None and not victim.in_chunk
        jobs = scheduler.plan_chunks(now)
        assert not (due and late & {job.id for job in jobs})
        for each in prefills:
            scheduler.sampled(each.id, 1, False)
        for id, _ in plan.rows:
            scheduler.sampled(id, 1, False)
        for job in jobs:
            scheduler.chunk_done(job.id)
        assert now < deadline + 0.25 * 30 * before  # each of those before him takes 25 steps
