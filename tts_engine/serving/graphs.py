"""CUDA graphs: a T3 step is some 250 small kernels, the flow some 3,000; launching them costs more than their work.

A graph has fixed shapes and addresses. So each input is copied into a buffer of the graph's own, lengths are padded up
to a bucket and said in tensors, and results are to be used before the next call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tts_engine.chatterbox.constants import (
    FRAMES_PER_TOKEN,
    HARMONICS,
    MAX_FLOW_PROMPT_TOKENS,
    MEL_BINS,
    SAMPLES_PER_FRAME,
    X_VECTOR,
)
from tts_engine.chatterbox.decoder import TokenDecoder
from tts_engine.chatterbox.flow import Flow
from tts_engine.chatterbox.sampling import SamplingSettings
from tts_engine.chatterbox.t3 import T3, VoicePrefix
from tts_engine.chatterbox.vocoder import Vocoder

TOKEN_BUCKET = 32
"Prompt and utterance together are padded up to a multiple of this many tokens."

FRAME_BUCKET = 64
"And the vocoder's windows to a multiple of this many frames."

TEXT_BUCKETS = (16, 32, 64, 128)
"Text tokens that prefills are padded up to; longer texts, of which there are few, are prefilled without a graph."

MOST_PROMPT_FRAMES = FRAMES_PER_TOKEN * MAX_FLOW_PROMPT_TOKENS

_WARM_UP_CALLS = 2
"Before capture: libraries allocate their workspaces and choose their kernels at first use."


def _bucket(size: int, step: int) -> int:
    return -(-size // step) * step


class CapturedCall:
    """A function of tensors as a graph: inputs are copied in by name, the outputs are the same tensors every time."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], inputs: dict[str, Tensor], pool: Any) -> None:
        """`pool`: the memory that graphs share which never run at the same time (torch.cuda.graph_pool_handle)."""
        self._inputs = inputs
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode():
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_CALLS):
                    function(**inputs)
            torch.cuda.current_stream().wait_stream(stream)
            # Other threads may use CUDA meanwhile.
            with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
                self._outputs = function(**inputs)

    def __call__(self, **given: Tensor) -> tuple[Tensor, ...]:
        """Inputs may be shorter than the buffers in any dimension: what lies beyond stays as it was."""
        for name, tensor in given.items():
            buffer = self._inputs[name]
            if buffer.shape != tensor.shape:
                buffer = buffer[tuple(slice(0, size) for size in tensor.shape)]
            buffer.copy_(tensor)
        self._graph.replay()
        return self._outputs


