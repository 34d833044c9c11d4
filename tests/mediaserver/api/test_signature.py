from __future__ import annotations

import hashlib
import hmac

from mediaserver.api.signature import chatterline_signature, signed_headers, twilio_signature

URL = "wss://agent.example.com/relay?tenant=a"


def test_twilio_signature_is_that_of_its_published_example() -> None:
    # https://www.twilio.com/docs/usage/security: the parameters of its POST follow the URL.
    parameters = "CallSidCA1234567890ABCDECaller+14158675309Digits1234From+14158675309To+18005551212"
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    assert twilio_signature("12345", url + parameters) == "RSOYDt4T1cUTdK1PDd93/VVr8B8="


def test_twilio_signature_depends_on_secret_and_url() -> None:
    assert len({twilio_signature("a", URL), twilio_signature("b", URL), twilio_signature("a", URL + "b")}) == 3


def test_own_signature_names_its_time() -> None:
    signature = chatterline_signature("secret", URL, "CA1", 1_700_000_000)
    expected = hmac.new(b"secret", f"1700000000.{URL}.CA1".encode(), hashlib.sha256).hexdigest()
    assert signature == f"t=1700000000,v1={expected}"


def test_headers() -> None:
    headers = dict(signed_headers("secret", URL, "CA1", 1_700_000_000.9))
    assert headers == {
        "X-Chatterline-Call": "CA1",
        "X-Twilio-Signature": twilio_signature("secret", URL),
        "X-Chatterline-Signature": chatterline_signature("secret", URL, "CA1", 1_700_000_000),
    }


def test_without_a_secret_nothing_is_signed() -> None:
    assert signed_headers("", URL, "CA1", 0) == [("X-Chatterline-Call", "CA1")]
