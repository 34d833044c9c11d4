"""Attention of a decoding step over a voice's prefix and a row's own pages (Triton).

One launch holds two kinds of programs. Prefix programs take TILE rows of the batch at a time: whoever shares a voice
shares its keys, read once for all of them by tensor cores. Own programs take one row and walk its page table; the first
part of each writes the step's own key and value on the way. Each program has a softmax of its own over what it saw
(flash decoding, https://pytorch.org/blog/flash-decoding); a second, small kernel joins them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 16
"Rows of the batch that a prefix program takes: the smallest that tensor cores take."
BLOCK = 64
"Keys at a time."

_PREFIX_PROGRAMS = 128
"About one for each multiprocessor of a large GPU."
_OWN_PROGRAMS = 1024
_MOST_PARTS = 8

_LOG2_E = 1.4426950408889634


@triton.jit
def _prefix_part(
    tile,
    head,
    part,
    parts,
    projected,
    row_voice,
    prefixes,
    prefix_lengths,
    batch,
    heads,
    voice_stride,
    most_prefix,
    SCALE: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    HEAD: tl.constexpr,
):
    """Every `parts`-th block of the prefixes of one tile's voices: highest, total (TILE,) and mixed (TILE, HEAD)."""
    NOBODY: tl.constexpr = 2147483647
    rows = tile * TILE + tl.arange(0, TILE)
    lanes = tl.arange(0, HEAD)
    blocks = tl.arange(0, BLOCK)
    there = rows < batch
    query = tl.load(
        projected + rows[:, None] * (3 * heads * HEAD) + head * HEAD + lanes[None, :], mask=there[:, None], other=0.0
    )
    highest = tl.full((TILE,), float("-inf"), tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    mixed = tl.zeros((TILE, HEAD), tl.float32)
    left = tl.load(row_voice + rows, mask=there, other=NOBODY)
    voice = tl.min(left, 0)
    while voice < NOBODY:
        members = left == voice
        length = tl.load(prefix_lengths + voice)
        keys = prefixes + voice.to(tl.int64) * voice_stride + head * most_prefix * HEAD
        values = keys + heads * most_prefix * HEAD
        for start in range(part * BLOCK, length, parts * BLOCK):
            places = start + blocks
            within = places < length
            key = tl.load(keys + places[None, :] * HEAD + lanes[:, None], mask=within[None, :], other=0.0)
            value = tl.load(values + places[:, None] * HEAD + lanes[None, :], mask=within[:, None], other=0.0)
            score = tl.dot(query, key, input_precision="ieee") * SCALE
            score = tl.where(members[:, None] & within[None, :], score, float("-inf"))
            peak = tl.maximum(highest, tl.max(score, 1))
            # Rows of other voices have seen nothing yet: -inf less -inf would be no number.
            safe = tl.where(peak == float("-inf"), 0.0, peak)
            weight = tl.exp2(score - safe[:, None])
            fade = tl.exp2(highest - safe)
            total = total * fade + tl.sum(weight, 1)
            mixed = mixed * fade[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="ieee")
            highest = peak
        left = tl.where(members, NOBODY, left)
        voice = tl.min(left, 0)
    return highest, total, mixed


@triton.jit
def _own_part(
    index,
    head,
    part,
    parts,
    projected,
    rows,
    at_pointer,
    tables,
    pages,
    heads,
    table_width,
    SCALE: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
    HEAD: tl.constexpr,
):
    """Every `parts`-th block of one row's own positions: highest, total and mixed (HEAD,)."""
    lanes = tl.arange(0, HEAD)
    blocks = tl.arange(0, BLOCK)
    page_stride = 2 * heads * PAGE * HEAD
    to_values = heads * PAGE * HEAD
    at = tl.load(at_pointer + index)
    table = tables + tl.load(rows + index).to(tl.int64) * table_width
    new = projected + index * (3 * heads * HEAD) + head * HEAD + lanes
    new_query = tl.load(new).to(tl.float32) * SCALE
    # A softmax for each of the BLOCK places, joined at the end: nothing crosses threads in the loop.
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    mixed = tl.zeros((BLOCK, HEAD), tl.float32)
    if part == 0:
        new_key = tl.load(new + heads * HEAD)
        new_value = tl.load(new + 2 * heads * HEAD)
        page = tl.load(table + at // PAGE).to(tl.int64)
        here = pages + page * page_stride + (head * PAGE + at % PAGE) * HEAD + lanes
        tl.store(here, new_key)
        tl.store(here + to_values, new_value)
        first = blocks == 0
        highest = tl.where(first, tl.sum(new_key.to(tl.float32) * new_query, 0), highest)
        total = tl.where(first, 1.0, total)
        mixed = tl.where(first[:, None], new_value.to(tl.float32)[None, :], mixed)
    for start in range(part * BLOCK, at, parts * BLOCK):
        places = start + blocks
        filled = places < at
        page = tl.load(table + places // PAGE, mask=filled, other=0).to(tl.int64)
        base = page * page_stride + (head * PAGE + places % PAGE) * HEAD
        offsets = base[:, None] + lanes[None, :]
        key = tl.load(pages + offsets, mask=filled[:, None], other=0.0)
        value = tl.load(pages + to_values + offsets, mask=filled[:, None], other=0.0)
        score = tl.sum(key.to(tl.float32) * new_query[None, :], 1)
        score = tl.where(filled, score, float("-inf"))
        peak = tl.maximum(highest, score)
        safe = tl.where(peak == float("-inf"), 0.0, peak)
        weight = tl.exp2(score - safe)
        fade = tl.exp2(highest - safe)
        total = total * fade + weight
        mixed = mixed * fade[:, None] + weight[:, None] * value.to(tl.float32)
        highest = peak
    top = tl.max(highest, 0)
    fade = tl.exp2(highest - tl.where(top == float("-inf"), 0.0, top))
    return top, tl.sum(total * fade, 0), tl.sum(mixed * fade[:, None], 0)


# Batch and parts vary with the bucket: one compilation serves them all.
@triton.jit(do_not_specialize=["batch", "prefix_parts", "own_parts", "table_width", "most_prefix"])
def _attend(
    projected,
    rows,
    at,
    row_voice,
    tables,
    pages,
    prefixes,
    prefix_lengths,
    mixed_out,
    stats_out,
    batch,
    heads,
    prefix_parts,
    own_parts,
    table_width,
    most_prefix,
    voice_stride,
    SCALE: tl.constexpr,
    PAGE: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    HEAD: tl.constexpr,
):
    """Parts 0 .. prefix_parts of (row, head) are of the prefix, own_parts more of its own positions."""
    program = tl.program_id(0)
    tiles = (batch + TILE - 1) // TILE
    prefix_programs = tiles * heads * prefix_parts
    parts = prefix_parts + own_parts
    lanes = tl.arange(0, HEAD)
    if program < prefix_programs:
        part = program % prefix_parts
        head = (program // prefix_parts) % heads
        tile = program // (prefix_parts * heads)
        highest, total, mixed = _prefix_part(
            tile,
            head,
            part,
            prefix_parts,
            projected,
            row_voice,
            prefixes,
            prefix_lengths,
            batch,
            heads,
            voice_stride,
            most_prefix,
            SCALE,
            TILE,
            BLOCK,
            HEAD,
        )
        members = tile * TILE + tl.arange(0, TILE)
        there = members < batch
        slots = (members * heads + head) * parts + part
        tl.store(mixed_out + slots[:, None] * HEAD + lanes[None, :], mixed, mask=there[:, None])
        tl.store(stats_out + slots * 2, highest, mask=there)
        tl.store(stats_out + slots * 2 + 1, total, mask=there)
    else:
        own = program - prefix_programs
        part = own % own_parts
        head = (own // own_parts) % heads
        index = own // (own_parts * heads)
        top, sum_, vector = _own_part(
            index,
            head,
            part,
            own_parts,
            projected,
            rows,
            at,
            tables,
            pages,
            heads,
            table_width,
            SCALE,
            PAGE,
            BLOCK,
            HEAD,
        )
        slot = (index * heads + head) * parts + prefix_parts + part
        tl.store(mixed_out + slot * HEAD + lanes, vector)
        tl.store(stats_out + slot * 2, top)
        tl.store(stats_out + slot * 2 + 1, sum_)


@triton.jit(do_not_specialize=["parts"])
def _join(mixed, stats, out, parts, PARTS: tl.constexpr, HEAD: tl.constexpr):
    """The parts of one head of one row."""
    pair = tl.program_id(0)
    lanes = tl.arange(0, HEAD)
    numbers = tl.arange(0, PARTS)
    there = numbers < parts
    slots = pair * parts + numbers
    highest = tl.load(stats + slots * 2, mask=there, other=float("-inf"))
    total = tl.load(stats + slots * 2 + 1, mask=there, other=0.0)
    # The step's own key is always among them: the highest is a number.
    scale = tl.exp2(highest - tl.max(highest, 0))
    vectors = tl.load(mixed + slots[:, None] * HEAD + lanes[None, :], mask=there[:, None], other=0.0)
    joined = tl.sum(vectors * scale[:, None], 0) / tl.sum(total * scale, 0)
    tl.store(out + pair * HEAD + lanes, joined.to(out.dtype.element_ty))


def parts_of(batch: int, heads: int) -> tuple[int, int]:
    """Programs that share one tile's prefix, and one row's own positions: many where the batch is small."""
    tiles = triton.cdiv(batch, TILE)
    prefix = max(1, min(6, _PREFIX_PROGRAMS // (tiles * heads)))
    own = max(1, min(_MOST_PARTS, _OWN_PROGRAMS // (batch * heads)))
    return prefix, own


def attend_step(
    projected: Tensor,
    rows: Tensor,
    at: Tensor,
    row_voice: Tensor,
    tables: Tensor,
    pages: Tensor,
    prefixes: Tensor,
    prefix_lengths: Tensor,
) -> Tensor:
    """New keys and values into the pages, and one query of each row over [prefix | own positions]: (B, heads 64).

    `projected` (B, 3 heads 64): query, key, value; `rows` (B,) int32: each one's line in `tables`; `at` (B,) int32: its
    position; `row_voice` (B,) int32. Of one layer: `pages` (pages, 2, heads, PAGE, 64), contiguous, and `prefixes`
    (voices, 2, heads, P, 64), contiguous but for its first dimension. `prefix_lengths` (voices,) int32.
    """
    batch = len(projected)
    _, _, heads, page, head = pages.shape
    prefix_parts, own_parts = parts_of(batch, heads)
    parts = prefix_parts + own_parts
    mixed = torch.empty(batch, heads, parts, head, dtype=torch.float32, device=pages.device)
    stats = torch.empty(batch, heads, parts, 2, dtype=torch.float32, device=pages.device)
    out = torch.empty(batch, heads * head, dtype=projected.dtype, device=pages.device)
    programs = triton.cdiv(batch, TILE) * heads * prefix_parts + batch * heads * own_parts
    _attend[(programs,)](
        projected,
        rows,
        at,
        row_voice,
        tables,
        pages,
        prefixes,
        prefix_lengths,
        mixed,
        stats,
        batch,
        heads,
        prefix_parts,
        own_parts,
        tables.shape[1],
        prefixes.shape[3],
        prefixes.stride(0),
        head**-0.5 * _LOG2_E,
        page,
        TILE,
        BLOCK,
        head,
        num_warps=4,
        num_stages=2,
    )
    _join[(batch * heads,)](mixed, stats, out, parts, triton.next_power_of_2(parts), head, num_warps=1)
    return out
