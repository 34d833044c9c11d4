"""Resemble AI's Perth watermark: an inaudible mark below 2 kHz that says "synthetic speech" to their detector.

The function of resemble-perth 1.0.1 `PerthImplicitWatermarker.apply_watermark`, with the weights of its wheel. The
package itself is not imported: it works on whole utterances, and its import fails silently without pkg_resources
and torchaudio. Here the same arithmetic runs on a stream, and exactly: a spectrum frame's mark depends on 15 frames
to each side, so samples come out DELAY_S later than they go in, and chunk sizes make no difference.

One thing is approximate in a stream: the reference leaves alone frames under 5 % of the loudest frame of the whole
utterance, on a scale where 0 is -180 dBFS. Only digital silence is that low; a stream takes the loudest so far.
"""

from __future__ import annotations

import importlib.util
import math
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import nn

from tts_engine.chatterbox.constants import SAMPLE_RATE
from tts_engine.errors import EngineError
from tts_engine.resample import Resampler, Samples

RATE = 32_000
N_FFT = 2048
HOP = 320
MARKED_BINS = 128  # up to 2 kHz
HIDDEN = 256
REACH_FRAMES = 15
"To each side: five convolutions of 7 frames."

DELAY_S = (REACH_FRAMES * HOP + N_FFT) / RATE + 0.08
"Upper bound of what a stream holds back: the network's reach, half a window twice, two resamplers; 0.28 s measured."

_FLOOR = 1e-9  # magnitude that the scale calls 0: -180 dB
_SCALE_DB = 195.0  # its 1 is 15 dB
_MASK_SHARE = 0.05
_PAD = N_FFT // 2

_WEIGHTS = Path("perth_net", "pretrained", "implicit", "perth_net_250000.pth.tar")
_HOW_TO_INSTALL = "pip install --no-deps 'resemble-perth>=1.0.1', or set watermark = false"


class WatermarkError(EngineError):
    """The watermark cannot be applied here; the message says what is missing."""


class _Layer(nn.Module):
    """A convolution below the name that it has in the released file."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, kernel, padding=kernel // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        convolved: torch.Tensor = self.conv(x)
        return convolved


class PerthEncoder(nn.Module):
    """The residual that marks a spectrogram: names of its tensors as below `encoder.` in the released file."""

    def __init__(self) -> None:
        super().__init__()
        hidden = [_Layer(HIDDEN, HIDDEN, 7) for _ in range(5)]
        self.layers = nn.ModuleList([_Layer(MARKED_BINS, HIDDEN, 1), *hidden, _Layer(HIDDEN, MARKED_BINS, 1)])

    def forward(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """Scaled log magnitudes (B, 128, frames) to their residual, of the same shape."""
        *hidden, last = self.layers
        for layer in hidden:
            magnitudes = F.leaky_relu(layer(magnitudes))
        residual: torch.Tensor = last(magnitudes)
        return residual


class Watermarker:
    """Marks utterances; one serves any number of streams, which share its weights.

    On one CPU thread a second of speech takes 13 ms whole, 22 ms in pieces of half a second, 52 ms in pieces of 0.1 s.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Read the weights from the installed wheel. Raises WatermarkError."""
        with torch.device("meta"):
            encoder = PerthEncoder()
        try:
            encoder.load_state_dict(_encoder_weights(), assign=True)
        except RuntimeError:  # its message lists every tensor
            raise WatermarkError(f"this resemble-perth holds another network than ours: {_HOW_TO_INSTALL}") from None
        self.encoder = encoder.to(device, torch.float32).eval().requires_grad_(False)
        self.device = torch.device(device)
        self.window = torch.hann_window(N_FFT, device=self.device)

    def apply(self, samples: Samples) -> Samples:
        """Mark a whole utterance: (n,) float32 at 24 kHz to as many."""
        stream = self.stream()
        return np.concatenate([stream.process(samples), stream.flush()])

    def stream(self) -> WatermarkStream:
        """For one utterance that comes in pieces."""
        return WatermarkStream(self)


class WatermarkStream:
    """One utterance at 24 kHz, marked piece by piece; the joined output is as long as the joined input."""

    def __init__(self, watermarker: Watermarker) -> None:
        self._up = Resampler(SAMPLE_RATE, RATE)
        self._down = Resampler(RATE, SAMPLE_RATE)
        self._marker = _MarkedSpectrum(watermarker)
        self._taken = 0
        self._given = 0

    def process(self, samples: Samples) -> Samples:
        """Take samples, give those that are ready: up to DELAY_S less than were taken, at first none."""
        self._taken += len(samples)
        ready = self._down.process(self._marker.process(self._up.process(samples.astype(np.float32, copy=False))))
        return self._counted(ready)

    def flush(self) -> Samples:
        """End the utterance: the samples held back. Nothing may follow."""
        if self._taken == 0:
            return np.zeros(0, np.float32)
        marked = self._marker.process(self._up.flush(), final=True)
        ready = self._counted(self._down.process(marked, final=True))
        return np.pad(ready, (0, self._taken - self._given))

    def _counted(self, ready: Samples) -> Samples:
        """Resamplers may round their output's length up: never more than was taken."""
        ready = ready[: self._taken - self._given]
        self._given += len(ready)
        return ready


