"""The draw, guidance, settings; that the processors equal the reference's is tests/parity's matter."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.chatterbox.constants import START_TOKEN, STOP_TOKEN
from tts_engine.chatterbox.sampling import first_seen, forbid_stop, guide, invert_cdf, pick, process, see
from tts_engine.chatterbox.sampling_settings import SamplingSettings

V = 6563


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"top_p": math.nan}, "top_p is nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty is inf"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SamplingSettings(**wrong)


def test_the_defaults_are_the_references() -> None:
    settings = SamplingSettings()
    assert (settings.temperature, settings.top_k, settings.top_p, settings.repetition_penalty) == (0.8, 1000, 0.95, 1.2)


def test_a_draw_picks_by_cumulative_probability() -> None:
    probabilities = torch.tensor([[0.25, 0.0, 0.5, 0.25]]).expand(6, -1)
    draws = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999])
    assert invert_cdf(probabilities, draws).tolist() == [0, 0, 2, 2, 3, 3]


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 1e-6, 0.1, 1.0]), min_size=1, max_size=20).filter(any),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_whatever_the_draw_no_impossible_token_is_picked(weights: list[float], draw: float) -> None:
    probabilities = torch.tensor([weights], dtype=torch.float64)
    for draws in (torch.tensor([draw], dtype=torch.float64), torch.tensor([math.nextafter(1, 0)], dtype=torch.float64)):
        index = int(invert_cdf(probabilities, draws))
        assert weights[index] > 0
        total = sum(weights)
        assert sum(weights[:index]) <= float(draws) * total + 1e-12 * total
        assert sum(weights[: index + 1]) >= float(draws) * total - 1e-12 * total


def test_picks_follow_the_distribution() -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(1, 8, generator=generator)
    draws = torch.rand(20000, generator=generator)
    counts = torch.bincount(pick(logits.expand(20000, -1), draws), minlength=8) / 20000
    torch.testing.assert_close(counts, logits[0].softmax(-1), atol=0.015, rtol=0)


def test_rows_of_a_batch_do_not_touch_one_another() -> None:
    generator = torch.Generator().manual_seed(6)
    logits, draws = 3 * torch.randn(7, V, generator=generator), torch.rand(7, generator=generator)
    seen = torch.rand(7, V, generator=generator) < 0.01
    settings = SamplingSettings()
    together = pick(process(logits, seen, settings), draws)
    alone = [pick(process(logits[i, None], seen[i, None], settings), draws[i, None]) for i in range(7)]
    assert together.tolist() == [int(token) for token in alone]
    assert together.dtype == torch.int64


def test_process_leaves_its_arguments_alone() -> None:
    logits, seen = torch.randn(2, V, generator=torch.Generator().manual_seed(1)), first_seen(2, V)
    before = logits.clone(), seen.clone()
    process(logits, seen, SamplingSettings())
    assert torch.equal(logits, before[0])
    assert torch.equal(seen, before[1])


def test_one_token_always_stays() -> None:
    logits = torch.zeros(1, V)
    logits[0, 17] = 40.0
    left = process(logits, first_seen(1, V), SamplingSettings(top_p=0.0)).isfinite().nonzero()
    assert left.tolist() == [[0, 17]]


def test_start_is_seen_at_the_first_step_only_unless_it_is_chosen() -> None:
    seen = first_seen(2, V)
    assert seen.nonzero()[:, 1].tolist() == [START_TOKEN] * 2
    see(seen, torch.tensor([5, START_TOKEN]), first=True)
    see(seen, torch.tensor([6, 7]))
    assert seen[0].nonzero().flatten().tolist() == [5, 6]
    assert seen[1].nonzero().flatten().tolist() == [7, START_TOKEN]


def test_stop_is_forbidden_in_the_rows_named() -> None:
    logits = torch.zeros(2, V)
    logits[:, STOP_TOKEN] = 50.0
    barred = forbid_stop(logits, torch.tensor([True, False]))
    processed = process(barred, first_seen(2, V), SamplingSettings())
    picked = pick(processed, torch.tensor([0.9999, 0.0001]))
    assert picked[0] != STOP_TOKEN
    assert picked[1] == STOP_TOKEN
    assert barred.isinf().sum() == 1


def test_guidance_moves_away_from_the_unconditional_half() -> None:
    conditional, unconditional = torch.tensor([[1.0, 2.0], [0.0, 4.0]]), torch.tensor([[0.0, 2.0], [1.0, 2.0]])
    both = torch.cat((conditional, unconditional))
    assert guide(both, 0.5).tolist() == [[1.5, 2.0], [-0.5, 5.0]]
    assert torch.equal(guide(both, 0.0), conditional)
