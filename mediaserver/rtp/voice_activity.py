"""Whether a caller speaks: a detector for each frame, cheap, and a closer look at the frames it liked.

The detector is WebRTC's (Gaussian mixtures over six bands), behind an energy floor and a noise follower, so that a
quiet line costs one look at its level. It likes tones, breath and loud noise as well as speech: is_speech() asks
for what only a voice has, a pitch for some time, and for more than the two lines of a tone.

Music passes for a voice, and people who talk beside the telephone are voices. A whisper has no pitch, so is none.
"""

from __future__ import annotations

import warnings

import numpy as np
import webrtcvad
from numpy.typing import NDArray

with warnings.catch_warnings():
    # As in codec.py: the standard library's until 3.13, audioop-lts from there on.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

SAMPLE_RATE = 8000
FRAME_MS = 20
FRAME_SAMPLES = SAMPLE_RATE * FRAME_MS // 1000

_OVER_NOISE = 2.0  # 6 dB: what is louder than the noise by less is the noise
_NOISE_RISE = 1.006  # a frame: 2.6 dB a second, slower than the pauses of speech come
_NOISE_FALL = 0.3  # of the way to a lower level, a frame

HALF_RATE = SAMPLE_RATE // 2
"The close look is taken below 1.8 kHz: a voice has its pitch there, and everything costs a half or a quarter."
HALF_FRAME = FRAME_SAMPLES // 2
_HALF_TAPS = 33
_CUTOFF_HZ = 1750
_HALF_FILTER = np.sinc((np.arange(_HALF_TAPS) - _HALF_TAPS // 2) * 2 * _CUTOFF_HZ / SAMPLE_RATE) * np.hamming(
    _HALF_TAPS
)
_HALF_FILTER /= np.sum(_HALF_FILTER)
HALF_CONTEXT = _HALF_TAPS - 1
"Earlier samples that to_half_rate() needs."

_SEGMENT = 2 * HALF_FRAME  # 40 ms: two periods of the lowest voice
_FFT = 512  # room for a linear autocorrelation of a segment
_BIN_HZ = HALF_RATE / _FFT
_FINE = 2 * _FFT  # the autocorrelation is interpolated to SAMPLE_RATE: high voices need it
_LAGS = slice(SAMPLE_RATE // 400, SAMPLE_RATE // 60 + 1)  # pitch: 60 to 400 Hz
_PERIODIC = 0.5  # autocorrelation at the pitch; of noise it stays below 0.3
_VOICED_SEGMENTS = 3  # 20 ms apart, so 80 ms with a pitch
# A tone has nearly all its power in one or two lines. DTMF and data tones lie above 650 Hz, where no voice has both
# its strongest harmonics; for call progress tones, below, the lines must be the narrow ones of a longer window.
_TONE_HZ = 650
_TONE_SHARE = 0.95
_STEADY_SAMPLES = 512
_STEADY_SHARE = 0.97

_HANN = np.hanning(_SEGMENT + 2)[1:-1]
_HANN_STEADY = np.hanning(_STEADY_SAMPLES + 2)[1:-1]
# Of a windowed segment the autocorrelation falls with the lag; divided by the window's own it does not.
_WINDOW_POWER = np.fft.rfft(_HANN, _FFT)
_WINDOW_CORRELATION = np.fft.irfft(np.abs(_WINDOW_POWER) ** 2, _FINE)[_LAGS]
_WINDOW_CORRELATION /= np.fft.irfft(np.abs(_WINDOW_POWER) ** 2, _FINE)[0]

Samples = NDArray[np.float64]
"Linear samples in the scale of 16-bit PCM."


def level_of(dbov: float) -> float:
    """The root mean square, in the scale of 16-bit samples, of a level in dBov (0: a full-scale square wave)."""
    return float(32768 * 10 ** (dbov / 20))


def level(pcm: bytes) -> float:
    """The root mean square of 16-bit PCM."""
    return float(audioop.rms(pcm, 2))


class VoiceActivity:
    """One caller's detector; frames must be given in order."""

    __slots__ = ("_floor", "_is_speech", "_noise", "level", "threshold")

    def __init__(self, energy_floor_dbov: float, aggressiveness: int) -> None:
        """Raises ValueError unless aggressiveness is 0 to 3, 3 being the hardest to please."""
        if aggressiveness not in range(4):
            raise ValueError(f"aggressiveness is {aggressiveness}, not 0 to 3")
        self._is_speech = webrtcvad.Vad(aggressiveness).is_speech
        self._floor = level_of(energy_floor_dbov)
        self._noise = 0.0
        self.level = 0.0
        "Root mean square of the frame last given to is_voiced."
        self.threshold = self._floor
        "Root mean square below which nothing is speech: the floor, or what exceeds the line's noise."

    def is_voiced(self, pcm: bytes) -> bool:
        """Whether 20 ms of 16-bit PCM at 8 kHz may be speech."""
        self.level = level = audioop.rms(pcm, 2)
        if level < self._floor:
            if self._noise > level:
                self._follow(level)
            return False
        self._follow(level)
        return level >= self.threshold and bool(self._is_speech(pcm, SAMPLE_RATE))

    def is_loud(self, pcm: bytes) -> bool:
        """As is_voiced, from the level alone; for when nothing is to be decided. Keeps the noise up to date."""
        level = audioop.rms(pcm, 2)
        if level >= self._floor or self._noise > level:
            self._follow(level)
        return bool(level >= self.threshold)

    def _follow(self, level: float) -> None:
        noise = self._noise
        if level < noise:
            noise += (level - noise) * _NOISE_FALL
        else:
            # From below the floor it may as well start there: nothing lower matters.
            noise = min(level, max(noise * _NOISE_RISE, self._floor / _OVER_NOISE))
        self._noise = noise
        self.threshold = max(self._floor, noise * _OVER_NOISE)


def to_half_rate(samples: Samples) -> Samples:
    """8 kHz to HALF_RATE, low-passed; an even number of samples. The first HALF_CONTEXT are context only."""
    # The two phases of the filter, each on its half of the samples: what would be dropped is not computed.
    even = np.convolve(samples[::2], _HALF_FILTER[::2], "valid")
    return np.asarray(even + np.convolve(samples[1::2], _HALF_FILTER[1::2], "valid")[:-1])


def is_speech(samples: Samples, threshold: float) -> bool:
    """Whether a voice louder than `threshold` (root mean square) is in `samples` at HALF_RATE: pitch, no mere tone."""
    count = len(samples) // HALF_FRAME - 1
    if count < 1:
        return False
    frames = samples[: (count + 1) * HALF_FRAME].reshape(count + 1, HALF_FRAME)
    segments = np.concatenate((frames[:-1], frames[1:]), axis=1)
    loud = np.mean(segments**2, axis=1) >= threshold**2
    if np.count_nonzero(loud) < _VOICED_SEGMENTS:
        return False
    power = np.abs(np.fft.rfft(segments[loud] * _HANN, _FFT)) ** 2
    voiced = _has_pitch(power) & ~_is_tone(power)
    return int(np.count_nonzero(voiced)) >= _VOICED_SEGMENTS and not _is_steady_tone(samples)


def _has_pitch(power: Samples) -> NDArray[np.bool_]:
    """For each row, the power spectrum of one segment."""
    correlation = np.fft.irfft(power, _FINE)
    peak = np.max(correlation[:, _LAGS] / _WINDOW_CORRELATION, axis=1)
    return np.asarray(peak >= _PERIODIC * correlation[:, 0])


def _is_tone(power: Samples) -> NDArray[np.bool_]:
    """For each row: one or two lines above the voice's lowest harmonics hold it all."""
    lobe = round(2 * HALF_RATE / _SEGMENT / _BIN_HZ)
    tones = np.zeros(len(power), bool)
    for row, spectrum in enumerate(power):
        share, lowest = _two_lines(spectrum, lobe)
        tones[row] = share >= _TONE_SHARE and lowest * _BIN_HZ >= _TONE_HZ
    return tones


def _is_steady_tone(samples: Samples) -> bool:
    """One or two narrow lines, wherever they are, hold the last 128 ms."""
    if len(samples) < _STEADY_SAMPLES:
        return False
    spectrum = np.abs(np.fft.rfft(samples[-_STEADY_SAMPLES:] * _HANN_STEADY)) ** 2
    return _two_lines(spectrum, 2)[0] >= _STEADY_SHARE


def _two_lines(spectrum: Samples, lobe: int) -> tuple[float, int]:
    """The share of the power in the two strongest lines, `lobe` bins to either side, and the bin of the lower one.

    The second line counts for its place only if it is not negligible.
    """
    rest = spectrum.copy()
    total = float(rest.sum())
    if not total:
        return 0.0, 0
    first = int(rest.argmax())
    around = slice(max(0, first - lobe), first + lobe + 1)
    strongest = float(rest[around].sum())
    rest[around] = 0
    second = int(rest.argmax())
    next_strongest = float(rest[max(0, second - lobe) : second + lobe + 1].sum())
    lowest = min(first, second) if next_strongest > 0.02 * strongest else first
    return (strongest + next_strongest) / total, lowest
