"""What may be sent as an INVITE: nothing that an application gives breaks out of its place in the message."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sip.address import parse_name_addr
from sip.outgoing_invite import MAX_HEADERS, OutgoingInvite


def invite(**options: Any) -> OutgoingInvite:
    return OutgoingInvite(**{"target": "sip:bob@example.com", "from_uri": "sip:tts@example.com", **options})


def test_the_from() -> None:
    assert invite().from_address() == "<sip:tts@example.com>"
    assert invite(from_name='A "B" \\C').from_address() == '"A \\"B\\" \\\\C" <sip:tts@example.com>'


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "bob",
        "tel:+4930123",
        "sips:bob@example.com",
        "http://example.com",
        "sip:bob@example.com\r\nX: y",
        "sip:bob@example.com>",
        "sip:bob@example.com?Replaces=x",
        "sip:bob@example.com;transport=tcp",
        "sip:bob@exa mple.com",
        "sip:bob@example.com:99999",
    ],
)
@pytest.mark.parametrize("field", ["target", "from_uri"])
def test_uris_that_cannot_be_called(field: str, uri: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        invite(**{field: uri})


@pytest.mark.parametrize("uri", ["sip:bob@example.com;transport=UDP", "sip:+4930123@[2001:db8::1]:5070;user=phone"])
def test_uris_that_can(uri: str) -> None:
    assert invite(target=uri).target == uri


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A\r\nX-B", "v"),
        ("X A", "v"),
        ("", "v"),
        ("X-A", "v\r\nX-B: w"),
        ("X-A", "\x00"),
        ("X-A", "v" * 5000),
        ("Via", "SIP/2.0/UDP x"),
        ("cALL-ID", "x"),
        ("i", "x"),
        ("Authorization", "Digest x"),
        ("Require", "100rel"),
    ],
)
def test_headers_that_cannot_be_sent(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="header"):
        invite(headers=((name, value),))


def test_headers_are_bounded() -> None:
    invite(headers=(("X-A", "é"),) * MAX_HEADERS)
    with pytest.raises(ValueError, match="headers"):
        invite(headers=(("X-A", "v"),) * (MAX_HEADERS + 1))


@pytest.mark.parametrize("name", ["a\r\nb", "a\x00", "a" * 5000])
def test_display_names_that_cannot_be_sent(name: str) -> None:
    with pytest.raises(ValueError, match="display name"):
        invite(from_name=name)


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_a_display_name_stays_one(name: str) -> None:
    try:
        address = invite(from_name=name).from_address()
    except ValueError:
        assert not name.isprintable()
        return
    parsed = parse_name_addr(f"{address};tag=x")
    assert parsed.uri.text == "sip:tts@example.com"
    assert parsed.parameters == {"tag": "x"}
