"""The table of levels and its floors."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.load import report, scale


def figures(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "calls": {"failed": 0},
        "generator": {"kernel_drops": 0, "cpu_percent": 20.0},
        "spacing_error_ms": {"p50": 0.02, "p99": 0.9, "p99.9": 4.0, "max": 6.0},
        "rtp": {"lost": 0, "duplicated": 0, "gaps": 0, "short": 0},
        "server": {"cpu_percent_a_call": 0.09, "underruns": 0.0, "pacer_skipped": 0.0, "rss_mb": 100.0},
    }
    return {name: value | changes.get(name, {}) for name, value in good.items()}


def level(calls: int, found: dict[str, Any]) -> dict[str, Any]:
    bounds = report.check(found, scale.bounds(calls))
    return {"calls": calls, "held": report.held(bounds), "bounds": bounds, "figures": found}


@pytest.mark.parametrize(
    ("calls", "changes", "holds"),
    [
        (200, {}, True),
        (200, {"spacing_error_ms": {"p99": 1.1}}, False),
        (200, {"spacing_error_ms": {"p99.9": 5.1}}, False),
        (200, {"server": {"cpu_percent_a_call": 0.21}}, False),
        (500, {"spacing_error_ms": {"p99": 3.0, "p99.9": 40.0}}, True),
        (500, {"rtp": {"lost": 1}}, False),
        (500, {"server": {"underruns": 1.0}}, False),
        (500, {"server": {"cpu_percent_a_call": 0.19}}, True),
        (1000, {"server": {"cpu_percent_a_call": 0.11}}, False),
        (1000, {}, True),
        (50, {"spacing_error_ms": {"p99": 99.0}, "server": {"cpu_percent_a_call": 9.0}}, True),
        (50, {"calls": {"failed": 1}}, False),
        (50, {"rtp": {"short": 1}}, False),
        (1000, {"rtp": {"short": 1}}, False),
        (50, {"server": {"pacer_skipped": 1.0}}, False),
        (1000, {"server": {"pacer_skipped": 1.0}}, False),
        (1000, {"server": {"pacer_skipped": None}}, True),
        (1000, {"generator": {"kernel_drops": 1}}, False),
    ],
)
def test_floors(calls: int, changes: dict[str, Any], holds: bool) -> None:
    assert level(calls, figures(**changes))["held"] is holds


def test_a_floor_of_cpu_needs_the_servers_cpu() -> None:
    assert not level(200, figures(server={"cpu_percent_a_call": None}))["held"]


def test_table_has_a_column_a_level_and_says_what_broke() -> None:
    levels = [
        level(50, figures()),
        level(200, figures(server={"rss_mb": 130.0})),
        level(500, figures(rtp={"lost": 3, "gaps": 2, "short": 9}, server={"rss_mb": 190.0, "pacer_skipped": 6.0})),
    ]

    text = scale.text(levels)
    lines = {line[:16].strip(): line.split() for line in text.splitlines()}

    assert lines["calls"][-3:] == ["50", "200", "500"]
    assert lines["core %/call"][-3:] == ["0.090"] * 3
    assert lines["floor"][-3:] == ["-", "PASS", "FAIL"]
    assert lines["lost"][-3:] == ["0", "0", "3"]
    assert lines["gaps"][-3:] == ["0", "0", "2"]
    assert lines["skipped"][-3:] == ["0", "0", "6"]
    assert lines["short"][-3:] == ["0", "0", "9"]
    assert "of jitter alone" in text
    assert "500 calls: packets lost is 3, asked <= 0" in text
    assert "memory a call, from level to level: 205 KB" in text


def test_slope_needs_two_levels_with_memory() -> None:
    assert scale.memory_slope_kb([level(50, figures())]) is None
    assert scale.memory_slope_kb([level(50, figures()), level(200, figures(server={"rss_mb": None}))]) is None
