"""The roofline: its options, the shares that it takes over, and a run over a small model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import roofline

ROOT = Path(__file__).resolve().parent.parent.parent


def row(stage: str, shape: str, share: float) -> dict[str, Any]:
    return {"stage": stage, "shape": shape, "share_of_layered": share}


ROWS = [
    row("T3 step", "1 x 96", 0.9),
    row("T3 step", "64 x 96", 0.6),
    row("T3 step", "256 x 96", 0.7),
    row("T3 prefill", "1 x 32", 0.3),
    row("T3 prefill", "8 x 32", 0.4),
    row("flow", "1 x 270", 0.2),
    row("flow", "8 x 325", 1.1),
    row("estimator", "32 x 650", 0.5),
    row("vocoder", "32 x 150", 0.25),
]


def test_shares_are_those_of_usual_batches() -> None:
    shares = roofline.shares(ROWS)

    assert shares is not None
    assert (shares.step, shares.prefill, shares.flow, shares.vocoder) == (0.6, 0.3, 1.1, 0.25)


def test_stage_that_could_not_be_measured_leaves_no_projection() -> None:
    assert roofline.shares(ROWS[:-1]) is None


def test_shapes() -> None:
    assert roofline.arguments(["--flow", "2x270", "8x325"]).flow == [(2, 270), (8, 325)]


@pytest.mark.parametrize("shape", ["2", "0x5", "2x", "axb"])
def test_other_shapes_are_refused(shape: str) -> None:
    with pytest.raises(SystemExit):
        roofline.arguments(["--flow", shape])


def test_small_model_end_to_end(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    shapes = ["--rows", "2", "--prefill-rows", "1", "--flow", "1x260", "--vocoder", "1x34", "--estimator", "1x40"]
    command = [sys.executable, "-m", "benchmarks.roofline", "--small", "--device", "cpu", "--repeat", "1", *shapes]

    run = subprocess.run(
        [*command, "--json", str(path)], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )

    assert run.returncode == 0, run.stderr
    result = json.loads(path.read_text())
    assert [stage["stage"] for stage in result["stages"]] == [
        "T3 step",
        "T3 prefill",
        "flow",
        "estimator",
        "estimator, plain",
        "vocoder",
    ]
    assert all(stage["ms"] > 0 and stage["floor_ms"] > 0 for stage in result["stages"])
    assert result["ceilings"]["flop"] > 1e9
    assert result["projections"]["A10G"]["assumptions"]["memory_gb_s"] == 600
    assert "streams, always speaking" in run.stdout
