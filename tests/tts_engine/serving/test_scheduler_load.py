"""The scheduler at work, in fake time: what listeners get of a GPU that is fast enough, and of one that is not."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.tts_engine.serving.fake_gpu import Costs, FakeGpu
from tts_engine.serving.scheduler import Limits

LIMITS = Limits(
    slots=256,
    pages=2000,
    page=32,
    positions=1500,
    prefill_rows=16,
    step_rows=256,
    chunk_rows=64,
    chunk_tokens=6000,
    urgent_tokens=3000,
    urgent_seconds=0.3,
    window_frames=8000,
    ahead_seconds=10.0,
)


def _clean(gpu: FakeGpu) -> None:
    assert all(each.done for each in gpu.utterances)
    assert (len(gpu.scheduler), gpu.scheduler.slots_used, gpu.scheduler.pages_used) == (0, 0, 0)


def test_one_stream_hears_the_first_audio_within_60_ms() -> None:
    gpu = FakeGpu(LIMITS, Costs(), 1, seconds=60)
    gpu.run()
    assert len(gpu.utterances) >= 8
    assert gpu.first_audio(1.0) < 0.06
    assert gpu.gaps == []
    _clean(gpu)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_hundred_streams_always_speaking(seed: int) -> None:
    gpu = FakeGpu(LIMITS, Costs(), 100, seconds=12, seed=seed)
    gpu.run()
    assert len(gpu.utterances) > 200
    assert gpu.first_audio(0.95) < 0.2
    assert gpu.gaps == []
    _clean(gpu)


def test_overload_leaks_nothing_and_nobody_is_forgotten() -> None:
    """Five hundred streams on a GPU that can serve a third of them: all wait longer, none for ever."""
    slow = Costs(step=0.012, step_row=1e-4, batch=0.01, chunk_token=6e-5)
    gpu = FakeGpu(LIMITS, slow, 500, seconds=8)
    gpu.run()
    assert len(gpu.utterances) >= 500
    _clean(gpu)
    # By deadline: who came first was heard first, but for the length of a batch.
    firsts = sorted(gpu.utterances, key=lambda each: each.arrived)
    late = [a.first - b.first for a, b in pairwise(firsts) if a.first and b.first]
    assert max(late) < 1.0
    assert gpu.first_audio(0.5) > 0.3
