"""S3Gen on its device: a packed batch of chunks becomes telephone PCM in one go.

flow -> windows (what was kept of the last chunk, and the new mel) -> vocoder -> polyphase filter -> 16-bit PCM, all on
one stream; only the PCM and a flag a row cross to the host. Between the parts rows of any lengths lie one after the
other. Of each shape that a batch is rounded up to (speech_shapes.py) there is a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, MEL_BINS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.draws import packed_noise, phase_offsets
from tts_engine.chatterbox.packing import BatchShape
from tts_engine.chatterbox.polyphase import Polyphase
from tts_engine.chatterbox.voice import Voice
from tts_engine.chatterbox.windows import SpeechState, fade_head
from tts_engine.serving.graphs import CapturedCall
from tts_engine.serving.laps import Laps, to_host
from tts_engine.serving.speech_rows import RowNumbers, SpeechRow, numbers_of
from tts_engine.serving.speech_shapes import PackedShapes, SpeechShapes

GRAPH_RATE = 8000
"Hz: the telephone's. Other rates, which only tools ask for, run without a graph."


class PackedFlowDecoder(Protocol):
    """PackedFlow, PaddedFlow or EngineFlow."""

    def set_voice(self, index: int, voice: Voice) -> None: ...

    def __call__(
        self, tokens: Tensor, starts: Tensor, look_ahead: Tensor, voices: Tensor, noise: Tensor, shape: BatchShape
    ) -> Tensor: ...


class PackedRenderer(Protocol):
    """PackedVocoder, PaddedVocoder or EngineVocoder."""

    def __call__(
        self,
        mel: Tensor,
        starts: Tensor,
        phase: Tensor,
        offsets: Tensor,
        known_f0: Tensor,
        known: Tensor,
        keys: Tensor,
        first_frame: Tensor,
        shape: BatchShape,
    ) -> tuple[Tensor, Tensor, Tensor]: ...


class Spoken:
    """PCM on its way to the host."""

    def __init__(self, counts: Sequence[int], pcm: Tensor, flags: Tensor, laps: Laps) -> None:
        self._counts = counts
        self._pcm = pcm
        self._flags = flags
        self._laps = laps

    @property
    def done(self) -> bool:
        """Whether rows() would not wait."""
        return self._laps.done

    @property
    def seconds(self) -> tuple[float, float]:
        """Time of flow and vocoder on the device. After rows()."""
        flow, vocoder = self._laps.seconds()
        return flow, vocoder

    def rows(self) -> Iterator[tuple[bytes, bool]]:
        """Of each row its PCM, and whether all of it were numbers."""
        self._laps.wait()
        samples, at = self._pcm.numpy(), 0
        for count, broken in zip(self._counts, self._flags.tolist(), strict=True):
            yield samples[at : at + count].astype("<i2").tobytes(), not broken
            at += count


class SpeechRunner:
    """Belongs to one thread. The counters say what was launched, for the measures."""

    def __init__(
        self,
        flow: PackedFlowDecoder,
        vocoder: PackedRenderer,
        state: SpeechState,
        *,
        slots: int,
        rows: int,
        tokens: int,
        frames: int,
        device: torch.device,
        graphs: bool,
        shapes: SpeechShapes | None = None,
    ) -> None:
        """`rows`, `tokens` and `frames`: the most that a batch may hold. `shapes` None: PackedShapes."""
        self.tokens = self.padded_tokens = self.frames = self.padded_frames = 0
        self._flow = flow
        self._vocoder = vocoder
        self._state = state
        self._idle = slots
        self._most_rows = rows
        self._graphs = graphs
        self._device = device
        self._stream = torch.cuda.Stream() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._polyphase = {rate: Polyphase(rate, device) for rate in (8000, 16000, 24000)}
        self._shapes: SpeechShapes = shapes or PackedShapes(tokens, frames)
        self._pool: Any = torch.cuda.graph_pool_handle() if graphs else None
        self._flows: dict[BatchShape, CapturedCall] = {}
        self._vocoders: dict[BatchShape, CapturedCall] = {}
        with torch.device(device):
            self._tokens = torch.zeros(tokens, dtype=torch.int32)
            self._rows = RowNumbers(
                torch.zeros(len(RowNumbers.NAMES), rows + 1, dtype=torch.int32),
                torch.zeros(len(RowNumbers.KEYS), rows, dtype=torch.int64),
            )
            self._mel = torch.zeros(FRAMES_PER_TOKEN * tokens, MEL_BINS)

    @property
    def stream(self) -> torch.cuda.Stream | None:
        return self._stream

    def batches(self, tokens: Sequence[int], frames: Sequence[int]) -> list[list[int]]:
        """Which rows go together, of so many tokens (prompts included) and frames of their windows."""
        return self._shapes.batches(tokens, frames)

    def polyphase(self, sample_rate: int) -> Polyphase:
        """The filter of a rate, which knows how many samples come out of how many."""
        return self._polyphase[sample_rate]

    def capture(self) -> None:
        """Every graph that will be used."""
        if not self._graphs:
            return
        with self._on_stream():
            self._send(*numbers_of([], self._most_rows, self._idle))
            for shape in sorted(self._shapes.flows, key=_work, reverse=True):
                self._flows[shape] = CapturedCall(self._flow_call(shape), {}, self._pool)
            for shape in sorted(self._shapes.vocoders, key=_work, reverse=True):
                self._vocoders[shape] = CapturedCall(self._vocoder_call(shape, GRAPH_RATE), {}, self._pool)
            smallest = min(self._shapes.vocoders, key=_work, default=None)
            for rate in self._polyphase:  # Kernels are compiled at first use, for which no caller should wait.
                if smallest is not None:
                    with torch.inference_mode():
                        self._vocoder_call(smallest, rate)()

    @torch.inference_mode()
    def set_voice(self, index: int, voice: Voice) -> None:
        """What rows of this voice are given; no chunk may be using another at this index."""
        with self._on_stream():
            self._flow.set_voice(index, voice)

    @torch.inference_mode()
    def forget(self, slot: int) -> None:
        """What the slot holds may not be numbers: the next utterance shall not meet it."""
        with self._on_stream():
            self._state.clear(slot)

    @torch.inference_mode()
    def speak(self, rows: Sequence[SpeechRow], sample_rate: int) -> Spoken:
        """Decode these chunks, all of one rate. ValueError if there are too many."""
        if len(rows) > self._most_rows:
            raise ValueError(f"a batch of {len(rows)} chunks is over {self._most_rows}")
        with self._on_stream():
            tokens, numbers, keys = numbers_of(rows, self._most_rows, self._idle)
            self._send(tokens, numbers, keys)
            lengths = [len(row.prompt) + len(row.tokens) for row in rows]
            frames = [row.plan.window_frames for row in rows]
            laps = Laps(self._device)
            self._run_flow(lengths)
            laps.mark()
            pcm, broken = self._run_vocoder(frames, sample_rate, sum(row.out for row in rows))
            return self._fetch([row.out for row in rows], pcm, broken, laps)

    def _run_flow(self, lengths: Sequence[int]) -> None:
        shape, size = self._shapes.flow(lengths), sum(lengths)
        call = self._flows.get(shape) if shape else None
        self.tokens += size
        if call is None or shape is None:
            # Never the exact length: tables are kept for each.
            self._flow_call(BatchShape(size, len(lengths), shape.longest if shape else max(lengths)))()
            return
        self.padded_tokens += shape.size - size
        call()

    def _run_vocoder(self, lengths: Sequence[int], sample_rate: int, out: int) -> tuple[Tensor, Tensor]:
        shape, size = self._shapes.vocoder(lengths), sum(lengths)
        call = self._vocoders.get(shape) if shape and sample_rate == GRAPH_RATE else None
        self.frames += size
        if call is None or shape is None:
            exact = BatchShape(size, len(lengths), shape.longest if shape else max(lengths))
            pcm, broken = self._vocoder_call(exact, sample_rate, out)()
            return pcm, broken
        self.padded_frames += shape.size - size
        pcm, broken = call()
        return pcm, broken

    def _send(self, tokens: Tensor, numbers: Tensor, keys: Tensor) -> None:
        self._tokens[: len(tokens)].copy_(tokens, non_blocking=True)
        self._rows.write(numbers, keys)

    def _flow_call(self, shape: BatchShape) -> Any:
        rows, size = self._rows, shape.size
        tokens, mel = self._tokens[:size], self._mel[: FRAMES_PER_TOKEN * size]

        def run() -> tuple[Tensor, ...]:
            noise = packed_noise(
                rows.key("prompt_key"), rows.key("flow_key"), rows["starts"], rows["prompt"], rows["first_token"], size
            )
            mel.copy_(self._flow(tokens.long(), rows["starts"], rows["look_ahead"], rows["voices"], noise, shape))
            return ()

        return run

    def _vocoder_call(self, shape: BatchShape, sample_rate: int, out: int | None = None) -> Any:
        rows, frames, polyphase = self._rows, shape.size, self._polyphase[sample_rate]
        # What the filter held back of one chunk comes with the next: less than a frame.
        size = (frames + self._most_rows) * SAMPLES_PER_FRAME * sample_rate // 24000 if out is None else out

        def run() -> tuple[Tensor, ...]:
            windows = rows.windows()
            mel, known_f0, known, phase = self._state.gather(self._mel, windows, frames)
            offsets = phase_offsets(rows.key("phase_key"))
            wave, f0, phases = self._vocoder(
                mel, windows.starts, phase, offsets, known_f0, known, rows.key("source_key"), windows.base, shape
            )
            self._state.keep(windows, mel, f0, phases)
            wave = fade_head(wave, windows)
            return polyphase(wave, windows, self._state, rows["before"], rows["out_before"], rows["out_starts"], size)

        return run

    def _fetch(self, counts: Sequence[int], pcm: Tensor, broken: Tensor, laps: Laps) -> Spoken:
        spoken = Spoken(counts, to_host(pcm[: sum(counts)]), to_host(broken[: len(counts)]), laps)
        laps.mark()
        return spoken

    def _on_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def _work(shape: BatchShape) -> tuple[int, int]:
    """The largest are captured first: the others find room in their memory."""
    return shape.size, shape.longest
