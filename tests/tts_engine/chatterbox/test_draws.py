from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tts_engine.chatterbox.packed_windows import int32, starts_of
from tts_engine.chatterbox import counter
from tts_engine.chatterbox.constants import SAMPLES_PER_FRAME
from tts_engine.chatterbox.draws import Draws, packed_noise, phase_offsets

SPANS = st.tuples(st.integers(0, 150), st.integers(0, 40)).map(lambda span: (span[0], span[0] + span[1]))
SEEDS = st.integers(0, 2**63)


@given(st.lists(SPANS, min_size=1, max_size=6), SEEDS)
@settings(max_examples=10, deadline=None)
def test_a_draw_is_a_function_of_its_position(spans: list[tuple[int, int]], seed: int) -> None:
    """Whatever was asked before, in whatever order."""
    draws = Draws(seed)
    flow, source = Draws(seed).flow_noise(0, 200), Draws(seed).source_noise(0, 60)
    for start, stop in spans:
        assert torch.equal(draws.flow_noise(start, stop), flow[:, start:stop])
        first, last = start // 4, stop // 4
        samples = slice(first * SAMPLES_PER_FRAME, last * SAMPLES_PER_FRAME)
        assert torch.equal(draws.source_noise(first, last), source[:, samples])
        assert draws.uniform(start) == Draws(seed).uniform(start)


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_where_each_number_is(seed: int) -> None:
    """What the batched code and the kernels rely on."""
    draws = Draws(seed)
    numbers = {
        stream: counter.normal(draws.key(stream), torch.arange(20_000))
        for stream in (counter.PROMPT, counter.FLOW, counter.SOURCE)
    }
    assert torch.equal(draws.prompt_noise(50).T.flatten(), numbers[counter.PROMPT][: 50 * 80])
    assert torch.equal(draws.flow_noise(3, 9).T.flatten(), numbers[counter.FLOW][3 * 80 : 9 * 80])
    assert torch.equal(draws.source_noise(2, 4).T.flatten(), numbers[counter.SOURCE][960 * 9 : 1920 * 9])
    assert draws.key(counter.FLOW) == counter.key(seed, counter.FLOW)


@given(SEEDS, st.integers(0, 300))
@settings(max_examples=20, deadline=None)
def test_uniforms_are_those_of_the_steps(seed: int, count: int) -> None:
    draws = Draws(seed)
    uniforms = draws.uniforms(count)
    assert (uniforms.shape, uniforms.dtype) == ((count,), np.float32)
    assert uniforms.tolist() == [draws.uniform(step) for step in range(count)]
    assert uniforms.tolist() == counter.uniform(counter.key(seed, counter.UNIFORM), torch.arange(count)).tolist()


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
    keys = torch.tensor([Draws(seed).key(counter.PHASE) for seed in range(200)])
    assert torch.equal(phase_offsets(keys), offsets)


def test_seeds_and_streams_differ() -> None:
    noises = [Draws(1).flow_noise(0, 80), Draws(2).flow_noise(0, 80), Draws(1).prompt_noise(80)]
    noises.append(Draws(1).flow_noise(128, 208))
    for at, one in enumerate(noises):
        for other in noises[at + 1 :]:
            assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.05


@pytest.mark.parametrize("span", [(-1, 3), (5, 4)])
def test_no_such_range(span: tuple[int, int]) -> None:
    for noise in (Draws(1).flow_noise, Draws(1).source_noise):
        with pytest.raises(ValueError, match="no such range"):
            noise(*span)


def test_an_empty_range() -> None:
    assert Draws(1).flow_noise(128, 128).shape == (80, 0)
    assert Draws(1).prompt_noise(0).shape == (80, 0)


ROW = st.tuples(SEEDS, st.integers(0, 9), st.integers(0, 20), st.integers(0, 500))
"Seed, prompt tokens, new tokens, first token."


@given(st.lists(ROW, max_size=5), st.integers(0, 3), st.integers(0, 8))
@settings(max_examples=40, deadline=None)
def test_packed_noise_is_each_rows_own(rows: list[tuple[int, int, int, int]], unused: int, padding: int) -> None:
    most = len(rows) + unused + 1
    fill = [0] * (most - len(rows))
    starts = starts_of([prompt + new for _, prompt, new, _ in rows], most)
    keys = [[Draws(seed).key(stream) for seed, *_ in rows] + fill for stream in (counter.PROMPT, counter.FLOW)]
    prompts, firsts = int32([row[1] for row in rows] + fill), int32([row[3] for row in rows] + fill)
    size = int(starts[-1]) + padding
    noise = packed_noise(torch.tensor(keys[0]), torch.tensor(keys[1]), starts, prompts, firsts, size)
    assert noise.shape == (2 * size, 80)
    expected = [torch.zeros(0, 80)]
    for seed, prompt, new, first in rows:
        draws = Draws(seed)
        expected += [draws.prompt_noise(2 * prompt).T, draws.flow_noise(2 * first, 2 * (first + new)).T]
    assert torch.equal(noise[: len(noise) - 2 * padding], torch.cat(expected))
    assert (noise[len(noise) - 2 * padding :] == 0).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same() -> None:
    here, there = Draws(5), Draws(5, "cuda")
    pairs = [
        (here.flow_noise(3, 90), there.flow_noise(3, 90)),
        (here.prompt_noise(40), there.prompt_noise(40)),
        (here.source_noise(7, 20), there.source_noise(7, 20)),
        (here.phase_offsets(), there.phase_offsets()),
    ]
    for one, other in pairs:
        assert other.is_cuda
        torch.testing.assert_close(other.cpu(), one, atol=2e-6, rtol=0)


def test_noise_without_kernels_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton may be installed where it cannot compile."""
    from tts_engine.chatterbox import draws

    monkeypatch.setattr(draws, "fused_fault", lambda: "there is no C compiler")
    monkeypatch.setattr(draws, "plain_packed_noise", lambda *_: "plain")
    assert draws.packed_noise(None, None, SimpleNamespace(is_cuda=True), None, None, 3) == "plain"  # type: ignore[arg-type,comparison-overlap]
