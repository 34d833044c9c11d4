from __future__ import annotations

import pytest
import torch

from tests.parity import figures
from tests.parity.flow_reference import half_flow, our_flow, random, reference_flow
from tts_engine.chatterbox.estimator import STEP_TIMES
from tts_engine.chatterbox.flow_layers import key_bias

TOLERANCE = 1e-4


def inputs(batch: int, frames: int, seed: int = 0) -> torch.Tensor:
    """(B, F, 320) [frames | mu | speaker | prompt], the speaker the same in all frames."""
    x = random(batch, frames, 320, seed=seed)
    x[:, :, 160:240] = x[:, :1, 160:240]
    return x


@torch.inference_mode()
def reference_change(row: torch.Tensor, step: int) -> torch.Tensor:
    """(F, 320) to (F, 80)."""
    frames, mu, speaker, prompt = row.T[None].split(80, dim=1)
    start, end = STEP_TIMES[step]
    change: torch.Tensor = reference_flow().decoder.estimator(
        frames,
        mask=torch.ones(1, 1, len(row)),
        mu=mu,
        t=torch.tensor([start]),
        spks=speaker[:, :, 0],
        cond=prompt,
        r=torch.tensor([end]),
    )
    return change[0].T


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("frames", [1, 2, 57])
def test_estimator_is_the_reference_s(frames: int, step: int, record_property: figures.Record) -> None:
    x = inputs(1, frames, seed=frames)
    estimator = our_flow().decoder.estimator
    expected = reference_change(x[0], step)
    with torch.inference_mode():
        change = estimator(x, estimator.times()[step])[0]
    assert expected.abs().max() > 1
    figures.error(record_property, f"estimator, step {step}, {frames} frames", change, expected)
    assert (change - expected).abs().max() <= TOLERANCE


def test_the_steps_differ() -> None:
    x = inputs(1, 20)[0]
    assert (reference_change(x, 0) - reference_change(x, 1)).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("step", [0, 1])
def test_a_padded_batch_is_the_reference_s_single_runs(step: int) -> None:
    lengths = [50, 31, 6, 1]
    x = inputs(4, 53)
    estimator = our_flow().decoder.estimator
    with torch.inference_mode():
        change = estimator(x, estimator.times()[step], key_bias(torch.tensor(lengths), 53, x.dtype))
    for row, length in enumerate(lengths):
        assert (change[row, :length] - reference_change(x[row, :length], step)).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
@pytest.mark.parametrize("step", [0, 1])
def test_half_precision(dtype: torch.dtype, bound: float, step: int, record_property: figures.Record) -> None:
    x = inputs(1, 50)
    estimator = half_flow(dtype).decoder.estimator
    expected = reference_change(x[0], step)
    with torch.inference_mode():
        change = estimator(x.to(dtype), estimator.times()[step])[0]
    assert figures.error(record_property, f"estimator, step {step}", change, expected, dtype) < bound
