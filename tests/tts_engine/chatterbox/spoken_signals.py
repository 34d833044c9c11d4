"""Utterances that reach the polyphase filter in pieces, in packed batches of random composition; soxr says what is due.

What lies around the new speech (the windows' contexts, the padding, other slots) is NaN.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tests.tts_engine.chatterbox.packed_windows import int32, starts_of, windows
from tts_engine.chatterbox.chunk_plan import ChunkPlan
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import SAMPLES_PER_FRAME
from tts_engine.chatterbox.polyphase import Polyphase
from tts_engine.chatterbox.windows import SpeechState, Windows
from tts_engine.resample import Resampler, Samples, to_pcm16

ROWS = 5
SLOTS = 6


def signals(frames: int, seed: int) -> dict[str, Samples]:
    """Of `frames` frames: what a telephone hears, and what is hardest to round."""
    generator, count = np.random.default_rng(seed), frames * SAMPLES_PER_FRAME
    at = np.arange(count) / 24000
    pitch = np.cumsum(120 + 40 * np.sin(3 * at)) / 24000
    voice = sum(np.sin(2 * np.pi * h * pitch) / h for h in range(1, 30)) * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * at))
    made = {
        "speech": 0.3 * voice + generator.normal(0, 0.003, count),
        "noise": generator.normal(0, 0.2, count),
        "full scale": np.sign(generator.normal(0, 1, count)) * 0.99,
        "square": np.sign(np.sin(2 * np.pi * 701 * at)) * 0.99,
        "silence": np.zeros(count),
        "constant": np.full(count, 0.99),
    }
    return {name: np.clip(signal, -0.99, 0.99).astype(np.float32) for name, signal in made.items()}


def due(signal: Samples, sample_rate: int) -> Tensor:
    """What the CPU's resampler gives, int16."""
    pcm = to_pcm16(Resampler(24000, sample_rate).process(signal, final=True))
    return torch.from_numpy(np.frombuffer(pcm, np.int16).copy())


@dataclass
class Utterance:
    """One that is being spoken in a slot."""

    slot: int
    signal: Samples
    spoken: int = 0
    "Frames so far,"
    sequence: int = 0
    "of which those of earlier sequences."
    out: int = 0
    heard: list[Tensor] = field(default_factory=list)

    @property
    def frames(self) -> int:
        return len(self.signal) // SAMPLES_PER_FRAME

    @property
    def pcm(self) -> Tensor:
        return torch.cat(self.heard)


@dataclass(frozen=True)
class Batch:
    """Arguments of Polyphase.__call__, but for the state."""

    utterances: list[Utterance]
    counts: list[int]
    "Outputs of each."
    wave: Tensor
    w: Windows
    before: Tensor
    out_before: Tensor
    out_starts: Tensor
    size: int

    def take(self, pcm: Tensor) -> None:
        """Hand each utterance its samples."""
        for utterance, piece in zip(self.utterances, pcm[: sum(self.counts)].split(self.counts), strict=True):
            utterance.heard.append(piece)
        assert (pcm[sum(self.counts) :] == 0).all()


def next_batch(utterances: list[Utterance], filter_: Polyphase, random_: random.Random, most: int) -> Batch:
    """Some of them say some of what they have left, up to `most` frames each."""
    speakers = random_.sample(utterances, random_.randrange(1, min(len(utterances), ROWS) + 1))
    parts, plans, counts, before, out_before = [], [], [], [], []
    for utterance in speakers:
        if random_.random() < 0.2:
            utterance.sequence = utterance.spoken  # another sequence begins: frames are counted from here
        new = min(random_.randrange(1, most + 1), utterance.frames - utterance.spoken)
        at = utterance.spoken - utterance.sequence
        left, right = random_.randrange(min(at, 15) + 1), random_.randrange(4)
        until = at + new
        plans.append(ChunkPlan(0, 0, 0, False, at - left, at, until + right, until, max(0, until - 15), 0))
        first = utterance.spoken * SAMPLES_PER_FRAME
        speech = torch.from_numpy(utterance.signal[first : first + new * SAMPLES_PER_FRAME])
        poison = [torch.full((frames * SAMPLES_PER_FRAME,), torch.nan) for frames in (left, right)]
        parts += [poison[0], speech, poison[1]]
        before.append(first)
        out_before.append(utterance.out)
        utterance.spoken += new
        out = filter_.outputs(utterance.spoken * SAMPLES_PER_FRAME, utterance.spoken == utterance.frames)
        counts.append(out - utterance.out)
        utterance.out = out
    unused = [0] * (ROWS - len(speakers))
    begins = [plan.spoken == 0 for plan in plans]
    slots = [utterance.slot for utterance in speakers]
    return Batch(
        speakers,
        counts,
        torch.cat([*parts, torch.full((random_.randrange(3) * SAMPLES_PER_FRAME,), torch.nan)]),
        windows(plans, slots, [0] * len(plans), begins, ROWS, SLOTS),
        int32(before + unused),
        int32(out_before + unused),
        starts_of(counts, ROWS),
        sum(counts) + random_.randrange(50),
    )


def poisoned_state() -> SpeechState:
    state = SpeechState(SLOTS, ChunkPolicy())
    state.tail.fill_(torch.nan)
    return state


def batches(utterances: list[Utterance], filter_: Polyphase, random_: random.Random, most: int) -> Iterator[Batch]:
    """Until all is said."""
    while left := [utterance for utterance in utterances if utterance.spoken < utterance.frames]:
        yield next_batch(left, filter_, random_, most)