class _MarkedSpectrum:
    """STFT, mark and inverse STFT of one 32 kHz signal: centred frames with reflected edges, as torch.stft makes them.

    Holds what comes next and its context, whatever the length of the signal.
    """

    def __init__(self, watermarker: Watermarker) -> None:
        self._encoder = watermarker.encoder
        self._window = watermarker.window
        device = watermarker.device
        self._length = 0  # samples taken
        self._given = 0
        self._padded = False
        self._signal = torch.zeros(0, device=device)
        "Padded signal from the next frame on; before the left edge is padded, all of it."
        self._spectra = torch.zeros(N_FFT // 2 + 1, 0, dtype=torch.complex64, device=device)
        "Frames to be marked, after `_context` frames that are marked already."
        self._context = 0
        self._loudest = torch.zeros((), device=device)
        self._sum = torch.zeros(N_FFT - HOP, device=device)
        self._weight = torch.zeros(N_FFT - HOP, device=device)
        "Overlapping frames, and the squares of their windows, from the next frame's first sample on."
        self._edge = _PAD
        "Samples of the left edge that are still to be dropped."

    def process(self, samples: Samples, *, final: bool = False) -> Samples:
        with torch.inference_mode():
            self._take(torch.from_numpy(np.ascontiguousarray(samples)), final=final)
            self._transform()
            ready = self._overlap_add(self._mark(final=final))
            if final:
                ready = torch.cat([ready, self._divided(N_FFT - HOP)])
            dropped = min(self._edge, len(ready))
            self._edge -= dropped
            ready = ready[dropped:][: self._length - self._given]
            self._given += len(ready)
            return ready.cpu().numpy()

    def _take(self, samples: torch.Tensor, *, final: bool) -> None:
        self._length += len(samples)
        signal = torch.cat([self._signal, samples.to(self._signal)])
        if final:
            # Whole frames, and enough for a reflection; what that adds to the output is cut off again.
            signal = F.pad(signal, (0, max(-self._length % HOP, _PAD + 1 - self._length)))
        if not self._padded and len(signal) > _PAD:
            signal = torch.cat([signal[1 : _PAD + 1].flip(0), signal])
            self._padded = True
        if final:
            signal = torch.cat([signal, signal[-_PAD - 1 : -1].flip(0)])
        self._signal = signal

    def _transform(self) -> None:
        """Spectra of all frames that are whole. More than `_PAD` samples stay behind: the right edge reflects them."""
        if not self._padded or len(self._signal) < N_FFT:
            return
        frames = self._signal.unfold(0, N_FFT, HOP)
        self._spectra = torch.cat([self._spectra, torch.fft.rfft(frames * self._window).T], dim=1)
        self._signal = self._signal[len(frames) * HOP :]

    def _mark(self, *, final: bool) -> torch.Tensor:
        """Marked spectra (bins, frames) of the frames whose neighbours are all there; at the end, of the rest."""
        end = self._spectra.shape[1] - (0 if final else REACH_FRAMES)
        start = self._context
        if end <= start:
            return self._spectra[:, :0]
        scaled = (20 * torch.log10(self._spectra.abs().clamp(min=_FLOOR)) - 20 * math.log10(_FLOOR)) / _SCALE_DB
        loudness = scaled.sum(dim=0)
        self._loudest = torch.maximum(self._loudest, loudness.max())
        residual = self._encoder(scaled[None, :MARKED_BINS])[0] * (loudness > _MASK_SHARE * self._loudest)
        marked = self._spectra[:, start:end].clone()
        marked[:MARKED_BINS] *= 10 ** (residual[:, start:end] * (_SCALE_DB / 20))
        self._context = min(end, REACH_FRAMES)
        self._spectra = self._spectra[:, end - self._context :]
        return marked

    def _overlap_add(self, marked: torch.Tensor) -> torch.Tensor:
        """Samples that no later frame reaches: HOP for each frame."""
        if not marked.shape[1]:
            return self._sum[:0]
        frames = torch.fft.irfft(marked.T, N_FFT) * self._window
        square = self._window**2
        self._sum = F.pad(self._sum, (0, len(frames) * HOP))
        self._weight = F.pad(self._weight, (0, len(frames) * HOP))
        for at, frame in enumerate(frames):
            self._sum[at * HOP : at * HOP + N_FFT] += frame
            self._weight[at * HOP : at * HOP + N_FFT] += square
        return self._divided(len(frames) * HOP)

    def _divided(self, count: int) -> torch.Tensor:
        ready = self._sum[:count] / self._weight[:count].clamp(min=1e-11)
        self._sum, self._weight = self._sum[count:], self._weight[count:]
        return ready


def _encoder_weights() -> Mapping[str, torch.Tensor]:
    spec = importlib.util.find_spec("perth")
    if spec is None or not spec.submodule_search_locations:
        raise WatermarkError(f"the watermark needs the package resemble-perth: {_HOW_TO_INSTALL}")
    path = Path(spec.submodule_search_locations[0]) / _WEIGHTS
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)["model"]
        return {
            name.removeprefix("encoder."): tensor for name, tensor in weights.items() if name.startswith("encoder.")
        }
    except FileNotFoundError:
        raise WatermarkError(
            f"this resemble-perth has no {_WEIGHTS.name}, the weights that we know: {_HOW_TO_INSTALL}"
        ) from None
    except (OSError, KeyError, RuntimeError, pickle.UnpicklingError, AttributeError, TypeError, EOFError) as error:
        raise WatermarkError(f"{path} cannot be read ({error}): install resemble-perth again") from None
