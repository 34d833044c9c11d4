"""Attention over packed rows, every position of a row to every other, in one pass over the keys (Triton).

The running softmax of FlashAttention-2 (Dao, arXiv 2307.08691, algorithm 1), read straight from the stacked
projections. Scores by distance, of relative-position attention, are added as they were computed, by query and distance:
the skew to query and key is in the addresses, so no mask or matrix of (T, T) is ever made.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from tts_engine.chatterbox.kernels.flow_tiles import Table, Tile, choose

HEAD = 64
LOG2_E = math.log2(math.e)

TILES: Table = {
    ("large", True): Tile(64, 64, 4, 3),
    ("large", False): Tile(32, 32, 4, 2),
    ("small", True): Tile(64, 64, 4, 2),
    ("small", False): Tile(32, 32, 4, 2),
}


@triton.jit
def _block(query, keys, values, distances, at, length, highest, total, mixed, scale, PITCH: tl.constexpr,
           COLUMNS: tl.constexpr, HEAD: tl.constexpr, POSITIONS: tl.constexpr, TAIL: tl.constexpr):  # fmt: skip
    """One block of keys into the running softmax; TAIL: it may reach beyond the row."""
    columns = at + tl.arange(0, COLUMNS)
    seen = columns < length
    lanes = tl.arange(0, HEAD)
    offsets = columns[:, None] * PITCH + lanes[None, :]
    key = tl.load(keys + offsets, mask=seen[:, None], other=0.0) if TAIL else tl.load(keys + offsets)
    score = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    if POSITIONS:
        if TAIL:
            by_distance = tl.load(distances[:, None] + columns[None, :], mask=seen[None, :], other=0.0)
        else:
            by_distance = tl.load(distances[:, None] + columns[None, :])
        score += by_distance.to(tl.float32)
    if TAIL:
        score = tl.where(seen[None, :], score, float("-inf"))
    peak = tl.maximum(highest, tl.max(score, 1))
    weight = tl.exp2(score - peak[:, None])
    fade = tl.exp2(highest - peak)
    total = total * fade + tl.sum(weight, 1)
    value = tl.load(values + offsets, mask=seen[:, None], other=0.0) if TAIL else tl.load(values + offsets)
    mixed = tl.dot(weight.to(value.dtype), value, mixed * fade[:, None], input_precision="ieee")
    return peak, total, mixed


@triton.jit(do_not_specialize=["most", "heads_stride", "pitch"])
def _attend(
    projected,
    out,
    starts,
    lengths,
    distances,
    most,
    heads_stride,
    pitch,
    scale,
    HEADS: tl.constexpr,
    PARTS: tl.constexpr,
    POSITIONS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HEAD: tl.constexpr,
):
    """A tile of queries of one head of one row."""
    tile, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    if tile * ROWS >= length:
        return
    first = tl.load(starts + row).to(tl.int64)
    PITCH: tl.constexpr = PARTS * HEADS * HEAD
    lanes = tl.arange(0, HEAD)
    rows = tile * ROWS + tl.arange(0, ROWS)
    within = tl.minimum(rows, length - 1)  # beyond the row its last query once more: no masks while reading
    base = projected + first * PITCH + head * HEAD
    query = tl.load(base + within[:, None] * PITCH + lanes[None, :])
    keys = base + HEADS * HEAD
    values = keys + HEADS * HEAD
    # Key j of query i is at distance j - i, in column most + j - i.
    at_distance = distances + head * heads_stride.to(tl.int64) + (first + within) * pitch + most - within

    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, HEAD), tl.float32)
    whole = length // COLUMNS * COLUMNS
    for at in range(0, whole, COLUMNS):
        highest, total, mixed = _block(query, keys, values, at_distance, at, length, highest, total, mixed, scale,
                                       PITCH, COLUMNS, HEAD, POSITIONS, False)  # fmt: skip
    if whole < length:
        highest, total, mixed = _block(query, keys, values, at_distance, whole, length, highest, total, mixed, scale,
                                       PITCH, COLUMNS, HEAD, POSITIONS, True)  # fmt: skip
    mixed = mixed / total[:, None]
    at_out = out + (first + rows)[:, None] * (HEADS * HEAD) + head * HEAD + lanes[None, :]
    tl.store(at_out, mixed.to(out.dtype.element_ty), mask=(rows < length)[:, None])


def attend(
    projected: Tensor,
    starts: Tensor,
    lengths: Tensor,
    most: int,
    heads: int,
    distances: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """Attention of every row of a packing to itself: (N, heads * 64).

    projected (N, parts * heads * 64): queries, keys and values, then what is not read; contiguous.
    starts (R+1,), lengths (R,) int32: row r is `lengths[r]` positions from starts[r] on; none is longer than `most`.
    distances (heads, N, at least 2 most): added to the scores of each query, the key at distance d = key - query
    reading column most + d; scaled by LOG2_E already. None: plain attention.

    Where no row is, the result is not written.
    """
    count, width = projected.shape
    tile = tile or choose(TILES, projected)
    out = projected.new_empty(count, heads * HEAD)
    grid = (triton.cdiv(most, tile.rows), heads, len(lengths))
    _attend[grid](
        projected,
        out,
        starts,
        lengths,
        projected if distances is None else distances,
        most,
        0 if distances is None else distances.stride(0),
        0 if distances is None else distances.stride(1),
        LOG2_E * HEAD**-0.5,
        HEADS=heads,
        PARTS=width // (heads * HEAD),
        POSITIONS=distances is not None,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        HEAD=HEAD,
        **tile.options,
    )
    return out
