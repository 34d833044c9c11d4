"""The command: its options, its bounds, and one whole small run against the server."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks import control
from benchmarks.common import ROOT
from benchmarks.load import control_delays, control_runs, control_sockets, report


@pytest.mark.parametrize("options", [["--calls", "0"], ["--calls", "5000"], ["--sockets", "-1"], ["--sockets", "9999"]])
def test_unbounded_runs_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    # 0 would mean the default, were it not refused.
    with pytest.raises(SystemExit) as stopped:
        control.arguments(options)

    assert stopped.value.code == 2
    assert "must be" in capsys.readouterr().err


def test_sizes() -> None:
    assert control.arguments([]).size == control_runs.FULL
    assert control.arguments(["--quick"]).size == control_runs.QUICK
    size = control.arguments(["--calls", "20", "--sockets", "100"]).size
    assert (size.calls, size.sockets, size.says) == (20, 100, control_runs.FULL.says)


def test_a_call_has_spoken_before_its_turn_comes_again() -> None:
    full = control_runs.FULL

    assert full.gap * full.calls >= control_runs.LONGEST_TEXT_SECONDS - 0.01
    assert full.period * 0.9 > full.lead + full.last


def test_callers_interrupt_in_turn_after_all_else() -> None:
    size = control_runs.FULL

    spoken = control_delays.interruptions_of(size, seed=1)

    assert len(spoken) == size.calls * size.interruptions
    assert min(row.at for row in spoken) >= size.greeting + size.ask_seconds + size.lead
    assert max(row.at for row in spoken) < size.delays_seconds - size.last
    for call in range(size.calls):
        times = sorted(row.at for row in spoken if row.call == call)
        assert all(later - earlier > 5.0 for earlier, later in pairwise(times))


def test_both_kinds_of_window_have_the_same_texts() -> None:
    size = control_runs.FULL

    one, other = (control_sockets.texts_of(size, begin, ["a", "b", "c"]) for begin in (0.0, 50.0))

    assert [(row.call, row.text) for row in one] == [(row.call, row.text) for row in other]
    assert [row.at + 50.0 for row in one] == pytest.approx([row.at for row in other])
    assert max(row.at for row in one) <= size.window


def test_every_bound_and_every_figure_names_what_is_measured(tmp_path: Path) -> None:
    """One whole run; whether its bounds hold is the machine's affair."""
    path = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.control", "--quick", "--json", str(path)]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert run.returncode == 0, run.stderr
    result = json.loads(path.read_text())
    assert result["benchmark"] == "control"
    assert result["machine"]["cores"] >= 1
    figures = result["figures"]
    for bound in (*control.DELAYS, *control.SOCKETS):
        assert report.look_up(figures, bound.path) is not None, bound.name
    delays, sockets = figures["delays"], figures["sockets"]
    for kind, asked in (("say", "says"), ("say_cached", "cached"), ("tokens", "streams")):
        assert delays[kind]["asked"] == getattr(control_runs.QUICK, asked)
        assert (delays[kind]["refused"], delays[kind]["never_spoken"]) == (0, 0)
        assert 0 < delays[kind]["to_signal_ms"]["p50"] <= delays[kind]["to_audible_ms"]["p50"]
    assert delays["barge_in"]["trials"] == control_runs.QUICK.calls * control_runs.QUICK.interruptions
    assert delays["barge_in"]["to_silence_ms"]["count"] >= 1
    assert sockets["tokens"] > control_runs.QUICK.sockets
    assert sockets["with_agents"]["audible_percent"] > 0
    assert sockets["without_agents"]["audible_percent"] > 0
    assert (delays["agents"]["lost"], sockets["agents"]["lost"], sockets["agents"]["errors"]) == (0, 0, 0)
    assert all(row["bound"] in run.stdout for row in result["bounds"])


def test_check_fails_with_a_broken_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def slow(_args: object) -> dict[str, Any]:
        return {"delays": {"say": {"to_audible_ms": {"p95": 500.0}}}}

    monkeypatch.setattr(control, "measure", slow)

    options = ["--only", "delays", "--json", str(tmp_path / "r.json")]

    assert control.main(options) == 0
    assert control.main([*options, "--check"]) == 1
    assert json.loads((tmp_path / "r.json").read_text())["held"] is False
