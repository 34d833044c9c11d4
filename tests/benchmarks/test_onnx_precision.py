from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import onnx_precision
from benchmarks.make_checkpoint import small_sizes, write_checkpoint
from benchmarks.onnx_precision import main
from tests.tts_engine.tensorrt.tiny_stage import tiny_stage
from tts_engine.tensorrt.layer_errors import AS_BUILT, EVERYTHING, Comparison, LayerError


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights")
    write_checkpoint(path, sizes=small_sizes(), unread=False)
    return path


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real stages take minutes to export."""
    monkeypatch.setattr(onnx_precision, "MAKERS", {"estimator": lambda _: tiny_stage()})
    monkeypatch.setattr(onnx_precision, "SIZES", {"estimator": {"rows": 2, "tokens": 9, "past": 1}})


def test_a_table_and_a_file_with_every_layer(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    main(["--weights", str(weights), "--half", "bfloat16", "--stages", "estimator", "--out", str(out)])
    said = capsys.readouterr().out
    assert "random weights, bfloat16" in said
    assert AS_BUILT in said
    result = json.loads(out.read_text())
    assert result["weights"]["kind"] == "random"
    assert result["weights"]["sizes"]["t3"]["layers"] == small_sizes().t3.layers
    assert (result["half"], result["benchmark"]) == ("bfloat16", "onnx_precision")
    stage = result["stages"]["estimator"]
    assert [each["variant"] for each in stage["variants"]][:2] == [EVERYTHING, AS_BUILT]
    assert stage["over_float16"] == 0
    assert {"layer", "op", "largest", "everything", "as_built"} == stage["layers"][0].keys()
    assert all(layer["as_built"]["error"] < 0.1 for layer in stage["layers"])


def test_random_weights_are_told_from_released_ones(weights: Path, tmp_path: Path) -> None:
    assert onnx_precision.kind_of(weights) == "random"
    assert onnx_precision.kind_of(tmp_path) == "released"


def test_lost_values_are_no_numbers() -> None:
    lost = LayerError("norm", "Add", 1e5, float("inf"), 3)
    found = [Comparison(name, {"y": float("inf")}, [lost]) for name in (EVERYTHING, AS_BUILT)]
    stage = onnx_precision.as_json("estimator", found)
    assert json.dumps(stage, allow_nan=False)
    assert stage["layers"][0]["everything"] == {"error": None, "overflows": 3}
    assert stage["over_float16"] == 1
    assert stage["variants"][0]["outputs"] == {"y": None}