class GraphDecoder(TokenDecoder):
    """A TokenDecoder whose steps, and usual prefills, replay graphs. Its prefix is a copy of its own, see `use`."""

    def __init__(
        self, t3: T3, prefix: VoicePrefix, capacity: int, settings: SamplingSettings, cfg_scale: float = 0.0
    ) -> None:
        with torch.inference_mode():
            own = VoicePrefix(prefix.keys.clone(), prefix.values.clone())
        super().__init__(t3, own, capacity, settings, cfg_scale)
        self._prefix = own
        self._pool = torch.cuda.graph_pool_handle()
        self._captured = CapturedCall(self._whole_step, {}, self._pool)
        self._prefills: dict[int, CapturedCall] = {}
        for bucket in TEXT_BUCKETS:
            if bucket < capacity:
                self._prefills[bucket] = self._capture_prefill(bucket)

    @torch.inference_mode()
    def use(self, prefix: VoicePrefix) -> bool:
        """Speak with another voice from the next sequence on; False if its prompt has another length."""
        if prefix.length != self._prefix.length:
            return False
        self._prefix.keys.copy_(prefix.keys)
        self._prefix.values.copy_(prefix.values)
        return True

    def _whole_step(self) -> tuple[Tensor, ...]:
        self._step(None)
        return ()

    def _advance(self) -> None:
        self._captured()

    def _capture_prefill(self, bucket: int) -> CapturedCall:
        device = self._prefix.keys.device
        inputs = {
            "text": torch.zeros(self._rows, bucket, dtype=torch.int64, device=device),
            "lengths": torch.full((self._rows,), bucket, device=device),
        }

        def prefill(text: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
            return (self._t3.prefill(text, lengths, self._cache, unconditional=self._unconditional),)

        return CapturedCall(prefill, inputs, self._pool)

    def _prefill(self, text: Tensor) -> Tensor:
        bucket = next((bucket for bucket in self._prefills if bucket >= text.shape[1]), None)
        if bucket is None:
            return super()._prefill(text)
        return self._prefills[bucket](text=text, lengths=torch.full((self._rows,), text.shape[1]))[0]


class GraphFlow:
    """`Flow` for one row at a time, a graph for each bucket of tokens; called as the module is."""

    def __init__(self, flow: Flow, device: torch.device, dtype: torch.dtype) -> None:
        self._flow = flow
        self._device = device
        self._dtype = dtype
        self._pool = torch.cuda.graph_pool_handle()
        self._calls: dict[int, CapturedCall] = {}

    def __call__(
        self,
        tokens: Tensor,
        lengths: Tensor | None,
        prompt_mel: Tensor,
        prompt_frames: Tensor | None,
        x_vector: Tensor,
        noise: Tensor,
        *,
        look_ahead: int = 0,
    ) -> Tensor:
        """See Flow.forward; the batch is 1. What was not prepared runs without a graph: capturing takes longer."""
        size = tokens.shape[1]
        call = self._calls.get(_bucket(size, TOKEN_BUCKET))
        if call is None:
            eager: Tensor = self._flow(
                tokens, lengths, prompt_mel, prompt_frames, x_vector, noise, look_ahead=look_ahead
            )
            return eager
        (mel,) = call(
            tokens=tokens,
            lengths=torch.tensor([size]) if lengths is None else lengths,
            prompt_mel=prompt_mel,
            prompt_frames=torch.tensor([prompt_mel.shape[1]]) if prompt_frames is None else prompt_frames,
            x_vector=x_vector,
            noise=noise,
            look_ahead=torch.tensor(look_ahead),
        )
        return mel[:, :, : FRAMES_PER_TOKEN * (size - look_ahead)]

    def prepare(self, size: int) -> None:
        """Capture the graph that serves `size` tokens."""
        bucket = _bucket(size, TOKEN_BUCKET)
        if bucket not in self._calls:
            self._calls[bucket] = CapturedCall(self._run, self._inputs(bucket), self._pool)

    def _run(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        mel: Tensor = self._flow(**inputs)
        return (mel,)

    def _inputs(self, size: int) -> dict[str, Tensor]:
        with torch.device(self._device):
            return {
                "tokens": torch.zeros(1, size, dtype=torch.int64),
                "lengths": torch.full((1,), size),
                "prompt_mel": torch.zeros(1, MOST_PROMPT_FRAMES, MEL_BINS, dtype=self._dtype),
                "prompt_frames": torch.zeros(1, dtype=torch.int64),
                "x_vector": torch.ones(1, X_VECTOR, dtype=self._dtype),
                "noise": torch.zeros(1, MEL_BINS, FRAMES_PER_TOKEN * size),  # float32, as are the frames
                "look_ahead": torch.zeros((), dtype=torch.int64),
            }


class GraphVocoder:
    """`Vocoder.render` for one row at a time, a graph for each bucket of frames."""

    def __init__(self, vocoder: Vocoder, device: torch.device) -> None:
        self._vocoder = vocoder
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._calls: dict[int, CapturedCall] = {}

    def render(
        self, mel: Tensor, phase: Tensor, offsets: Tensor, noise: Tensor, *, known_f0: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See Vocoder.render; the batch is 1. A window that was not prepared for is rendered without a graph."""
        frames = mel.shape[-1]
        call = self._calls.get(_bucket(frames, FRAME_BUCKET))
        if call is None:
            return self._vocoder.render(mel, phase, offsets, noise, known_f0=known_f0, known=known)
        lengths = torch.tensor([frames])
        wave, f0, phases = call(
            mel=mel, phase=phase, offsets=offsets, noise=noise, known_f0=known_f0, known=known, lengths=lengths
        )
        return wave[:, : frames * SAMPLES_PER_FRAME], f0[:, :frames], phases[..., :frames]

    def prepare(self, frames: int) -> None:
        """Capture the graph that serves a window of `frames`."""
        bucket = _bucket(frames, FRAME_BUCKET)
        if bucket not in self._calls:
            self._calls[bucket] = CapturedCall(self._vocoder.render, self._inputs(bucket), self._pool)

    def _inputs(self, frames: int) -> dict[str, Tensor]:
        with torch.device(self._device):
            return {
                "mel": torch.zeros(1, MEL_BINS, frames),
                "phase": torch.zeros(1, HARMONICS),
                "offsets": torch.zeros(1, HARMONICS),
                "noise": torch.zeros(1, HARMONICS, SAMPLES_PER_FRAME * frames),
                "known_f0": torch.zeros(1, frames),
                "known": torch.zeros(1, dtype=torch.int64),
                "lengths": torch.full((1,), frames),
            }
