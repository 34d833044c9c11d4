"""Digits in INFO bodies, as the many devices write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.dtmf_info import (
    DEFAULT_DURATION_MS,
    DTMF_RELAY_TYPE,
    DTMF_TYPE,
    build_dtmf_relay,
    parse_dtmf_info,
    plan_dtmf_relay,
)
from mediaserver.rtp.dtmf_event import DIGITS, MAX_DURATION_MS, DtmfEvent


@pytest.mark.parametrize(
    ("body", "digit", "duration"),
    [
        (b"Signal=5\r\nDuration=160\r\n", "5", 160),
        (b"Signal= 5\r\nDuration= 160\r\n", "5", 160),
        (b"Signal = *\nDuration = 250", "*", 250),
        (b"signal=#\r\nduration=100", "#", 100),
        (b"Signal: d\r\nDuration: 90\r\n", "D", 90),
        (b"Duration=80\r\nSignal=0\r\n", "0", 80),
        (b"Signal=10\r\nDuration=80\r\n", "*", 80),
        (b"Signal=11\r\nDuration=80\r\n", "#", 80),
        (b"Signal=15\r\nDuration=80\r\n", "D", 80),
        (b"\r\nSignal=7\r\n\r\n", "7", DEFAULT_DURATION_MS),
        (b"Signal=7\r\nDuration=0\r\n", "7", DEFAULT_DURATION_MS),
        (b"Signal=7\r\nDuration=-5\r\n", "7", DEFAULT_DURATION_MS),
        (b"Signal=7\r\nDuration=long\r\n", "7", DEFAULT_DURATION_MS),
        (b"Signal=7\r\nDuration=99999999\r\n", "7", MAX_DURATION_MS),
        (b"Signal=7\r\nDuration=" + b"9" * 40, "7", DEFAULT_DURATION_MS),
        (b"Signal=7\r\nSignal=8\r\nVolume=10\r\n", "7", DEFAULT_DURATION_MS),
    ],
)
def test_dtmf_relay(body: bytes, digit: str, duration: int) -> None:
    assert parse_dtmf_info(DTMF_RELAY_TYPE, body) == DtmfEvent("ended", digit, duration, "info")


@pytest.mark.parametrize(("body", "digit"), [(b"5", "5"), (b" #\r\n", "#"), (b"11", "#"), (b"b", "B")])
def test_dtmf(body: bytes, digit: str) -> None:
    assert parse_dtmf_info(DTMF_TYPE, body) == DtmfEvent("ended", digit, DEFAULT_DURATION_MS, "info")


def test_dtmf_with_the_other_types_body() -> None:
    assert parse_dtmf_info(DTMF_TYPE, b"Signal=5\r\nDuration=160\r\n") == DtmfEvent("ended", "5", 160, "info")


def test_the_content_type_may_have_parameters_and_any_case() -> None:
    assert parse_dtmf_info(" Application/DTMF-Relay ; charset=utf-8", b"Signal=1\r\n") is not None


@pytest.mark.parametrize("signal", [b"16", b"!", b"flash"])
def test_a_hook_flash_is_no_digit(signal: bytes) -> None:
    assert parse_dtmf_info(DTMF_RELAY_TYPE, b"Signal=" + signal) is None
    assert parse_dtmf_info(DTMF_TYPE, signal) is None


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        (DTMF_RELAY_TYPE, b"", "Has No Signal"),
        (DTMF_RELAY_TYPE, b"Duration=100\r\n", "Has No Signal"),
        (DTMF_RELAY_TYPE, b"Signal=\r\n", "Is No Digit"),
        (DTMF_RELAY_TYPE, b"Signal=123\r\n", "Is No Digit"),
        (DTMF_RELAY_TYPE, b"Signal=E\r\n", "Is No Digit"),
        (DTMF_RELAY_TYPE, b"Signal=17\r\n", "Is No Digit"),
        (DTMF_RELAY_TYPE, b"5\r\n", "No Field"),
        (DTMF_RELAY_TYPE, b"Signal=\xb2\r\n", "Not ASCII"),
        (DTMF_RELAY_TYPE, b"Signal=5" + b" " * 256, "Octets"),
        (DTMF_TYPE, b"", "Is No Digit"),
        (DTMF_TYPE, b"12345", "Is No Digit"),
        ("text/plain", b"Signal=5", "Content-Type"),
    ],
)
def test_faults(kind: str, body: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_dtmf_info(kind, body)


def test_a_fault_does_not_quote_what_may_be_a_pin() -> None:
    with pytest.raises(ValueError, match="Is No Digit") as error:
        parse_dtmf_info(DTMF_TYPE, b"8263")
    assert "8263" not in str(error.value)


@given(st.sampled_from((DTMF_RELAY_TYPE, DTMF_TYPE)), st.binary(max_size=300))
def test_any_body_is_a_digit_or_a_fault(kind: str, body: bytes) -> None:
    try:
        event = parse_dtmf_info(kind, body)
    except ValueError:
        return
    assert event is None or (event.digit in DIGITS and 0 < event.duration_ms <= MAX_DURATION_MS)


@given(st.sampled_from(DIGITS), st.integers(1, MAX_DURATION_MS))
def test_what_is_built_is_read(digit: str, duration: int) -> None:
    body = build_dtmf_relay(digit, duration)
    assert body == f"Signal={digit}\r\nDuration={duration}\r\n".encode()
    assert parse_dtmf_info(DTMF_RELAY_TYPE, body) == DtmfEvent("ended", digit, duration, "info")


@pytest.mark.parametrize("digit", ["", "12", "w", "x"])
def test_only_digits_are_built(digit: str) -> None:
    with pytest.raises(ValueError, match="digit"):
        build_dtmf_relay(digit, 100)


def test_a_sequence_is_sent_at_the_pace_of_key_presses() -> None:
    plan = plan_dtmf_relay("1wW#2", duration_ms=100, gap_ms=60)
    assert [step.after_ms for step in plan] == [0, 1660, 1820]
    assert [step.body for step in plan] == [build_dtmf_relay(digit, 100) for digit in "1#2"]
    with pytest.raises(ValueError, match="digits"):
        plan_dtmf_relay("1 2")
