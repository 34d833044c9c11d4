"""The serving benchmark: its options, its search, and a run over the embedded voice."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mediaserver.server
from benchmarks import serving
from benchmarks.load import engines

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    "options",
    [
        ["--streams", "0"],
        ["--seconds", "0"],
        ["--queued", "-1"],
        ["--queued", "1", "--pattern", "calls"],
        ["--reference", "--embedded"],
    ],
)
def test_options_that_mean_nothing_are_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        serving.arguments(options)

    assert stopped.value.code == 2


def test_levels_by_default() -> None:
    assert serving.arguments([]).streams == [1, 50, 100, 200]
    assert serving.arguments(["--find"]).streams == []
    assert serving.arguments(["--find", "--streams", "5"]).streams == [5]


def test_switch_interval_is_the_servers() -> None:
    assert serving.SWITCH_INTERVAL_S == mediaserver.server.SWITCH_INTERVAL_S


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("ahead_seconds=4", ("ahead_seconds", 4)),
        ("isolation=thread", ("isolation", "thread")),
        ("devices=('cuda:0',)", ("devices", ("cuda:0",))),
        ("a=b=c", ("a", "b=c")),
    ],
)
def test_settings(text: str, parsed: tuple[str, Any]) -> None:
    assert engines.setting(text) == parsed


def test_setting_without_a_value_is_refused() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="NAME=VALUE"):
        engines.setting("isolation")


def test_unknown_setting_is_named(tmp_path: Path) -> None:
    args = serving.arguments(["--weights", str(tmp_path), "--set", "colour=blue"])
    with pytest.raises(SystemExit, match="has no colour"):
        engines.chatterbox(args, 1)


def test_engine_is_made_of_the_options(tmp_path: Path) -> None:
    args = serving.arguments(["--weights", str(tmp_path), "--device", "cpu", "--set", "ahead_seconds=3"])

    assert engines.chatterbox(args, 7).limits.max_streams == 7


class FakeRun(serving.Run):
    """Levels hold up to a number, which is lower for a long time than for a short one."""

    def __init__(self, args: argparse.Namespace, limit: int, long_limit: int) -> None:
        super().__init__(args, None, None)  # type: ignore[arg-type]
        self._limits = (limit, long_limit)

    def level(self, streams: int, seconds: float) -> dict[str, Any]:
        limit = self._limits[seconds >= self._args.seconds]
        found = {"streams": streams, "seconds": seconds, "held": streams <= limit}
        self.levels.append(found)
        return found


def find(limit: int, long_limit: int, *options: str) -> tuple[FakeRun, dict[str, Any]]:
    run = FakeRun(serving.arguments(["--find", *options]), limit, long_limit)
    return run, run.find()


def test_find_confirms_for_the_full_time() -> None:
    run, found = find(300, 300)

    assert found["confirmed"]
    assert 285 <= found["streams"] <= 300
    assert run.levels[-1] == {"streams": found["streams"], "seconds": 60.0, "held": True}


def test_find_steps_back_where_the_full_time_breaks_it() -> None:
    _, found = find(300, 280)

    assert found["confirmed"]
    assert 250 <= found["streams"] <= 280 < found["trials"]


def test_find_gives_up_in_the_end() -> None:
    run, found = find(300, 10)

    assert found["streams"] == 0
    assert not found["confirmed"]
    assert sum(level["seconds"] == 60 for level in run.levels) == serving.STEPS_BACK


def test_find_of_nothing() -> None:
    assert find(0, 0)[1] == {"streams": 0, "trials": 0, "confirmed": False}


def test_find_begins_with_what_held_already() -> None:
    run = FakeRun(serving.arguments(["--find", "--streams", "100"]), 250, 250)
    run.level(100, 60.0)

    run.find()

    assert [level["streams"] for level in run.levels[:3]] == [100, 200, 400]


def test_find_stops_at_the_most() -> None:
    assert find(10_000, 10_000, "--most", "700")[1] == {"streams": 700, "trials": 700, "confirmed": True}


def test_event_loop_can_be_made() -> None:
    with asyncio.Runner(loop_factory=serving.loop_factory()) as runner:
        runner.run(asyncio.sleep(0))


def test_embedded_voice_end_to_end(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    options = ["--embedded", "--streams", "2", "--seconds", "1.5", "--warm-up", "0", "--json", str(path)]
    command = [sys.executable, "-m", "benchmarks.serving", *options]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)

    assert run.returncode == 0, run.stderr
    result = json.loads(path.read_text())
    (level,) = result["levels"]
    assert level["audio_s_per_s"] > 0
    assert level["measures"]
    assert "first p50" in run.stdout
    assert result["machine"]["cores"] >= 1
