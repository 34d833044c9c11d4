"""Attention of a decoding step as one pass over the keys (Triton, CUDA only): StepAttention in two kernels.

As many programs a head share the keys (flash decoding, https://pytorch.org/blog/flash-decoding), each with a softmax of
its own over what it saw; a second kernel joins them. The step's own key and value go into the cache on the way.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

HEAD = 64
_BLOCK = 64
_PROGRAMS = 256
"About two for each multiprocessor of a large GPU."


@triton.jit
def _scan(query, keys, values, stop, part, parts, highest, total, mixed, BLOCK: tl.constexpr, HEAD: tl.constexpr):
    """Every `parts`-th block of the keys before `stop`, from the `part`-th on, into a running softmax."""
    lanes = tl.arange(0, HEAD)
    for start in range(part * BLOCK, stop, parts * BLOCK):
        rows = start + tl.arange(0, BLOCK)
        seen = rows < stop
        at = rows[:, None] * HEAD + lanes[None, :]
        key = tl.load(keys + at, mask=seen[:, None], other=0.0).to(tl.float32)
        score = tl.where(seen, tl.sum(key * query[None, :], 1), float("-inf"))
        peak = tl.maximum(highest, tl.max(score, 0))
        weight = tl.exp(score - peak)
        fade = tl.exp(highest - peak)
        value = tl.load(values + at, mask=seen[:, None], other=0.0).to(tl.float32)
        total = total * fade + tl.sum(weight, 0)
        mixed = mixed * fade + tl.sum(weight[:, None] * value, 0)
        highest = peak
    return highest, total, mixed


# Prompts have any length: one compilation serves them all.
@triton.jit(do_not_specialize=["prefix_length"])
def _attend(
    projected,
    own,
    at_pointer,
    prefix_keys,
    prefix_values,
    partial,
    prefix_length,
    capacity,
    values_offset,
    heads,
    BLOCK: tl.constexpr,
    HEAD: tl.constexpr,
):
    """One head of one row, one part of its keys. The last position's key and value come from `projected`."""
    pair, part = tl.program_id(0), tl.program_id(1)
    parts = tl.num_programs(1)
    row, head = pair // heads, pair % heads
    lanes = tl.arange(0, HEAD)
    width = heads * HEAD
    new = projected + row * 3 * width + head * HEAD + lanes
    query = tl.load(new).to(tl.float32) * 0.125  # HEAD ** -0.5
    at = tl.load(at_pointer + row)
    own_keys = own + pair.to(tl.int64) * capacity * HEAD
    own_values = own_keys + values_offset
    highest, total = float("-inf"), 0.0
    mixed = tl.zeros((HEAD,), tl.float32)
    if part == 0:
        key, value = tl.load(new + width), tl.load(new + 2 * width)
        tl.store(own_keys + at * HEAD + lanes, key)
        tl.store(own_values + at * HEAD + lanes, value)
        highest = tl.sum(key.to(tl.float32) * query, 0)
        total = 1.0
        mixed = value.to(tl.float32)
    head_at = head * prefix_length * HEAD
    highest, total, mixed = _scan(
        query,
        prefix_keys + head_at,
        prefix_values + head_at,
        prefix_length,
        part,
        parts,
        highest,
        total,
        mixed,
        BLOCK,
        HEAD,
    )
    highest, total, mixed = _scan(query, own_keys, own_values, at, part, parts, highest, total, mixed, BLOCK, HEAD)
    out = partial + (pair * parts + part) * (HEAD + 2)
    tl.store(out + lanes, mixed)
    tl.store(out + HEAD, highest)
    tl.store(out + HEAD + 1, total)


@triton.jit
def _join(partial, out, parts, PARTS: tl.constexpr, HEAD: tl.constexpr):
    """The parts of one head of one row."""
    pair = tl.program_id(0)
    lanes = tl.arange(0, HEAD)
    numbers = tl.arange(0, PARTS)
    there = numbers < parts
    base = partial + (pair * parts + numbers) * (HEAD + 2)
    highest = tl.load(base + HEAD, mask=there, other=float("-inf"))
    total = tl.load(base + HEAD + 1, mask=there, other=0.0)
    scale = tl.exp(highest - tl.max(highest, 0))
    mixed = tl.load(base[:, None] + lanes[None, :], mask=there[:, None], other=0.0)
    joined = tl.sum(mixed * scale[:, None], 0) / tl.sum(total * scale, 0)
    tl.store(out + pair * HEAD + lanes, joined.to(out.dtype.element_ty))


def attend_step(projected: Tensor, own: Tensor, at: Tensor, prefix_keys: Tensor, prefix_values: Tensor) -> Tensor:
    """See step_attention.StepAttention. All are contiguous, but for the first dimension of `own`."""
    _, batch, heads, capacity, _ = own.shape
    pairs = batch * heads
    parts = max(1, min(16, _PROGRAMS // pairs))
    partial = torch.empty(pairs, parts, HEAD + 2, dtype=torch.float32, device=own.device)
    out = torch.empty(batch, 1, heads * HEAD, dtype=own.dtype, device=own.device)
    length = prefix_keys.shape[1]
    _attend[(pairs, parts)](
        projected, own, at, prefix_keys, prefix_values, partial, length, capacity, own.stride(0), heads, _BLOCK, HEAD
    )
    _join[(pairs,)](partial, out, parts, triton.next_power_of_2(parts), HEAD)
    return out
