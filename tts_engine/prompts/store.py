"""Prompts on disk: one file each, written whole or not at all, and checked when read.

A file's name is its key in hexadecimal, so nothing that anybody says becomes part of a path. Speech says as much as its
text does: directory and files are for their owner only.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import stat
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tts_engine.engine import BYTES_PER_SAMPLE, SAMPLE_RATES
from tts_engine.errors import EngineError
from tts_engine.prompts.key import KEY_BYTES

logger = logging.getLogger(__name__)

SUFFIX = ".prompt"
MAX_FILE_BYTES = 32 << 20
"Half an hour at 8 kHz; a larger file is none of ours."

_MAGIC = b"CHPROMP1"
_LENGTH = struct.Struct("<I")
_MAX_HEADER = 4096
_HASH_BYTES = 32
_NAME = re.compile(r"[0-9a-f]{64}\.prompt")
_TEMPORARY = re.compile(r"\.new-\w+\.prompt")


class StoreError(EngineError):
    """The store cannot be read or written, or is full; the message says where and why."""


class _UnusableError(Exception):
    """What is wrong with a file."""


@dataclass(frozen=True, slots=True)
class StoredPrompt:
    """A prompt as it lies on disk. Whose text it is cannot be told."""

    engine: str
    voice: str
    identity: str
    "Of engine and voice when it was made (see engine.Identity)."
    sample_rate: int
    "Hz."
    pcm: bytes
    "Signed 16-bit little-endian mono."

    @property
    def seconds(self) -> float:
        return len(self.pcm) / (BYTES_PER_SAMPLE * self.sample_rate)


class PromptStore:
    """One directory. It need not exist until something is written. Used from any thread."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        """`max_bytes`: of all files together, when writing."""
        self.directory = directory
        self._max_bytes = max_bytes
        self._writing = threading.Lock()

    def keys(self) -> frozenset[bytes]:
        """Keys of all files, usable or not; none without a directory. Raises StoreError."""
        return frozenset(bytes.fromhex(name.removesuffix(SUFFIX)) for name, _ in self._files() if _NAME.fullmatch(name))

    @property
    def size(self) -> int:
        """Bytes of all files of ours. Raises StoreError."""
        return sum(size for _, size in self._files())

    def read(self, key: bytes) -> StoredPrompt | None:
        """The prompt; None if it is not there or cannot be used, which is logged."""
        try:
            return self.load(key)
        except StoreError as error:
            logger.warning("%s", error)
            return None

    def load(self, key: bytes) -> StoredPrompt | None:
        """As read(), but raises StoreError for a file that cannot be used."""
        path = self._path(key)
        try:
            return _unpack(key, _read(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from None
        except _UnusableError as error:
            raise StoreError(f"{path}: {error}") from None

    def write(self, key: bytes, prompt: StoredPrompt) -> None:
        """Put a prompt there, in place of what was. Raises StoreError."""
        data = _pack(key, prompt)
        if len(data) > MAX_FILE_BYTES:
            raise StoreError(f"a prompt of {prompt.seconds:.0f} s is too long to be kept")
        path = self._path(key)
        with self._writing, self._explained():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            replaced = path.stat().st_size if path.exists() else 0
            if self.size - replaced + len(data) > self._max_bytes:
                raise StoreError(
                    f"{self.directory} is full: {self._max_bytes >> 20} MB ([tts.prompts] dir_mb); "
                    f"`chatterline prompts clear --stale` removes what is of no use any more"
                )
            _replace(path, data)

    def remove(self, key: bytes) -> None:
        """Delete a file, if it is there. Raises StoreError."""
        with self._explained():
            self._path(key).unlink(missing_ok=True)

    def clear(self) -> int:
        """Delete all files of ours, also what a crash left; gives their number. Raises StoreError."""
        names = [name for name, _ in self._files()]
        with self._explained():
            for name in names:
                (self.directory / name).unlink(missing_ok=True)
        return len(names)

    def _files(self) -> list[tuple[str, int]]:
        """Names and sizes of what is ours here; others' files are left alone."""
        try:
            with os.scandir(self.directory) as entries:
                return list(_ours(entries))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self.directory}: {error.strerror}") from None

    def _path(self, key: bytes) -> Path:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        return self.directory / (key.hex() + SUFFIX)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"{error.filename or self.directory}: {error.strerror}") from None


def _ours(entries: Iterator[os.DirEntry[str]]) -> Iterator[tuple[str, int]]:
    for entry in entries:
        if _NAME.fullmatch(entry.name) or _TEMPORARY.fullmatch(entry.name):
            with suppress(FileNotFoundError):  # removed meanwhile
                yield entry.name, entry.stat(follow_symlinks=False).st_size


def _read(path: Path) -> bytes:
    """A regular file's content. Raises OSError, _UnusableError."""
    # Neither a link to somewhere else nor a pipe that never ends.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _UnusableError("is a link") from None
        raise
    with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _UnusableError("is no file")
        if status.st_size > MAX_FILE_BYTES:
            raise _UnusableError(f"is larger than {MAX_FILE_BYTES >> 20} MB")
        return file.read(MAX_FILE_BYTES + 1)


def _replace(path: Path, data: bytes) -> None:
    """Write beside it, then rename: readers see the old file or the new one. Raises OSError."""
    # mkstemp makes it with mode 0600.
    descriptor, name = tempfile.mkstemp(prefix=".new-", suffix=SUFFIX, dir=path.parent)
    temporary = Path(name)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - of a descriptor
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _pack(key: bytes, prompt: StoredPrompt) -> bytes:
    """Magic, length of the header, header (JSON), PCM, SHA-256 over the key and all of these."""
    header = json.dumps(
        {
            "engine": prompt.engine,
            "voice": prompt.voice,
            "identity": prompt.identity,
            "sample_rate": prompt.sample_rate,
        }
    ).encode()
    if len(header) > _MAX_HEADER:
        raise StoreError(f"the names of engine and voice are too long: {len(header)} bytes")
    body = b"".join((_MAGIC, _LENGTH.pack(len(header)), header, prompt.pcm))
    return body + _checksum(key, body)


def _unpack(key: bytes, data: bytes) -> StoredPrompt:
    """Raises _UnusableError."""
    start = len(_MAGIC) + _LENGTH.size
    if not data.startswith(_MAGIC):
        raise _UnusableError("is no prompt of this version")
    body, checksum = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
    if len(body) < start or _checksum(key, body) != checksum:
        raise _UnusableError("is damaged: its checksum is wrong")
    (length,) = _LENGTH.unpack_from(body, len(_MAGIC))
    try:
        header = json.loads(body[start : start + length])
        prompt = StoredPrompt(
            engine=str(header["engine"]),
            voice=str(header["voice"]),
            identity=str(header["identity"]),
            sample_rate=header["sample_rate"],
            pcm=body[start + length :],
        )
    except (ValueError, KeyError, TypeError):
        raise _UnusableError("has a header that cannot be read") from None
    if prompt.sample_rate not in SAMPLE_RATES or len(prompt.pcm) % BYTES_PER_SAMPLE:
        raise _UnusableError("is no speech")
    return prompt


def _checksum(key: bytes, body: bytes) -> bytes:
    # The key in it: a file under another's name would say the wrong thing.
    digest = hashlib.sha256(key)
    digest.update(body)
    return digest.digest()
