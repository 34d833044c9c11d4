"""The stream's behaviour; that the mark is Resemble AI's own is proved in tests/parity/test_watermark.py."""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.chatterbox import watermark as watermark_module
from tts_engine.chatterbox.watermark import DELAY_S, Watermarker, WatermarkError
from tts_engine.errors import EngineError
from tts_engine.resample import Samples

RATE = 24_000


@pytest.fixture(scope="module")
def watermarker() -> Watermarker:
    return Watermarker()


def voiced(seconds: float, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 140 * harmonic * time) / harmonic for harmonic in range(1, 20))
    wave = 0.1 * tone * (1 + np.sin(2 * np.pi * 4 * time)) + 0.003 * rng.normal(size=len(time))
    return wave.astype(np.float32)


def in_pieces(watermarker: Watermarker, samples: Samples, sizes: list[int]) -> tuple[Samples, int]:
    """The joined output, and the most that the stream ever held back."""
    stream, pieces, at, held = watermarker.stream(), [], 0, 0
    for size in sizes:
        pieces.append(stream.process(samples[at : at + size]))
        at += size
        held = max(held, min(at, len(samples)) - sum(map(len, pieces)))
    pieces.append(stream.process(samples[at:]))
    pieces.append(stream.flush())
    return np.concatenate(pieces), held


@pytest.mark.parametrize("length", [0, 1, 239, 240, 767, 768, 769, 960, 2_401, 24_000, 24_017])
def test_as_many_samples_come_out_as_go_in(watermarker: Watermarker, length: int) -> None:
    samples = voiced(2.0)[:length]
    marked = watermarker.apply(samples)
    assert marked.shape == samples.shape
    assert marked.dtype == np.float32
    assert np.isfinite(marked).all()


def test_the_mark_is_there_and_small(watermarker: Watermarker) -> None:
    samples = voiced(2.0)
    mark = watermarker.apply(samples) - samples
    assert 0.005 < np.sqrt(np.square(mark).mean()) / np.sqrt(np.square(samples).mean()) < 0.3
    # Below 2 kHz, where a telephone carries it.
    power = np.square(np.abs(np.fft.rfft(mark)))
    above = np.fft.rfftfreq(len(mark), 1 / RATE) > 2_200
    assert power[above].sum() < 1e-3 * power.sum()


def test_silence_stays_silence(watermarker: Watermarker) -> None:
    assert not watermarker.apply(np.zeros(RATE, np.float32)).any()


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.one_of(st.integers(0, 50), st.integers(0, 15_000)), max_size=12))
def test_the_size_of_the_pieces_makes_no_difference(watermarker: Watermarker, sizes: list[int]) -> None:
    samples = voiced(0.9)
    joined, held = in_pieces(watermarker, samples, sizes)
    assert len(joined) == len(samples)
    np.testing.assert_allclose(joined, watermarker.apply(samples), atol=1e-5)
    assert held <= DELAY_S * RATE


def test_a_stream_holds_back_no_more_than_it_says(watermarker: Watermarker) -> None:
    samples = voiced(2.0)
    _, held = in_pieces(watermarker, samples, [480] * 100)
    assert 0.2 * RATE < held <= DELAY_S * RATE


def test_streams_do_not_disturb_one_another(watermarker: Watermarker) -> None:
    first, second = voiced(1.0, seed=1), voiced(1.0, seed=2)
    a, b = watermarker.stream(), watermarker.stream()
    pieces = [(a.process(first[at : at + 4_000]), b.process(second[at : at + 4_000])) for at in range(0, RATE, 4_000)]
    joined = np.concatenate([*(piece for piece, _ in pieces), a.flush()])
    np.testing.assert_allclose(joined, watermarker.apply(first), atol=1e-5)


def test_an_endless_stream_keeps_nothing(watermarker: Watermarker) -> None:
    stream, second = watermarker.stream(), voiced(1.0)

    def held() -> int:
        spectrum = stream._marker
        tensors = (spectrum._signal, spectrum._spectra, spectrum._sum, spectrum._weight)
        # Of the storage, not of the view: a slice of a long tensor keeps all of it.
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    stream.process(second)
    stream.process(second)
    before = held()
    tracemalloc.start()
    for _ in range(6):
        stream.process(second)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held() <= 1.1 * before
    assert grown < 500_000


def test_a_missing_package_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watermark_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(WatermarkError, match=r"needs the package resemble-perth: pip install .*watermark = false") as e:
        Watermarker()
    assert isinstance(e.value, EngineError)


def installed_at(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Path:
    """Pretend that resemble-perth lies there, and give the path of its weights."""
    spec = importlib.machinery.ModuleSpec("perth", None, is_package=True)
    spec.submodule_search_locations = [str(directory)]
    monkeypatch.setattr(watermark_module.importlib.util, "find_spec", lambda _: spec)
    weights = directory / watermark_module._WEIGHTS
    weights.parent.mkdir(parents=True)
    return weights


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has no perth_net_250000.pth.tar"),
        (b"", "cannot be read"),
        (b"not a checkpoint", "cannot be read"),
        ({"step": 1}, "cannot be read"),
        ({"model": {"encoder.layers.0.conv.weight": torch.zeros(1)}}, "holds another network"),
    ],
)
def test_weights_that_are_not_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, said: str
) -> None:
    weights = installed_at(monkeypatch, tmp_path)
    if isinstance(content, bytes):
        weights.write_bytes(content)
    elif content is not None:
        torch.save(content, weights)
    with pytest.raises(WatermarkError, match=said):
        Watermarker()


def test_the_package_itself_is_not_imported() -> None:
    program = """
import sys
from tts_engine.chatterbox.watermark import Watermarker
Watermarker()
print("perth" in sys.modules, "librosa" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
