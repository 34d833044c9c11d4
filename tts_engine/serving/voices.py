"""The voices of an engine: the model's own and those of the store, each prepared when it is first spoken with."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass

import torch

from tts_engine.chatterbox.model import Chatterbox
from tts_engine.chatterbox.t3 import VoicePrefix
from tts_engine.chatterbox.voice import Voice
from tts_engine.chatterbox.voice_file import VoiceFileError
from tts_engine.chatterbox.voice_store import BUILT_IN_VOICE, VoiceNameError, VoiceStore
from tts_engine.errors import EngineError, UnknownVoiceError

logger = logging.getLogger(__name__)

MOST_PREPARED = 32
"Voices kept prepared; each has some 40 MB on its device."


class NoBuiltInVoiceError(EngineError):
    """The model came without conds.pt."""


@dataclass(frozen=True)
class SpokenVoice:
    """A voice as the model's modules take it."""

    prefix: VoicePrefix
    conditioning: Voice


class Voices:
    """`names` and `has` belong to the event loop, `spoken` to the one worker."""

    def __init__(self, model: Chatterbox, store: VoiceStore) -> None:
        """Looks at every file of the store; those that cannot be used are logged and left out."""
        self._model = model
        self._store = store
        self._names: tuple[str, ...] = () if model.default_voice is None else (BUILT_IN_VOICE,)
        self._sizes: dict[tuple[int, int], str] = {}
        for name in store.names():
            try:
                voice, _ = store.read(name)
            except EngineError as error:
                logger.warning("voice %s cannot be used: %s", name, error)
                continue
            self._names = (*self._names, name)
            self._sizes[len(voice.prompt_tokens), len(voice.flow_prompt_tokens)] = name
        self._prepared: OrderedDict[str, tuple[object, SpokenVoice]] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """As found at the start, and those asked for since."""
        return self._names

    def has(self, name: str) -> bool:
        """Whether there is such a voice; it may have been added after the start. EngineError if its file is broken."""
        if name in self._names:
            return True
        try:
            self._store.read(name)
        except (UnknownVoiceError, VoiceNameError):
            return False
        except EngineError as error:
            raise self._without_paths(error) from error
        except OSError as error:
            logger.warning("the voices in %s cannot be read: %s", self._store.directory, error.strerror)
            return False
        self._names = (*self._names, name)
        return True

    def spoken(self, name: str) -> SpokenVoice:
        """Raises EngineError where the file has become unusable."""
        try:
            version = None if name == BUILT_IN_VOICE else self._store.version(name)
            known = self._prepared.pop(name, None)
            if known is None or known[0] != version:
                known = (version, self._prepare(name))
        except VoiceFileError as error:
            raise self._without_paths(error) from error
        except UnknownVoiceError:
            self._names = tuple(other for other in self._names if other != name)
            raise
        self._prepared[name] = known
        while len(self._prepared) > MOST_PREPARED:
            self._prepared.popitem(last=False)
        return known[1]

    def one_of_each_size(self, name: str) -> list[SpokenVoice]:
        """That voice, and one of each other pair of prompt lengths that was found at the start."""
        return [self.spoken(each) for each in dict.fromkeys((name, *self._sizes.values()))]

    def _without_paths(self, error: EngineError) -> EngineError:
        """Who asked for a voice may be far away."""
        return EngineError(str(error).replace(f"{self._store.directory}/", ""))

    @torch.inference_mode()
    def _prepare(self, name: str) -> SpokenVoice:
        voice = self._model.default_voice if name == BUILT_IN_VOICE else self._store.read(name)[0]
        if voice is None:
            raise NoBuiltInVoiceError("the model has no voice of its own (conds.pt)")
        voice = voice.to(self._model.device, self._model.dtype)
        return SpokenVoice(self._model.t3.prefix(voice.speaker_embedding, voice.prompt_tokens), voice)
