"""The two things that chatterbox-tts takes from torchaudio, for a torch that no torchaudio was built for.

There is no build for CPU versions of torch, nor for its newest releases. `fbank` is kaldi-native-fbank: on noisy sweeps
it differed from torchaudio 2.11's by at most 6e-4 in log energies of a spread of several units, rounding. `Resample`
is soxr, whose filter is another one: a clip's tokens may differ here and there, as they do between versions.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types

import kaldi_native_fbank
import numpy as np
import soxr
import torch

RATE = 16_000


class Resample(torch.nn.Module):
    """torchaudio.transforms.Resample."""

    def __init__(self, orig_freq: int, new_freq: int) -> None:
        super().__init__()
        self.orig_freq = orig_freq
        self.new_freq = new_freq

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """(B, samples) to (B, samples')."""
        resampled = soxr.resample(waveform.detach().cpu().numpy().T, self.orig_freq, self.new_freq)
        return torch.from_numpy(np.ascontiguousarray(resampled.T)).to(waveform)


def fbank(waveform: torch.Tensor, num_mel_bins: int = 23) -> torch.Tensor:
    """Kaldi's log-mel filter bank with its defaults: (1, samples) at 16 kHz to (frames, num_mel_bins)."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = num_mel_bins
    bank = kaldi_native_fbank.OnlineFbank(options)
    bank.accept_waveform(RATE, waveform[0].detach().cpu().float().tolist())
    bank.input_finished()
    return torch.from_numpy(np.stack([bank.get_frame(at) for at in range(bank.num_frames_ready)])).to(waveform)


def install() -> None:
    """Put the stand-in where `import torchaudio` finds it, unless there is one already."""
    if "torchaudio" in sys.modules:
        return
    names = ("torchaudio", "torchaudio.transforms", "torchaudio.compliance", "torchaudio.compliance.kaldi")
    modules = {name: types.ModuleType(name) for name in names}
    for name, module in modules.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    modules["torchaudio.transforms"].Resample = Resample  # type: ignore[attr-defined]
    modules["torchaudio.compliance.kaldi"].fbank = fbank  # type: ignore[attr-defined]
    sys.modules.update(modules)
