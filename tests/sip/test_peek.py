"""What a datagram belongs to, before anybody parses it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sip.peek import branch_of, call_id_of
from tests.sip.doubles import make_request


def test_of_a_message() -> None:
    data = make_request("BYE", branch="z9hG4bKabc.d-e", call_id="f00d@x")
    assert branch_of(data) == "z9hG4bKabc.d-e"
    assert call_id_of(data) == "f00d@x"


@pytest.mark.parametrize("name", [b"Call-ID", b"call-id", b"i", b"I", b"CALL-ID \t"])
def test_spellings_of_the_call_id(name: bytes) -> None:
    assert call_id_of(b"BYE sip:x SIP/2.0\r\n" + name + b":  f00d \r\nCSeq: 1 BYE\r\n\r\n") == "f00d"


@pytest.mark.parametrize(
    "data", [b"", b"\r\n", b"Call-ID: x", b"BYE sip:x SIP/2.0\r\nX-Call-ID: x\r\n\r\n", b"\xff" * 99]
)
def test_of_others(data: bytes) -> None:
    assert branch_of(data) is None
    assert call_id_of(data) is None


@given(st.binary(max_size=300))
def test_anything_can_be_given(data: bytes) -> None:
    branch_of(data)
    call_id_of(data)


def test_hostile_datagrams_take_no_time() -> None:
    begun = time.process_time()
    for data in (b";branch=z9hG4bK" * 4000, b"\r\ni: " * 12_000, b"\r\ni" + b"\t" * 60_000, b"\r\ni:" + b" " * 60_000):
        branch_of(data)
        call_id_of(data)
    assert time.process_time() - begun < 0.5
