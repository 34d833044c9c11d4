"""The polyphase filter of packed rows in one pass: past and new speech are read where they lie, 16-bit PCM is written.

As plain operations it would write every row's signal, and index numbers of eight bytes for each of its samples, to
memory and back; here the speech is read once and stays in the cache for the filter's hundreds of reads of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from tts_engine.chatterbox.constants import SAMPLES_PER_FRAME
from tts_engine.resample import FULL_SCALE

if TYPE_CHECKING:
    from tts_engine.chatterbox.polyphase import Polyphase
    from tts_engine.chatterbox.windows import Windows

_BLOCK = 32
"Outputs of a program."
_STEP = 32
"Taps at a time: neighbouring lanes read neighbouring samples."


# Batches are of any size: one compilation of each rate serves them all.
@triton.jit(do_not_specialize=["rows", "size"])
def polyphase_kernel(
    wave,
    tail,
    slot,
    starts,
    base,
    spoken,
    until,
    before,
    out_before,
    out_starts,
    taps,
    pcm,
    rows,
    size,
    FULL_SCALE: tl.constexpr,
    FRAME: tl.constexpr,
    HELD: tl.constexpr,
    UP: tl.constexpr,
    DOWN: tl.constexpr,
    FIRST: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    ROWS: tl.constexpr,
):
    """BLOCK outputs. HELD: samples of a row of `tail`; ROWS: a power of 2 that holds `rows`."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    number = tl.arange(0, ROWS)
    end = tl.load(out_starts + number + 1, mask=number < rows, other=2147483647)
    row = tl.sum((place[:, None] >= end[None, :]).to(tl.int32), 1)
    used = (place < size) & (row < rows)

    spoken_at = tl.load(spoken + row, mask=used, other=0)
    window = tl.load(starts + row, mask=used, other=0) - tl.load(base + row, mask=used, other=0)
    old = tl.load(before + row, mask=used, other=0)
    new = (tl.load(until + row, mask=used, other=0) - spoken_at) * FRAME
    m = place - tl.load(out_starts + row, mask=used, other=0) + tl.load(out_before + row, mask=used, other=0)
    # From here on positions are counted from the first new sample.
    centre = m // UP * DOWN + m % UP * DOWN // UP + FIRST - old
    wave_at = (window + spoken_at) * FRAME  # 32 bits hold 24 hours of speech
    tail_at = tl.load(slot + row, mask=used, other=0) * HELD + HELD
    oldest = -tl.minimum(old, HELD)

    total = tl.zeros((BLOCK, STEP), tl.float32)
    for start in range(0, TAPS, STEP):
        tap = start + tl.arange(0, STEP)
        at = centre[:, None] + tap[None, :]
        wanted = used[:, None] & (tap < TAPS)[None, :]
        is_new = wanted & (at >= 0) & (at < new[:, None])
        is_old = wanted & (at < 0) & (at >= oldest[:, None])
        sample = tl.load(wave + wave_at[:, None] + at, mask=is_new, other=0.0)
        sample += tl.load(tail + tail_at[:, None] + at, mask=is_old, other=0.0)
        weight = tl.load(taps + (m % UP * TAPS)[:, None] + tap[None, :], mask=wanted, other=0.0)
        total += sample * weight

    scaled = tl.sum(total, 1) * FULL_SCALE
    scaled = tl.where(scaled == scaled, scaled, 0.0)  # noqa: PLR0124  NaN is not
    scaled = tl.minimum(tl.maximum(scaled, -FULL_SCALE - 1), FULL_SCALE)
    # To the nearest, ties to even, as numpy rounds: beyond 2^23 float32 has no fractions.
    rounded = (scaled + 12582912.0) - 12582912.0
    tl.store(pcm + place, rounded.to(tl.int16), mask=place < size)


def polyphase(
    wave: Tensor,
    w: Windows,
    tail: Tensor,
    before: Tensor,
    out_before: Tensor,
    out_starts: Tensor,
    size: int,
    filter_: Polyphase,
) -> Tensor:
    """PCM (size,) int16: see Polyphase.__call__. `tail` is only read."""
    pcm = torch.empty(size, dtype=torch.int16, device=wave.device)
    if size:
        polyphase_kernel[(triton.cdiv(size, _BLOCK),)](
            wave,
            tail,
            w.slot,
            w.starts,
            w.base,
            w.spoken,
            w.until,
            before,
            out_before,
            out_starts,
            filter_.taps,
            pcm,
            len(before),
            size,
            FULL_SCALE=FULL_SCALE,
            FRAME=SAMPLES_PER_FRAME,
            HELD=tail.shape[1],
            UP=filter_.up,
            DOWN=filter_.down,
            FIRST=filter_.first,
            TAPS=filter_.taps.shape[1],
            BLOCK=_BLOCK,
            STEP=_STEP,
            ROWS=triton.next_power_of_2(len(before)),
        )
    return pcm
