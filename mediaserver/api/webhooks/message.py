"""A webhook on the wire: its body, its headers, its signature."""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from dataclasses import dataclass, field

from mediaserver.call.events import CallEvent

SIGNATURE_HEADER = "X-Chatterline-Signature"
EVENT_HEADER = "X-Chatterline-Event"
DELIVERY_HEADER = "X-Chatterline-Delivery"
USER_AGENT = "Chatterline-Webhooks/1"


@dataclass(frozen=True, slots=True)
class WebhookMessage:
    """One event, as it is posted: the same bytes at each attempt."""

    delivery: str
    "EV and 32 hexadecimal digits; the same at each attempt, so that receivers can tell a repetition."
    call_id: str
    type: str
    at: float
    "When it happened: seconds since 1970, UTC."
    body: bytes = field(repr=False)


def message_of(event: CallEvent) -> WebhookMessage:
    """What tells of an event: an id, and what GET /v1/events has of it.

    Raises TypeError or ValueError for data that JSON cannot hold.
    """
    delivery = "EV" + uuid.uuid4().hex
    fields = {
        "id": delivery,
        "type": event.type,
        "call_id": event.call_id,
        "at": event.at,
        "number": event.number,
        "data": dict(event.data),
    }
    body = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A lone surrogate cannot be UTF-8; what a peer sends must not cost the event.
    return WebhookMessage(delivery, event.call_id, event.type, event.at, body.encode(errors="replace"))


def headers_of(message: WebhookMessage, secret: bytes, now: float) -> dict[str, str]:
    """The headers of one attempt. now: seconds since 1970, which is signed, so that old requests cannot be replayed."""
    return {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        SIGNATURE_HEADER: signature(secret, int(now), message.body),
        EVENT_HEADER: message.type,
        DELIVERY_HEADER: message.delivery,
    }


def signature(secret: bytes, timestamp: int, body: bytes) -> str:
    """`t=TIMESTAMP,v1=HEX`: HMAC-SHA256 (RFC 2104) of the timestamp in decimal, a full stop and the body."""
    digest = hmac.new(secret, b"%d." % timestamp + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"
