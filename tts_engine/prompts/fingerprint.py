"""Whether a file is still the same: by content, so that a copy on another machine is the same too."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

WHOLE_BYTES = 64 << 20
"Files up to this size are read whole: a tenth of a second."
BLOCKS = 256
BLOCK_BYTES = 4096


def fingerprint(path: Path) -> str:
    """SHA-256, in hexadecimal, of a file's size and content. Raises OSError.

    Of a file above WHOLE_BYTES, gigabytes of weights, it is the content of BLOCKS blocks spread evenly from the first
    byte to the last: other training changes all of them, a few bytes edited by hand may escape.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        digest = hashlib.sha256(b"%d:" % size)
        if size <= WHOLE_BYTES:
            while block := file.read(1 << 20):
                digest.update(block)
        else:
            last = size - BLOCK_BYTES
            for number in range(BLOCKS):
                file.seek(last * number // (BLOCKS - 1))
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


class Fingerprints:
    """Fingerprints of files that seldom change, read again when their size, time or inode is another."""

    def __init__(self, read: Callable[[Path], str] = fingerprint) -> None:
        self._read = read
        self._known: dict[Path, tuple[tuple[int, int, int], str]] = {}

    def of(self, path: Path) -> str:
        """Raises OSError."""
        status = path.stat()
        version = (status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._known.get(path)
        if known is None or known[0] != version:
            known = self._known[path] = (version, self._read(path))
        return known[1]
