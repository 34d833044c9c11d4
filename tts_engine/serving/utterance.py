"""One request on its way through a worker: its segments, each a sequence, and how much sound they gave so far."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tts_engine.chatterbox import counter
from tts_engine.chatterbox.constants import SILENCE_TOKEN, TRAILING_SILENCE_TOKENS
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.guards import Verdict
from tts_engine.chatterbox.watermark import WatermarkStream
from tts_engine.resample import Resampler, to_pcm16
from tts_engine.serving.messages import Speak

MOST_TEXT_TOKENS = 400
"Of a segment. Byte-level BPE needs more than one token a character for foreign scripts only."

MODEL_RATE = 24000  # Hz


class Guard(Protocol):
    """chatterbox.guards.TokenGuard, or what a benchmark puts in its place."""

    limit: int
    min_tokens: int

    def accept(self, token: int) -> Verdict: ...


@dataclass(frozen=True)
class Segment:
    """A part of a text that is spoken as one sequence."""

    text_tokens: list[int]
    seed: int
    guard: Guard


def segment_seed(seed: int, text: str, number: int) -> int:
    """The seed of a text's segment: another for each, and the same whenever the text is said again."""
    digest = hashlib.blake2b(f"{seed}/{number}/{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def cut_to_fit(segment: str, encode: Callable[[str], list[int]]) -> list[tuple[str, list[int]]]:
    """The segment and its tokens; in halves if they are too many, which no English text of its length has."""
    tokens = encode(segment)
    if len(tokens) <= MOST_TEXT_TOKENS:
        return [(segment, tokens)]
    middle = len(segment) // 2
    cut = segment.rfind(" ", 1, middle) + 1 or middle
    return cut_to_fit(segment[:cut].rstrip(), encode) + cut_to_fit(segment[cut:], encode)


class Speaking:
    """A segment's sequence: its speech tokens so far."""

    def __init__(self, id: int, utterance: Utterance, segment: Segment) -> None:
        self.id = id
        self.utterance = utterance
        self.guard = segment.guard
        self.text_tokens = segment.text_tokens
        self.draws = Draws(segment.seed)
        self.keys = tuple(counter.key(segment.seed, stream) for stream in _KEYS)
        self.tokens: list[int] = []
        self.ended = False
        "All tokens are here, the silence at the end included."
        self.chunks = 0
        self.last = not utterance.segments
        "Of its utterance."

    def accept(self, token: int) -> Verdict:
        """One more token as sampled; what the guard lets go is added."""
        verdict = self.guard.accept(token)
        self.tokens += verdict.tokens
        if verdict.end is not None:
            self.tokens += [SILENCE_TOKEN] * TRAILING_SILENCE_TOKENS
            self.ended = True
        return verdict

    def uniforms(self) -> npt.NDArray[np.float32]:
        """T3's draws, one a step."""
        return self.draws.uniforms(self.guard.limit)


_KEYS = (counter.PROMPT, counter.FLOW, counter.SOURCE, counter.PHASE)


@dataclass(eq=False)
class Utterance:
    """One request."""

    order: Speak
    segments: deque[Segment]
    voice: int
    "Index in the voice bank."
    prompt: npt.NDArray[np.int32]
    "The flow's prompt tokens."
    slot: int
    "Where S3Gen keeps what it needs from chunk to chunk."
    deadline: float
    finish: Finish
    sequences: dict[int, Speaking] = field(default_factory=dict)
    "Those that are not done yet."
    samples: int = 0
    "At 24 kHz, given so far."
    out: int = 0
    "At the rate that the GPU gives."
    heard: bool = False
    "Whether any sound has left."


class Finish:
    """What the host still does to the GPU's PCM: nothing, or the watermark and the rate."""

    def __init__(self, sample_rate: int, watermark: WatermarkStream | None) -> None:
        self.gpu_rate = sample_rate if watermark is None else MODEL_RATE
        self._watermark = watermark
        self._resampler = Resampler(MODEL_RATE, sample_rate)

    def __call__(self, pcm: bytes, *, final: bool) -> bytes:
        if self._watermark is None:
            return pcm
        samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32767.0
        marked = self._watermark.process(samples)
        if final:
            marked = np.concatenate([marked, self._watermark.flush()])
        return to_pcm16(self._resampler.process(marked, final=final))


def token_array(tokens: Sequence[int]) -> npt.NDArray[np.int32]:
    return np.asarray(tokens, np.int32)
