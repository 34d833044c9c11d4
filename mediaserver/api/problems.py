"""Problem details for HTTP APIs (RFC 9457): what every error of the control interfaces looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, HTTPException, Request, WebSocket
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.exceptions import WebSocketException
from starlette.websockets import WebSocketState

from mediaserver.refusal import RefusedError

_log = structlog.get_logger("api")

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:chatterline:problem:"
QUEUE_RETRY_S = "5"
MAX_ERRORS = 20
"Of one request that are told."
MAX_LOCATION_CHARS = 100
WS_CODES = 4000
"Added to an HTTP status it is a WebSocket's close code, in the range for applications (RFC 6455 section 7.4.2)."
MAX_REASON_CHARS = 100
"A close frame has room for 123 bytes."

_NO_HEADERS: Mapping[str, str] = {}


class Problem(HTTPException):
    """An error that is told to whoever sent the request.

    Of FastAPI's own kind, so that it passes unchanged through what reads the body.
    """

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        *,
        title: str | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
        **extensions: Any,
    ) -> None:
        """slug: the last part of `type`, such as "call-ended". extensions: further members of the document."""
        super().__init__(status, detail, dict(headers))
        self.slug = slug
        self.title = title or HTTPStatus(status).phrase
        self.extensions = extensions

    def document(self, instance: str = "") -> dict[str, Any]:
        """The members of the JSON object; instance: path of the request."""
        return {
            "type": TYPE_PREFIX + self.slug,
            "title": self.title,
            "status": self.status_code,
            "detail": self.detail,
            **({"instance": instance} if instance else {}),
            **self.extensions,
        }

    def response(self, instance: str = "") -> JSONResponse:
        return JSONResponse(self.document(instance), self.status_code, self.headers, MEDIA_TYPE)


def problem_of_refusal(error: RefusedError) -> Problem:
    """SIP's final responses, in HTTP's terms."""
    fault = error.fault
    headers = {name: value for name, value in fault.headers if name.lower() == "retry-after"}
    detail = fault.reason
    match fault.code:
        case 481:
            return Problem(409, "call-ended", detail, title="Call Has Ended")
        case 413 if "full" in detail.lower():  # a queue: it has room again in a moment
            return Problem(
                429, "queue-full", detail, title="Queue Full", headers={"Retry-After": QUEUE_RETRY_S} | headers
            )
        case 413:
            return Problem(413, "too-long", detail, title="Text Too Long")
        case 503:
            return Problem(503, "unavailable", detail, headers={"Retry-After": QUEUE_RETRY_S} | headers)
        case 404:
            return Problem(404, "not-found", detail)
        case 400 | 415 | 420 | 488 | 606:
            return Problem(422, "not-possible", detail)
        case 409 | 491:
            return Problem(409, "conflict", detail)
        case 403 | 405 | 603:
            return Problem(409, "not-allowed-now", detail)
        case code if code >= 500:
            return Problem(502, "refused", detail, sip_status=code)
        case code:
            return Problem(409, "refused", detail, sip_status=code)


def problem_of_validation(error: RequestValidationError | WebSocketRequestValidationError) -> Problem:
    """Where the request is wrong and how; what was sent is not repeated: it may be a caller's text."""
    problems = error.errors()
    errors = [{"location": _location(each["loc"]), "message": _message(each)} for each in problems[:MAX_ERRORS]]
    if any(each["type"] == "json_invalid" for each in problems):
        return Problem(400, "malformed-json", "the body is not valid JSON", errors=errors)
    where = ", ".join(each["location"] for each in errors[:3])
    return Problem(422, "invalid-request", f"not valid: {where}", errors=errors)


def _message(error: Mapping[str, Any]) -> str:
    if error["type"] == "model_attributes_type" and tuple(error["loc"]) == ("body",):
        return "is no JSON object, or came without Content-Type: application/json"
    return str(error["msg"]).removeprefix("Value error, ")


def _location(parts: Sequence[object]) -> str:
    """A key may be whatever the client has sent, lone surrogates included, which are no UTF-8."""
    location = ".".join(map(str, parts))[:MAX_LOCATION_CHARS]
    return location.encode(errors="replace").decode()


def problem_of_http(error: StarletteHTTPException) -> Problem:
    """Of what the framework raises itself: unknown paths, methods that a path does not have."""
    if isinstance(error, Problem):
        return error
    if isinstance(error.__cause__, UnicodeDecodeError):  # FastAPI's only word on a body that is no text at all
        return Problem(400, "malformed-json", "the body is not JSON in UTF-8")
    slug = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    return Problem(error.status_code, slug, str(error.detail), headers=error.headers or {})


def problem_of_close(error: WebSocketException) -> Problem:
    """Of a WebSocket that is refused: the close codes 4400 to 4599 are ours, and say which HTTP status is meant."""
    status = error.code - WS_CODES if 400 <= error.code - WS_CODES < 600 else 400
    try:
        slug = HTTPStatus(status).phrase.lower().replace(" ", "-")
    except ValueError:
        status, slug = 400, "bad-request"
    return Problem(status, slug, error.reason or slug)


def _handler(convert: Callable[[Any], Problem]) -> Any:
    """Of requests and of WebSockets, which Starlette's types keep apart."""

    async def handle(connection: Request | WebSocket, error: Exception) -> Response | None:
        problem = convert(error)
        # The route's path: a client's own may hold whatever.
        route = getattr(connection.scope.get("route"), "path", "")
        _log.info("request_refused", route=route, status=problem.status_code, problem=problem.slug)
        if isinstance(connection, WebSocket):
            code = error.code if isinstance(error, WebSocketException) else WS_CODES + problem.status_code
            await deny(connection, problem, code)
            return None
        return problem.response(connection.url.path)

    return handle


async def deny(websocket: WebSocket, problem: Problem, code: int) -> None:
    """Refuse a handshake with the problem as its HTTP response; once it was accepted, close with the code."""
    accepted = websocket.application_state != WebSocketState.CONNECTING
    if accepted or "websocket.http.response" not in websocket.scope.get("extensions", {}):
        await websocket.close(code, str(problem.detail)[:MAX_REASON_CHARS])
    else:
        await websocket.send_denial_response(problem.response(websocket.url.path))


def install(app: FastAPI, headers: Mapping[str, str] = _NO_HEADERS) -> None:
    """Have every error come out as a problem. headers: for those that are answered outside all middleware: 500."""

    async def unexpected(request: Request, error: Exception) -> Response:
        """A fault of ours. Starlette raises it again when the response has gone, and uvicorn logs its traceback."""
        _log.error("request_failed", method=request.method, error=type(error).__name__)
        problem = Problem(500, "internal", "something went wrong here; the log says what", headers=headers)
        return problem.response(request.url.path)

    app.add_exception_handler(StarletteHTTPException, _handler(problem_of_http))
    app.add_exception_handler(RequestValidationError, _handler(problem_of_validation))
    app.add_exception_handler(WebSocketRequestValidationError, _handler(problem_of_validation))
    app.add_exception_handler(WebSocketException, _handler(problem_of_close))
    app.add_exception_handler(RefusedError, _handler(problem_of_refusal))
    app.add_exception_handler(Exception, unexpected)


PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "description": "Problem details (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri", "example": TYPE_PREFIX + "call-ended"},
        "title": {"type": "string", "example": "Call Has Ended"},
        "status": {"type": "integer", "example": 409},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "Path of the request."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"location": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
    "additionalProperties": True,
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of an operation, for its `responses=`."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
