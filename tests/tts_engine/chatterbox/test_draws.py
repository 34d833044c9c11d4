from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.chatterbox.constants import SAMPLES_PER_FRAME
from tts_engine.chatterbox.draws import Draws

SPANS = st.tuples(st.integers(0, 150), st.integers(0, 40)).map(lambda span: (span[0], span[0] + span[1]))


@given(st.lists(SPANS, min_size=1, max_size=6), st.integers(0, 2**63))
@settings(max_examples=25, deadline=None)
def test_a_draw_is_a_function_of_its_position(spans: list[tuple[int, int]], seed: int) -> None:
    """Whatever was asked before, in whatever order, and whatever was forgotten."""
    draws = Draws(seed)
    flow, source = Draws(seed).flow_noise(0, 200), Draws(seed).source_noise(0, 200)
    for start, stop in spans:
        assert torch.equal(draws.flow_noise(start, stop), flow[:, start:stop])
        samples = slice(start * SAMPLES_PER_FRAME, stop * SAMPLES_PER_FRAME)
        assert torch.equal(draws.source_noise(start, stop), source[:, samples])
        assert draws.uniform(start) == Draws(seed).uniform(start)
        draws.forget_source_noise(stop)


def test_shapes_and_distributions() -> None:
    draws = Draws(7)
    assert draws.prompt_noise(500).shape == (80, 500)
    assert draws.source_noise(3, 5).shape == (9, 960)
    for noise in (draws.flow_noise(0, 2000), draws.prompt_noise(2000), draws.source_noise(0, 100)):
        assert abs(noise.mean()) < 0.02
        assert abs(noise.std() - 1) < 0.02
        assert noise.dtype == torch.float32
    uniforms = torch.tensor([draws.uniform(step) for step in range(2000)], dtype=torch.float64)
    assert uniforms.min() >= 0
    assert uniforms.float().max() < 1
    assert abs(uniforms.mean() - 0.5) < 0.03


def test_phase_offsets() -> None:
    offsets = torch.stack([Draws(seed).phase_offsets() for seed in range(200)])
    assert (offsets[:, 0] == 0).all()
    assert offsets[:, 1:].abs().max() <= math.pi
    assert offsets[:, 1:].std() == pytest.approx(math.pi / math.sqrt(3), rel=0.1)
    assert torch.equal(Draws(3).phase_offsets(), offsets[3])


def test_seeds_streams_and_blocks_differ() -> None:
    noises = [Draws(1).flow_noise(0, 80), Draws(2).flow_noise(0, 80), Draws(1).prompt_noise(80)]
    noises.append(Draws(1).flow_noise(128, 208))
    for at, one in enumerate(noises):
        for other in noises[at + 1 :]:
            assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.05


def test_memory_behind_the_playhead_is_freed() -> None:
    draws = Draws(1)
    before = draws.source_noise(0, 40)
    for start in range(0, 2000, 40):
        draws.source_noise(start, start + 40)
        draws.forget_source_noise(start)
        assert draws.source_blocks_held <= 5
    assert torch.equal(draws.source_noise(0, 40), before)


@pytest.mark.parametrize("span", [(-1, 3), (5, 4)])
def test_no_such_range(span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no such range"):
        Draws(1).flow_noise(*span)


def test_an_empty_range() -> None:
    assert Draws(1).flow_noise(128, 128).shape == (80, 0)
    assert Draws(1).prompt_noise(0).shape == (80, 0)
