"""How many streams a device could hold."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.make_checkpoint import released_sizes
from benchmarks.model.projection import (
    MOST_STREAMS,
    Assumptions,
    Shares,
    chunks,
    first_audio_seconds,
    fits,
    project,
    seconds_a_stream,
)
from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, TRAILING_SILENCE_TOKENS

SIZES = released_sizes("turbo")
A10G = Assumptions(70.0, 600.0)
HALF = Shares(0.5, 0.5, 0.5, 0.5)


@given(st.integers(1, 600), st.sampled_from([0.0, 1.5, 3.0, 8.0]))
def test_chunks_speak_every_frame_once(tokens: int, held: float) -> None:
    plans = chunks(tokens, held)

    assert [plan.final for plan in plans] == [False] * (len(plans) - 1) + [True]
    assert plans[0].spoken == 0
    assert all(after.spoken == before.until for before, after in pairwise(plans))
    assert plans[-1].until == FRAMES_PER_TOKEN * (tokens + TRAILING_SILENCE_TOKENS)


def test_streams_are_the_most_that_fit() -> None:
    found = project(SIZES, A10G, HALF)

    assert 1 < found["streams"] < MOST_STREAMS
    assert fits(SIZES, A10G, HALF, found["streams"])
    assert not fits(SIZES, A10G, HALF, found["streams"] + 1)
    busy = found["streams"] * sum(found["ms_a_second_of_speech"].values()) / 1000
    assert 0.8 < busy <= A10G.busy
    assert found["assumptions"]["tflops"] == 70
    assert found["shares"]["step"] == 0.5


def test_nothing_fits_a_device_that_is_too_slow() -> None:
    assert project(SIZES, Assumptions(0.001, 0.1), HALF)["streams"] == 0


@pytest.mark.parametrize("change", [{"tflops": 140.0}, {"memory_gb_s": 1200.0}, {"prompt_tokens": 75}, {"busy": 0.95}])
def test_more_device_or_less_work_is_more_streams(change: dict[str, Any]) -> None:
    assert project(SIZES, replace(A10G, **change), HALF)["streams"] > project(SIZES, A10G, HALF)["streams"]


def test_each_share_scales_its_own_stage() -> None:
    no_launches = replace(A10G, launch_microseconds=0.0)
    slow = seconds_a_stream(SIZES, no_launches, replace(HALF, flow=0.25), 20)
    fast = seconds_a_stream(SIZES, no_launches, HALF, 20)

    assert slow["flow"] == pytest.approx(2 * fast["flow"])
    assert {name: slow[name] for name in slow if name != "flow"} == {
        name: fast[name] for name in fast if name != "flow"
    }


def test_first_audio_takes_longer_among_many() -> None:
    assert first_audio_seconds(SIZES, A10G, HALF, 1) < first_audio_seconds(SIZES, A10G, HALF, 50)
