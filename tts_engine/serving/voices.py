"""Which voices an engine can be asked for: the model's own, and those of the store."""

from __future__ import annotations

import logging

from tts_engine.chatterbox.voice_store import BUILT_IN_VOICE, VoiceNameError, VoiceStore
from tts_engine.errors import EngineError, UnknownVoiceError

logger = logging.getLogger(__name__)


class VoiceNames:
    """Belongs to the event loop."""

    def __init__(self, store: VoiceStore, *, built_in: bool) -> None:
        """Looks at every file of the store; those that cannot be used are logged and left out."""
        self._store = store
        self._names: tuple[str, ...] = (BUILT_IN_VOICE,) if built_in else ()
        for name in store.names():
            try:
                store.read(name)
            except EngineError as error:
                logger.warning("voice %s cannot be used: %s", name, error)
                continue
            self._names = (*self._names, name)

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
            raise without_paths(self._store, error) from error
        except OSError as error:
            logger.warning("the voices in %s cannot be read: %s", self._store.directory, error.strerror)
            return False
        self._names = (*self._names, name)
        return True

    def forget(self, name: str) -> None:
        """Its file has gone."""
        self._names = tuple(other for other in self._names if other != name)


def without_paths(store: VoiceStore, error: EngineError) -> EngineError:
    """Who asked for a voice may be far away."""
    return EngineError(str(error).replace(f"{store.directory}/", ""))
