"""A loaded bundle: its models, its tokenizer and its voices."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tts_engine.chatterbox.constants import SAMPLE_RATE, SILENCE_TOKEN, TOKEN_RATE
from tts_engine.chatterbox.text import prepare
from tts_engine.onnx_bundle.faults import BundleError
from tts_engine.onnx_bundle.files import (
    CONDITIONAL_DECODER,
    EMBED_TOKENS,
    LANGUAGE_MODEL,
    SPEECH_ENCODER,
    BundleFiles,
)
from tts_engine.onnx_bundle.language_model import LanguageModel, VoicePrefix
from tts_engine.onnx_bundle.sessions import CPU, choose_providers, open_part, run, thread_count
from tts_engine.onnx_bundle.settings import GPU_CHUNKS, OnnxBundleSettings
from tts_engine.onnx_bundle.tokenizer import BundleTokenizer
from tts_engine.onnx_bundle.voice import BundleVoice, VoiceCache, encode
from tts_engine.resample import Samples

logger = logging.getLogger(__name__)

_WARM_UP = "Chatterline answers at ten past nine."


class SpeechDecoder:
    """The graph that makes a waveform of speech tokens. Safe to use from several threads."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __call__(self, voice: BundleVoice, tokens: Sequence[int]) -> Samples:
        """The tokens' samples at 24 kHz (960 each), (n,) float32; the prompt is not among them."""
        spoken = np.asarray([list(tokens)], np.int64)
        outputs = run(
            self._session,
            {
                "speech_tokens": np.concatenate([voice.audio_tokens, spoken], axis=1),
                "speaker_embeddings": voice.speaker_embeddings,
                "speaker_features": voice.speaker_features,
            },
        )
        return outputs["waveform"].reshape(-1).astype(np.float32)


@dataclass(frozen=True)
class Speaker:
    """A voice as both models want it."""

    voice: BundleVoice
    prefix: VoicePrefix


@dataclass(frozen=True)
class Bundle:
    """Ready to speak."""

    tokenizer: BundleTokenizer
    model: LanguageModel
    decoder: SpeechDecoder
    speakers: Mapping[str, Speaker]
    chunk_tokens: tuple[int, ...]


def load_bundle(files: BundleFiles, recordings: Mapping[str, Path], settings: OnnxBundleSettings) -> Bundle:
    """Open the graphs, enrol the voices, and run each graph once. Raises EngineError."""
    providers = choose_providers(settings.providers)
    threads = thread_count(settings.threads, settings.workers)

    def opened(part: str) -> Any:
        return open_part(part, files.graphs[part], providers, threads)

    tokenizer = BundleTokenizer(files.tokenizer)
    voices = _voices(files, recordings, settings, providers, threads)
    model = LanguageModel(opened(EMBED_TOKENS), opened(LANGUAGE_MODEL))
    decoder = SpeechDecoder(opened(CONDITIONAL_DECODER))
    chunks = settings.chunk_tokens
    if chunks is None:
        chunks = () if providers[0] == CPU else GPU_CHUNKS
    try:
        speakers = _speakers(voices, model, tokenizer)
        _warm_up(speakers, model, decoder, chunked=bool(chunks))
    except BundleError:
        raise
    # ONNX Runtime's exceptions share no base but Exception.
    except Exception as error:
        raise BundleError(f"the bundle cannot be run by {providers[0]}: {error}") from error
    layout = model.layout
    logger.info("ONNX bundle: %d layers, %s caches, by %s", layout.layers, np.dtype(layout.dtype).name, providers[0])
    return Bundle(tokenizer, model, decoder, speakers, chunks)


def _voices(
    files: BundleFiles,
    recordings: Mapping[str, Path],
    settings: OnnxBundleSettings,
    providers: Sequence[str],
    threads: int,
) -> dict[str, BundleVoice]:
    graph = files.graphs[SPEECH_ENCODER]
    cache = VoiceCache(settings.voice_cache, graph)
    encoder: Any = None

    def enrol(recording: Path) -> BundleVoice:
        # Opened for a voice that is new, and gone afterwards: it is as large as the decoder.
        nonlocal encoder
        encoder = encoder or open_part(SPEECH_ENCODER, graph, providers, threads)
        return encode(encoder, recording)

    return {
        name: cache.voice(name, recording, enrol).with_prompt(settings.prompt_seconds)
        for name, recording in recordings.items()
    }


def _speakers(
    voices: Mapping[str, BundleVoice], model: LanguageModel, tokenizer: BundleTokenizer
) -> dict[str, Speaker]:
    text = tokenizer.encode(prepare(_WARM_UP)[0])
    return {name: Speaker(voice, model.prefix(voice.audio_features, text)) for name, voice in voices.items()}


def _warm_up(speakers: Mapping[str, Speaker], model: LanguageModel, decoder: SpeechDecoder, *, chunked: bool) -> None:
    """A first run is slower than those that follow; no caller should wait for it."""
    speaker = next(iter(speakers.values()))
    if speaker.prefix.cache is not None:
        model.step(SILENCE_TOKEN, speaker.prefix.cache)
    samples = len(decoder(speaker.voice, [SILENCE_TOKEN] * TOKEN_RATE))
    if not samples:
        raise BundleError("the conditional_decoder gave no sound")
    if chunked and samples != SAMPLE_RATE:
        raise BundleError(
            f"the conditional_decoder gave {samples} samples for a second of tokens, not {SAMPLE_RATE}: "
            f"it can only speak whole segments (chunk_tokens = [])"
        )
