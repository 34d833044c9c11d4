"""One voice in one safetensors file: the conditioning tensors, and in the metadata where they came from.

Reading needs torch and safetensors, and nothing of what made the voice.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from tts_engine.chatterbox.constants import (
    FRAMES_PER_TOKEN,
    MAX_FLOW_PROMPT_TOKENS,
    MAX_PROMPT_TOKENS,
    MEL_BINS,
    SPEAKER_EMBEDDING,
    SPEECH_TOKENS,
    X_VECTOR,
)
from tts_engine.chatterbox.voice import Voice
from tts_engine.errors import EngineError

FORMAT = "chatterline-voice"
VERSION = 1
MODEL_FAMILY = "chatterbox-turbo"
"Turbo and Nano share their encoders and their flow, so a voice made for one is a voice for the other."

SPEECH_TOKENIZER = "speech_tokenizer_v2_25hz"
MAX_BYTES = 4 << 20
"A full voice is under 200 kB; nothing longer is read into memory to find out that it is none."

_MODE = 0o644
"The service that reads the voice is seldom the user who enrolled it."


class VoiceFileError(EngineError):
    """A file that is no voice, or not one for this program; the message names the file and the reason."""


@dataclass(frozen=True)
class VoiceMetadata:
    """Where a voice came from. Written as text: safetensors has no other metadata."""

    name: str
    source: str = ""
    "Base name of the clip."
    source_seconds: float = 0.0
    source_loudness: float = 0.0
    "Integrated loudness of the clip before it was brought to -27 LUFS."
    prompt_seconds: float = 0.0
    created: str = ""
    "UTC, ISO 8601."
    encoders_sha256: str = ""
    consent: str = ""
    "The operator's note on the speaker's consent, if there is one."
    model: str = MODEL_FAMILY
    speech_tokenizer: str = SPEECH_TOKENIZER


def write_voice(path: Path, voice: Voice, metadata: VoiceMetadata, *, replace: bool = False) -> None:
    """Write the file whole or not at all. Raises VoiceFileError; a file that is there stays unless `replace`."""
    tensors = {field.name: _stored(getattr(voice, field.name)) for field in fields(Voice)}
    if problems := _problems(tensors):
        raise VoiceFileError(f"{path.name}: this voice cannot be stored: {'; '.join(problems)}")
    if path.exists() and not replace:
        raise VoiceFileError(f"{path} exists already; --replace overwrites it")
    data = save_tensors(tensors, {"format": FORMAT, "version": str(VERSION), **_as_text(metadata)})
    try:
        _write_atomically(path, data)
    except OSError as error:
        raise VoiceFileError(f"{path}: {error.strerror}") from None


def read_voice(path: Path) -> tuple[Voice, VoiceMetadata]:
    """The voice on the CPU, floats in float32. Raises VoiceFileError."""
    data = _read(path)
    text = _header_metadata(path, data)
    _check_origin(path, text)
    try:
        tensors = load_tensors(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise VoiceFileError(f"{path} is damaged: {error}") from None
    if problems := _problems(tensors):
        raise VoiceFileError(f"{path} holds a voice that was made for another model: {'; '.join(problems)}")
    return Voice(**{field.name: tensors[field.name] for field in fields(Voice)}), _from_text(path, text)


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else torch.int64
    return tensor.detach().to("cpu", dtype).contiguous()


def _as_text(metadata: VoiceMetadata) -> dict[str, str]:
    return {field.name: str(getattr(metadata, field.name)) for field in fields(VoiceMetadata)}


def _from_text(path: Path, text: dict[str, str]) -> VoiceMetadata:
    kinds = {field.name: float if isinstance(field.default, float) else str for field in fields(VoiceMetadata)}
    try:
        return VoiceMetadata(**{name: kind(text[name]) for name, kind in kinds.items() if name in text})  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise VoiceFileError(f"{path} has damaged metadata: {error}") from None


def _write_atomically(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
        Path(temporary).chmod(_MODE)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise VoiceFileError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise VoiceFileError(f"{path} is over {MAX_BYTES >> 20} MB: it is not a voice file")
    return data


def _header_metadata(path: Path, data: bytes) -> dict[str, str]:
    """`__metadata__` of a whole safetensors file: 8 bytes of length, a JSON header, the tensors' bytes."""
    if not data:
        raise VoiceFileError(f"{path} is empty")
    if len(data) < 9 and b"\0" in data:
        raise VoiceFileError(f"{path} is cut short: {len(data)} bytes")
    if data[8:9] != b"{":
        raise VoiceFileError(f"{path} is not a voice file (not safetensors)")
    end = 8 + int.from_bytes(data[:8], "little")
    if end > MAX_BYTES:
        raise VoiceFileError(f"{path} is not a voice file (not safetensors)")
    if end > len(data):
        raise VoiceFileError(f"{path} is cut short: {len(data)} bytes, and its header alone takes {end}")
    try:
        header = json.loads(data[8:end])
        metadata = header.pop("__metadata__", {})
        needed = end + max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError):
        raise VoiceFileError(f"{path} is not a voice file (its safetensors header is damaged)") from None
    if len(data) < needed:
        raise VoiceFileError(f"{path} is cut short: {len(data)} of {needed} bytes")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise VoiceFileError(f"{path} is not a voice file (its metadata is damaged)")
    return metadata


