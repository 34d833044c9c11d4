"""The voices on a device: each has a number, which rows of a batch name; the least used makes room for another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tts_engine.chatterbox.voice import Voice
from tts_engine.chatterbox.voice_store import BUILT_IN_VOICE, VoiceStore
from tts_engine.errors import EngineError, UnknownVoiceError
from tts_engine.serving.voices import without_paths


class NoBuiltInVoiceError(EngineError):
    """The model came without conds.pt."""


@dataclass(eq=False)
class BankedVoice:
    """A voice that rows can name."""

    index: int
    prompt: npt.NDArray[np.int32]
    "The flow's prompt tokens."
    version: object
    users: int = 0


class VoiceBank:
    """`size` voices at most. Belongs to the worker."""

    def __init__(self, size: int, store: VoiceStore, built_in: Voice | None, put: Callable[[int, Voice], None]) -> None:
        """`put` writes a voice to the device under a number that no row uses."""
        self._store = store
        self._built_in = built_in
        self._put = put
        self._free = list(range(size))
        self._voices: OrderedDict[tuple[str, object], BankedVoice] = OrderedDict()

    def acquire(self, name: str) -> BankedVoice | None:
        """The voice, to be released; None while all numbers are in use.

        Raises UnknownVoiceError or EngineError where its file is not there or has become unusable.
        """
        version = None if name == BUILT_IN_VOICE else self._store.version(name)
        voice = self._voices.get((name, version))
        if voice is None:
            if not (self._free or self._make_room()):
                return None
            voice = self._load(name, version)
        self._voices.move_to_end((name, version))
        voice.users += 1
        return voice

    def release(self, voice: BankedVoice) -> None:
        """One user less; it stays until its number is needed."""
        voice.users -= 1

    def _make_room(self) -> bool:
        for key, voice in self._voices.items():
            if not voice.users:
                del self._voices[key]
                self._free.append(voice.index)
                return True
        return False

    def _load(self, name: str, version: object) -> BankedVoice:
        found = self._built_in if name == BUILT_IN_VOICE else self._read(name)
        if found is None:
            raise NoBuiltInVoiceError("the model has no voice of its own (conds.pt)")
        index = self._free[-1]
        self._put(index, found)
        self._free.pop()
        voice = BankedVoice(index, found.flow_prompt_tokens.cpu().numpy().astype(np.int32), version)
        self._voices[name, version] = voice
        return voice

    def _read(self, name: str) -> Voice:
        try:
            return self._store.read(name)[0]
        except UnknownVoiceError:
            raise
        except EngineError as error:
            raise without_paths(self._store, error) from error
