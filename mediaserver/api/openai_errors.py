"""Errors as OpenAI's API gives them, {"error": {"message", "type", "param", "code"}}: its clients show the message."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from mediaserver.api.problems import Problem, problem_of_http, problem_of_validation
from tts_engine.errors import EngineBusyError, EngineError, EngineNotReadyError, TextTooLongError, UnknownVoiceError

_log = structlog.get_logger("api")

RETRY_S = 2
"Where an engine cannot tell when it has room."

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_exceeded"}
_CODES = {"unauthorized": "invalid_api_key", "forbidden": "insufficient_permissions"}

ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string", "example": "invalid_request_error"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"], "example": "model_not_found"},
            },
        }
    },
}


def openai_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of an operation, for its `responses=`."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {"application/json": {"schema": ERROR_SCHEMA}},
        }
        for status in statuses
    }


def problem_of_engine(error: EngineError) -> Problem:
    """What an engine refuses, in HTTP's terms."""
    match error:
        case UnknownVoiceError():
            return Problem(400, "voice_not_found", str(error), param="voice")
        case TextTooLongError():
            return Problem(400, "string_above_max_length", str(error), param="input")
        case EngineBusyError() | EngineNotReadyError():
            wait = getattr(error, "retry_after", None) or RETRY_S
            return Problem(503, "unavailable", str(error), headers={"Retry-After": str(max(1, round(wait)))})
        case _:
            return Problem(500, "synthesis_failed", str(error))


def error_document(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_of(problem: Problem) -> dict[str, Any]:
    """A problem, told OpenAI's way."""
    status = problem.status_code
    kind = _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    param = problem.extensions.get("param")
    code = _CODES.get(problem.slug, problem.slug)
    return error_document(str(problem.detail), kind, code, param)


def _response(problem: Problem) -> JSONResponse:
    return JSONResponse(error_of(problem), problem.status_code, problem.headers)


def _of_validation(error: RequestValidationError) -> Problem:
    """400, which its clients know as a bad request; what was sent is not repeated."""
    problem = problem_of_validation(error)
    errors = problem.extensions.get("errors", [])
    first = errors[0] if errors else {"location": "body", "message": str(problem.detail)}
    location = str(first["location"]).removeprefix("body.")
    param = location.split(".")[0]
    return Problem(400, "invalid_request", f"{location}: {first['message']}", param=param)


class OpenAiRoute(APIRoute):
    """A route whose errors are OpenAI's."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_as_openai(request: Request) -> Response:
            try:
                return await handle(request)
            except HTTPException as error:
                problem = problem_of_http(error)
            except RequestValidationError as error:
                problem = _of_validation(error)
            except EngineError as error:
                problem = problem_of_engine(error)
            _log.info(
                "request_refused",
                method=request.method,
                path=request.url.path,
                status=problem.status_code,
                problem=problem.slug,
            )
            return _response(problem)

        return handle_as_openai
