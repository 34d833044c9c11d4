"""The vocoder's 16-point Fourier transforms, hop 4, periodic Hann window, as plain convolutions.

`torch.stft` and `torch.istft` are complex and neither export nor capture; a strided and a transposed convolution with
the windowed DFT as their kernel are the same numbers. With `lengths` each row has its own right edge.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

POINTS = 16
HOP = 4
BINS = POINTS // 2 + 1
_HALF = POINTS // 2

_WINDOW = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(POINTS) / POINTS)
_ANGLES = 2 * np.pi * np.outer(np.arange(BINS), np.arange(POINTS)) / POINTS
_ENVELOPE = 1.5
"Sum of the squared windows over a sample, wherever four frames overlap."


def _analysis() -> np.ndarray:
    """(18, 1, 16): real parts of the nine bins, then imaginary parts."""
    return (np.concatenate([np.cos(_ANGLES), -np.sin(_ANGLES)]) * _WINDOW)[:, None]


def _synthesis() -> np.ndarray:
    """(18, 1, 16): the inverse real DFT, windowed, divided by the envelope of the interior."""
    weight = np.full((BINS, 1), 2.0)
    weight[[0, -1]] = 1.0  # The zero and the Nyquist frequency have no mirror image.
    kernel = np.concatenate([weight * np.cos(_ANGLES), -weight * np.sin(_ANGLES)])
    return (kernel * _WINDOW / (POINTS * _ENVELOPE))[:, None]


def _edge_gains() -> np.ndarray:
    """(6,): what the k-th sample counted from the end is to be multiplied by, k = -1 (beyond) to 4 (interior).

    The last four samples are covered by three frames only: the missing one would have covered them with the first
    quarter of its window. (The first four miss a last quarter, which differs by a sample: the window is periodic.)
    """
    return np.concatenate([[0.0], _ENVELOPE / (_ENVELOPE - _WINDOW[HOP - 1 :: -1] ** 2), [1.0]])


class _Transform(nn.Module):
    """Holds constants that no checkpoint has: built on the CPU even under a meta device, moved at first use."""

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, np.ndarray] = {}

    def _constant(self, name: str, value: np.ndarray) -> None:
        self._values[name] = value
        tensor = torch.tensor(value, dtype=torch.float32, device="cpu")
        self.register_buffer(name, tensor, persistent=False)

    def _at(self, name: str, device: torch.device) -> torch.Tensor:
        """The constant on this device, in float32 even if the module was cast."""
        tensor: torch.Tensor = getattr(self, name)
        if tensor.device != device or tensor.dtype != torch.float32:
            tensor = torch.tensor(self._values[name], dtype=torch.float32, device=device)
            setattr(self, name, tensor)
        return tensor


class Stft(_Transform):
    """Centred spectrum with reflected edges: (B, 1, N) float32 to (B, 18, N / 4 + 1), real parts then imaginary."""

    def __init__(self) -> None:
        super().__init__()
        self._constant("kernel", _analysis())

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """`lengths` (B,) samples: each row is reflected at its own end; its frames after lengths / 4 are not zeroed."""
        if lengths is None:
            padded = functional.pad(signal, (_HALF, _HALF), mode="reflect")
        else:
            last = (lengths - 1)[:, None, None]
            at = torch.arange(-_HALF, signal.shape[-1] + _HALF, device=signal.device).abs()[None, None]
            at = torch.where(at > last, 2 * last - at, at).clamp_(min=0)
            padded = signal.gather(-1, at)
        return functional.conv1d(padded, self._at("kernel", signal.device), stride=HOP)


class Istft(_Transform):
    """Inverse of a centred spectrum: (B, 18, N / 4 + 1) float32 to (B, N)."""

    def __init__(self) -> None:
        super().__init__()
        self._constant("kernel", _synthesis())
        self._constant("left", _ENVELOPE / (_ENVELOPE - _WINDOW[-HOP:] ** 2))
        self._constant("right", _edge_gains())
        self._constant("last", _edge_gains()[HOP:0:-1].copy())

    def forward(self, spectrum: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """`lengths` (B,) samples: frames after lengths / 4 must be zero; samples from lengths on are zero."""
        device = spectrum.device
        wave = functional.conv_transpose1d(spectrum, self._at("kernel", device), stride=HOP)[:, 0, _HALF:-_HALF]
        if lengths is None:
            wave[:, -HOP:] *= self._at("last", device)
        else:
            from_end = lengths[:, None] - torch.arange(wave.shape[-1], device=device)
            wave = wave * self._at("right", device)[from_end.clamp_(0, HOP + 1)]
        wave[:, :HOP] *= self._at("left", device)
        return wave
