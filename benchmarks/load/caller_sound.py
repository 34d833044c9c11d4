"""What the callers' microphones send: made here, so that no recording is needed, the same for the same seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.load.analysis import MULAW
from benchmarks.load.uplink import CLOCK_RATE, FRAME_SAMPLES

SOUNDS = ("speech", "noise", "silence", "none")
"What --uplink may say; with none the callers send no RTP."
SECONDS = 24
FORMANTS = ((500.0, 80.0), (1500.0, 120.0), (2500.0, 160.0))
"Centre and bandwidth in Hz of a neutral vowel's."
LEVEL = 3000.0
"RMS of speech while it is voiced, 16-bit amplitude: -21 dBov."
ROOM = 20.0
"RMS of the noise behind it: -64 dBov."

_ORDER = np.argsort(MULAW, kind="stable")
_STEPS = MULAW[_ORDER].astype(np.float64)
_EDGES = (_STEPS[1:] + _STEPS[:-1]) / 2


def frames(sound: str, seed: int = 1) -> NDArray[np.uint8]:
    """N x FRAME_SAMPLES mu-law codes of one of SOUNDS (but none); ValueError for another."""
    if sound not in SOUNDS[:-1]:
        raise ValueError(f"no such sound: {sound}")
    samples = SECONDS * CLOCK_RATE
    if sound == "silence":
        return np.full((samples // FRAME_SAMPLES, FRAME_SAMPLES), 0xFF, np.uint8)
    rng = np.random.default_rng(seed)
    signal = rng.normal(0.0, ROOM, samples)
    if sound == "speech":
        signal += _speech(samples, rng)
    return encode(signal).reshape(-1, FRAME_SAMPLES)


def encode(samples: NDArray[np.float64]) -> NDArray[np.uint8]:
    """To the nearest value that mu-law (ITU-T G.711) has."""
    return _ORDER[np.searchsorted(_EDGES, samples)].astype(np.uint8)


def _speech(samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Voiced syllables, four a second, in phrases of some 3 s with 1 s between: pitch pulses through formants."""
    time = np.arange(samples) / CLOCK_RATE
    pitch = 120.0 + 15.0 * np.sin(2 * np.pi * 0.4 * time) + 6.0 * np.sin(2 * np.pi * 2.3 * time)
    phase = np.cumsum(pitch) / CLOCK_RATE
    excitation = np.zeros(samples)
    excitation[1:] = np.diff(np.floor(phase)) + rng.normal(0.0, 0.02, samples - 1)
    spectrum = np.fft.rfft(excitation)
    frequency = np.fft.rfftfreq(samples, 1 / CLOCK_RATE)
    gain = sum(width**2 / (width**2 + (frequency - centre) ** 2) for centre, width in FORMANTS)
    voice = np.fft.irfft(spectrum * np.sqrt(gain), samples)
    syllables = np.clip(np.sin(2 * np.pi * 4.0 * time) + 0.4, 0.0, 1.0)
    phrases = np.clip(40.0 * (0.75 - (time / 4.0) % 1.0), 0.0, 1.0)  # 3 s of 4, with an edge of 0.1 s
    voice *= syllables * phrases
    loud = np.abs(voice) > 0.01 * np.abs(voice).max()
    return np.asarray(voice * LEVEL / np.sqrt(np.mean(voice[loud] ** 2)))
