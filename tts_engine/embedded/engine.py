"""The speech engine that runs inside the server's process, on CPU threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from tts_engine.embedded.memory import share_one_malloc_arena
from tts_engine.embedded.model import EmbeddedVoice, VoiceModel, load_models, pace, speak
from tts_engine.engine import EngineLimits, Feature, SpeechRequest
from tts_engine.errors import EngineError
from tts_engine.pooled_engine import PooledEngine, check_voice
from tts_engine.pooled_stream import Piece

logger = logging.getLogger(__name__)

DEFAULT_VOICES: Mapping[str, EmbeddedVoice] = MappingProxyType({"heart": EmbeddedVoice("heart")})

FEATURES: frozenset[Feature] = frozenset(("rate", "phonemes"))

_WARM_UP = "Chatterline answers at ten past nine."


class EmbeddedEngine(PooledEngine):
    """An Engine over hibari's models."""

    def __init__(
        self,
        voices: Mapping[str, EmbeddedVoice] = DEFAULT_VOICES,
        default_voice: str = "heart",
        *,
        workers: int = 2,
        max_streams: int = 200,
        max_text_chars: int = 5000,
        seed: int = 0,
    ) -> None:
        """`seed` decides the noise in every utterance (see model.speak). Raises UnknownVoiceError."""
        check_voice(default_voice, voices)
        limits = EngineLimits(max_text_chars=max_text_chars, max_streams=max_streams)
        super().__init__("embedded", default_voice, limits, workers)
        self._voices = dict(voices)
        self._seed = seed
        self._models: dict[str, VoiceModel] = {}

    @property
    def voices(self) -> tuple[str, ...]:
        return tuple(self._voices)

    @property
    def features(self) -> frozenset[Feature]:
        return FEATURES

    def _load(self) -> None:
        share_one_malloc_arena()
        self._models = _load_and_warm_up({voice.model for voice in self._voices.values()})

    def _unload(self) -> None:
        self._models = {}

    def _speak(self, request: SpeechRequest, voice: str, stopped: Callable[[], bool]) -> Iterator[Piece]:
        # A step is one clause, some 10 ms: none is worth breaking off.
        chosen = self._voices[voice]
        speed = pace(chosen.speed, request.rate)
        model = self._models[chosen.model]
        return speak(model, request.text, speed, request.sample_rate, self._seed, request.phonemes)


def _load_and_warm_up(names: set[str]) -> dict[str, VoiceModel]:
    models = load_models(names)
    for name, model in models.items():
        # The first inference is slower than those that follow; no caller should wait for it.
        if not sum(len(piece.pcm) for piece in speak(model, _WARM_UP, 1.0, 8000, 0)):
            raise EngineError(f"the model of voice {name!r} gave no sound")
        logger.info("voice model %s is loaded", name)
    return models
