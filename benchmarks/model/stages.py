"""T3, flow and vocoder as the server runs them, of real sizes and random weights, each ready to be timed alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.make_checkpoint import Sizes
from benchmarks.model import work
from benchmarks.model.timing import event_milliseconds, graph_milliseconds
from benchmarks.model.work import Stage
from tts_engine.chatterbox.constants import (
    FRAMES_PER_TOKEN,
    HARMONICS,
    MAX_FLOW_PROMPT_TOKENS,
    MAX_PROMPT_TOKENS,
    MEL_BINS,
    SPEAKER_EMBEDDING,
    SPEECH_TOKENS,
    X_VECTOR,
)
from tts_engine.chatterbox.flow import Flow
from tts_engine.chatterbox.packing import BatchShape
from tts_engine.chatterbox.padded import PaddedFlow, PaddedVocoder
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.chatterbox.t3 import T3, VoicePrefix
from tts_engine.chatterbox.vocoder import Vocoder
from tts_engine.chatterbox.voice import Voice

ROWS = 64
"Of a packing, used or not."
LEAST_ALIGNED = 32  # positions: a page
MOST_TOKENS = 1000


@dataclass(frozen=True)
class Timed:
    """A stage and how long it takes."""

    name: str
    shape: str
    how: str
    "What ran: packed or plain modules, in a CUDA graph or not."
    milliseconds: float
    work: Stage


class Stages:
    """Modules of one set of sizes on one device, with a random voice of a full prompt."""

    def __init__(self, sizes: Sizes, device: torch.device, dtype: torch.dtype, repeat: int) -> None:
        self._sizes = sizes
        self._device = device
        self._dtype = dtype
        self._repeat = repeat
        torch.manual_seed(0)
        with torch.device(device), torch.no_grad():
            self._t3 = T3(sizes.t3).to(dtype).eval()
            self._flow = Flow(sizes.flow).to(dtype).eval()
            self._vocoder = Vocoder(sizes.vocoder).cast(dtype).eval()
            self._voice = Voice(
                torch.randn(SPEAKER_EMBEDDING),
                torch.randint(SPEECH_TOKENS, (MAX_PROMPT_TOKENS,)),
                torch.randint(SPEECH_TOKENS, (MAX_FLOW_PROMPT_TOKENS,)),
                torch.randn(FRAMES_PER_TOKEN * MAX_FLOW_PROMPT_TOKENS, MEL_BINS),
                torch.randn(X_VECTOR),
            ).to(device, dtype)
            self._prefix = self._t3.prefix(self._voice.speaker_embedding, self._voice.prompt_tokens)

    def step(self, batch: int, own: int) -> Timed:
        """A T3 step of `batch` rows that have `own` positions each."""
        stage = work.t3_step(self._sizes.t3, batch, self._prefix.length, own)
        slots = self._slots(batch)
        decoder = self._decoder(batch, own)
        if decoder is not None:
            return self._time("T3 step", f"{batch} x {own}", lambda: decoder.step(slots), stage, packed=True)
        cache = self._t3.new_cache(self._prefix, batch, own)
        cache.keys_values.normal_()
        cache.lengths.fill_(own)
        tokens = torch.randint(SPEECH_TOKENS, (batch,), device=self._device)
        return self._time("T3 step", f"{batch} x {own}", lambda: self._t3.step(tokens, cache), stage, packed=False)

    def prefill(self, batch: int, text: int) -> Timed:
        """The prefill of `batch` rows of `text` tokens each."""
        stage = work.t3_prefill(self._sizes.t3, batch, self._prefix.length, text)
        tokens = torch.randint(1000, (batch, text), device=self._device)
        lengths = torch.full((batch,), text, dtype=torch.int32, device=self._device)
        own = -(-(text + 1) // LEAST_ALIGNED) * LEAST_ALIGNED
        slots = self._slots(batch)
        decoder = self._decoder(batch, own)
        if decoder is not None:

            def call() -> Any:
                return decoder.prefill(tokens, lengths, slots)

            return self._time("T3 prefill", f"{batch} x {text}", call, stage, packed=True)
        cache = self._t3.new_cache(self._prefix, batch, own)
        call_plain = lambda: self._t3.prefill(tokens, lengths, cache)  # noqa: E731
        return self._time("T3 prefill", f"{batch} x {text}", call_plain, stage, packed=False)

    def flow(self, rows: int, length: int) -> Timed:
        """Encoder and both estimator steps of `rows` rows of `length` tokens, prompts included."""
        stage = work.flow(self._sizes.flow, [length] * rows)
        decode, packed = self._packed_flow()
        size = rows * length
        with torch.device(self._device):
            tokens = torch.randint(SPEECH_TOKENS, (size,))
            none = torch.zeros(ROWS, dtype=torch.int32)
            noise = torch.randn(FRAMES_PER_TOKEN * size, MEL_BINS)
        starts = self._starts(rows, length)
        call = lambda: decode(tokens, starts, none, none, noise, BatchShape(size, rows, length))  # noqa: E731
        return self._time("flow", f"{rows} x {length}", call, stage, packed=packed)

    def estimator(self, rows: int, frames: int) -> Timed:
        """One of the flow's two estimator steps."""
        stage = work.estimator(self._sizes.flow, [frames] * rows)
        call, packed = self._packed_estimator(rows, frames)
        return self._time("estimator", f"{rows} x {frames}", call, stage, packed=packed or None)

    def plain_estimator(self, rows: int, frames: int) -> Timed:
        """The same by the plain module, for comparison."""
        stage = work.estimator(self._sizes.flow, [frames] * rows)
        call = self._plain_estimator(rows, frames)
        return self._time("estimator, plain", f"{rows} x {frames}", call, stage, packed=None)

    def vocoder(self, rows: int, frames: int) -> Timed:
        """Windows of `frames` frames, contexts included."""
        size = rows * frames
        stage = work.vocoder(self._sizes.vocoder, size)
        render, packed = self._packed_vocoder()
        with torch.device(self._device):
            mel = torch.randn(size, MEL_BINS) * 2 - 4
            phase, offsets = torch.rand(ROWS, HARMONICS), torch.rand(ROWS, HARMONICS)
            known_f0, none = torch.zeros(size), torch.zeros(ROWS, dtype=torch.int32)
            keys = torch.arange(ROWS)
        starts = self._starts(rows, frames)
        shape = BatchShape(size, rows, frames)
        call = lambda: render(mel, starts, phase, offsets, known_f0, none, keys, none, shape)  # noqa: E731
        return self._time("vocoder", f"{rows} x {frames}", call, stage, packed=packed)

    def _time(self, name: str, shape: str, call: Callable[[], Any], stage: Stage, *, packed: bool | None) -> Timed:
        """`packed` None: a plain module that a graph can hold."""
        graph = self._device.type == "cuda" and packed is not False
        with torch.inference_mode():
            if graph:
                found = graph_milliseconds(call, self._device, self._repeat)
            else:
                found = event_milliseconds(call, self._device, self._repeat)
        how = f"{'packed' if packed else 'plain'}, {'CUDA graph' if graph else 'eager'}"
        return Timed(name, shape, how, found, stage)

    def _slots(self, batch: int) -> Tensor:
        return torch.arange(batch, dtype=torch.int32, device=self._device)

    def _starts(self, rows: int, length: int) -> Tensor:
        if rows > ROWS:
            raise ValueError(f"{rows} rows: a packing has {ROWS} at most")
        return (torch.arange(ROWS + 1, device=self._device).clamp(max=rows) * length).int()

    @torch.no_grad()
    def _decoder(self, batch: int, own: int) -> Any:
        """A BatchDecoder whose rows are full, so that each step is the same; None while there is none."""
        try:
            from tts_engine.chatterbox.paged_t3 import PAGE, BatchDecoder, PagedCache  # noqa: PLC0415
        except ImportError:
            return None
        pages = -(-own // PAGE)
        device, sizes = self._device, self._sizes.t3
        cache = PagedCache(
            sizes, slots=batch, pages=batch * pages, positions=own, voices=1, dtype=self._dtype, device=device
        )
        cache.set_voice(0, VoicePrefix(self._prefix.keys, self._prefix.values))
        cache.tables[:batch] = torch.arange(batch * pages, dtype=torch.int32, device=device).view(batch, pages)
        cache.keys_values.normal_()
        cache.lengths[:batch] = own
        decoder = BatchDecoder(self._t3, cache, SamplingSettings(), most_tokens=MOST_TOKENS)
        decoder.draws.uniform_()
        decoder.forbid_until.fill_(MOST_TOKENS)
        return decoder

    @torch.no_grad()
    def _packed_flow(self) -> tuple[Any, bool]:
        """PackedFlow; PaddedFlow while there is none, or where its kernels cannot run."""
        flow: Any
        packed = self._device.type == "cuda"
        try:
            from tts_engine.chatterbox.packed_flow import PackedFlow  # noqa: PLC0415
        except ImportError:
            packed = False
        flow = PackedFlow(self._flow, voices=1) if packed else PaddedFlow(self._flow, voices=1)
        flow.set_voice(0, self._voice)
        return flow, packed

    @torch.no_grad()
    def _packed_estimator(self, rows: int, frames: int) -> tuple[Callable[[], Any], bool]:
        try:
            from tts_engine.chatterbox.packed_estimator import PackedEstimator, Tuning  # noqa: PLC0415
            from tts_engine.chatterbox.packing import pack  # noqa: PLC0415
        except ImportError:
            return self._plain_estimator(rows, frames), False
        if self._device.type != "cuda":
            return self._plain_estimator(rows, frames), False
        size, bins = rows * frames, self._sizes.flow.mel_bins
        estimator = PackedEstimator(self._flow.decoder.estimator, Tuning())
        packing = pack(self._starts(rows, frames), size, frames)
        conditions = torch.randn(size, 3 * bins, device=self._device, dtype=self._dtype)
        sides = estimator.gather_conditions(conditions, packing)
        x = torch.randn(size, bins, device=self._device)
        return lambda: estimator(x, sides, 0, packing), True

    @torch.no_grad()
    def _plain_estimator(self, rows: int, frames: int) -> Callable[[], Any]:
        module = self._flow.decoder.estimator
        x = torch.randn(rows, frames, 4 * MEL_BINS, device=self._device, dtype=self._dtype)
        time = module.times()[0]
        return lambda: module(x, time)

    @torch.no_grad()
    def _packed_vocoder(self) -> tuple[Any, bool]:
        packed = self._device.type == "cuda"
        try:
            from tts_engine.chatterbox.packed_vocoder import PackedVocoder  # noqa: PLC0415
        except ImportError:
            packed = False
        return (PackedVocoder(self._vocoder), True) if packed else (PaddedVocoder(self._vocoder), False)
