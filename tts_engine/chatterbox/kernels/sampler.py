"""From logits to a speech token, a row a program: sampling.process and sampling.pick with all logits in registers
(Triton).

Instead of sorting, the boundaries of top-k and top-p are found by bisection over the floats' bits, whose order as
integers is the floats' own: exact, in 32 steps each at the most. Of equal logits at top-p's boundary those of the lower
indices go, as in a stable sort.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tts_engine.chatterbox.constants import START_TOKEN, STOP_TOKEN
from tts_engine.chatterbox.sampling_settings import SamplingSettings


@triton.jit
def _ordered(x):
    """float32 to int32 of the same order, +-0 alike."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _kth_largest(key, least, highest, k):
    """The largest key that k keys reach; `least` and `highest` are those of all."""
    while least < highest:
        middle = (least | highest) - ((least ^ highest) >> 1)  # rounded up, without overflow
        enough = tl.sum((key >= middle).to(tl.int32), 0) >= k
        least = tl.where(enough, middle, least)
        highest = tl.where(enough, highest, middle - 1)
    return least


@triton.jit
def _likely(x, key, kept, least, highest, cut):
    """What top-p leaves of `kept`, whose keys are from `least` to `highest`; `cut` is 1 - top_p."""
    mass = tl.where(kept, tl.exp(x - tl.max(x, 0)), 0.0)
    limit = cut * tl.sum(mass, 0)
    # The smallest key that, with all below it, weighs more than the limit; the highest if none does.
    edge = highest
    while least < edge:
        middle = (least & edge) + ((least ^ edge) >> 1)  # rounded down, without overflow
        enough = tl.sum(tl.where(key <= middle, mass, 0.0), 0) > limit
        edge = tl.where(enough, middle, edge)
        least = tl.where(enough, least, middle + 1)
    tied = kept & (key == edge)
    ties = tl.sum(tied.to(tl.int32), 0)
    each = tl.max(tl.where(tied, mass, 0.0), 0)
    below = tl.sum(tl.where(key < edge, mass, 0.0), 0)
    room = tl.where(each > 0.0, tl.div_rn(limit - below, tl.where(each > 0.0, each, 1.0)), 0.0)
    # One token always stays.
    gone = tl.minimum(tl.maximum(room, 0.0), (ties - 1).to(tl.float32)).to(tl.int32)
    return kept & (key >= edge) & ~(tied & (tl.cumsum(tied.to(tl.int32), 0) <= gone))


@triton.jit
def _sample(
    logits,
    slots,
    draws,
    forbid_until,
    last,
    steps,
    seen,
    out,
    stride,
    slot_count,
    most_tokens,
    vocabulary,
    temperature,
    top_k,
    cut,
    penalty,
    FIRST: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    PENALTY: tl.constexpr,
    START: tl.constexpr,
    STOP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row: the token chosen, its slot's state, and whether all logits were numbers. `cut` is 1 - top_p."""
    row = tl.program_id(0)
    slot = tl.load(slots + row).to(tl.int64)
    tokens = tl.arange(0, BLOCK)
    there = tokens < vocabulary
    x = tl.load(logits + row.to(tl.int64) * stride + tokens, mask=there, other=0.0).to(tl.float32)
    finite = tl.min((tl.abs(x) < float("inf")).to(tl.int32), 0)
    step = 0
    if not FIRST:
        step = tl.load(steps + slot)
    x = tl.where((tokens == STOP) & (step < tl.load(forbid_until + slot)), float("-inf"), x)
    x = tl.where(there, tl.div_rn(x, temperature), float("-inf"))

    # No number has a key as low as the lanes beyond the vocabulary.
    key = tl.where(there, _ordered(x), -2147483648)
    highest = tl.max(key, 0)
    least = tl.min(tl.where(there, key, 2147483647), 0)
    if TOP_K:
        least = _kth_largest(key, least, highest, top_k)
    kept = there & (key >= least)
    if TOP_P:
        kept = _likely(x, key, kept, least, highest, cut)

    known = tokens == START
    if not FIRST:
        known = tl.load(seen + slot * vocabulary + tokens, mask=there, other=0) != 0
    if PENALTY:
        x = tl.where(known, tl.where(x < 0.0, x * penalty, tl.div_rn(x, penalty)), x)
    x = tl.where(kept, x, float("-inf"))
    weight = tl.exp(x - tl.max(x, 0))
    sums = tl.cumsum(weight, 0)
    target = tl.load(draws + slot * most_tokens + tl.minimum(step, most_tokens - 1)) * tl.max(sums, 0)
    # Rounding might let a sum rise where nothing was added: only what has a weight is chosen.
    possible = weight > 0.0
    token = tl.min(tl.where(possible & (sums > target), tokens, BLOCK), 0)
    final = tl.max(tl.where(possible, tokens, 0), 0)
    token = tl.where(token < BLOCK, token, final)

    tl.store(out + row * 2, token)
    tl.store(out + row * 2 + 1, finite)
    tl.store(last + slot, token)
    tl.store(steps + slot, tl.where(slot == slot_count - 1, 0, step + 1))
    if FIRST:
        # START is forgotten: it was not chosen.
        tl.store(seen + slot * vocabulary + tokens, (tokens == token).to(tl.int8), mask=there)
    else:
        tl.store(seen + slot * vocabulary + token, tl.full((), 1, tl.int8))


@dataclass(frozen=True)
class SamplerState:
    """What sampling keeps of each slot, the idle one last; the kernel writes `last`, `steps` and `seen`.

    draws (slots, most tokens) float32 in [0, 1); forbid_until (slots,) int32; last (slots,) int32: the token chosen
    last; steps (slots,) int32: tokens chosen; seen (slots, V) bool: what the repetition penalty counts.
    """

    draws: Tensor
    forbid_until: Tensor
    last: Tensor
    steps: Tensor
    seen: Tensor


def sample(logits: Tensor, slots: Tensor, state: SamplerState, settings: SamplingSettings, *, first: bool) -> Tensor:
    """Logits (B, V or more, what is beyond V is ignored) of the slots (B,) int32 to (B, 2) int32: the token, and 1 if
    all logits were finite. `first`: the sequences begin, their steps and `seen` with them.
    """
    batch, vocabulary = len(logits), state.seen.shape[1]
    out = torch.empty(batch, 2, dtype=torch.int32, device=logits.device)
    _sample[(batch,)](
        logits,
        slots,
        state.draws,
        state.forbid_until,
        state.last,
        state.steps,
        state.seen.view(torch.int8),
        out,
        logits.stride(0),
        len(state.last),
        state.draws.shape[1],
        vocabulary,
        settings.temperature,
        settings.top_k,
        1 - settings.top_p,
        settings.repetition_penalty,
        first,
        0 < settings.top_k < vocabulary,
        settings.top_p < 1,
        settings.repetition_penalty != 1,
        START_TOKEN,
        STOP_TOKEN,
        triton.next_power_of_2(vocabulary),
        num_warps=8,
    )
    return out
