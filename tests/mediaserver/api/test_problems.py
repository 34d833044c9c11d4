"""Problem details: what every error looks like."""

from __future__ import annotations

from http import HTTPStatus

import httpx
import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException, WebSocketException

from mediaserver.api.problems import (
    Problem,
    problem_of_close,
    problem_of_http,
    problem_of_refusal,
    problem_of_validation,
)
from mediaserver.call.control import CallEndedError
from mediaserver.refusal import RefusedError


def test_the_document() -> None:
    problem = Problem(422, "invalid-ssml", "no end tag", title="Invalid SSML", headers={"X-A": "b"}, line=3)
    assert problem.document("/v1/calls") == {
        "type": "urn:chatterline:problem:invalid-ssml",
        "title": "Invalid SSML",
        "status": 422,
        "detail": "no end tag",
        "instance": "/v1/calls",
        "line": 3,
    }
    response = problem.response()
    assert (response.status_code, response.media_type, response.headers["x-a"]) == (
        422,
        "application/problem+json",
        "b",
    )
    assert "instance" not in problem.document()


def test_the_title_is_the_statuses_by_default() -> None:
    assert Problem(404, "a", "b").title == "Not Found"


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (CallEndedError(), 409, "call-ended"),
        (RefusedError(413, "Speech Queue Is Full"), 429, "queue-full"),
        (RefusedError(413, "Digit Queue Is Full"), 429, "queue-full"),
        (RefusedError(413, "Text Is Longer Than 2000 Characters"), 413, "too-long"),
        (RefusedError(503, "Call Limit Reached"), 503, "unavailable"),
        (RefusedError(404, "There Is No Trunk x"), 404, "not-found"),
        (RefusedError(400, "Unknown Voice 'x'"), 422, "not-possible"),
        (RefusedError(491, None), 409, "conflict"),
        (RefusedError(500, None), 502, "refused"),
        (RefusedError(486, None), 409, "refused"),
    ],
)
def test_refusals(error: RefusedError, status: int, slug: str) -> None:
    problem = problem_of_refusal(error)
    assert (problem.status_code, problem.slug, problem.detail) == (status, slug, error.fault.reason)


@pytest.mark.parametrize("code", [413, 503])
def test_when_to_try_again(code: int) -> None:
    """As the call says, or in a moment; other headers of SIP stay there."""
    headers = (("Retry-After", "17"), ("Warning", "399 a"))
    assert problem_of_refusal(RefusedError(code, "Queue Is Full", headers)).headers == {"Retry-After": "17"}
    assert problem_of_refusal(RefusedError(code, "Queue Is Full")).headers == {"Retry-After": "5"}


@given(st.integers(400, 699))
def test_every_refusal_is_a_problem(code: int) -> None:
    problem = problem_of_refusal(RefusedError(code, "a reason"))
    assert 400 <= HTTPStatus(problem.status_code) < 500 or problem.status_code in (502, 503)
    assert problem.document()["detail"] == "a reason"


def test_what_the_framework_raises() -> None:
    problem = problem_of_http(HTTPException(405, headers={"Allow": "GET"}))
    assert (problem.status_code, problem.slug, problem.headers) == (405, "method-not-allowed", {"Allow": "GET"})
    own = Problem(404, "no-such-call", "a")
    assert problem_of_http(own) is own


@pytest.mark.parametrize(
    ("code", "status"), [(4401, 401), (4403, 403), (4429, 429), (4404, 404), (1008, 400), (4000, 400), (4499, 400)]
)
def test_close_codes(code: int, status: int) -> None:
    assert problem_of_close(WebSocketException(code, "why")).status_code == status


def test_what_was_sent_is_not_told_again() -> None:
    error = RequestValidationError(
        [{"type": "string_type", "loc": ("body", "text"), "msg": "Input should be a string", "input": "1234"}]
    )
    problem = problem_of_validation(error)
    assert problem.detail == "not valid: body.text"
    assert problem.extensions == {"errors": [{"location": "body.text", "message": "Input should be a string"}]}


async def test_a_forgotten_content_type_is_told(client: httpx.AsyncClient) -> None:
    """curl sends a form unless it is told otherwise."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = (await client.post("/v1/calls", content='{"to": "a", "trunk": "self"}', headers=form)).json()
    (error,) = answer["errors"]
    assert error == {
        "location": "body",
        "message": "is no JSON object, or came without Content-Type: application/json",
    }
    (error,) = (await client.post("/v1/calls", json=[])).json()["errors"]
    assert error["message"].startswith("is no JSON object")


async def test_messages_are_ours_not_the_librarys(client: httpx.AsyncClient) -> None:
    both = {"to": "a", "trunk": "self", "text": "a", "ssml": "<speak>a</speak>"}
    answer = (await client.post("/v1/calls", json=both)).json()
    assert answer["errors"] == [{"location": "body", "message": "text and ssml exclude each other"}]


@settings(max_examples=30)
@given(st.lists(st.lists(st.text() | st.integers(), max_size=4), max_size=30))
def test_locations_can_be_sent_whatever_they_are(locations: list[list[str | int]]) -> None:
    """Keys are the client's: long ones, and lone surrogates."""
    error = RequestValidationError([{"type": "x", "loc": ("\ud800", *loc), "msg": "m"} for loc in locations])
    body = problem_of_validation(error).response("/").body
    assert len(body) < 20_000
