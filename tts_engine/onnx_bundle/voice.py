"""A voice of the bundle: what the speech encoder makes of a recording, once, and keeps on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tts_engine.chatterbox.clip import read_clip
from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, MEL_BINS, SAMPLE_RATE, SPEECH_TOKENS, TOKEN_RATE
from tts_engine.onnx_bundle.faults import BundleError
from tts_engine.onnx_bundle.sessions import Array, run

logger = logging.getLogger(__name__)

MAX_CLIP_SECONDS = 30.0
"The encoder takes its prompts from the first 15 s; its memory grows with the rest."

_FORMAT = "1"


@dataclass(frozen=True)
class BundleVoice:
    """The speech encoder's outputs, by their names there."""

    audio_features: Array
    "(1, n, width) float: what the language model reads before the text."
    audio_tokens: Array
    "(1, m) int64: speech tokens that the decoder is prompted with."
    speaker_embeddings: Array
    "(1, 192) float."
    speaker_features: Array
    "(1, k, 80) float: the prompt's mel spectrogram, two frames a token."

    def with_prompt(self, seconds: float) -> BundleVoice:
        """With a decoder prompt of at most so long, cut at its end: tokens and frames go together from the start."""
        tokens = min(
            round(seconds * TOKEN_RATE), self.audio_tokens.shape[1], self.speaker_features.shape[1] // FRAMES_PER_TOKEN
        )
        if tokens == self.audio_tokens.shape[1]:
            return self
        frames = self.speaker_features[:, : tokens * FRAMES_PER_TOKEN]
        return BundleVoice(self.audio_features, self.audio_tokens[:, :tokens], self.speaker_embeddings, frames)


def problems(voice: BundleVoice) -> list[str]:
    """What is wrong with the arrays; [] for a voice."""
    found = []
    if voice.audio_features.ndim != 3 or not voice.audio_features.size:
        found.append(f"audio_features are {voice.audio_features.shape}")
    if voice.audio_tokens.ndim != 2 or not voice.audio_tokens.size:
        found.append(f"audio_tokens are {voice.audio_tokens.shape}")
    elif voice.audio_tokens.min() < 0 or voice.audio_tokens.max() >= SPEECH_TOKENS:
        found.append(f"audio_tokens are not all from 0 to {SPEECH_TOKENS - 1}")
    if voice.speaker_features.ndim != 3 or voice.speaker_features.shape[2] != MEL_BINS:
        found.append(f"speaker_features are {voice.speaker_features.shape}")
    found += [
        f"{name} holds what is no number" for name, array in _arrays(voice).items() if not np.isfinite(array).all()
    ]
    return found


def encode(encoder: Any, recording: Path, options: Any = None) -> BundleVoice:
    """Enrol a recording with a session of the speech encoder (`options`: RunOptions). Raises ClipError, BundleError."""
    clip = read_clip(recording)
    for warning in clip.warnings:
        logger.warning("%s: %s", recording, warning)
    samples = clip.samples[: int(MAX_CLIP_SECONDS * SAMPLE_RATE)]
    outputs = run(encoder, {"audio_values": samples[None]}, options)
    voice = BundleVoice(**{field.name: outputs[field.name] for field in fields(BundleVoice)})
    if found := problems(voice):
        raise BundleError(f"the speech_encoder made no voice of {recording}: {'; '.join(found)}")
    return voice


class VoiceCache:
    """A directory of enrolled voices; a file's name holds a digest of the recording and of the encoder."""

    def __init__(self, directory: Path | None, encoder: Path) -> None:
        """`directory` None: nothing is kept. `encoder`: the graph of the speech encoder."""
        self._directory = directory
        self._encoder = encoder

    def voice(self, name: str, recording: Path, enrol: Callable[[Path], BundleVoice]) -> BundleVoice:
        """From the cache, or as `enrol` makes it. Raises BundleError where the recording cannot be read."""
        try:
            digest = self._digest(recording)
        except OSError as error:
            raise BundleError(f"voice {name!r}: {recording}: {error.strerror}") from None
        path = None if self._directory is None else self._directory / f"{name}-{digest}.npz"
        voice = None if path is None else _read(path)
        if voice is None:
            voice = enrol(recording)
            logger.info("voice %s is enrolled from %s", name, recording.name)
            if path is not None:
                _write(path, voice)
        return voice

    def _digest(self, recording: Path) -> str:
        """Of the encoder only the graph is read: it names its weights, and sizes tell precisions apart."""
        digest = hashlib.sha256(_FORMAT.encode())
        for part in (recording, self._encoder):
            digest.update(hashlib.sha256(part.read_bytes()).digest())
        weights = sorted(self._encoder.parent.glob(f"{self._encoder.name}_data*"))
        digest.update(repr([(path.name, path.stat().st_size) for path in weights]).encode())
        return digest.hexdigest()[:16]


def _arrays(voice: BundleVoice) -> dict[str, Array]:
    return {field.name: getattr(voice, field.name) for field in fields(BundleVoice)}


def _read(path: Path) -> BundleVoice | None:
    """None where there is none, or a damaged one."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            voice = BundleVoice(**{field.name: stored[field.name] for field in fields(BundleVoice)})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s is damaged and is made anew: %s", path, error)
        return None
    if found := problems(voice):
        logger.warning("%s is damaged and is made anew: %s", path, "; ".join(found))
        return None
    return voice


def _write(path: Path, voice: BundleVoice) -> None:
    """Whole or not at all. A voice that cannot be kept is made anew next time: no reason not to speak."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **_arrays(voice))  # type: ignore[arg-type]  # its stub takes the names for its own
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        logger.warning("%s cannot be written, so the voice is enrolled again at the next start: %s", path, error)
