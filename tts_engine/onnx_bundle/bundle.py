"""A loaded bundle: its models, its tokenizer and its voices."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
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
from tts_engine.onnx_bundle.pace import Pace
from tts_engine.onnx_bundle.sessions import CPU, choose_providers, open_part, run, run_options, thread_count
from tts_engine.onnx_bundle.settings import GPU_CHUNKS, OnnxBundleSettings
from tts_engine.onnx_bundle.tokenizer import BundleTokenizer
from tts_engine.onnx_bundle.voice import BundleVoice, VoiceCache, encode
from tts_engine.pooled_engine import Stop
from tts_engine.resample import Samples

logger = logging.getLogger(__name__)

_WARM_UP = "Chatterline answers at ten past nine."
_TIMED_STEPS = 4


class SpeechDecoder:
    """The graph that makes a waveform of speech tokens. Safe to use from several threads."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __call__(self, voice: BundleVoice, tokens: Sequence[int], options: Any = None) -> Samples:
        """The tokens' samples at 24 kHz (960 each), (n,) float32; the prompt is not among them.

        `options`: RunOptions, by which a run under way can be ended (it raises then).
        """
        spoken = np.asarray([list(tokens)], np.int64)
        outputs = run(
            self._session,
            {
                "speech_tokens": np.concatenate([voice.audio_tokens, spoken], axis=1),
                "speaker_embeddings": voice.speaker_embeddings,
                "speaker_features": voice.speaker_features,
            },
            options,
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
    pace: Pace
    provider: str
    "ONNX Runtime's, that all parts start with."


def load_bundle(files: BundleFiles, recordings: Mapping[str, Path], settings: OnnxBundleSettings, stop: Stop) -> Bundle:
    """Open the graphs, enrol the voices, run each graph, and time it. Raises EngineError, also soon after `stop`."""
    options = run_options(stop)
    providers = choose_providers(settings.providers)
    threads = thread_count(settings.threads, settings.workers)

    def opened(part: str) -> Any:
        if stop():
            raise BundleError("stopped while it was loading")
        return open_part(part, files.graphs[part], providers, threads)

    tokenizer = BundleTokenizer(files.tokenizer)
    voices = _voices(files, recordings, settings, opened, options)
    model = LanguageModel(opened(EMBED_TOKENS), opened(LANGUAGE_MODEL))
    decoder = SpeechDecoder(opened(CONDITIONAL_DECODER))
    chunks = settings.chunk_tokens
    if chunks is None:
        chunks = () if providers[0] == CPU else GPU_CHUNKS
    try:
        text = tokenizer.encode(prepare(_WARM_UP)[0])
        speakers = {
            name: Speaker(voice, model.prefix(voice.audio_features, text, options)) for name, voice in voices.items()
        }
        pace = _warm_up(next(iter(speakers.values())), text, model, decoder, chunks, options)
    except BundleError:
        raise
    # ONNX Runtime's exceptions share no base but Exception.
    except Exception as error:
        raise BundleError(f"the bundle cannot be run by {providers[0]}: {error}") from error
    layout = model.layout
    logger.info("ONNX bundle: %d layers, %s caches, by %s", layout.layers, np.dtype(layout.dtype).name, providers[0])
    return Bundle(tokenizer, model, decoder, speakers, chunks, pace, providers[0])


def _voices(
    files: BundleFiles,
    recordings: Mapping[str, Path],
    settings: OnnxBundleSettings,
    opened: Callable[[str], Any],
    options: Any,
) -> dict[str, BundleVoice]:
    cache = VoiceCache(settings.voice_cache, files.graphs[SPEECH_ENCODER])
    encoder: Any = None

    def enrol(recording: Path) -> BundleVoice:
        # Opened for a voice that is new, and gone afterwards: it is as large as the decoder.
        nonlocal encoder
        encoder = encoder or opened(SPEECH_ENCODER)
        return encode(encoder, recording, options)

    return {
        name: cache.voice(name, recording, enrol).with_prompt(settings.prompt_seconds)
        for name, recording in recordings.items()
    }


def _warm_up(
    speaker: Speaker,
    text: Sequence[int],
    model: LanguageModel,
    decoder: SpeechDecoder,
    chunks: tuple[int, ...],
    options: Any,
) -> Pace:
    """Run all once, as a first run is slower than those that follow; then again, timed."""
    second = [SILENCE_TOKEN] * TOKEN_RATE
    samples = len(decoder(speaker.voice, second, options))
    if not samples:
        raise BundleError("the conditional_decoder gave no sound")
    if chunks and samples != SAMPLE_RATE:
        raise BundleError(
            f"the conditional_decoder gave {samples} samples for a second of tokens, not {SAMPLE_RATE}: "
            f"it can only speak whole segments (chunk_tokens = [])"
        )
    _, cache = model.begin(speaker.prefix, text, options)
    model.step(SILENCE_TOKEN, cache, options)
    times = [time.perf_counter()]
    _, cache = model.begin(speaker.prefix, text, options)
    times.append(time.perf_counter())
    for _ in range(_TIMED_STEPS):
        _, cache = model.step(SILENCE_TOKEN, cache, options)
    times.append(time.perf_counter())
    decoder(speaker.voice, second, options)
    times.append(time.perf_counter())
    begin, steps, decode = np.diff(times).tolist()
    prompt = speaker.voice.audio_tokens.shape[1]
    return Pace(begin, steps / _TIMED_STEPS, decode, prompt + TOKEN_RATE, prompt, chunks)
