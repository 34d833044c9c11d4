"""Chatterbox as an Engine: its utterances are stepped, chunk by chunk, on one worker thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from tts_engine.chatterbox.cfg import cfg_scale
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.hub import find_model
from tts_engine.chatterbox.model import Chatterbox, load
from tts_engine.chatterbox.sampling import SamplingSettings
from tts_engine.chatterbox.step_attention import fused_fault
from tts_engine.chatterbox.text import prepare
from tts_engine.chatterbox.voice_store import BUILT_IN_VOICE, VoiceStore
from tts_engine.chatterbox.watermark import Watermarker
from tts_engine.engine import EngineLimits, SpeechRequest
from tts_engine.errors import EngineError, UnknownVoiceError
from tts_engine.pooled_engine import PooledEngine
from tts_engine.pooled_stream import Piece
from tts_engine.resample import Samples
from tts_engine.serving.decoders import DecoderPool
from tts_engine.serving.device import default_device, make_exact, use_device
from tts_engine.serving.graphs import GraphFlow, GraphVocoder
from tts_engine.serving.utterance import Speaker, speak
from tts_engine.serving.voices import NoBuiltInVoiceError, SpokenVoice, Voices

logger = logging.getLogger(__name__)

WORKERS = 1
"A thread for the device: more would only stand in each other's way."

_WARM_UP = "Good morning, and thank you for calling."

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class ChatterboxSettings:
    """What a ChatterboxEngine is to be."""

    model: str
    "A directory in the released layout, or a repository that was fetched."
    voices_dir: Path
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    default_voice: str = BUILT_IN_VOICE
    telephone_reading: bool = True
    max_segment_chars: int = 300
    watermark: bool = False
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    policy: ChunkPolicy = field(default_factory=ChunkPolicy)
    seed: int = 0


class ChatterboxEngine(PooledEngine):
    """An Engine over Chatterbox Turbo or Nano, on a GPU or, slowly, a CPU."""

    def __init__(self, name: str, settings: ChatterboxSettings, max_streams: int, max_text_chars: int) -> None:
        """Raises ValueError for an unfit CHATTERBOX_CFG_SCALE."""
        limits = EngineLimits(max_text_chars=max_text_chars, max_streams=max_streams)
        super().__init__(name, settings.default_voice, limits, WORKERS)
        self._settings = settings
        self._cfg_scale = cfg_scale()
        self._store = VoiceStore(settings.voices_dir)
        self._model: Chatterbox | None = None
        self._speaker: Speaker | None = None
        self._watermarker: Watermarker | None = None
        self._voices: Voices | None = None

    @property
    def voices(self) -> tuple[str, ...]:
        """As they were at start, and those that were added and asked for since."""
        return () if self._voices is None else self._voices.names

    def check(self, request: SpeechRequest) -> None:
        """Raises UnknownVoiceError, TextTooLongError, UnsupportedSampleRateError; EngineError for a broken voice."""
        if request.voice is not None and self._voices is not None:
            self._voices.has(request.voice)
        super().check(request)

    def _load(self) -> None:
        try:
            self._load_all()
        except torch.OutOfMemoryError:
            raise EngineError(
                "the GPU has no room for the model and its streams: lower [tts.chatterbox] max_streams"
            ) from None

    def _load_all(self) -> None:
        settings = self._settings
        directory = find_model(settings.model)
        if directory is None:
            raise EngineError(_not_here(settings.model))
        device = default_device() if settings.device == "auto" else torch.device(settings.device)
        automatic = torch.bfloat16 if device.type == "cuda" else torch.float32
        dtype = automatic if settings.precision == "auto" else _DTYPES[settings.precision]
        self._watermarker = Watermarker() if settings.watermark else None
        self._model = load(directory, device=device, dtype=dtype)
        use_device(device)
        self._speaker = self._make_speaker(self._model)
        self._voices = Voices(self._model, self._store)
        self._prepare_default_voice(self._voices, directory)
        if device.type == "cuda":
            self._warm_up(self._speaker, self._voices)
        logger.info(
            "%s of %s is loaded on %s as %s, guidance %s",
            self._model.flavour,
            directory,
            device,
            str(dtype).removeprefix("torch."),
            self._cfg_scale or "off",
        )

    def _make_speaker(self, model: Chatterbox) -> Speaker:
        settings = self._settings
        if model.device.type != "cuda":
            decoders = DecoderPool(model.t3, settings.sampling, self._cfg_scale, graphs=False)
            return Speaker(model, decoders, settings.policy, settings.seed)
        make_exact()
        if fault := fused_fault():
            logger.warning("T3 runs without its fused attention, slower: %s", fault)
        decoders = DecoderPool(model.t3, settings.sampling, self._cfg_scale, graphs=True, kept=self.limits.max_streams)
        flow = GraphFlow(model.flow, model.device, model.dtype)
        vocoder = GraphVocoder(model.vocoder, model.device)
        return Speaker(model, decoders, settings.policy, settings.seed, flow=flow, vocoder=vocoder)

    def _warm_up(self, speaker: Speaker, voices: Voices) -> None:
        """Kernels are chosen and loaded, and graphs captured, at first use: no caller should wait for that."""
        speaker.prepare(voices.one_of_each_size(self._default_voice))
        segments = prepare(_WARM_UP)
        if not sum(len(chunk) for chunk in speaker.chunks(self._spoken(self._default_voice), segments)):
            raise EngineError("the model gave no sound")

    def _unload(self) -> None:
        self._speaker = self._model = self._watermarker = self._voices = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # back to the driver: another process may want it

    def _speak(self, request: SpeechRequest, voice: str, stopped: Callable[[], bool]) -> Iterator[Piece]:
        speaker, settings, watermarker = self._speaker, self._settings, self._watermarker
        if speaker is None:
            raise EngineError(f"the {self.name} engine is not loaded")

        def chunks() -> Iterator[Samples]:
            # On the worker: reading a voice and preparing a long text take milliseconds.
            segments = prepare(
                request.text, telephone_reading=settings.telephone_reading, max_chars=settings.max_segment_chars
            )
            if segments:
                yield from speaker.chunks(self._spoken(voice), segments, stopped)

        return speak(chunks, request.sample_rate, watermarker.stream() if watermarker else None)

    def _prepare_default_voice(self, voices: Voices, directory: Path) -> None:
        """Raises EngineError if the engine cannot speak with it."""
        name = self._default_voice
        try:
            voices.spoken(name)
        except UnknownVoiceError:
            stored = ", ".join(self._store.names()) or "none"
            raise EngineError(
                f"there is no voice {name!r}: {self._store.directory} holds {stored}; see `chatterline voices add`"
            ) from None
        except NoBuiltInVoiceError:
            stored = ", ".join(self._store.names()) or "none"
            raise EngineError(
                f"there is no voice {name!r}: the model in {directory} brings none along (conds.pt), and "
                f"{self._store.directory} holds {stored}; see `chatterline voices add`"
            ) from None
        voices.has(name)

    def _spoken(self, name: str) -> SpokenVoice:
        if self._voices is None:
            raise EngineError(f"the {self.name} engine is not loaded")
        return self._voices.spoken(name)


def _not_here(model: str) -> str:
    if model.startswith(("/", "~", ".")):
        return f"there is no directory {model} with a model: `chatterline fetch-model --to {model}` makes it"
    return f"the model {model} is not here: run `chatterline fetch-model {model}`"
