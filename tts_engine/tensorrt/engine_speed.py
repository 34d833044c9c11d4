"""How long engines take, against what the server runs without them: our own kernels in CUDA graphs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, HARMONICS, MEL_BINS, SPEECH_TOKENS
from tts_engine.chatterbox.model import Chatterbox
from tts_engine.chatterbox.packing import BatchShape
from tts_engine.chatterbox.paged_t3 import PAGE, PagedCache, Passes, StepReads
from tts_engine.chatterbox.t3 import VoicePrefix
from tts_engine.chatterbox.voice import Voice
from tts_engine.tensorrt.engine_flow import EngineFlow
from tts_engine.tensorrt.engine_t3 import EnginePasses
from tts_engine.tensorrt.engine_vocoder import EngineVocoder
from tts_engine.tensorrt.graph_scope import GraphScope
from tts_engine.tensorrt.profiles import FLOW_SHORT_TOKENS
from tts_engine.tensorrt.selection import Unit
from tts_engine.tensorrt.session import Session
from tts_engine.tensorrt.step_shapes import EngineShapes

RUNS = 20

STEP_ROWS = (1, 32, 128)
STEP_PAGES = 20
"Of the longest row: rows are anywhere between their beginning and so many pages, a text of some sentences."
TEXTS = (12, 20, 31, 40, 48, 55, 60, 64)
"Text tokens of rows that begin together."
STEPS_A_PREFILL = 12
"A row takes some 200 steps, and of 128 rows 8 begin at once: so many steps to a prefill of 8."
VOICES, PROMPT_TOKENS = 2, 250
FLOW_BATCHES = ((270,), (270, 290, 310, 262, 300, 283, 275, 320))
"Tokens of each row, a prompt of 10 s included: a first chunk alone, and eight chunks."
FLOW_LONGEST = 320
VOCODER_BATCHES = ((62,), (62, 96, 80, 40, 90, 96, 74, 62))
"Frames of each row."
VOCODER_LONGEST = 96


@dataclass(frozen=True)
class Rivals:
    """What serves a unit without engines, made of a model's parts: by default the fused kernels."""

    t3: Callable[[Any, PagedCache], Passes]
    flow: Callable[[Any], Any]
    vocoder: Callable[[Any], Any]


def fused_rivals() -> Rivals:
    """Only where there is Triton, and a GPU."""
    from tts_engine.chatterbox.fused_t3 import FusedPasses  # noqa: PLC0415
    from tts_engine.chatterbox.packed_flow import PackedFlow  # noqa: PLC0415
    from tts_engine.chatterbox.packed_vocoder import PackedVocoder  # noqa: PLC0415

    return Rivals(FusedPasses, lambda flow: PackedFlow(flow, voices=VOICES), PackedVocoder)


@dataclass(frozen=True)
class Speed:
    """A unit's call."""

    unit: Unit
    what: str
    seconds: float
    "By the engines."
    rival_seconds: float
    share: float = 1.0
    "How often it is called, of a unit's calls at capacity, where it matters most; 0: it is told, and decides nothing."

    @property
    def slowdown(self) -> float:
        """Below 1 the engines are faster."""
        return self.seconds / self.rival_seconds


def slowdown(speeds: Sequence[Speed]) -> float:
    """Of a unit at capacity: its calls in their shares. What one caller alone gets is not what a GPU runs short of."""
    return sum(each.share * each.seconds for each in speeds) / sum(each.share * each.rival_seconds for each in speeds)


def seconds_of(call: Callable[[], object], device: torch.device, *, captured: bool) -> float:
    """Median time on the device, as a CUDA graph if it can be captured."""
    if device.type != "cuda":
        call()
        call()
        started = time.perf_counter()
        call()
        return time.perf_counter() - started
    stream = torch.cuda.current_stream()
    scope: GraphScope[Any] = GraphScope()  # alive until all is measured
    run = _captured(call, stream, scope) if captured else call
    run()
    run()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(RUNS + 1)]  # type: ignore[no-untyped-call]
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    stream.synchronize()
    return statistics.median(float(a.elapsed_time(b)) for a, b in pairwise(marks)) / 1000


