"""From logits to a speech token: the reference's processors in its order, and a draw by the inverse CDF.

All on the device and without waiting for it; the random numbers are an argument.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tts_engine.chatterbox.constants import START_TOKEN, STOP_TOKEN
from tts_engine.chatterbox.sampling_settings import SamplingSettings


def first_seen(batch: int, vocabulary: int, device: torch.device | str = "cpu") -> Tensor:
    """Tokens that the penalty counts at the first step, (B, V) bool: START alone, as the reference has it."""
    seen = torch.zeros(batch, vocabulary, dtype=torch.bool, device=device)
    seen[:, START_TOKEN] = True
    return seen


def see(seen: Tensor, tokens: Tensor, *, first: bool = False) -> None:
    """Add the tokens just chosen, (B,), to `seen` in place. The `first` step forgets START: it was not chosen."""
    if first:
        seen.zero_()
    seen.scatter_(1, tokens[:, None], True)


def guide(logits: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: (2B, V), halves [cond | uncond], to (B, V) cond + scale (cond - uncond)."""
    conditional, unconditional = logits.chunk(2)
    return conditional + scale * (conditional - unconditional)


def forbid_stop(logits: Tensor, rows: Tensor) -> Tensor:
    """STOP made impossible in these rows, (B,) bool. Before `process`: after it nothing might be left to choose."""
    stop = torch.arange(logits.shape[-1], device=logits.device) == STOP_TOKEN
    return logits.masked_fill(rows[:, None] & stop, -torch.inf)


def process(logits: Tensor, seen: Tensor, settings: SamplingSettings) -> Tensor:
    """Temperature, top-k, top-p, repetition penalty: (B, V) float32 and `seen` (B, V) bool to (B, V), -inf where cut.

    Bit for bit what transformers' processors give in this order, ties included: of equal logits at top-p's boundary
    it is the sort's order that decides, so the sort is theirs, over the same numbers, and not a stable one.
    """
    if settings.temperature != 1.0:
        logits = logits / settings.temperature
    if 0 < settings.top_k < logits.shape[-1]:
        least = torch.topk(logits, settings.top_k).values[:, -1, None]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if settings.top_p < 1.0:
        ascending, order = torch.sort(logits)
        unlikely = ascending.softmax(-1).cumsum(-1) <= 1 - settings.top_p
        unlikely[:, -1] = False  # one token always stays
        logits = logits.masked_fill(torch.empty_like(unlikely).scatter(1, order, unlikely), -torch.inf)
    if settings.repetition_penalty != 1.0:
        penalty = settings.repetition_penalty
        logits = torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)
    return logits


def pick(processed: Tensor, draws: Tensor) -> Tensor:
    """Processed logits (B, V) and uniform draws (B,) in [0, 1) to tokens (B,) int64."""
    return invert_cdf(processed.softmax(-1), draws)


def invert_cdf(probabilities: Tensor, draws: Tensor) -> Tensor:
    """(B, V) and (B,) in [0, 1) to the first index whose cumulative probability is above the draw, (B,) int64.

    In float64: with 6563 terms float32 would shift the boundaries. A token of probability 0 is never chosen, and
    the sum need not be exactly 1. Where a row holds NaN, the index says nothing.
    """
    cumulative = probabilities.double().cumsum(-1)
    total = cumulative[:, -1]
    # A draw next to 1 may round to the total, which no entry is above.
    target = torch.minimum(draws.double() * total, torch.nextafter(total, torch.zeros_like(total)))
    return (cumulative <= target[:, None]).sum(-1).clamp(max=probabilities.shape[-1] - 1)
