"""Our watermark against resemble-perth's own encoder, and what its detector finds."""

from __future__ import annotations

import audioop
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch

from tts_engine.chatterbox import torchaudio_stand_in
from tts_engine.chatterbox.watermark import Watermarker
from tts_engine.embedded.model import load_models, speak
from tts_engine.resample import FULL_SCALE, Samples, to_pcm16

RATE = 24_000


class _Stft(torch.nn.Module):
    """What torchaudio.transforms' Spectrogram (power=None) and InverseSpectrogram are in terms of torch."""

    def __init__(self, n_fft: int, win_length: int, hop_length: int, window_fn: Any, **_: Any) -> None:
        super().__init__()
        self.sizes = (n_fft, hop_length, win_length)
        self.register_buffer("window", window_fn(win_length))


class Spectrogram(_Stft):
    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        return torch.stft(signal, *self.sizes, self.window, pad_mode="reflect", return_complex=True)


class InverseSpectrogram(_Stft):
    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:
        return torch.istft(spectrum, *self.sizes, self.window)


class TimeStretch(torch.nn.Module):
    def __init__(self, n_freq: int, **_: Any) -> None:
        super().__init__()
        self.register_buffer("phase_advance", torch.zeros(n_freq, 1))  # in the weights; used in training only


@pytest.fixture(scope="module")
def perth() -> Iterator[Any]:
    """The package's own watermarker; pkg_resources and torchaudio, which it imports, are stood in for."""
    torchaudio_stand_in.install()
    spec = importlib.util.find_spec("perth")
    assert spec is not None
    (home,) = spec.submodule_search_locations or ()
    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda _package, name: str(Path(home) / "perth_net" / name)  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pkg_resources", resources)
        for stand_in in (Spectrogram, InverseSpectrogram, TimeStretch):
            patch.setattr(sys.modules["torchaudio.transforms"], stand_in.__name__, stand_in, raising=False)
        from perth.perth_net.perth_net_implicit.perth_watermarker import PerthImplicitWatermarker

        yield PerthImplicitWatermarker()


@pytest.fixture(scope="module")
def watermarker() -> Watermarker:
    return Watermarker()


@pytest.fixture(scope="module")
def speech() -> Samples:
    """Whole speech tokens of 960 samples, as the vocoder gives."""
    model = load_models({"heart"})["heart"]
    text = "Your appointment is on Monday at ten in the morning; please come a little early."
    pcm = b"".join(piece.pcm for piece in speak(model, text, 1.0, RATE, 5))
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / FULL_SCALE
    return samples[: len(samples) // 960 * 960]


def found(perth: Any, samples: Samples, rate: int = RATE) -> float:
    """The detector's confidence, 0 to 1."""
    return float(perth.get_watermark(samples, rate, round=False))


def in_pieces(watermarker: Watermarker, samples: Samples, size: int) -> Samples:
    stream = watermarker.stream()
    pieces = [stream.process(samples[at : at + size]) for at in range(0, len(samples), size)]
    return np.concatenate([*pieces, stream.flush()])


def test_a_whole_utterance_is_marked_as_the_reference_marks_it(
    perth: Any, watermarker: Watermarker, speech: Samples
) -> None:
    expected = perth.apply_watermark(speech, RATE)
    marked = watermarker.apply(speech)
    assert len(marked) == len(expected) == len(speech)
    np.testing.assert_allclose(marked, expected, atol=1e-5)
    assert np.abs(marked - speech).max() > 1e-3


@pytest.mark.parametrize("size", [2_400, 11_520])
def test_the_detector_finds_the_mark_in_the_joined_pieces(
    perth: Any, watermarker: Watermarker, speech: Samples, size: int
) -> None:
    assert found(perth, speech) < 0.1
    marked = in_pieces(watermarker, speech, size)
    assert found(perth, marked) > 0.9
    np.testing.assert_allclose(marked, perth.apply_watermark(speech, RATE), atol=1e-5)


def test_the_mark_survives_the_telephone(perth: Any, watermarker: Watermarker, speech: Samples) -> None:
    def heard(samples: Samples) -> Samples:
        ulaw = audioop.lin2ulaw(to_pcm16(soxr.resample(samples, RATE, 8_000)), 2)
        pcm = np.frombuffer(audioop.ulaw2lin(ulaw, 2), "<i2")
        return soxr.resample((pcm / 32768).astype(np.float32), 8_000, RATE)

    assert found(perth, heard(speech)) < 0.1
    assert found(perth, heard(watermarker.apply(speech))) > 0.9
