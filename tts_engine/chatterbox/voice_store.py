"""A directory of voice files: NAME.safetensors each. Names come from callers too, so they are checked first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tts_engine.chatterbox.voice import Voice
from tts_engine.chatterbox.voice_file import VoiceFileError, VoiceMetadata, read_voice, write_voice
from tts_engine.errors import EngineError, UnknownVoiceError

SUFFIX = ".safetensors"

BUILT_IN_VOICE = "default"
"The voice that the model brings along (conds.pt); no file may take its name."

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SHOWN_CHARS = 80


class VoiceNameError(EngineError):
    """A name that no voice can have."""


@dataclass(frozen=True)
class StoredVoice:
    """One entry of the directory: either what it is, or why it cannot be used."""

    name: str
    metadata: VoiceMetadata | None
    problem: str | None = None


def check_name(name: str) -> str:
    """The name, if a voice file may have it. One spelling only: upper case is refused, not folded.

    Raises VoiceNameError.
    """
    if not _NAME.fullmatch(name):
        shown = repr(name if len(name) <= _SHOWN_CHARS else name[:_SHOWN_CHARS] + "...")
        raise VoiceNameError(
            f"{shown} is not a name for a voice: 1 to 64 of a-z, 0-9, - and _, beginning with a letter or digit"
        )
    if name == BUILT_IN_VOICE:
        raise VoiceNameError(f"{name!r} is the voice that comes with the model; choose another name")
    return name


class VoiceStore:
    """The voices of one directory. It need not exist until a voice is added."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        """Where a voice of that name lies, or would lie. Raises VoiceNameError, VoiceFileError."""
        path = self.directory / (check_name(name) + SUFFIX)
        try:
            outside = path.is_symlink() and not path.resolve().is_relative_to(self.directory.resolve())
        except OSError as error:
            raise VoiceFileError(f"{path}: {error.strerror}") from None
        if outside:
            raise VoiceFileError(f"{path} is a link out of the voices directory")
        return path

    def names(self) -> list[str]:
        """Names of all entries, usable or not, sorted. Raises VoiceFileError if the directory cannot be read."""
        try:
            entries = [entry.name for entry in self.directory.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise VoiceFileError(f"{self.directory}: {error.strerror}") from None
        return sorted(
            entry.removesuffix(SUFFIX) for entry in entries if entry.endswith(SUFFIX) and not entry.startswith(".")
        )

    def read(self, name: str) -> tuple[Voice, VoiceMetadata]:
        """Raises VoiceNameError, UnknownVoiceError, VoiceFileError."""
        return read_voice(self._existing(name))

    def version(self, name: str) -> object:
        """Another value whenever the voice's file is replaced. Raises as read() does."""
        path = self._existing(name)
        try:
            status = path.stat()
        except OSError as error:
            raise VoiceFileError(f"{path}: {error.strerror}") from None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def add(self, name: str, voice: Voice, metadata: VoiceMetadata, *, replace: bool = False) -> Path:
        """Write a voice and return its file. Raises VoiceNameError, VoiceFileError."""
        path = self.path(name)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VoiceFileError(f"{self.directory}: {error.strerror}") from None
        write_voice(path, voice, metadata, replace=replace)
        return path

    def remove(self, name: str) -> None:
        """Delete a voice's file, broken ones too. Raises VoiceNameError, UnknownVoiceError, VoiceFileError."""
        path = self._existing(name)
        try:
            path.unlink()
        except OSError as error:
            raise VoiceFileError(f"{path}: {error.strerror}") from None

    def list(self) -> list[StoredVoice]:
        """All entries, sorted by name; a broken file is listed with its problem. Raises VoiceFileError."""
        return [self._entry(name) for name in self.names()]

    def _entry(self, name: str) -> StoredVoice:
        try:
            return StoredVoice(name, self.read(name)[1])
        except EngineError as error:
            return StoredVoice(name, None, str(error))

    def _existing(self, name: str) -> Path:
        path = self.path(name)
        try:
            missing = not path.is_symlink() and not path.exists()
        except OSError as error:
            raise VoiceFileError(f"{path}: {error.strerror}") from None
        if missing:
            raise UnknownVoiceError(name, self.names())
        return path
