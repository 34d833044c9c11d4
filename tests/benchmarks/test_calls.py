"""The command: its limits, and one whole run against the fake server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import calls
from benchmarks.common import ROOT
from benchmarks.load import run

COMMAND = [sys.executable, str(ROOT / "benchmarks" / "calls.py")]
FAKE = f"{sys.executable} -m tests.benchmarks.fake_server"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--calls", "0"], "calls must be"),
        (["--calls", "100000"], "calls must be"),
        (["--sweep", "1,2,3,4,5,6,7,8,9,10,11,12,13"], "calls must be"),
        (["--sweep", "ten"], "invalid"),
        (["--rate", "0"], "must last"),
        (["--calls", "100", "--rate", "0.1"], "must last"),
        (["--sweep", "1,2,3,4,5,6,7,8", "--seconds", "500"], "all levels together"),
        (["--calls", "2000", "--rate", "50", "--seconds", "500"], "records would take"),
        (["--steady", "500"], "--steady takes"),
        (["--steady", "--generators", "2"], "--steady takes"),
        (["--table", "--calls", "5"], "exclude"),
        (["--prompts", "0"], "--prompts"),
        (["--text-seconds", "500"], "--text-seconds"),
        (["--generators", "3", "--calls", "2"], "--generators"),
        (["--uplink", "music"], "invalid choice"),
        (["--target", "192.0.2.1:5060"], "loopback"),
        (["--target", "127.0.0.1:sip"], "invalid"),
        (["--pid", "1"], "--target"),
    ],
)
def test_unbounded_or_foreign_runs_are_refused(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        calls.arguments(options)

    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err


def test_sweep_goes_upward() -> None:
    assert calls.arguments(["--sweep", "100,50,50,200"]).sweep == [50, 100, 200]


def test_modes_and_their_defaults() -> None:
    assert calls.arguments([]).calls == 50
    assert calls.arguments(["--table"]).table == [50, 200, 500, 1000]
    steady = calls.arguments(["--steady"])
    assert (steady.steady, steady.calls, steady.seconds) == (10, 200, 600.0)
    assert calls.arguments(["--steady", "60", "--calls", "20"]).calls == 20
    assert calls.arguments(["--no-uplink"]).uplink == "none"
    plan = run.make_plan(calls.arguments(["--table"]), 1000, ("127.0.0.1", 5060))
    assert plan.ramp == 40.0
    assert len({script[0] for script in plan.scripts}) == 10
    assert all(sorted(script) == sorted(plan.scripts[0]) for script in plan.scripts)


def test_texts_of_their_own() -> None:
    plan = run.make_plan(calls.arguments(["--unique", "--calls", "20"]), 20, ("127.0.0.1", 5060))

    texts = [text for script in plan.scripts for text in script]
    assert len(set(texts)) == len(texts) == 20 * len(plan.scripts[0])
    spoken = sum(len(text) for text in plan.scripts[0]) / 15
    assert spoken >= plan.hold
    assert max(len(text) for text in texts) < 2000


def test_server_gets_its_settings() -> None:
    args = calls.arguments(["--server-config", "c.toml", "--server-env", "CHATTERLINE_LOG__LEVEL=debug=x"])

    command, settings = run.launch(args, ("127.0.0.1", 5999), 9100, 50)

    assert command[0].endswith("/chatterline")
    assert command[1:] == ["serve", "--config", "c.toml"]
    assert settings["CHATTERLINE_SIP__PORT"] == "5999"
    assert settings["CHATTERLINE_METRICS__PORT"] == "9100"
    assert int(settings["CHATTERLINE_CALLS__MAX_CALLS"]) >= 50
    assert settings["CHATTERLINE_LOG__LEVEL"] == "debug=x"


def test_sweep_end_to_end(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    options = ["--sweep", "2,3", "--rate", "8", "--seconds", "0.5", "--json", str(path)]
    options += ["--server-command", FAKE, "--prompts", "1", "--text-seconds", "2"]

    run = subprocess.run([*COMMAND, *options], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)

    assert run.returncode == 0, run.stderr
    result = json.loads(path.read_text())
    assert result["benchmark"] == "calls"
    assert result["machine"]["cores"] >= 1
    assert result["parameters"]["sweep"] == [2, 3]
    first = result["levels"][0]
    assert first["calls"] == 2
    figures = first["figures"]
    assert (figures["calls"]["answered"], figures["calls"]["failed"]) == (2, 0)
    assert figures["rtp"]["lost"] == 0
    assert figures["server"]["rss_peak_mb"] > 5
    assert figures["server"]["cpu_percent"] is not None
    assert figures["generator"]["cpu_percent"] is not None
    assert {row["bound"] for row in first["bounds"]} >= {"packets lost", "server RSS peak, MB"}
    # Whether the timing bounds hold is this machine's affair; that the verdicts agree is ours.
    held = [level["calls"] for level in result["levels"] if level["held"]]
    assert result["highest_level_held"] == max(held, default=0)
    assert f"highest level that held all bounds: {max(held, default=0)}" in run.stdout
    assert len(result["levels"]) == (2 if first["held"] else 1)
    assert "INVITE to 200 OK" in run.stdout


def test_table_end_to_end(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    options = ["--table", "1,3", "--rate", "8", "--seconds", "1", "--json", str(path), "--server-command", FAKE]

    run = subprocess.run(
        [*COMMAND, *options, "--unique"], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )

    assert run.returncode == 0, run.stderr
    assert [level["calls"] for level in json.loads(path.read_text())["levels"]] == [1, 3]
    table = run.stdout[run.stdout.rindex("\ncalls ") :]
    assert table.splitlines()[1].split()[-2:] == ["1", "3"]
    assert "core %/call" in table
    assert "memory a call, from level to level" in table


def test_check_fails_where_a_bound_does(tmp_path: Path) -> None:
    # Nothing that answers there: the calls fail, the run itself does not.
    options = ["--target", "127.0.0.1:9", "--calls", "1", "--seconds", "0.2", "--rate", "5", "--unique"]
    command = [*COMMAND, *options, "--json", str(tmp_path / "r.json")]

    lenient = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    strict = subprocess.Popen([*command[:-1], str(tmp_path / "s.json"), "--check"], cwd=ROOT, stdout=subprocess.DEVNULL)

    assert lenient.wait(60) == 0
    assert strict.wait(60) == 1
    assert json.loads((tmp_path / "s.json").read_text())["levels"][0]["held"] is False


def test_server_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    command = [*COMMAND, "--server-command", "false", "--json", str(tmp_path / "r.json")]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert run.returncode == 1
    assert "the server ended with status 1" in run.stderr
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_leaves_no_server(tmp_path: Path, number: signal.Signals, status: int) -> None:
    pid_file = tmp_path / "pid"
    script = f"echo $$ > {pid_file}; exec {FAKE}"
    command = [*COMMAND, "--calls", "1", "--json", str(tmp_path / "r.json")]
    run = subprocess.Popen(
        [*command, "--server-command", f"sh -c '{script}'"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # Whoever runs the tests in the background has it ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    run.send_signal(number)

    assert run.wait(60) == status
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
    assert run.stderr
    run.stderr.close()
