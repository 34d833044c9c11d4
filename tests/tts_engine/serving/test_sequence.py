from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.chatterbox.chunk_plan import ChunkPlan, ChunkPlanner
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.serving.sequence import Sequence, State


def _sequence(policy: ChunkPolicy | None = None, **given: Any) -> Sequence:
    values: dict[str, Any] = {"id": 1, "text_tokens": 10, "prompt_tokens": 250, "limit": 500} | given
    return Sequence(**values, policy=policy, sample_rate=8000, deadline=0.0)


def test_a_new_one_waits_and_holds_nothing() -> None:
    sequence = _sequence()
    assert sequence.state is State.WAITING
    assert not sequence.ended
    assert (sequence.slot, sequence.pages, sequence.chunk_cost) == (-1, [], 0)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"text_tokens": -1}, "text_tokens"), ({"prompt_tokens": -1}, "prompt"), ({"limit": 0}, "limit")],
)
def test_what_cannot_be_is_refused(given: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _sequence(**given)


def test_positions_are_text_start_and_speech() -> None:
    """The prefill writes text and START and gives a token; each step writes the token given before."""
    sequence = _sequence(text_tokens=10)
    sequence.begin(3, [7, 8], 16)
    assert sequence.row == (1, 3)
    assert sequence.positions == 11
    assert sequence.attention == 22  # 21 steps more fill both pages
    sequence.launched += 21
    assert sequence.positions == 32


def test_the_limit_comes_before_the_page() -> None:
    sequence = _sequence(text_tokens=10, limit=5)
    sequence.begin(0, [0, 1], 16)
    assert sequence.attention == 5


def test_chunks_take_their_size_and_no_more_however_late_they_are() -> None:
    sequence = _sequence(ChunkPolicy(sizes=(20, 40)))
    sequence.begin(0, [0], 32)
    sequence.tokens = 19
    assert not sequence.plan_chunk()
    assert sequence.missing == 1
    sequence.tokens = 90
    assert sequence.plan_chunk()
    assert sequence.plan is not None
    assert sequence.plan.tokens == 20
    assert sequence.chunk_cost == 270
    assert not sequence.plan_chunk()
    assert not sequence.finish_chunk()
    assert sequence.undecoded_seconds == pytest.approx(90 / 25 - 14 / 50)
    assert sequence.plan_chunk()
    assert sequence.plan.tokens == 60


def test_a_chunk_that_is_not_there_cannot_be_finished() -> None:
    with pytest.raises(ValueError, match="sequence 1 has no chunk"):
        _sequence().finish_chunk()


@given(
    st.lists(st.integers(14, 60), min_size=1, max_size=3),
    st.integers(0, 300),
    st.lists(st.integers(0, 40), max_size=60),
    st.randoms(use_true_random=False),
)
def test_the_chunks_are_the_same_whatever_the_load(
    sizes: list[int], total: int, bursts: list[int], random: Any
) -> None:
    """As if each token had been fed by itself and each chunk decoded at once."""
    policy = ChunkPolicy(sizes=tuple(sizes))
    planner = ChunkPlanner(policy)
    alone = [plan for tokens in range(1, total + 1) if (plan := planner.next(tokens, False))]
    alone.append(planner.next(total + 3, True))  # type: ignore[arg-type]

    sequence, plans = _sequence(policy), list[ChunkPlan]()
    sequence.begin(0, [0], 32)
    for burst in [*bursts, total]:
        sequence.tokens = min(total, sequence.tokens + burst)
        if sequence.plan_chunk() and sequence.plan is not None:
            plans.append(sequence.plan)
        if sequence.plan is not None and random.random() < 0.5:
            sequence.finish_chunk()
    sequence.state = State.SPOKEN
    final = False
    while not final:
        if sequence.plan_chunk() and sequence.plan is not None:
            plans.append(sequence.plan)
        final = sequence.finish_chunk()
    assert plans == alone
    assert not sequence.plan_chunk()
