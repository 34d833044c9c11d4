from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.chatterbox.assembler import SpeechAssembler
from tts_engine.chatterbox.chunk_plan import ChunkPlan, ChunkPlanner, ladder
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import HARMONICS, MEL_BINS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.voice import Voice

VOICE = Voice(
    speaker_embedding=torch.zeros(256),
    prompt_tokens=torch.zeros(0, dtype=torch.int64),
    flow_prompt_tokens=torch.arange(4),
    flow_prompt_mel=torch.zeros(8, MEL_BINS),
    x_vector=torch.zeros(192),
)


@st.composite
def policies(draw: st.DrawFn) -> ChunkPolicy:
    left, right = draw(st.integers(14, 20)), draw(st.integers(14, 24))
    look_ahead = draw(st.integers(0, 6))
    least = look_ahead + right // 2 + 1
    return ChunkPolicy(
        sizes=(draw(st.integers(least, 40)), *draw(st.lists(st.integers(1, 60), max_size=3))),
        look_ahead_tokens=look_ahead,
        left_context_frames=left,
        right_context_frames=right,
        crossfade_frames=draw(st.integers(0, right)),
        max_context_tokens=draw(st.none() | st.integers(0, 60)),
    )


def _plans(policy: ChunkPolicy, feeds: list[int]) -> list[ChunkPlan]:
    planner, plans, tokens = ChunkPlanner(policy), [], 0
    for feed in feeds:
        tokens += feed
        if plan := planner.next(tokens, False):
            plans.append(plan)
    last = planner.next(tokens + 3, True)
    assert last is not None
    assert planner.done
    assert planner.next(tokens + 3, True) is None
    return [*plans, last]


def test_the_numbers_of_two_chunks_and_the_end() -> None:
    planner = ChunkPlanner(ChunkPolicy())
    assert planner.target == planner.wanted(0, False) == 20
    assert planner.next(19, False) is None
    assert planner.next(20, False) == ChunkPlan(
        first_token=0, tokens=20, look_ahead=3, final=False, base=0, spoken=0, known=34, until=14, next_base=0, fade=0
    )
    assert planner.target == 45
    second = planner.next(50, False)
    assert second == ChunkPlan(
        first_token=0, tokens=50, look_ahead=3, final=False, base=0, spoken=14, known=94, until=74, next_base=59, fade=8
    )
    assert (second.given_tokens, second.window_frames, second.speech_frames) == (50, 94, 60)
    assert (planner.wanted(50, False), planner.wanted(50, True)) == (50, 0)
    last = planner.next(53, True)
    assert last == ChunkPlan(
        first_token=0,
        tokens=53,
        look_ahead=0,
        final=True,
        base=59,
        spoken=74,
        known=106,
        until=106,
        next_base=91,
        fade=8,
    )
    assert last.window_frames == 47


def test_nothing_said_is_one_final_chunk() -> None:
    plan = ChunkPlanner(ChunkPolicy()).next(3, True)
    assert plan is not None
    assert (plan.final, plan.until, plan.fade) == (True, 6, 0)


def test_tokens_do_not_become_fewer() -> None:
    planner = ChunkPlanner(ChunkPolicy())
    planner.next(20, False)
    with pytest.raises(ValueError, match="saw 20 tokens: there cannot be 19"):
        planner.next(19, True)


@given(policies(), st.lists(st.integers(1, 30), max_size=40))
def test_chunks_join_without_a_gap_and_windows_hold_their_contexts(policy: ChunkPolicy, feeds: list[int]) -> None:
    plans = _plans(policy, feeds)
    at = base = known = 0
    for plan in plans:
        assert (plan.spoken, plan.base) == (at, base)
        assert plan.until > plan.spoken
        assert plan.base == max(0, plan.spoken - policy.left_context_frames)
        assert plan.known - plan.until == (0 if plan.final else policy.right_context_frames)
        assert plan.known == 2 * (plan.tokens - plan.look_ahead)
        assert 2 * plan.first_token <= plan.spoken  # the flow gives all frames that are not spoken yet
        assert 0 <= plan.fade <= max(0, known - plan.spoken)  # an older mel is there to fade from
        assert plan.spoken + plan.fade <= plan.known
        assert plan.window_frames <= 2 * (plan.tokens - at // 2) + policy.window_margin_frames
        at, base, known = plan.until, plan.next_base, plan.known
    assert [plan.final for plan in plans] == [False] * (len(plans) - 1) + [True]
    assert at == 2 * (sum(feeds) + 3)


@settings(max_examples=25, deadline=None)
@given(policies(), st.lists(st.integers(1, 30), max_size=12))
def test_the_assembler_asks_for_what_is_planned(policy: ChunkPolicy, feeds: list[int]) -> None:
    """With a mel and an F0 that number their frames, what the vocoder is given says where its frames are from."""
    assembler = SpeechAssembler(VOICE, Draws(1), policy)
    plans = iter(_plans(policy, feeds))
    fed = 0
    for feed in [*feeds, None]:
        if feed is None:
            assembler.finish()
        else:
            assembler.feed(range(fed, fed + feed))
            fed += feed
        given = assembler.flow_input()
        if given is None:
            continue
        plan = next(plans)
        assert len(given.tokens) == plan.given_tokens
        assert (given.look_ahead, given.final) == (plan.look_ahead, plan.final)
        mel = torch.arange(2 * plan.first_token, plan.known).expand(MEL_BINS, -1)
        window = assembler.take_mel(mel)
        assert torch.allclose(window.mel[0], torch.arange(plan.base, plan.known, dtype=torch.float32))
        assert (window.first_frame, len(window.known_f0)) == (plan.base, plan.spoken - plan.base)
        frames = plan.window_frames
        speech = assembler.take_speech(
            torch.ones(frames * SAMPLES_PER_FRAME), torch.zeros(frames), torch.zeros(HARMONICS, frames)
        )
        assert len(speech) == plan.speech_frames * SAMPLES_PER_FRAME
    assert next(plans, None) is None
    assert assembler.done


def test_who_holds_nothing_is_served_quickly_and_who_holds_much_cheaply() -> None:
    assert ladder(0).sizes == ladder(-3).sizes == ladder(0.9).sizes == (24, 40, 200)
    assert ladder(2).sizes == (75, 200)
    assert ladder(60).sizes == ladder(6).sizes
    assert ladder(6).sizes[0] >= 500
    firsts = [ladder(held / 10).sizes[0] for held in range(100)]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize(
    ("held", "step", "chunk"), [(0.0, 0.0045, 0.08), (1.0, 0.008, 0.2), (2.0, 0.008, 0.2), (6.0, 0.008, 0.2)]
)
def test_a_rung_never_lets_what_is_held_run_out(held: float, step: float, chunk: float) -> None:
    """At steps and chunks several times slower than a GPU's. Who holds nothing begins to listen at the first chunk."""
    planner, tokens, runs_out = ChunkPlanner(ladder(held)), 0, held
    while tokens < 1000:
        tokens += 1
        plan = planner.next(tokens, False)
        if plan is not None:
            there = tokens * step + chunk
            if held == 0 and plan.spoken == 0:
                runs_out = there
            assert there <= runs_out
            runs_out += plan.speech_frames * 0.02
