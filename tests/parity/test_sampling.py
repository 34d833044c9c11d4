"""Processed logits against transformers' processors, in the order of the reference's `inference_turbo`."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tts_engine.chatterbox.constants import START_TOKEN
from tts_engine.chatterbox.sampling import first_seen, process
from tts_engine.chatterbox.sampling_settings import SamplingSettings

V = 6563

SETTINGS = [
    SamplingSettings(),
    SamplingSettings(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0),
    SamplingSettings(temperature=0.3, top_k=50),
    SamplingSettings(temperature=1.7, top_k=0, top_p=0.5),
    SamplingSettings(top_k=V + 10, top_p=0.9, repetition_penalty=0.7),
    SamplingSettings(top_k=1, repetition_penalty=2.0),
    SamplingSettings(top_p=0.0),
    SamplingSettings(top_k=1000, top_p=1.0),
    SamplingSettings(top_p=0.999, repetition_penalty=1.0),
]


def reference(settings: SamplingSettings) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if settings.temperature > 0 and settings.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k > 0:
        processors.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1.0:
        processors.append(TopPLogitsWarper(settings.top_p))
    if settings.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    return processors


def logits(kind: str, rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    wide = (
        torch.randn(rows, V, generator=generator) * torch.tensor([0.05, 0.6, 2.0, 5.0, 12.0]).repeat(rows)[:rows, None]
    )
    match kind:
        case "float32":
            return wide
        case "bfloat16-rounded":  # as half-precision models give them: many are equal
            return wide.bfloat16().float()
        case "ties":
            return (wide * 2).round() / 2
        case "all equal":
            return torch.full((rows, V), -1.5)
        case "some impossible":
            return wide.masked_fill(torch.rand(rows, V, generator=generator) < 0.3, -torch.inf)
    raise AssertionError(kind)


KINDS = ["float32", "bfloat16-rounded", "ties", "all equal", "some impossible"]


@pytest.mark.parametrize(("kind", "at"), list(itertools.product(KINDS, range(len(SETTINGS)))))
@torch.inference_mode()
def test_processed_logits_are_bit_for_bit_the_references(kind: str, at: int) -> None:
    settings, rows = SETTINGS[at], 10
    given = logits(kind, rows, seed=at)
    # Some history for each row, a token twice and one of the likeliest among it.
    history = torch.randint(V, (rows, 40), generator=torch.Generator().manual_seed(at))
    history[:, 0] = history[:, 1]
    history[:, 2] = given.argmax(-1)
    seen = torch.zeros(rows, V, dtype=torch.bool).scatter(1, history, True)
    expected = reference(settings)(history, given.clone())
    assert torch.equal(process(given, seen, settings), expected)
    # One row at a time, as the reference runs it.
    alone = torch.cat([reference(settings)(history[row, None], given[row, None].clone()) for row in range(rows)])
    assert torch.equal(expected, alone)


@torch.inference_mode()
def test_at_the_first_step_the_penalty_counts_start_alone() -> None:
    given = logits("float32", 5, seed=3)
    given[:, START_TOKEN] = 60.0
    settings = SamplingSettings()
    expected = reference(settings)(torch.full((5, 1), START_TOKEN), given.clone())
    got = process(given, first_seen(5, V), settings)
    assert torch.equal(got, expected)
    torch.testing.assert_close(got[:, START_TOKEN], torch.full((5,), 60 / 0.8 / 1.2))
