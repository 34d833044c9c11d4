"""From calls to figures, bounds and text."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load import report
from benchmarks.load.analysis import CallFigures
from benchmarks.load.report import Bound, check, failure, figures, held, summary

MS = 1_000_000
SECOND = 1000 * MS


def call(**changes: Any) -> dict[str, Any]:
    good = {
        "state": "done",
        "failure": "",
        "retransmissions": 0,
        "invite": 1 * SECOND,
        "answer": 1 * SECOND + 4 * MS,
        "ack": 1 * SECOND + 5 * MS,
        "bye": 11 * SECOND,
        "closed": 11 * SECOND + MS,
        "said": 2,
        "refused": 0,
        "received": 500,
        "lost": 0,
        "jitter_ms": 0.1,
    }
    return good | changes


def heard(**changes: Any) -> CallFigures:
    good: dict[str, Any] = {
        "packets": 500,
        "markers": 1,
        "talkspurts": 1,
        "spacing_error": np.full(499, 0.5),
        "spacing_vs_timestamp": np.full(499, 0.5),
        "drift_ppm": 1.0,
        "first_packet": 1 * SECOND + 6 * MS,
        "first_signal": 1 * SECOND + 45 * MS,
        "first_audible": 1 * SECOND + 85 * MS,
        "last_audible": 11 * SECOND - 20 * MS,
        "audible_share": 0.8,
    }
    return CallFigures(**(good | changes))


def of_one(**changes: Any) -> dict[str, Any]:
    return figures([call()], [heard(**changes)]) | {"generator": {"kernel_drops": 0}}


def test_figures_of_a_good_call() -> None:
    found = of_one()

    assert found["calls"]["failed"] == 0
    assert found["invite_to_200_ms"] == {"p50": 4.0, "p95": 4.0, "p99": 4.0, "max": 4.0, "count": 1}
    assert found["ack_to_first_packet_ms"]["p95"] == 1.0
    assert found["ack_to_first_signal_ms"]["p95"] == 40.0
    assert found["ack_to_first_audible_ms"]["p95"] == 80.0
    assert found["spacing_error_ms"] == {"p50": 0.5, "p99": 0.5, "p99.9": 0.5, "max": 0.5, "count": 499}
    assert found["drift_ppm"] == {"median": 1.0, "worst": 1.0}
    assert found["rtp"]["packets"] == 500
    assert found["calls"]["texts_said"] == 2
    assert 4.3 < found["mos"]["worst"] == found["mos"]["median"] < 4.5
    assert found["speech"]["audible_percent"] == 80.0
    assert found["speech"]["calls_ended_early"] == 0
    assert held(check(found))
    json.dumps(found, allow_nan=False)


def test_spacing_is_over_the_packets_of_all_calls() -> None:
    found = figures([call(), call()], [heard(), heard(spacing_error=np.array([9.0]))])

    assert found["spacing_error_ms"]["max"] == 9.0
    assert found["spacing_error_ms"]["count"] == 500


def test_worst_drift_keeps_its_sign() -> None:
    found = figures([call()] * 3, [heard(drift_ppm=d) for d in (3.0, -80.0, 20.0)])

    assert found["drift_ppm"] == {"median": 3.0, "worst": -80.0}


def test_speech_that_ended_before_the_call() -> None:
    assert of_one(last_audible=9 * SECOND)["speech"]["calls_ended_early"] == 1


@pytest.mark.parametrize(
    ("of_call", "of_media", "reason"),
    [
        ({}, {}, ""),
        ({"failure": "503 Busy", "state": "failed"}, {}, "503 Busy"),
        ({"state": "established"}, {}, "left established"),
        ({}, {"packets": 0}, "no RTP"),
        ({}, {"first_audible": None}, "no audible RTP"),
    ],
)
def test_why_a_call_failed(of_call: dict[str, Any], of_media: dict[str, Any], reason: str) -> None:
    assert failure(call(**of_call), heard(**of_media)) == reason


def test_a_leg_that_dies_is_short() -> None:
    calls = [call(), call(received=100), call(received=0), call(bye=0)]
    found = figures(calls, [heard(), heard(packets=104, duplicated=3, after_close=1), CallFigures(), heard()])

    # 9.995 s: 499 packets, of which 5 may be missing; the last call was ended by the server.
    assert (found["rtp"]["short"], found["rtp"]["short_calls"]) == (394 + 494, 2)
    assert found["rtp"]["lost"] == 0
    assert found["mos"]["worst"] == 1.0


def test_nothing_answered_is_figures_all_the_same() -> None:
    lost = call(state="failed", failure="INVITE not answered", answer=0, ack=0, bye=0)

    found = figures([lost, lost], [CallFigures(), CallFigures()])

    assert found["calls"]["failures"] == {"INVITE not answered": 2}
    assert found["invite_to_200_ms"]["p95"] is None
    assert not held(check(found))
    assert "INVITE not answered" in report.figures_text(found)
    assert "FAIL" in report.bounds_text(check(found))


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"lost": 1}, "packets lost"),
        ({"cuts": 1}, "speech cut off"),
        ({"packets": 493}, "packets short of 50 a second"),
        ({"first_audible": 1 * SECOND + 156 * MS}, "ACK to first audible p95, ms"),
        ({"spacing_error": np.full(499, 3.01)}, "|spacing - 20 ms| p99, ms"),
    ],
)
def test_each_bound_breaks_by_itself(changes: dict[str, Any], broken: str) -> None:
    rows = check(of_one(**changes))

    assert [row["bound"] for row in rows if not row["held"]] == [broken]


def test_bounds_on_the_servers_own_figures_need_them() -> None:
    found = of_one()
    assert held(check(found))

    found["server"] = {"rss_peak_mb": 300.5, "underruns": 1.0, "pacer_skipped": 1.0}

    assert {row["bound"] for row in check(found) if not row["held"]} == {
        "server RSS peak, MB",
        "underruns (server's count)",
        "intervals skipped (server's count)",
    }


def test_a_bound_at_its_limit_holds() -> None:
    bound = Bound("x", ("a", "b"), 3.0)

    assert held(check({"a": {"b": 3.0}}, [bound]))
    assert not held(check({"a": {"b": 3.001}}, [bound]))
    assert not held(check({"a": {}}, [bound]))
    assert not held(check({}, [bound]))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_percentiles_are_values_that_occurred_in_order(values: list[float]) -> None:
    found = summary(values)

    shown = {round(value, 3) for value in values}
    assert {found["p50"], found["p95"], found["p99"], found["max"]} <= shown
    assert found["p50"] <= found["p95"] <= found["p99"] <= found["max"]  # type: ignore[operator]
    assert found["count"] == len(values)


def test_percentile_of_a_hundred_values_is_the_nth() -> None:
    found = summary(range(1, 101), (50, 95, 99, 99.9))

    assert found == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p99.9": 100.0, "max": 100.0, "count": 100}


def test_text_shows_every_figure() -> None:
    found = of_one(lost=3) | {
        "server": {"cpu_percent": 41.5, "threads": [{"name": "python (main)", "cpu_percent": 30.5}]}
    }

    text = report.figures_text(found)

    assert "rtp lost" in text
    assert "41.50" in text
    assert "server thread python (main), cpu percent" in text
    bounds = report.bounds_text(check(found))
    assert bounds.count("FAIL") == 1
    assert bounds.count("n/a") == 3  # the server's own counts and memory are not known
    assert bounds.count("PASS") == len(report.BOUNDS) - 4
