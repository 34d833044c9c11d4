"""What enrolment says and costs; that it equals the reference is proved in tests/parity/test_enrol.py."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from tts_engine.chatterbox import enrol as enrol_module
from tts_engine.chatterbox.enrol import Encoders, EnrolmentError, chunk_gflop, enrol, load_encoders
from tts_engine.errors import EngineError

NO_ENCODERS = Encoders(None, None, None, "")


def test_a_full_prompt_costs_what_was_measured() -> None:
    # DESIGN: 1 s of speech behind 10 s: encoder 44, estimator 2 x 134, HiFT 31 GFLOP.
    assert chunk_gflop(10.0) == pytest.approx(44 + 2 * 134 + 31)


def test_a_shorter_prompt_costs_less_in_proportion_to_what_is_decoded() -> None:
    assert chunk_gflop(3.0) == pytest.approx((44 + 2 * 134) * 4 / 11 + 31)
    costs = [chunk_gflop(seconds) for seconds in (2, 4, 6, 8, 10)]
    assert costs == sorted(costs)
    # Longer chunks share the prompt.
    assert chunk_gflop(10.0, 4.0) / 4 < 0.5 * chunk_gflop(10.0)


@pytest.mark.parametrize("seconds", [0.0, 1.99, 10.01, -3.0, math.nan, math.inf])
def test_a_prompt_of_an_impossible_length(seconds: float) -> None:
    with pytest.raises(EnrolmentError, match=r"outside 2 to 10 s: shorter is cheaper") as caught:
        enrol(np.zeros(24_000, np.float32), NO_ENCODERS, seconds)
    assert isinstance(caught.value, EngineError)


@pytest.mark.parametrize("module", ["chatterbox", "pyloudnorm", "librosa"])
def test_without_the_reference_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    def without(name: str) -> object:
        if name.partition(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {module!r}")
        return object()

    monkeypatch.setattr(enrol_module.importlib, "import_module", without)
    with pytest.raises(EnrolmentError) as caught:
        load_encoders(tmp_path)
    message = str(caught.value)
    assert "pip install --no-deps -r requirements/reference.txt" in message
    assert "pip install -r requirements/reference-needs.txt" in message
    assert f"No module named {module!r}" in message
    assert "\n" not in message


def test_where_torchaudio_cannot_be_loaded_the_stand_in_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    imported = enrol_module.importlib.import_module

    def unloadable(name: str) -> object:
        if name.partition(".")[0] == "torchaudio":
            # As a torchaudio that was built for another torch does, half way.
            monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
            raise OSError("libtorch_cuda.so: cannot open shared object file")
        return imported(name)

    monkeypatch.setattr(enrol_module.importlib, "import_module", unloadable)
    enrol_module._provide_torchaudio()
    from tts_engine.chatterbox import torchaudio_stand_in

    assert sys.modules["torchaudio.compliance.kaldi"].fbank is torchaudio_stand_in.fbank
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)


def test_without_the_stand_ins_own_needs_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(enrol_module.importlib, "import_module", absent)
    with pytest.raises(EnrolmentError, match=r"reference-needs\.txt"):
        load_encoders(tmp_path)


def test_loudness_is_brought_to_the_target() -> None:
    pyloudnorm = pytest.importorskip("pyloudnorm")
    noise = np.random.default_rng(0).normal(0, 0.3, 5 * 24_000).astype(np.float32)
    normalised, loudness = enrol_module._normalised(noise, pyloudnorm)
    assert normalised.dtype == np.float32  # the speech tokenizer takes nothing else
    assert pyloudnorm.Meter(24_000).integrated_loudness(normalised) == pytest.approx(-27.0, abs=0.01)
    assert loudness == pytest.approx(pyloudnorm.Meter(24_000).integrated_loudness(noise))


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning", "ignore:Mean of empty slice:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_has_no_loudness_stays_as_it_is() -> None:
    pyloudnorm = pytest.importorskip("pyloudnorm")
    for samples in (np.zeros(48_000, np.float32), np.full(2000, 0.1, np.float32)):
        normalised, loudness = enrol_module._normalised(samples, pyloudnorm)
        np.testing.assert_array_equal(normalised, samples)
        assert loudness == -math.inf
