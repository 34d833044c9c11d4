"""Attention of a prefill: each row's text over [its voice's prefix | itself, causal], keys and values into its pages
(Triton; flash attention: the weights never leave the chip).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 64
"Keys at a time."
_LOG2_E = 1.4426950408889634


@triton.jit
def _seen_block(
    query,
    keys,
    values,
    stride,
    start,
    stop,
    first,
    highest,
    total,
    mixed,
    CAUSAL: tl.constexpr,
    SCALE: tl.constexpr,
    QUERIES: tl.constexpr,
    BLOCK: tl.constexpr,
    HEAD: tl.constexpr,
):
    """One block of keys into the running softmax. CAUSAL: query `first` + i sees keys up to its own number."""
    lanes = tl.arange(0, HEAD)
    places = start + tl.arange(0, BLOCK)
    within = places < stop
    key = tl.load(keys + places[None, :] * stride + lanes[:, None], mask=within[None, :], other=0.0)
    value = tl.load(values + places[:, None] * stride + lanes[None, :], mask=within[:, None], other=0.0)
    score = tl.dot(query, key, input_precision="ieee") * SCALE
    visible = within[None, :]
    if CAUSAL:
        visible = visible & (places[None, :] <= (first + tl.arange(0, QUERIES))[:, None])
    score = tl.where(visible, score, float("-inf"))
    peak = tl.maximum(highest, tl.max(score, 1))
    safe = tl.where(peak == float("-inf"), 0.0, peak)
    weight = tl.exp2(score - safe[:, None])
    fade = tl.exp2(highest - safe)
    total = total * fade + tl.sum(weight, 1)
    mixed = mixed * fade[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="ieee")
    return peak, total, mixed


# Texts have any length: one compilation serves them all.
@triton.jit(do_not_specialize=["length", "table_width", "most_prefix"])
def _attend(
    projected,
    rows,
    text_lengths,
    row_voice,
    tables,
    pages,
    prefixes,
    prefix_lengths,
    out,
    length,
    heads,
    table_width,
    most_prefix,
    voice_stride,
    SCALE: tl.constexpr,
    PAGE: tl.constexpr,
    QUERIES: tl.constexpr,
    BLOCK: tl.constexpr,
    HEAD: tl.constexpr,
):
    """QUERIES positions of one head of one row."""
    first = tl.program_id(0) * QUERIES
    index = tl.program_id(1) // heads
    head = tl.program_id(1) % heads
    lanes = tl.arange(0, HEAD)
    queries = first + tl.arange(0, QUERIES)
    width = heads * HEAD
    filled = tl.load(text_lengths + index) + 1  # text and START
    own = projected + index.to(tl.int64) * length * 3 * width + head * HEAD
    here = queries[:, None] * (3 * width) + lanes[None, :]
    there = queries < filled

    table = tables + tl.load(rows + index).to(tl.int64) * table_width
    page = tl.load(table + queries // PAGE, mask=there, other=0).to(tl.int64)
    into = page * (2 * heads * PAGE * HEAD) + (head * PAGE + queries % PAGE) * HEAD
    written = pages + into[:, None] + lanes[None, :]
    new_key = tl.load(own + width + here, mask=there[:, None], other=0.0)
    new_value = tl.load(own + 2 * width + here, mask=there[:, None], other=0.0)
    tl.store(written, new_key, mask=there[:, None])
    tl.store(written + heads * PAGE * HEAD, new_value, mask=there[:, None])

    query = tl.load(own + here, mask=there[:, None], other=0.0)
    highest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    mixed = tl.zeros((QUERIES, HEAD), tl.float32)
    # What is padding as a whole is not worth a look.
    padding = first >= filled
    voice = tl.load(row_voice + index)
    reach = tl.where(padding, 0, tl.load(prefix_lengths + voice))
    keys = prefixes + voice.to(tl.int64) * voice_stride + head * most_prefix * HEAD
    values = keys + heads * most_prefix * HEAD
    for start in range(0, reach, BLOCK):
        highest, total, mixed = _seen_block(
            query, keys, values, HEAD, start, reach, first, highest, total, mixed, False, SCALE, QUERIES, BLOCK, HEAD
        )
    stop = tl.where(padding, 0, tl.minimum(first + QUERIES, filled))
    for start in range(0, stop, BLOCK):
        highest, total, mixed = _seen_block(
            query,
            own + width,
            own + 2 * width,
            3 * width,
            start,
            stop,
            first,
            highest,
            total,
            mixed,
            True,
            SCALE,
            QUERIES,
            BLOCK,
            HEAD,
        )
    attended = mixed / tl.where(total == 0.0, 1.0, total)[:, None]
    to = out + (index.to(tl.int64) * length + queries[:, None]) * width + head * HEAD + lanes[None, :]
    tl.store(to, attended.to(out.dtype.element_ty), mask=(queries < length)[:, None])


def attend_prefill(
    projected: Tensor,
    rows: Tensor,
    text_lengths: Tensor,
    row_voice: Tensor,
    tables: Tensor,
    pages: Tensor,
    prefixes: Tensor,
    prefix_lengths: Tensor,
) -> Tensor:
    """Keys and values of [text | START] into the pages, and what attention gives: (B, L, heads 64).

    `projected` (B, L, 3 heads 64), contiguous; `text_lengths` (B,) int32: positions after text_lengths[b] are padding,
    not written, and what is returned for them means nothing. The rest as in `attend_step`.
    """
    batch, length, _ = projected.shape
    _, _, heads, page, head = pages.shape
    out = torch.empty(batch, length, heads * head, dtype=projected.dtype, device=pages.device)
    # Small tiles where there are few, and in float32, whose larger ones do not fit the registers.
    few = batch * heads * triton.cdiv(length, 64) <= 64
    queries = 16 if few or projected.dtype == torch.float32 else 64
    _attend[(triton.cdiv(length, queries), batch * heads)](
        projected,
        rows,
        text_lengths,
        row_voice,
        tables,
        pages,
        prefixes,
        prefix_lengths,
        out,
        length,
        heads,
        tables.shape[1],
        prefixes.shape[3],
        prefixes.stride(0),
        head**-0.5 * _LOG2_E,
        page,
        queries,
        BLOCK,
        head,
        num_warps=4,
        num_stages=2,
    )
    return out
