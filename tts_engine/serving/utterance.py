"""One text, spoken step by step: segments, their tokens, their sound, and one signal at the end."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress

import numpy as np
import torch

from tts_engine.chatterbox.assembler import SpeechAssembler
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, SAMPLE_RATE, TRAILING_SILENCE_TOKENS
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.generation import TokenGenerator
from tts_engine.chatterbox.guards import EndReason, TokenGuard
from tts_engine.chatterbox.model import Chatterbox
from tts_engine.chatterbox.streaming import FlowDecoder, WaveRenderer, synthesise_chunks
from tts_engine.chatterbox.watermark import WatermarkStream
from tts_engine.errors import SynthesisError
from tts_engine.pooled_stream import Piece
from tts_engine.resample import Resampler, Samples, to_pcm16
from tts_engine.serving.decoders import MOST_TEXT_TOKENS, DecoderPool
from tts_engine.serving.device import use_device
from tts_engine.serving.graphs import FRAME_BUCKET, TOKEN_BUCKET, GraphFlow, GraphVocoder
from tts_engine.serving.voices import SpokenVoice

logger = logging.getLogger(__name__)

MOST_PREPARED_TOKENS = 500
"20 s: what a segment of 300 characters takes. What is longer is decoded without a graph."


def segment_seed(seed: int, text: str, number: int) -> int:
    """The seed of a text's segment: another for each, and the same whenever the text is said again."""
    digest = hashlib.blake2b(f"{seed}/{number}/{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Speaker:
    """What all utterances of a model share."""

    def __init__(
        self,
        model: Chatterbox,
        decoders: DecoderPool,
        policy: ChunkPolicy,
        seed: int,
        *,
        flow: GraphFlow | None = None,
        vocoder: GraphVocoder | None = None,
    ) -> None:
        """`flow` and `vocoder` run in place of the model's own."""
        self._model = model
        self._graphs = (flow, vocoder)
        self._flow: FlowDecoder = model.flow if flow is None else flow
        self._vocoder: WaveRenderer = model.vocoder if vocoder is None else vocoder
        self._decoders = decoders
        self._policy = policy
        self._seed = seed

    def prepare(self, voices: Collection[SpokenVoice]) -> None:
        """Capture the graphs that utterances up to MOST_PREPARED_TOKENS with any of these voices will need."""
        self._decoders.prepare(voice.prefix for voice in voices)
        flow, vocoder = self._graphs
        prompts = [len(voice.conditioning.flow_prompt_tokens) for voice in voices]
        if flow is not None:
            most = max(prompts) + MOST_PREPARED_TOKENS + TRAILING_SILENCE_TOKENS
            for size in range(min(prompts), most + TOKEN_BUCKET, TOKEN_BUCKET):
                flow.prepare(size)
        if vocoder is not None:
            largest = FRAMES_PER_TOKEN * max(self._policy.sizes) + self._policy.window_margin_frames
            for frames in range(FRAME_BUCKET, largest + FRAME_BUCKET, FRAME_BUCKET):
                vocoder.prepare(frames)

    def chunks(
        self, voice: SpokenVoice, segments: list[str], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Samples]:
        """Samples (n,) float32 at 24 kHz, chunk by chunk. A text of several segments is joined as it is spoken.

        `stopped` is asked at every token: a step takes long, and nobody may be listening any more. SynthesisError.
        """
        with suppress(_StoppedError):
            yield from self._chunks(voice, segments, stopped)

    def _chunks(self, voice: SpokenVoice, segments: list[str], stopped: Callable[[], bool]) -> Iterator[Samples]:
        use_device(self._model.device)
        fitting = (part for segment in segments for part in self._fitting(segment))
        for number, (segment, text_tokens) in enumerate(fitting):
            draws = Draws(segment_seed(self._seed, segment, number), self._model.device)
            assembler = SpeechAssembler(voice.conditioning, draws, self._policy)
            guard = TokenGuard.for_text(segment)
            with self._decoders.borrowed(voice.prefix, len(text_tokens) + 1 + guard.limit) as decoder:
                tokens = TokenGenerator(decoder, text_tokens, draws.uniform, guard)
                for chunk in synthesise_chunks(self._flow, self._vocoder, assembler, _until(stopped, tokens)):
                    yield _on_host(chunk)
            if tokens.end_reason is not None and tokens.end_reason is not EndReason.STOPPED:
                logger.info("an utterance was ended by its guard: %s", tokens.end_reason.value)

    def _fitting(self, segment: str) -> Iterator[tuple[str, list[int]]]:
        """The segment and its tokens; in halves if they are too many, which no English text of its length has."""
        tokens = self._model.tokenizer.encode(segment)
        if len(tokens) <= MOST_TEXT_TOKENS:
            yield segment, tokens
            return
        middle = len(segment) // 2
        cut = segment.rfind(" ", 1, middle) + 1 or middle
        yield from self._fitting(segment[:cut].rstrip())
        yield from self._fitting(segment[cut:])


class _StoppedError(Exception):
    """Nobody listens any more."""


def _until(stopped: Callable[[], bool], tokens: Iterator[int]) -> Iterator[int]:
    for token in tokens:
        if stopped():
            raise _StoppedError
        yield token


def _on_host(chunk: torch.Tensor) -> Samples:
    samples: Samples = chunk.float().cpu().numpy()
    if not np.isfinite(samples).all():
        raise SynthesisError("the model's numbers overflowed; try another dtype (bfloat16 or float32)")
    return samples


def speak(
    chunks: Callable[[], Iterator[Samples]], sample_rate: int, watermark: WatermarkStream | None
) -> Iterator[Piece]:
    """An utterance as pieces of PCM: marked at 24 kHz, resampled as one signal."""
    resampler = Resampler(SAMPLE_RATE, sample_rate)
    spoken = False
    for samples in chunks():
        spoken = True
        marked = samples if watermark is None else watermark.process(samples)
        yield Piece(to_pcm16(resampler.process(marked)), final=False)
    if spoken:
        rest = resampler.flush() if watermark is None else resampler.process(watermark.flush(), final=True)
        yield Piece(to_pcm16(rest), final=True)
