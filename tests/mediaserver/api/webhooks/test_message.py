"""Body, headers and signature of a webhook."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest

from mediaserver.api.webhooks.message import headers_of, message_of, signature
from mediaserver.call.events import CallEvent

EVENT = CallEvent("mark.reached", "CA" + "1" * 32, {"name": "naïve", "utterance": 3}, at=1_700_000_000.25, number=17)


def test_the_body_has_everything_about_the_event() -> None:
    message = message_of(EVENT)

    assert json.loads(message.body) == {
        "id": message.delivery,
        "type": "mark.reached",
        "call_id": "CA" + "1" * 32,
        "at": 1_700_000_000.25,
        "number": 17,
        "data": {"name": "naïve", "utterance": 3},
    }
    assert "naïve".encode() in message.body  # UTF-8, not escapes
    assert (message.type, message.call_id, message.at) == (EVENT.type, EVENT.call_id, EVENT.at)


def test_each_message_has_an_id_of_its_own() -> None:
    first, second = message_of(EVENT), message_of(EVENT)

    assert first.delivery != second.delivery
    assert first.delivery.startswith("EV")
    assert len(first.delivery) == 34


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_data_that_json_cannot_hold_is_an_error(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        message_of(CallEvent("call.ended", "CA1", {"value": value}))


def test_a_lone_surrogate_does_not_cost_the_event() -> None:
    message = message_of(CallEvent("call.started", "CA1", {"from": "sip:\udcff@x"}))

    assert json.loads(message.body)["data"]["from"] == "sip:?@x"


def test_what_is_said_is_not_shown_by_repr() -> None:
    assert "secret words" not in repr(
        message_of(CallEvent("speech.interrupted", "CA1", {"heard_text": "secret words"}))
    )


def test_the_signature_is_hmac_sha256_of_time_and_body() -> None:
    expected = hmac.new(b"key", b'1700000000.{"a":1}', hashlib.sha256).hexdigest()

    assert signature(b"key", 1_700_000_000, b'{"a":1}') == f"t=1700000000,v1={expected}"
    # printf '0.' | openssl dgst -sha256 -hmac key
    assert signature(b"key", 0, b"") == "t=0,v1=85841b4efc3cd7776c3c8f9b7cca9e281c550e5d19889d78e9e669c6337f000d"


def test_the_signature_covers_time_and_body_and_key() -> None:
    signatures = {
        signature(b"key", 1, b"body"),
        signature(b"key", 2, b"body"),
        signature(b"key", 1, b"bodY"),
        signature(b"kez", 1, b"body"),
    }
    assert len(signatures) == 4


def test_headers_of_an_attempt() -> None:
    message = message_of(EVENT)
    headers = headers_of(message, b"key", 1_700_000_009.9)

    assert headers["Content-Type"] == "application/json"
    assert headers["X-Chatterline-Event"] == "mark.reached"
    assert headers["X-Chatterline-Delivery"] == message.delivery
    assert headers["X-Chatterline-Signature"] == signature(b"key", 1_700_000_009, message.body)
    assert headers["User-Agent"].startswith("Chatterline")
