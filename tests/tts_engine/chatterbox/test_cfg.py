from __future__ import annotations

from collections.abc import Iterator

import pytest

from tts_engine.chatterbox.cfg import VARIABLE, CfgScaleError, cfg_scale, parse_cfg_scale
from tts_engine.errors import EngineError


@pytest.fixture(autouse=True)
def _read_anew() -> Iterator[None]:
    cfg_scale.cache_clear()
    yield
    cfg_scale.cache_clear()


@pytest.mark.parametrize(
    ("value", "scale"),
    [
        ("", 0.0),
        ("  ", 0.0),
        ("0", 0.0),
        ("0.0", 0.0),
        ("-0", 0.0),
        ("0.5", 0.5),
        (" 1 ", 1.0),
        ("1e-2", 0.01),
        ("10", 10.0),
    ],
)
def test_a_strength(value: str, scale: float) -> None:
    assert parse_cfg_scale(value) == scale
    assert not str(parse_cfg_scale(value)).startswith("-")


@pytest.mark.parametrize("value", ["yes", "0,5", "-0.1", "nan", "inf", "-inf", "10.01", "1e9", "0.5 0.5", "0x1"])
def test_what_is_no_strength_is_refused_in_words(value: str) -> None:
    with pytest.raises(CfgScaleError, match=f"{VARIABLE} is .* must be a number from 0 .* to 10") as caught:
        parse_cfg_scale(value)
    assert repr(value) in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, EngineError)


def test_unset_is_no_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert cfg_scale() == 0.0


def test_it_is_read_once_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0.7")
    assert cfg_scale() == 0.7
    monkeypatch.setenv(VARIABLE, "3")
    assert cfg_scale() == 0.7


def test_an_error_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "much")
    with pytest.raises(CfgScaleError):
        cfg_scale()
    monkeypatch.setenv(VARIABLE, "0.2")
    assert cfg_scale() == 0.2