def _captured(call: Callable[[], object], stream: torch.cuda.Stream, scope: GraphScope[Any]) -> Callable[[], object]:
    """As serving.graphs.CapturedCall does; the call itself where no graph can hold its engines."""
    with scope:
        for _ in range(2):
            scope.begin()
            call()
        stream.synchronize()
        if scope.refusal(stream.cuda_stream):
            return call
        scope.begin()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            kept = call()

    def replay() -> object:
        graph.replay()
        return kept

    return replay


@torch.inference_mode()
def t3_speeds(model: Chatterbox, sessions: Mapping[str, Session], rivals: Rivals, *, captured: bool) -> list[Speed]:
    """Steps and a prefill of sequences in two voices, split for the engines as the server splits them."""
    most, device = max(STEP_ROWS), model.device
    cache = PagedCache(
        model.sizes,
        slots=most,
        pages=most * STEP_PAGES,
        positions=STEP_PAGES * PAGE,
        voices=VOICES,
        dtype=model.dtype,
        device=model.device,
    )
    for voice in range(VOICES):
        cache.set_voice(voice, _prefix(model))
    with torch.device(model.device):
        cache.tables[:most] = torch.arange(most * STEP_PAGES, dtype=torch.int32).view(most, STEP_PAGES)
        cache.keys_values.normal_()
        last = torch.randint(SPEECH_TOKENS, (most + 1,), dtype=torch.int32)
    engine = EnginePasses(model.t3, cache, sessions["t3_prefill"], sessions["t3_step"])
    rival = rivals.t3(model.t3, cache)

    def numbers(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    def step(passes: Passes, calls: Sequence[tuple[Tensor, StepReads | None]], lengths: Tensor) -> Callable[[], object]:
        def call() -> list[Tensor]:
            cache.lengths.copy_(lengths)  # a step counts it up
            return [passes.step(last, rows, reads) for rows, reads in calls]

        return call

    found = []
    for count in STEP_ROWS:
        # A row is as likely to be at its beginning as at its end; rows of a voice lie side by side.
        own = [(37 * row % count + 1) * (cache.positions - 1) // count for row in range(count)]
        voices = [row * VOICES // count for row in range(count)]
        cache.voice[:count] = numbers(voices)
        lengths = torch.zeros_like(cache.lengths)
        lengths[:count] = numbers(own)
        ours = [
            (numbers([*call.places, *[most] * (call.shape.rows - len(call.places))]), call.shape.reads)
            for call in EngineShapes(count, cache.positions, VOICES).steps(own, voices)
        ]
        theirs = [(numbers(range(count)), None)]
        found.append(
            Speed(
                "t3",
                f"step of {count}",
                seconds_of(step(engine, ours, lengths), device, captured=captured),
                seconds_of(step(rival, theirs, lengths), device, captured=True),
                float(STEPS_A_PREFILL * (count == most)),
            )
        )

    def begin(places: Sequence[int], rows: int, text: int) -> tuple[Tensor, Tensor, Tensor]:
        more = rows - len(places)
        texts = torch.ones(rows, text, dtype=torch.int64, device=device)
        return texts, numbers([*(TEXTS[at] for at in places), *[1] * more]), numbers([*places, *[most] * more])

    def prefill(passes: Passes, calls: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Callable[[], object]:
        return lambda: [passes.prefill(*given, None) for given in calls]

    shapes = EngineShapes(most, cache.positions, VOICES)
    begun = [begin(call.places, call.shape.rows, call.shape.text) for call in shapes.prefills(TEXTS)]
    together = [begin(range(len(TEXTS)), len(TEXTS), max(TEXTS))]
    found.append(
        Speed(
            "t3",
            f"prefill of {len(TEXTS)}",
            seconds_of(prefill(engine, begun), device, captured=captured),
            seconds_of(prefill(rival, together), device, captured=True),
        )
    )
    return found


@torch.inference_mode()
def flow_speeds(model: Chatterbox, sessions: Mapping[str, Session], rivals: Rivals, *, captured: bool) -> list[Speed]:
    """Whole batches, from tokens to mel."""
    engine = EngineFlow(model.flow, sessions["flow_encoder"], sessions["estimator"], voices=VOICES)
    rival = rivals.flow(model.flow)
    for flow in (engine, rival):
        for index in range(VOICES):
            flow.set_voice(index, _voice(model))
    found = []
    for lengths in FLOW_BATCHES:
        size, count = sum(lengths), len(lengths)
        with torch.device(model.device):
            tokens = torch.randint(SPEECH_TOKENS, (size,))
            noise = torch.randn(FRAMES_PER_TOKEN * size, MEL_BINS)
            look_ahead = torch.full((count,), 3, dtype=torch.int32)
            voices = torch.arange(count, dtype=torch.int32) % VOICES
        given = (tokens, _starts(lengths, model.device), look_ahead, voices, noise)
        seconds = (
            _seconds_of(engine, given, BatchShape(size, count, FLOW_LONGEST), model.device, captured=captured),
            _seconds_of(rival, given, BatchShape(size, size, FLOW_SHORT_TOKENS), model.device, captured=True),
        )
        found.append(Speed("flow", f"{count} of {size} tokens", *seconds, float(lengths == FLOW_BATCHES[-1])))
    return found


@torch.inference_mode()
def vocoder_speeds(
    model: Chatterbox, sessions: Mapping[str, Session], rivals: Rivals, *, captured: bool
) -> list[Speed]:
    """Whole batches, from mel to the waveform."""
    engine, rival = EngineVocoder(sessions["vocoder"]), rivals.vocoder(model.vocoder)
    found = []
    for lengths in VOCODER_BATCHES:
        size, count = sum(lengths), len(lengths)
        with torch.device(model.device):
            numbers = torch.zeros(count, dtype=torch.int32)
            given = (
                torch.randn(size, MEL_BINS) * 2 - 4,
                _starts(lengths, model.device),
                torch.rand(count, HARMONICS),
                torch.rand(count, HARMONICS),
                torch.zeros(size),
                numbers,
                torch.arange(count),
                numbers,
            )
        seconds = (
            _seconds_of(engine, given, BatchShape(size, count, VOCODER_LONGEST), model.device, captured=captured),
            _seconds_of(rival, given, BatchShape(size, size, size), model.device, captured=True),
        )
        found.append(Speed("vocoder", f"{count} of {size} frames", *seconds, float(lengths == VOCODER_BATCHES[-1])))
    return found


SPEEDS: Mapping[Unit, Callable[..., list[Speed]]] = {"t3": t3_speeds, "flow": flow_speeds, "vocoder": vocoder_speeds}


def _seconds_of(
    call: Callable[..., object], given: tuple[Tensor, ...], shape: BatchShape, device: torch.device, *, captured: bool
) -> float:
    """Of a flow or a vocoder, an engine's or not: they are called alike."""
    return seconds_of(lambda: call(*given, shape), device, captured=captured)


def _starts(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _prefix(model: Chatterbox) -> VoicePrefix:
    voice = _voice(model)
    return model.t3.prefix(voice.speaker_embedding, voice.prompt_tokens)


def _voice(model: Chatterbox) -> Voice:
    """Made up: times do not depend on what is said, or by whom."""
    with torch.device(model.device):
        return Voice(
            speaker_embedding=torch.randn(256),
            prompt_tokens=torch.randint(SPEECH_TOKENS, (PROMPT_TOKENS,)),
            flow_prompt_tokens=torch.randint(SPEECH_TOKENS, (PROMPT_TOKENS,)),
            flow_prompt_mel=torch.randn(FRAMES_PER_TOKEN * PROMPT_TOKENS, MEL_BINS),
            x_vector=torch.randn(192),
        )
