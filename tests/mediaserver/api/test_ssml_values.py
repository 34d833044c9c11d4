"""Values of SSML's attributes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.api.ssml_document import SsmlError
from mediaserver.api.ssml_values import MAX_BREAK_MS, break_ms, rate_of


@pytest.mark.parametrize(
    ("attributes", "milliseconds"),
    [
        ({}, 400),
        ({"strength": "none"}, 0),
        ({"strength": "x-weak"}, 100),
        ({"strength": "x-strong"}, 1000),
        ({"time": "500ms"}, 500),
        ({"time": " 1.5s "}, 1500),
        ({"time": ".25s"}, 250),
        ({"time": "+2s"}, 2000),
        ({"time": "0s"}, 0),
        ({"time": "10s"}, 10_000),
        ({"time": "300ms", "strength": "strong"}, 300),
    ],
)
def test_breaks(attributes: dict[str, str], milliseconds: int) -> None:
    assert break_ms(attributes, 1) == milliseconds


@pytest.mark.parametrize("time", ["", "5", "s", "ms", "-1s", "1 s", "1m", "1e3s", "10.1s", "3600s", "٣s", "999999999s"])
def test_times_that_are_none(time: str) -> None:
    with pytest.raises(SsmlError, match="break time") as raised:
        break_ms({"time": time}, 7)
    assert raised.value.line == 7


def test_a_strength_that_is_none() -> None:
    with pytest.raises(SsmlError, match="break strength 'huge' is not one of none, x-weak"):
        break_ms({"strength": "huge"}, 1)


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        ("x-slow", 0.5),
        ("slow", 0.75),
        ("medium", 1.0),
        ("default", 1.0),
        ("fast", 1.25),
        ("x-fast", 1.5),
        ("80%", 0.8),
        ("120%", 1.2),
        ("+20%", 1.2),
        ("-20%", 0.8),
        ("1.5", 1.5),
        (".5", 0.5),
        (" 100% ", 1.0),
        ("1000%", 10.0),
    ],
)
def test_rates(value: str, rate: float) -> None:
    assert rate_of(value, 1) == pytest.approx(rate)


@pytest.mark.parametrize("value", ["", "quick", "0", "0%", "-100%", "-300%", "%", "1.2.3", "nan", "inf", "1e2", "5 %"])
def test_rates_that_are_none(value: str) -> None:
    with pytest.raises(SsmlError, match="prosody rate") as raised:
        rate_of(value, 3)
    assert raised.value.line == 3


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_value_is_read_or_refused(value: str) -> None:
    try:
        assert 0 <= break_ms({"time": value}, 1) <= MAX_BREAK_MS
    except SsmlError as error:
        assert len(str(error)) < 200
    try:
        assert rate_of(value, 1) > 0
    except SsmlError as error:
        assert len(str(error)) < 250


@settings(deadline=None)
@given(st.integers(0, MAX_BREAK_MS))
def test_milliseconds_are_exact(milliseconds: int) -> None:
    assert break_ms({"time": f"{milliseconds}ms"}, 1) == milliseconds
    assert break_ms({"time": f"{milliseconds / 1000}s"}, 1) == milliseconds
