"""The probe of the machine's own wake-up lateness."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.common import ROOT
from benchmarks.load.probe import INTERVAL_S, figures, lateness


def test_figures_are_in_milliseconds() -> None:
    found = figures([0.0001] * 99 + [0.005])
    assert found["p50"] == 0.1
    assert found["max"] == 5.0
    assert found["count"] == 100


def test_every_deadline_is_counted_and_never_early() -> None:
    late = lateness(0.1)
    assert len(late) == round(0.1 / INTERVAL_S)
    assert min(late) >= 0


def test_the_command_prints_json() -> None:
    command = [sys.executable, "-m", "benchmarks.load.probe", "0.1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(result.stdout)["count"] == 20
