"""Chatterbox as an Engine: its utterances are stepped, chunk by chunk, on one worker thread."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from tts_engine.chatterbox.cfg import cfg_scale
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.hub import find_model
from tts_engine.chatterbox.model import Chatterbox, load
from tts_engine.chatterbox.sampling import SamplingSettings
from tts_engine.chatterbox.text import prepare
from tts_engine.chatterbox.voice_store import BUILT_IN_VOICE, VoiceStore
from tts_engine.chatterbox.watermark import Watermarker
from tts_engine.engine import EngineLimits, SpeechRequest
from tts_engine.errors import EngineError
from tts_engine.pooled_engine import PooledEngine
from tts_engine.pooled_stream import Piece
from tts_engine.resample import Samples
from tts_engine.serving.decoders import DecoderPool
from tts_engine.serving.utterance import Speaker, SpokenVoice, default_device, speak

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
        self._voices: dict[str, SpokenVoice] = {}
        self._names: tuple[str, ...] = ()

    @property
    def voices(self) -> tuple[str, ...]:
        """As they were at start; one that was added since can be asked for all the same."""
        return self._names

    def check(self, request: SpeechRequest) -> None:
        """Raises UnknownVoiceError, TextTooLongError or UnsupportedSampleRateError."""
        if request.voice is not None and request.voice not in self._names:
            self._names = self._list_voices()
        super().check(request)

    def _load(self) -> None:
        settings = self._settings
        directory = find_model(settings.model)
        if directory is None:
            raise EngineError(f"the model {settings.model} is not here: run `chatterline fetch-model`")
        device = default_device() if settings.device == "auto" else torch.device(settings.device)
        automatic = torch.bfloat16 if device.type == "cuda" else torch.float32
        dtype = automatic if settings.precision == "auto" else _DTYPES[settings.precision]
        self._watermarker = Watermarker() if settings.watermark else None
        self._model = load(directory, device=device, dtype=dtype)
        decoders = DecoderPool(self._model.t3, settings.sampling, self._cfg_scale, graphs=device.type == "cuda")
        self._speaker = Speaker(self._model, decoders, settings.policy, settings.seed)
        self._names = self._list_voices()
        if self._default_voice not in self._names:
            raise EngineError(
                f"there is no voice {self._default_voice!r}: the model in {directory} "
                f"{'brings none along (conds.pt)' if self._default_voice == BUILT_IN_VOICE else 'does not have it'}"
                f" and {self._store.directory} holds {', '.join(self._names) or 'none'}; see `chatterline voices add`"
            )
        self._voice(self._default_voice)
        if device.type == "cuda":
            self._warm_up(self._speaker)
        logger.info(
            "%s of %s is loaded on %s as %s, guidance %s",
            self._model.flavour,
            directory,
            device,
            str(dtype).removeprefix("torch."),
            self._cfg_scale or "off",
        )

    def _warm_up(self, speaker: Speaker) -> None:
        """Kernels are chosen and loaded, and graphs captured, at first use: no caller should wait for that."""
        segments = prepare(_WARM_UP)
        if not sum(len(chunk) for chunk in speaker.chunks(self._voice(self._default_voice), segments)):
            raise EngineError("the model gave no sound")

    def _unload(self) -> None:
        self._speaker = self._model = self._watermarker = None
        self._voices = {}

    def _speak(self, request: SpeechRequest, voice: str) -> Iterator[Piece]:
        speaker, settings, watermarker = self._speaker, self._settings, self._watermarker
        if speaker is None:
            raise EngineError(f"the {self.name} engine is not loaded")

        def chunks() -> Iterator[Samples]:
            # On the worker: reading a voice and preparing a long text take milliseconds.
            segments = prepare(
                request.text, telephone_reading=settings.telephone_reading, max_chars=settings.max_segment_chars
            )
            if segments:
                yield from speaker.chunks(self._voice(voice), segments)

        return speak(chunks, request.sample_rate, watermarker.stream() if watermarker else None)

    def _list_voices(self) -> tuple[str, ...]:
        built_in = [BUILT_IN_VOICE] if self._model is not None and self._model.default_voice is not None else []
        return (*built_in, *self._store.names())

    def _voice(self, name: str) -> SpokenVoice:
        """Read and prepared once; on a worker's thread, of which there is one. Raises EngineError."""
        if name not in self._voices:
            if self._model is None:
                raise EngineError(f"the {self.name} engine is not loaded")
            self._voices[name] = _prepared(self._model, name, self._store)
        return self._voices[name]


@torch.inference_mode()
def _prepared(model: Chatterbox, name: str, store: VoiceStore) -> SpokenVoice:
    voice = model.default_voice if name == BUILT_IN_VOICE else store.read(name)[0]
    if voice is None:
        raise EngineError("the model has no voice of its own (conds.pt)")
    voice = voice.to(model.device, model.dtype)
    return SpokenVoice(model.t3.prefix(voice.speaker_embedding, voice.prompt_tokens), voice)
