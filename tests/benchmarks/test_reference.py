"""The ratio to the reference."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.reference import best, ratio, usual_device


def level(streams: int, rate: float, held: bool) -> dict[str, Any]:
    return {"streams": streams, "audio_s_per_s": rate, "held": held}


LEVELS = [level(50, 48.0, True), level(200, 190.0, True), level(400, 350.0, False)]


def test_only_levels_that_held_are_compared() -> None:
    found = ratio(LEVELS, {"audio_s_per_s": 3.8})

    assert found == {
        "streams": 200,
        "served_audio_s_per_s": 190.0,
        "reference_audio_s_per_s": 3.8,
        "ratio": pytest.approx(50.0),
    }


def test_nothing_that_held_has_no_ratio() -> None:
    assert best(LEVELS[2:]) is None
    assert ratio([], {"audio_s_per_s": 3.8}) is None


def test_device_named_is_the_device() -> None:
    assert usual_device("cuda:1") == "cuda:1"
    assert usual_device("auto") == usual_device(None)
