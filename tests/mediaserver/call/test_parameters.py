"""X- headers of INVITEs, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.call.parameters import (
    MAX_NAME_CHARS,
    MAX_PARAMETERS,
    MAX_VALUE_CHARS,
    check_headers,
    check_parameters,
    header_parameters,
)
from mediaserver.refusal import RefusedError


def test_the_x_headers_but_for_ours() -> None:
    headers = [("Via", "x"), ("X-Account", " 7 "), ("x-lower", "8"), ("X-TTS-Text", "hello"), ("x-tts-voice", "bob")]
    assert header_parameters(headers) == ({"X-Account": "7", "x-lower": "8"}, 0)


def test_they_are_bounded() -> None:
    many = [(f"X-{number}", "v") for number in range(MAX_PARAMETERS + 3)]
    found, left_out = header_parameters(many)
    assert len(found) == MAX_PARAMETERS
    assert left_out == 3
    long = [("X-A", "v" * (MAX_VALUE_CHARS + 1)), ("X-" + "n" * MAX_NAME_CHARS, "v"), ("X-B", "v" * MAX_VALUE_CHARS)]
    assert header_parameters(long) == ({"X-B": "v" * MAX_VALUE_CHARS}, 2)


@given(st.lists(st.tuples(st.text(max_size=80), st.text(max_size=300)), max_size=60))
def test_whatever_comes_stays_within_the_bounds(headers: list[tuple[str, str]]) -> None:
    found, left_out = header_parameters([(f"X-{name}", value) for name, value in headers])
    assert len(found) <= MAX_PARAMETERS
    assert len(found) + left_out <= len(headers)
    assert all(len(value) <= MAX_VALUE_CHARS for value in found.values())


def test_headers_of_ours() -> None:
    assert check_headers([("X-TTS-Text", "hi"), ("x-a", "")]) == (("X-TTS-Text", "hi"), ("x-a", ""))


@pytest.mark.parametrize(
    "headers",
    [
        [("Route", "<sip:x>")],
        [("X-", "v")],
        [("X-A B", "v")],
        [("X-A:", "v")],
        [("X-A", "v\r\nRoute: <sip:x>")],
        [("X-A", "v\x00")],
        [("X-A", "v" * (MAX_VALUE_CHARS + 1))],
        [("X-" + "n" * MAX_NAME_CHARS, "v")],
        [("X-A", "v")] * (MAX_PARAMETERS + 1),
    ],
)
def test_headers_that_are_not_sent(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(RefusedError) as refused:
        check_headers(headers)
    assert refused.value.fault.code == 400


def test_parameters_are_bounded() -> None:
    assert check_parameters({"a": "b"}) == {"a": "b"}
    for parameters in (
        {str(number): "" for number in range(MAX_PARAMETERS + 1)},
        {"a": "v" * (MAX_VALUE_CHARS + 1)},
        {"n" * (MAX_NAME_CHARS + 1): "v"},
    ):
        with pytest.raises(RefusedError):
            check_parameters(parameters)
