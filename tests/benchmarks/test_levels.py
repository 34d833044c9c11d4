"""Whether a level held."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.load.levels import HEADER, bounds, gpu_memory_mb, held, row


def level(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "streams": 200,
        "first_audio_ms": {"p50": 90.0, "p95": 150.0, "p99": 220.0, "max": 300.0, "count": 1000},
        "underruns": {"count": 0, "streams": 0, "total_ms": 0.0, "longest_ms": 0.0},
        "audio_s_per_s": 190.0,
        "refused": 0,
        "failed": 0,
        "cpu_percent": 20.0,
        "all_cpu_percent": 120.0,
        "loop_late_ms": {"p50": 0.1, "p99": 1.0, "p99.9": 2.0, "max": 3.0, "count": 100},
        "gpu_memory_mb": {"reserved": 7000.0, "driver": 8000.0},
        "held": True,
    }
    return good | changes


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, None),
        ({"first_audio_ms": {"p50": 90.0, "p95": 201.0, "p99": 220.0}}, "first audio p95, ms"),
        ({"first_audio_ms": {"p50": None, "p95": None, "p99": None}}, "first audio p95, ms"),
        ({"underruns": {"count": 1, "total_ms": 1.0, "longest_ms": 1.0}}, "underruns"),
        ({"refused": 1}, "refused"),
        ({"failed": 1}, "failed"),
    ],
)
def test_what_breaks_a_level(change: dict[str, Any], broken: str | None) -> None:
    found = level(**change)

    assert [bound.name for bound in bounds(found) if not bound.held] == ([broken] if broken else [])
    assert held(found) == (broken is None)
    assert len(row(found)) == len(HEADER)


def test_memory_and_the_first_audio_of_one_stream_are_judged_but_not_searched_for() -> None:
    found = level(streams=1, gpu_memory_mb={"reserved": 9000.0, "driver": 10_500.0})

    assert [bound.name for bound in bounds(found) if not bound.held] == [
        "GPU memory, MB",
        "first audio of one stream, p50, ms",
    ]
    assert held(found)


def test_memory_is_what_the_engine_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.load.levels._driver_mb", lambda: 123.0)
    figures = {"gpu_memory_bytes{device=cuda:0}": {"mean": 1e9, "max": 2e9}}

    assert gpu_memory_mb(figures) == {"reserved": 2000, "driver": 123}
    assert gpu_memory_mb({}) == {}
