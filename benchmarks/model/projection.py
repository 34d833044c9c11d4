"""How many streams a device could hold, by what its arithmetic and memory allow and what share of it a stage reaches.

Pure. Every assumption is a field of `Assumptions`, and all of them go into the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.make_checkpoint import Sizes
from benchmarks.model import work
from benchmarks.model.work import Ceilings, Stage
from tts_engine.chatterbox.chunk_plan import ChunkPlan, ChunkPlanner, ladder
from tts_engine.chatterbox.constants import TOKEN_RATE, TRAILING_SILENCE_TOKENS

MOST_STREAMS = 4000


@dataclass(frozen=True)
class Assumptions:
    """Of the load and of the device."""

    tflops: float
    "Dense half-precision products, as the data sheet has it."
    memory_gb_s: float
    "Of the data sheet."
    sustained_tflops: float = 0.8
    "Share of it that a large product reaches."
    sustained_memory: float = 0.85
    "And a large copy."
    utterance_tokens: int = 125
    "5 s: the mean of 2 to 8 s, always speaking, with nothing buffered when a text comes."
    text_tokens: int = 20
    prefix: int = 376
    "Positions of the voice in T3."
    prompt_tokens: int = 250
    "Of the voice in the flow: 10 s."
    decoding_share: float = 0.5
    "Of the streams, how many are in T3's batch at a time; the others are ahead of their listeners."
    chunk_rows: int = 8
    "Chunks that are decoded in a batch."
    prefill_rows: int = 2
    busy: float = 0.85
    "Share of the time that may be planned: the rest absorbs the uneven."
    launch_microseconds: float = 20.0
    "Between two graphs, for each."

    @property
    def positions(self) -> int:
        """Own positions of a sequence at its end."""
        return self.text_tokens + 1 + self.utterance_tokens

    @property
    def ceilings(self) -> Ceilings:
        return Ceilings(self.tflops * 1e12 * self.sustained_tflops, self.memory_gb_s * 1e9 * self.sustained_memory)


@dataclass(frozen=True)
class Shares:
    """Of the layered floor's speed, what each kind of stage reaches (measured: floor over time)."""

    step: float
    prefill: float
    flow: float
    vocoder: float


def chunks(tokens: int, held_seconds: float = 0.0) -> list[ChunkPlan]:
    """How an utterance of so many tokens is cut for a listener who holds so much audio."""
    planner = ChunkPlanner(ladder(held_seconds))
    plans: list[ChunkPlan] = []
    while (target := planner.target) <= tokens:
        if plan := planner.next(target, finished=False):
            plans.append(plan)
    if plan := planner.next(tokens + TRAILING_SILENCE_TOKENS, finished=True):
        plans.append(plan)
    return plans


def step_seconds(sizes: Sizes, assumed: Assumptions, shares: Shares, rows: int) -> float:
    """A T3 step, in the middle of utterances."""
    own = assumed.text_tokens + 1 + assumed.utterance_tokens / 2
    stage = work.t3_step(sizes.t3, rows, assumed.prefix, own)
    return _seconds(stage, assumed, shares.step)


def _seconds(stage: Stage, assumed: Assumptions, share: float) -> float:
    return stage.layered(assumed.ceilings) / share + assumed.launch_microseconds / 1e6


def seconds_a_stream(sizes: Sizes, assumed: Assumptions, shares: Shares, streams: int) -> Mapping[str, float]:
    """What a second of one stream's speech takes of the device, by stage, where so many speak."""
    spoken = (assumed.utterance_tokens + TRAILING_SILENCE_TOKENS) / TOKEN_RATE
    rows = max(1, round(assumed.decoding_share * streams))
    step = step_seconds(sizes, assumed, shares, rows) / rows * assumed.utterance_tokens
    batch = min(streams, assumed.prefill_rows)
    prefill = work.t3_prefill(sizes.t3, batch, assumed.prefix, assumed.text_tokens)
    together = min(streams, assumed.chunk_rows)
    flow = vocoder = 0.0
    for plan in chunks(assumed.utterance_tokens):
        length = assumed.prompt_tokens + plan.given_tokens
        flow += _seconds(work.flow(sizes.flow, [length] * together), assumed, shares.flow) / together
        window = work.vocoder(sizes.vocoder, together * plan.window_frames)
        vocoder += _seconds(window, assumed, shares.vocoder) / together
    return {
        "T3 steps": step / spoken,
        "T3 prefill": _seconds(prefill, assumed, shares.prefill) / batch / spoken,
        "flow": flow / spoken,
        "vocoder": vocoder / spoken,
    }


def first_audio_seconds(sizes: Sizes, assumed: Assumptions, shares: Shares, streams: int) -> float:
    """Of an utterance whose every stage is launched at once, in a batch of the usual size: no waiting for others."""
    first = chunks(assumed.utterance_tokens)[0]
    rows = max(1, round(assumed.decoding_share * streams))
    together = min(streams, assumed.chunk_rows)
    prefill = work.t3_prefill(sizes.t3, 1, assumed.prefix, assumed.text_tokens)
    length = assumed.prompt_tokens + first.given_tokens
    return (
        _seconds(prefill, assumed, shares.prefill)
        + first.tokens * step_seconds(sizes, assumed, shares, rows)
        + _seconds(work.flow(sizes.flow, [length] * together), assumed, shares.flow)
        + _seconds(work.vocoder(sizes.vocoder, together * first.window_frames), assumed, shares.vocoder)
    )


def fits(sizes: Sizes, assumed: Assumptions, shares: Shares, streams: int) -> bool:
    """Whether so many streams' work is done in the time that may be planned, one stage after the other."""
    return streams * sum(seconds_a_stream(sizes, assumed, shares, streams).values()) <= assumed.busy


def project(sizes: Sizes, assumed: Assumptions, shares: Shares) -> dict[str, Any]:
    """The most streams, always speaking, what each second of theirs costs, and the assumptions."""
    low, high = 0, 1
    while high <= MOST_STREAMS and fits(sizes, assumed, shares, high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(sizes, assumed, shares, middle) else (low, middle)
    cost = seconds_a_stream(sizes, assumed, shares, max(1, low))
    return {
        "streams": low,
        "ms_a_second_of_speech": {name: 1000 * seconds for name, seconds in cost.items()},
        "t3_cache_gb": low * assumed.decoding_share * work.t3_cache_bytes(sizes.t3, assumed.positions) / 1e9,
        "first_audio_ms_alone": 1000 * first_audio_seconds(sizes, assumed, shares, 1),
        "first_audio_ms_among_all": 1000 * first_audio_seconds(sizes, assumed, shares, max(1, low)),
        "assumptions": asdict(assumed),
        "shares": asdict(shares),
    }