def _check_origin(path: Path, text: dict[str, str]) -> None:
    if text.get("format") != FORMAT:
        raise VoiceFileError(f"{path} is a safetensors file, but not a voice: `chatterline voices add` makes those")
    version = text.get("version", "")
    if version != str(VERSION):
        newer = version.isascii() and version.isdecimal() and version > "1"
        why = "a newer Chatterline made it" if newer else "there is no such version"
        raise VoiceFileError(f"{path} is of version {version[:20]!r}, and this program reads {VERSION}: {why}")
    if text.get("model") != MODEL_FAMILY:
        made_for = text.get("model", "no model named")
        raise VoiceFileError(f"{path} holds a voice that was made for another model: {made_for}, not {MODEL_FAMILY}")


def _problems(tensors: dict[str, torch.Tensor]) -> list[str]:
    """What keeps the tensors from being a voice of this model family."""
    wanted = {field.name for field in fields(Voice)}
    if missing := sorted(wanted - tensors.keys()):
        return [f"no {name}" for name in missing]
    problems = [f"unexpected {name}" for name in sorted(tensors.keys() - wanted)]
    flow_tokens = tensors["flow_prompt_tokens"].numel()
    problems += _shape_problems("speaker_embedding", tensors, (SPEAKER_EMBEDDING,), torch.float32)
    problems += _shape_problems("x_vector", tensors, (X_VECTOR,), torch.float32)
    problems += _shape_problems("flow_prompt_mel", tensors, (FRAMES_PER_TOKEN * flow_tokens, MEL_BINS), torch.float32)
    problems += _token_problems("prompt_tokens", tensors, MAX_PROMPT_TOKENS)
    problems += _token_problems("flow_prompt_tokens", tensors, MAX_FLOW_PROMPT_TOKENS)
    return problems


def _shape_problems(
    name: str, tensors: dict[str, torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype
) -> list[str]:
    tensor = tensors[name]
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        return [f"{name} is {_described(tensor.dtype, tuple(tensor.shape))}, not {_described(dtype, shape)}"]
    return [] if bool(torch.isfinite(tensor).all()) else [f"{name} has values that are not finite"]


def _token_problems(name: str, tensors: dict[str, torch.Tensor], longest: int) -> list[str]:
    tensor = tensors[name]
    if tensor.dtype != torch.int64 or tensor.ndim != 1:
        return [f"{name} is {_described(tensor.dtype, tuple(tensor.shape))}, not a row of int64"]
    if not 1 <= len(tensor) <= longest:
        return [f"{name} has {len(tensor)} tokens, not 1 to {longest}"]
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0 or high >= SPEECH_TOKENS:
        return [f"{name} has tokens from {low} to {high}, outside 0 to {SPEECH_TOKENS - 1}"]
    return []


def _described(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"
