"""A long run minute by minute, shortened: minutes as the generator writes them, joined with the server's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.load import minutes, report, steady
from benchmarks.load.minutes import Minutes
from benchmarks.load.quality import listening_mos, spread
from benchmarks.load.reduction import Reduction
from benchmarks.load.server import Target
from tests.benchmarks.test_analysis import records


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_minute_has_its_own_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minutes, "MINUTE", 2.0)
    path = tmp_path / "minutes.jsonl"
    reduction = Reduction(1)
    made = records(350)
    made["stamp"][149:] += 700_000  # between packets of the first minute, which begins at 50 and ends with 149
    kept = [n for n in range(350) if n not in (40, 120, 121, 220)]
    made, number = made[kept], list(kept)
    noted = Minutes(reduction, path, (101.0, 105.0))
    assert noted  # and nothing is written before the window
    for at in range(350):
        reduction.add(made[[n == at for n in number]])
        if at % 10 == 9:
            noted.tick(100.0 + (at + 1) * 0.02)

    first, second = written(path)

    assert (first["minute"], second["minute"]) == (1, 2)
    assert (first["packets"], second["packets"]) == (98, 99)
    assert (first["lost"], second["lost"]) == (2, 1)
    assert first["spacing_error_ms"]["max"] == 0.7
    assert second["spacing_error_ms"]["max"] == 0.0
    assert first["mos"]["worst"] < second["mos"]["worst"] < 4.4
    assert second["drift_ppm"]["median"] is not None


def test_nothing_received_is_a_minute_all_the_same(tmp_path: Path) -> None:
    noted = Minutes(Reduction(2), tmp_path / "m", (0.0, 60.0))
    noted.tick(0.0)
    noted.tick(60.0)
    noted.tick(200.0)

    [row] = written(tmp_path / "m")
    assert row["packets"] == row["lost"] == 0
    assert row["mos"] == row["drift_ppm"] == {"median": None, "worst": None}


def row(**changes: Any) -> dict[str, Any]:
    good = {
        "packets": 600_000,
        "lost": 0,
        "duplicated": 0,
        "underruns": 0,
        "rss_mb": 200.0,
        "drift_ppm": {"median": 0.5, "worst": -2.0},
    }
    return good | changes


OUTCOME = {
    "calls": [{"failure": "", "lost": 0, "said": 3, "refused": 0}],
    "generator": {"kernel_drops": 0},
    "rtcp": {},
}


def broken(found: dict[str, Any]) -> list[str]:
    return [r["bound"] for r in report.check(found, steady.BOUNDS) if not r["held"]]


def test_a_steady_run_holds() -> None:
    found = steady.figures([row() for _ in range(10)], OUTCOME)

    assert broken(found) == []
    assert found["packets"] == 6_000_000
    assert found["memory_mb_an_hour"] == 0.0
    json.dumps(found, allow_nan=False)


def test_what_a_run_may_not_do() -> None:
    rows = [row(rss_mb=200.0 + 0.5 * n, underruns=1, drift_ppm={"median": 0, "worst": -12.0}) for n in range(10)]
    lost = {"failure": "ended by the server", "lost": 4, "said": 0, "refused": 0}

    found = steady.figures(rows, OUTCOME | {"calls": [lost], "generator": {"kernel_drops": 1}})

    assert set(broken(found)) == {bound.name for bound in steady.BOUNDS}
    assert found["memory_mb_an_hour"] == 30.0


def test_memory_that_grows_only_until_it_has_settled_is_flat() -> None:
    assert steady.memory_mb_an_hour([100.0 + min(n, 10) for n in range(60)]) == 0.0
    assert steady.memory_mb_an_hour([100.0, 130.0, 140.0] + [141.0] * 6) == 0.0  # a third of 9 minutes
    assert steady.memory_mb_an_hour([1.0, 2.0]) is None
    assert steady.memory_mb_an_hour([None] * 20) is None
    assert broken(steady.figures([], OUTCOME)) == ["drift of the worst call, ppm"]


def test_rows_join_generator_and_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "minutes.jsonl"
    rows = steady.Rows(path, steady.ServerMinutes(Target(("127.0.0.1", 1), os.getpid(), None), 100.0, 2))
    for now in (99.0, 100.0, 130.0, 160.0):
        rows.tick(now)
    assert rows.rows == []  # the generator has not written its minute yet
    path.write_text(json.dumps({"minute": 1, "lost": 7}) + "\n")
    rows.tick(161.0)

    [joined] = rows.rows
    assert (joined["minute"], joined["lost"], joined["underruns"]) == (1, 7, None)
    assert joined["rss_mb"] > 10
    assert joined["cpu_percent"] >= 0
    rows.tick(220.0)
    rows.join()
    assert len(rows.rows) == 1
    line = capsys.readouterr().out.splitlines()
    assert len(line) == 1
    assert len(line[0]) == len(steady.header_text())


def test_listening_quality_falls_with_loss_and_delay() -> None:
    clean = listening_mos(1000, 0, 0.1)
    lossy = listening_mos(950, 50, 0.1)
    late = listening_mos(1000, 0, 60.0)

    assert clean is not None
    assert lossy is not None
    assert late is not None
    assert 4.3 < clean < 4.5
    assert lossy < clean - 0.2
    assert late < clean - 0.1
    assert listening_mos(0, 10, 0.0) is None
    assert spread([4.0, None, 3.0, 4.2]) == {"median": 4.0, "worst": 3.0}
