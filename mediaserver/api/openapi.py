"""The OpenAPI document: every operation with all its errors, as problem details, and with examples."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from mediaserver import __version__
from mediaserver.api.openapi_examples import add_examples
from mediaserver.api.problems import MEDIA_TYPE, PROBLEM_SCHEMA

DESCRIPTION = """\
Control of calls that are answered or placed by this server.

Errors are problem details (RFC 9457). A POST with an `Idempotency-Key` is done once, however often it is sent, for 24
hours. WebSockets, which OpenAPI has no words for: `/v1/calls/{call_id}/agent` (docs/agents.md) and
`/v1/calls/{call_id}/media` (docs/media-streams.md).
"""

TAGS = [
    {"name": "calls", "description": "See, place and control calls."},
    {"name": "streams", "description": "Calls' audio, to WebSockets."},
    {"name": "events", "description": "What happens to calls."},
    {"name": "speech", "description": "Speech without a call."},
    {"name": "voices", "description": "What speech may sound like."},
    {"name": "node", "description": "This server."},
]

_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Chosen by the client, for one request: sent again, it gets the first answer.",
    "example": "reminder-17",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
_PROBLEM = {"$ref": "#/components/schemas/Problem"}


def document(app: FastAPI) -> dict[str, Any]:
    """The document of an application, made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title="Chatterline", version=__version__, description=DESCRIPTION, routes=app.routes, tags=TAGS
        )
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = PROBLEM_SCHEMA
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        for path, operations in made["paths"].items():
            for method, operation in operations.items():
                _complete(path, method, operation)
                add_examples(path, method, operation, schemas)
        app.openapi_schema = made
    return app.openapi_schema


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """What holds for all operations alike."""
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    statuses = [401, 403, 429] if operation.get("security") else []
    if operation.get("parameters"):
        statuses.append(422)
    if operation.get("requestBody"):
        statuses += [400, 408, 413, 422]
    if method == "post" and not path.startswith("/v1/audio/"):
        operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
        statuses += [400, 409, 422]
    for status in statuses:
        responses.setdefault(
            str(status),
            {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": _PROBLEM}}},
        )
