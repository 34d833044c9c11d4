"""A long run minute by minute, shortened: minutes as the generator writes them, joined with the server's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.load import minutes, report, server, steady
from benchmarks.load.minutes import Minutes
from benchmarks.load.quality import listening_mos, spread
from benchmarks.load.reduction import Reduction
from benchmarks.load.server import Target
from benchmarks.load.shortfall import EDGE_PACKETS, Expected, Shortfall
from tests.benchmarks.test_analysis import START, records


def up(calls: int, since: float) -> Expected:
    expected = Expected(calls)
    for call in range(calls):
        expected.begin(call, since)
    return expected


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
    noted = Minutes(reduction, path, (101.0, 105.0), up(1, 100.0))
    assert noted  # and nothing is written before the window
    for at in range(350):
        reduction.add(made[[n == at for n in number]])
        if at % 10 == 9:
            noted.tick(100.0 + (at + 1) * 0.02)

    first, second = written(path)

    assert (first["minute"], second["minute"]) == (1, 2)
    assert (first["packets"], second["packets"]) == (98, 99)
    assert (first["lost"], second["lost"]) == (2, 1)
    assert (first["short"], second["short"]) == (0, 0)  # no more than the edges may be
    assert (first["gaps"], second["gaps"]) == (0, 0)
    assert first["spacing_error_ms"]["max"] == 0.7
    assert second["spacing_error_ms"]["max"] == 0.0
    assert first["mos"]["worst"] < second["mos"]["worst"] < 4.4
    assert second["drift_ppm"]["median"] is not None


def played(
    path: Path, monkeypatch: pytest.MonkeyPatch, made: np.ndarray, calls: int, expected: Expected | None = None
) -> list[dict[str, Any]]:
    """What is written of two minutes of 2 s, from 101 on; the calls are up from 100 on, where the records begin."""
    monkeypatch.setattr(minutes, "MINUTE", 2.0)
    reduction = Reduction(calls)
    noted = Minutes(reduction, path, (101.0, 105.0), expected or up(calls, 100.0))
    made = made[np.argsort(made["stamp"], kind="stable")]
    at = 100.0 + (made["stamp"] - START) / 1e9
    for quarter in range(1, 24):
        now = 100.0 + quarter * 0.25
        reduction.add(made[(at >= now - 0.25) & (at < now)])
        noted.tick(now)
    return written(path)


def test_a_leg_that_dies_is_short_and_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = np.concatenate((records(350), records(100, call=1)))  # the other's last packet comes at 101.98

    first, second = played(tmp_path / "m", monkeypatch, made, 2)

    assert (first["lost"], second["lost"]) == (0, 0)
    assert first["short"] == pytest.approx(50 - EDGE_PACKETS, abs=1)
    assert second["short"] == 100
    assert (first["short_calls"], second["short_calls"]) == (1, 1)
    assert 1.0 < first["mos"]["worst"] < 2.0
    assert second["mos"]["worst"] == 1.0
    assert second["mos"]["median"] > 4.3


def test_a_leg_that_never_sent_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = played(tmp_path / "m", monkeypatch, records(350), 2)

    assert (first["short"], second["short"]) == (100, 100)
    assert first["mos"]["worst"] == second["mos"]["worst"] == 1.0


def test_nothing_is_expected_of_a_call_before_and_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = up(2, 100.0)
    expected.end(1, 102.0)
    expected.end(1, 104.0)  # it is over once
    made = np.concatenate((records(350), records(100, call=1)))

    first, second = played(tmp_path / "m", monkeypatch, made, 2, expected)

    assert (first["short"], second["short"]) == (0, 0)
    assert second["mos"]["worst"] > 4.3  # of the call that is up


def test_skipped_intervals_are_a_gap_and_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = records(330)
    made["stamp"][160:] += 20 * 20_000_000
    made["timestamp"][160:] += np.uint32(20 * 160)
    made["mpt"][160] = 0x80

    first, second = played(tmp_path / "m", monkeypatch, made, 1)

    assert (first["gaps"], second["gaps"]) == (0, 1)
    assert second["spacing_error_ms"]["max"] == 400.0
    assert (first["short"], second["short"], second["lost"]) == (0, 20 - EDGE_PACKETS, 0)
    assert second["mos"]["worst"] < first["mos"]["worst"]


def test_a_new_ssrc_keeps_what_was_lost_and_is_not_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = records(350)
    made["ssrc"][150:] = 5
    made["sequence"][150:] += 1000
    made = np.delete(made, [120, 121])

    first, second = played(tmp_path / "m", monkeypatch, made, 1)

    assert (first["lost"], second["lost"], first["short"], second["short"]) == (2, 0, 0, 0)
    assert second["mos"]["worst"] > 4.3


def test_a_late_look_is_no_shortfall() -> None:
    shortfall = Shortfall(up(1, 0.0), 1)

    # At 60 s the reader had been held up, and had what came until 61 s.
    assert [shortfall.take(at, np.array([n]))[0] for at, n in ((60.0, 3050), (120.0, 6000), (180.0, 9000))] == [0] * 3
    assert shortfall.take(240.0, np.array([11_990])).tolist() == [10 - EDGE_PACKETS]
    assert shortfall.take(300.0, np.array([14_990])).tolist() == [0]  # told once
    assert shortfall.take(360.0, np.array([17_989])).tolist() == [1]  # the edges are allowed for once


def test_nothing_received_is_a_minute_all_the_same(tmp_path: Path) -> None:
    noted = Minutes(Reduction(2), tmp_path / "m", (0.0, 60.0), Expected(2))  # no call came up
    noted.tick(0.0)
    noted.tick(60.0)
    noted.tick(200.0)

    [row] = written(tmp_path / "m")
    assert row["packets"] == row["lost"] == row["short"] == 0
    assert row["mos"] == row["drift_ppm"] == {"median": None, "worst": None}


def row(**changes: Any) -> dict[str, Any]:
    good = {
        "packets": 600_000,
        "lost": 0,
        "short": 0,
        "gaps": 0,
        "duplicated": 0,
        "underruns": 0,
        "skipped": 0,
        "rss_mb": 200.0,
        "drift_ppm": {"median": 0.5, "worst": -2.0},
    }
    return good | changes


OUTCOME = {
    "calls": [{"failure": "", "lost": 0, "said": 3, "refused": 0}],
    "generator": {"kernel_drops": 0},
    "rtp": {"lost": 0},
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
    bad = {"underruns": 1, "skipped": 2, "short": 3, "gaps": 1, "drift_ppm": {"median": 0, "worst": -12.0}}
    rows = [row(rss_mb=200.0 + 0.5 * n, **bad) for n in range(10)]
    ended = {"failure": "ended by the server", "lost": 0, "said": 0, "refused": 0}

    changes = {"calls": [ended], "rtp": {"lost": 4}, "generator": {"kernel_drops": 1}}
    found = steady.figures(rows, OUTCOME | changes)

    assert set(broken(found)) == {bound.name for bound in steady.BOUNDS}
    assert found["memory_mb_an_hour"] == 30.0
    assert (found["lost"], found["short"], found["skipped"], found["gaps"]) == (4, 30, 20, 10)


def test_what_the_server_does_not_count_is_not_held_against_it() -> None:
    found = steady.figures([row(skipped=None, underruns=None)], OUTCOME)

    assert found["skipped"] is found["underruns"] is None
    assert broken(found) == []


def test_the_servers_own_count_of_skipped_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    name = server.METRICS["pacer_skipped"]
    pages = iter([{name: 7.0}, {name: 7.0}, {}, {name: 12.0}])
    monkeypatch.setattr(server, "read_page", lambda port: next(pages))
    of_server = steady.ServerMinutes(Target(("127.0.0.1", 1), None, 9), 0.0, 3)
    for now in (0.0, 60.0, 120.0, 180.0):
        of_server.tick(now)

    # The page that could not be read is made up for by the next one.
    assert [row["skipped"] for row in of_server.rows] == [0, None, 5]
    assert [row["underruns"] for row in of_server.rows] == [None] * 3


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
    assert listening_mos(0, 10, 0.0) == 1.0
    assert listening_mos(0, 0, 0.0) is None
    assert spread([4.0, None, 3.0, 4.2]) == {"median": 4.0, "worst": 3.0}
