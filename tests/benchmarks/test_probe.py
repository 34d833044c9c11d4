"""The probe of the machine's own wake-up lateness."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.common import ROOT
from benchmarks.load.probe import INTERVAL_S, figures, lateness


def test_figures_are_of_wake_ups_20_ms_apart_in_milliseconds() -> None:
    late = [0.0001] * 100
    late[50] = 0.0051
    found = figures(late)
    assert found["p50"] == 0.0
    assert found["max"] == 5.0
    assert found["count"] == 96


def test_every_deadline_is_counted_and_never_early() -> None:
    late = lateness(0.1)
    assert len(late) == round(0.1 / INTERVAL_S)
    assert min(late) >= 0


def test_the_command_prints_json() -> None:
    command = [sys.executable, "-m", "benchmarks.load.probe", "0.1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(result.stdout)["count"] == 16
