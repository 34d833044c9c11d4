"""Packet loss concealment by waveform substitution, after ITU-T G.711 Appendix I.

Lost audio is replaced by repeating the last pitch period, then the last two and three, so that it does not buzz;
after 10 ms it fades, to silence at 60 ms. Unlike the appendix, nothing is delayed for an overlap at the start of a
loss: each repetition starts from the level at which the audio before it ended, and leaves it over a quarter of the
period. At the end of a loss the substitute goes on under the first audio that came and is faded into it.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

_RATE = 8000
_HISTORY = 480
"Samples of the past that are looked at."
_MAX_PIECES = 6
# The figures below gave the least spectral distance over telephone sentences with 2 and 5 % lost. The appendix has a
# search over 5-15 ms, a comparison of 20 ms, stages of 10 ms and an overlap of 4 ms for each 10 ms lost.
_MIN_PERIOD = 28
"Samples: 285 Hz."
_MAX_PERIOD = 120
"66 Hz."
_WINDOW = 80
"Samples compared when the period is sought."
_VOICED = 0.3
"Normalised correlation from which the audio counts as periodic."
_NOISE_PERIOD = 240
"Audio that has no period is repeated by so many samples: a shorter piece of noise sounds like a tone."
_FADE_START = 10 * _RATE // 1000
_FADE_END = 60 * _RATE // 1000
_STAGE = 20 * _RATE // 1000
"The number of periods repeated grows by one at each of the first two of these."
_OVERLAP = 2 * _RATE // 1000
"Samples of overlap at the end of a loss, for each 20 ms that it lasted."
_MAX_OVERLAP = 3 * _OVERLAP

_Samples = npt.NDArray[np.float32]

_FADE: _Samples = np.clip(
    (_FADE_END - np.arange(_FADE_END + _MAX_OVERLAP, dtype=np.float32)) / (_FADE_END - _FADE_START), 0, 1
)
"The gain of each sample of a loss."


class Concealment:
    """The last audio of one stream, 8 kHz PCM, and what to play where the next is missing. One thread's.

    Each frame that came is given to `heard`, and, if `active`, what to play in its stead is had from `resume`.
    """

    __slots__ = ("_history", "_missing", "_substitute", "active", "heard")

    def __init__(self) -> None:
        self._history: deque[bytes] = deque(maxlen=_MAX_PIECES)
        self.heard = self._history.append
        "Remember PCM that is played, 20 ms or less of it."
        self.active = False
        "The frame to come does not follow from what was heard: it must go through `resume`."
        self._missing = 0  # samples of the loss so far
        self._substitute: _Samples = np.zeros(0, np.float32)

    def reset(self) -> None:
        """Forget what was heard."""
        self._history.clear()
        self.active = False

    def conceal(self, samples: int) -> bytes:
        """PCM for `samples` that are missing; they go on from what was heard and from what was concealed before."""
        if not self.active:
            self.splice()
        start, self._missing = self._missing, self._missing + samples
        return _to_pcm(self._substitute[start : start + samples]).ljust(2 * samples, b"\0")

    def splice(self) -> None:
        """What comes next does not follow what was heard: audio between them was dropped."""
        history = b"".join(self._history)[-2 * _HISTORY :]
        self._substitute = _substitute(np.frombuffer(history, "<i2").astype(np.float32))
        self._missing = 0
        self.active = True

    def resume(self, pcm: bytes) -> bytes:
        """The first audio after a loss or splice, with the substitute faded into it."""
        self.active = False
        audio = np.frombuffer(pcm, "<i2").astype(np.float32)
        overlap = min(_MAX_OVERLAP, _OVERLAP * max(1, -(-self._missing // _STAGE)), len(audio))
        under = self._substitute[self._missing : self._missing + overlap]
        rising = (np.arange(overlap, dtype=np.float32) + 0.5) / max(1, overlap)
        audio[:overlap] *= rising
        audio[: len(under)] += under * (1 - rising[: len(under)])
        return _to_pcm(audio)


def _substitute(history: _Samples) -> _Samples:
    """Audio that goes on from a history, faded out: _FADE_END samples, and what an overlap takes beyond them."""
    period = _period(history)
    if not period:
        return np.zeros(len(_FADE), np.float32)
    pieces: list[_Samples] = []
    ready = 0
    while ready < len(_FADE):
        # Whole repetitions, so that a change of their number keeps the phase.
        periods = 1 if period >= _NOISE_PERIOD else min(3, 1 + ready // _STAGE)
        piece = _repetition(history, min(periods * period, len(history) - 1), max(8, period // 4))
        pieces.append(piece)
        ready += len(piece)
    substitute: _Samples = np.concatenate(pieces)[: len(_FADE)]
    return substitute * _FADE


def _repetition(history: _Samples, length: int, blend: int) -> _Samples:
    piece = history[-length:].copy()
    # It follows the end of itself, or of the history, which is the same.
    piece[:blend] += (history[-1] - history[-length - 1]) * (1 - np.arange(blend, dtype=np.float32) / blend)
    return piece


def _period(history: _Samples) -> int:
    """The pitch period in samples; 0: there is nothing worth repeating."""
    if len(history) < _WINDOW + _MAX_PERIOD or not history.any():
        return 0
    recent = history[-_WINDOW:]
    reach = history[-_WINDOW - _MAX_PERIOD : -_MIN_PERIOD]
    # products[i] is the correlation with what lies _MAX_PERIOD - i samples before.
    products = np.correlate(reach, recent, "valid")
    squares = np.concatenate((np.zeros(1), np.cumsum(reach.astype(np.float64) ** 2)))
    energies = squares[_WINDOW:] - squares[:-_WINDOW]
    scores = products / np.sqrt(np.maximum(energies * float(recent @ recent), 1.0))
    best = int(np.argmax(scores))
    return _MAX_PERIOD - best if scores[best] >= _VOICED else min(_NOISE_PERIOD, len(history) - 1)


def _to_pcm(audio: _Samples) -> bytes:
    return np.clip(np.rint(audio), -32768, 32767).astype("<i2").tobytes()
