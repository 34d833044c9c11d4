"""A recording to clone a voice from: read, checked, and brought to 24 kHz mono as the reference's librosa does."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from tts_engine.chatterbox.constants import SAMPLE_RATE
from tts_engine.errors import EngineError
from tts_engine.resample import Samples

MIN_SPEECH_S = 5.0
MAX_CLIP_S = 600.0
MAX_BYTES = 512 << 20
MAX_CHANNELS = 8
MIN_RATE, MAX_RATE = 8_000, 192_000

SILENT_DBFS = -60.0
"A 20 ms frame below this is silence, whatever the rest is like."

SPEECH_RANGE_DB = 30.0
"A frame this far below the clip's loud frames (95th percentile) is background, not speech."

FRAME_S = 0.02
MAX_PAUSE_S = 0.3
"Gaps up to this long belong to the speech around them: stops and breaths, not pauses."

_CLIPPED_LEVEL = 0.999
_CLIPPED_RUN = 3
_CLIPPED_SHARE = 1e-4
_FULL_BAND_RATE = 16_000
_LATE_START_S = 1.0


class ClipError(EngineError):
    """A clip that no voice can be made from; the message says why."""


@dataclass(frozen=True)
class Clip:
    """A clip that a voice can be made from."""

    name: str
    "Base name of its file."
    samples: Samples
    "(n,) float32 at 24 kHz, as recorded: the loudness is not touched yet."
    speech_seconds: float
    warnings: tuple[str, ...]
    "What will be heard in the voice, in words."

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


def read_clip(path: Path) -> Clip:
    """Read any file that libsndfile knows: WAV, FLAC, Ogg, MP3 and more. Raises ClipError."""
    recorded, rate = _read(path)
    if not np.isfinite(recorded).all():
        raise ClipError(f"{path} holds samples that are not numbers")
    warnings = _clipping_warnings(recorded)
    # As librosa.load: the mean of the channels first, then soxr HQ, and a length rounded up.
    mono = recorded.mean(axis=1) if recorded.shape[1] > 1 else recorded[:, 0]
    samples = _resample(mono, rate)
    speech = _speech_frames(samples)
    seconds = float(speech.sum()) * FRAME_S
    if not speech.any():
        raise ClipError(f"{path} is silent: {len(samples) / SAMPLE_RATE:.1f} s, and nothing above {SILENT_DBFS:g} dBFS")
    if seconds < MIN_SPEECH_S:
        raise ClipError(
            f"{path} has {seconds:.1f} s of speech in {len(samples) / SAMPLE_RATE:.1f} s; "
            f"a voice needs at least {MIN_SPEECH_S:g} s, and 10 to 15 s make a better one"
        )
    if rate < _FULL_BAND_RATE:
        warnings.append(f"it was recorded at {rate} Hz: the voice will sound like a telephone")
    start = float(speech.argmax()) * FRAME_S
    if start > _LATE_START_S:
        warnings.append(f"it starts with {start:.1f} s without speech, which take that much of the prompt: trim them")
    return Clip(path.name, samples, seconds, tuple(warnings))


def _read(path: Path) -> tuple[npt.NDArray[np.float32], int]:
    """(frames, channels) float32 and the rate in Hz."""
    soundfile = _soundfile()
    try:
        if path.is_dir():
            raise ClipError(f"{path} is a directory, not a clip")
        size = path.stat().st_size
    except OSError as error:
        raise ClipError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        raise ClipError(f"{str(path)!r} is not a file name: {error}") from None
    if size == 0:
        raise ClipError(f"{path} is empty")
    if size > MAX_BYTES:
        raise ClipError(f"{path} is over {MAX_BYTES >> 20} MB; cut 10 to 15 s of clean speech out of it")
    try:
        with soundfile.SoundFile(path) as file:
            rate, channels = int(file.samplerate), int(file.channels)
            _check_layout(path, rate, channels)
            # The header may promise any length: what is read is bounded, not what is promised.
            frames = file.read(math.ceil(MAX_CLIP_S * rate) + 1, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise ClipError(f"{path} is not a sound file that can be read (WAV, FLAC, Ogg or MP3): {reason}") from None
    except OSError as error:
        raise ClipError(f"{path}: {error.strerror}") from None
    if len(frames) == 0:
        raise ClipError(f"{path} has no samples in it")
    if len(frames) > MAX_CLIP_S * rate:
        raise ClipError(f"{path} is longer than {MAX_CLIP_S / 60:g} minutes; cut 10 to 15 s of clean speech out of it")
    return frames, rate


def _soundfile() -> Any:
    try:
        import soundfile  # noqa: PLC0415 - only enrolment needs it
    except ImportError:
        raise ClipError("reading a clip needs the package soundfile: pip install soundfile") from None
    except OSError as error:
        raise ClipError(f"the package soundfile cannot load libsndfile: {error}") from None
    return soundfile


def _check_layout(path: Path, rate: int, channels: int) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ClipError(f"{path} has a sample rate of {rate} Hz, outside {MIN_RATE} to {MAX_RATE}")
    if channels > MAX_CHANNELS:
        raise ClipError(f"{path} has {channels} channels, more than {MAX_CHANNELS}")


def _resample(mono: npt.NDArray[np.float32], rate: int) -> Samples:
    """Resample with soxr HQ to exactly ceil(n x 24000 / rate) samples, as librosa.resample gives."""
    if rate == SAMPLE_RATE:
        return np.ascontiguousarray(mono)
    length = math.ceil(len(mono) * (SAMPLE_RATE / rate))
    resampled: Samples = soxr.resample(mono, rate, SAMPLE_RATE, "HQ")[:length]
    return np.pad(resampled, (0, length - len(resampled)))


def _speech_frames(samples: Samples) -> npt.NDArray[np.bool_]:
    """Which 20 ms frames are speech, by energy alone: within 30 dB of the loud frames, with short gaps closed.

    It cannot tell speech from music or steady noise; it is there to find clips that are mostly pauses.
    """
    size = int(FRAME_S * SAMPLE_RATE)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    if not len(frames):
        return np.zeros(0, np.bool_)
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    level = 10 * np.log10(np.maximum(power, 1e-20))
    loud = level[level > SILENT_DBFS]
    if not len(loud):
        return np.zeros(len(frames), np.bool_)
    speech: npt.NDArray[np.bool_] = level > max(SILENT_DBFS, float(np.percentile(loud, 95)) - SPEECH_RANGE_DB)
    _close_gaps(speech, round(MAX_PAUSE_S / FRAME_S))
    return speech


def _close_gaps(speech: npt.NDArray[np.bool_], longest: int) -> None:
    """Mark gaps of up to `longest` frames between speech as speech, in place."""
    at = np.flatnonzero(speech)
    for before, after in itertools.pairwise(at):
        if 1 < after - before <= longest + 1:
            speech[before + 1 : after] = True


def _clipping_warnings(recorded: npt.NDArray[np.float32]) -> list[str]:
    """Runs of samples at full scale: a single one may be a peak that was normalised to it."""
    full = np.abs(recorded) >= _CLIPPED_LEVEL
    runs = full[: -_CLIPPED_RUN + 1]
    for step in range(1, _CLIPPED_RUN):
        runs = runs[: len(full) - _CLIPPED_RUN + 1] & full[step : len(full) - _CLIPPED_RUN + 1 + step]
    share = float(runs.mean()) if runs.size else 0.0
    return [f"it is clipped ({share:.2%} of its samples): the voice will sound harsh"] if share > _CLIPPED_SHARE else []
