"""What answers to a webhook mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.api.webhooks.outcome import MAX_RETRY_AFTER_S, outcome_of, parse_retry_after

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, "delivered"),
        (204, "delivered"),
        (299, "delivered"),
        (301, "failed"),
        (400, "failed"),
        (401, "failed"),
        (404, "failed"),
        (410, "refused"),
        (429, "away"),
        (500, "failed"),
        (502, "away"),
        (503, "away"),
        (504, "away"),
    ],
)
def test_verdicts(status: int, verdict: str) -> None:
    outcome = outcome_of(status, None, NOW)

    assert (outcome.verdict, outcome.reason, outcome.retry_after_s) == (verdict, str(status), None)


def test_retry_after_counts_where_the_application_is_away() -> None:
    assert outcome_of(503, "7", NOW).retry_after_s == 7.0
    assert outcome_of(429, "7", NOW).retry_after_s == 7.0
    assert outcome_of(500, "7", NOW).retry_after_s is None
    assert outcome_of(200, "7", NOW).retry_after_s is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("99999999999999999999", MAX_RETRY_AFTER_S),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tue, 14 Nov 2023 22:13:50", 30.0),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 0.0),
        ("Tue, 14 Nov 2099 22:00:00 GMT", MAX_RETRY_AFTER_S),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("\u0663", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@given(st.text(max_size=40))
def test_any_retry_after_is_bounded_or_none(value: str) -> None:
    seconds = parse_retry_after(value, NOW)

    assert seconds is None or 0.0 <= seconds <= MAX_RETRY_AFTER_S
