"""One text, spoken step by step: segments, their tokens, their sound, and one signal at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from tts_engine.chatterbox.assembler import SpeechAssembler
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import SAMPLE_RATE
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.generation import TokenGenerator
from tts_engine.chatterbox.guards import TokenGuard
from tts_engine.chatterbox.model import Chatterbox
from tts_engine.chatterbox.streaming import synthesise_chunks
from tts_engine.chatterbox.t3 import VoicePrefix
from tts_engine.chatterbox.voice import Voice
from tts_engine.chatterbox.watermark import WatermarkStream
from tts_engine.pooled_stream import Piece
from tts_engine.resample import Resampler, Samples, to_pcm16
from tts_engine.serving.decoders import MOST_TEXT_TOKENS, DecoderPool


@dataclass(frozen=True)
class SpokenVoice:
    """A voice as the model's modules take it."""

    prefix: VoicePrefix
    conditioning: Voice


def segment_seed(seed: int, text: str, number: int) -> int:
    """The seed of a text's segment: another for each, and the same whenever the text is said again."""
    digest = hashlib.blake2b(f"{seed}/{number}/{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Speaker:
    """What all utterances of a model share."""

    def __init__(self, model: Chatterbox, decoders: DecoderPool, policy: ChunkPolicy, seed: int) -> None:
        self._model = model
        self._decoders = decoders
        self._policy = policy
        self._seed = seed

    def chunks(self, voice: SpokenVoice, segments: list[str]) -> Iterator[Samples]:
        """Samples (n,) float32 at 24 kHz, chunk by chunk. A text of several segments is joined as it is spoken."""
        for number, segment in enumerate(segments):
            draws = Draws(segment_seed(self._seed, segment, number), self._model.device)
            assembler = SpeechAssembler(voice.conditioning, draws, self._policy)
            text_tokens = self._model.tokenizer.encode(segment)[:MOST_TEXT_TOKENS]
            with self._decoders.borrowed(voice.prefix) as decoder:
                tokens = TokenGenerator(decoder, text_tokens, draws.uniform, TokenGuard.for_text(segment))
                for chunk in synthesise_chunks(self._model.flow, self._model.vocoder, assembler, tokens):
                    yield chunk.float().cpu().numpy()


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


def default_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
