"""The flow's noise of packed rows, and the source's of padded ones: written once, a few numbers a row being read."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, HARMONICS, MEL_BINS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.kernels.counter import counter_normal

_FRAMES = 16
"Frames of a program."
_SAMPLES = 512
"Samples of one, of all harmonics."


# Batches are of any size: one compilation serves them all.
@triton.jit(do_not_specialize=["rows", "frames"])
def packed_noise_kernel(
    prompt_keys,
    flow_keys,
    starts,
    prompt,
    first_token,
    noise,
    rows,
    frames,
    FRAMES_PER_TOKEN: tl.constexpr,
    BINS: tl.constexpr,
    FRAMES: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """FRAMES frames of all bins. LANES and ROWS: powers of 2 that hold BINS and `rows`."""
    at = tl.program_id(0) * FRAMES + tl.arange(0, FRAMES)
    number = tl.arange(0, ROWS)
    end = tl.load(starts + number + 1, mask=number < rows, other=2147483647 // FRAMES_PER_TOKEN)
    row = tl.sum((at[:, None] >= FRAMES_PER_TOKEN * end[None, :]).to(tl.int32), 1)
    used = (at < frames) & (row < rows)
    frame = at - FRAMES_PER_TOKEN * tl.load(starts + row, mask=used, other=0)
    new = frame - FRAMES_PER_TOKEN * tl.load(prompt + row, mask=used, other=0)
    first = tl.load(first_token + row, mask=used, other=0)
    prompt_key = tl.load(prompt_keys + row, mask=used, other=0)
    flow_key = tl.load(flow_keys + row, mask=used, other=0)
    key = tl.where(new < 0, prompt_key, flow_key)
    frame = tl.where(new < 0, frame, new + FRAMES_PER_TOKEN * first)
    lane = tl.arange(0, LANES)
    index = frame.to(tl.int64)[:, None] * BINS + lane[None, :]
    drawn = tl.where(used[:, None], counter_normal(key[:, None], index), 0.0)
    place = at.to(tl.int64)[:, None] * BINS + lane[None, :]
    tl.store(noise + place, drawn, mask=(at < frames)[:, None] & (lane < BINS)[None, :])


def packed_noise(
    prompt_keys: Tensor, flow_keys: Tensor, starts: Tensor, prompt: Tensor, first_token: Tensor, size: int
) -> Tensor:
    """See draws.packed_noise."""
    frames = FRAMES_PER_TOKEN * size
    noise = torch.empty(frames, MEL_BINS, device=starts.device)
    if frames:
        packed_noise_kernel[(triton.cdiv(frames, _FRAMES),)](
            prompt_keys,
            flow_keys,
            starts,
            prompt,
            first_token,
            noise,
            len(prompt),
            frames,
            FRAMES_PER_TOKEN=FRAMES_PER_TOKEN,
            BINS=MEL_BINS,
            FRAMES=_FRAMES,
            LANES=triton.next_power_of_2(MEL_BINS),
            ROWS=triton.next_power_of_2(len(prompt)),
        )
    return noise


@triton.jit(do_not_specialize=["samples"])
def source_noise_kernel(
    keys, first_frame, noise, samples, FRAME: tl.constexpr, HARMONICS: tl.constexpr, SAMPLES: tl.constexpr
):
    """SAMPLES samples of all harmonics of a row."""
    row, sample = tl.program_id(0), tl.program_id(1) * SAMPLES + tl.arange(0, SAMPLES)
    key = tl.load(keys + row)
    index = (tl.load(first_frame + row).to(tl.int64) * FRAME + sample) * HARMONICS
    place = noise + row.to(tl.int64) * HARMONICS * samples + sample
    for harmonic in range(HARMONICS):
        tl.store(place + harmonic * samples, counter_normal(key, index + harmonic), mask=sample < samples)


def source_noise(keys: Tensor, first_frame: Tensor, frames: int) -> Tensor:
    """See padded.source_noise."""
    samples = SAMPLES_PER_FRAME * frames
    noise = torch.empty(len(keys), HARMONICS, samples, device=keys.device)
    if noise.numel():
        source_noise_kernel[(len(keys), triton.cdiv(samples, _SAMPLES))](
            keys, first_frame, noise, samples, FRAME=SAMPLES_PER_FRAME, HARMONICS=HARMONICS, SAMPLES=_SAMPLES
        )
    return noise
