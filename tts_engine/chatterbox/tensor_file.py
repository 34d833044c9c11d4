"""Reading a safetensors file tensor by tensor, with plain reads into memory of the wanted dtype and device.

The safetensors library maps the file: its pages count as the process's memory, a tensor that needs no cast stays
mapped (so that replacing the file under a running server kills it), and reading every tensor through one handle
and casting it peaks at the file and the result together. Here a tensor is read straight into its place, or through
one small block if it is to be cast or moved: loading takes the weights and one block.

Format: https://github.com/huggingface/safetensors#format: u64 length, JSON header, data.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import torch

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}
"safetensors' names of what the released files hold."

_BLOCK_BYTES = 8 << 20
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


class TensorFileError(ValueError):
    """Not a whole safetensors file; the message begins with the file's name."""


class _Entry(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class TensorFile:
    """An open safetensors file. Raises TensorFileError on opening, or in read() if the file changed meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise TensorFileError(f"{path.name} cannot be opened: {error.strerror}") from None
        try:
            self._entries = _entries(self._file, path)
        except BaseException:
            self._file.close()
            raise
        self._block: torch.Tensor | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self._entries.items()}

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        return {name: entry.dtype for name, entry in self._entries.items()}

    def read(self, name: str, dtype: torch.dtype, device: torch.device | str = "cpu") -> torch.Tensor:
        """One tensor, contiguous, in `dtype` on `device`. A name that is not there is a KeyError."""
        entry = self._entries[name]
        self._file.seek(entry.start)
        tensor = torch.empty(entry.shape, dtype=dtype, device=device)
        flat = tensor.view(-1)
        if entry.dtype == dtype and tensor.device.type == "cpu":
            self._read_into(flat)
            return tensor
        block = self._staging().view(entry.dtype)
        for at in range(0, len(flat), len(block)):
            part = block[: min(len(block), len(flat) - at)]
            self._read_into(part)
            flat[at : at + len(part)].copy_(part)
        return tensor

    def _staging(self) -> torch.Tensor:
        if self._block is None:
            self._block = torch.empty(_BLOCK_BYTES, dtype=torch.uint8)
        return self._block

    def _read_into(self, flat: torch.Tensor) -> None:
        wanted = flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
        while wanted:
            count = self._file.readinto(wanted)  # type: ignore[attr-defined]  # an unbuffered file is a FileIO
            if not count:
                raise TensorFileError(f"{self.path.name} was cut short while it was read")
            wanted = wanted[count:]

    def close(self) -> None:
        self._file.close()
        self._block = None

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _entries(file: BinaryIO, path: Path) -> dict[str, _Entry]:
    """The header's entries, checked against the file's size. Raises TensorFileError."""
    size = path.stat().st_size
    head = file.read(8)
    length = int.from_bytes(head, "little")
    begin = file.read(min(length, 64)) if len(head) == 8 else b""
    if not begin.startswith(b"{") or length > _MAX_HEADER_BYTES:
        raise TensorFileError(f"{path.name} {_instead(head + begin, size)}")
    if 8 + length > size:
        raise TensorFileError(f"{path.name} is truncated: it ends within its header, at {size} bytes")
    rest = bytearray(begin)
    while len(rest) < length and (more := file.read(length - len(rest))):
        rest += more
    try:
        header = json.loads(bytes(rest))
        entries = {
            name: _entry(name, fields, 8 + length, path) for name, fields in header.items() if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        if isinstance(error, TensorFileError):
            raise
        raise TensorFileError(f"{path.name} is damaged: its header cannot be read") from None
    end = max((entry.stop for entry in entries.values()), default=8 + length)
    if end > size:
        raise TensorFileError(f"{path.name} is truncated: {size} bytes of {end}")
    return entries


def _entry(name: str, fields: dict[str, object], data: int, path: Path) -> _Entry:
    dtype = DTYPES.get(str(fields["dtype"]))
    if dtype is None:
        raise TensorFileError(f"{path.name} holds {name} as {fields['dtype']}, which is not supported")
    shape = tuple(int(side) for side in fields["shape"])  # type: ignore[attr-defined]  # else TypeError: damaged
    start, stop = (int(offset) for offset in fields["data_offsets"])  # type: ignore[attr-defined]  # as above
    if start < 0 or min(shape, default=1) < 0 or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError
    return _Entry(dtype, shape, data + start, data + stop)


def _instead(begin: bytes, size: int) -> str:
    """What a file is that is not safetensors."""
    if not size:
        return "is empty"
    if begin.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself: run `git lfs pull`, or fetch the model anew"
    if size < 8:
        return f"is truncated: it has {size} bytes"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in begin):
        return f"is a text file, not a safetensors file; it begins {begin[:24].decode()!r}"
    if not any(begin):
        return "is not a safetensors file: it begins with zeros, as an unfinished download does"
    return "is not a safetensors file"
