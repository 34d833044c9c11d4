"""Headers that prove to an agent or a media stream's receiver that a connection comes from this server."""

from __future__ import annotations

import base64
import hashlib
import hmac

CALL_HEADER = "X-Chatterline-Call"
TWILIO_HEADER = "X-Twilio-Signature"
CHATTERLINE_HEADER = "X-Chatterline-Signature"


def twilio_signature(secret: str, url: str) -> str:
    """base64 of HMAC-SHA1 over the URL as it was configured; the secret stands for Twilio's auth token.

    https://www.twilio.com/docs/usage/security#validating-requests; a WebSocket's handshake has no parameters.
    """
    return base64.b64encode(hmac.digest(secret.encode(), url.encode(), hashlib.sha1)).decode()


def chatterline_signature(secret: str, url: str, call_id: str, unix_time: int) -> str:
    """`t=…,v1=…`: hexadecimal HMAC-SHA256 over "t.url.call_id".

    Unlike Twilio's it is good for one call at one time.
    """
    signed = f"{unix_time}.{url}.{call_id}".encode()
    return f"t={unix_time},v1={hmac.digest(secret.encode(), signed, hashlib.sha256).hex()}"


def signed_headers(secret: str, url: str, call_id: str, now: float) -> list[tuple[str, str]]:
    """What a handshake carries; without a secret only which call it is about. now: seconds since 1970."""
    headers = [(CALL_HEADER, call_id)]
    if secret:
        headers.append((TWILIO_HEADER, twilio_signature(secret, url)))
        headers.append((CHATTERLINE_HEADER, chatterline_signature(secret, url, call_id, int(now))))
    return headers
