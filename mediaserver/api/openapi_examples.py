"""Examples of the OpenAPI document: what each operation is sent, answers, and says when it refuses."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from mediaserver.api.openai_errors import error_of
from mediaserver.api.problems import MEDIA_TYPE, Problem
from mediaserver.call.control import CallEndedError

_JSON = "application/json"
_CALL_ID = "CA5f0c6a0e1d9b4c7f8a2e3b4c5d6e7f80"
_CALL = {
    "id": _CALL_ID,
    "sip_call_id": "a84b4c76e66710@pbx.example",
    "direction": "inbound",
    "state": "answered",
    "from": "sip:alice@pbx.example",
    "to": "sip:tts@192.0.2.5",
    "trunk": "pbx",
    "started_at": 1772366400.0,
    "answered_at": 1772366400.12,
    "ended_at": None,
    "end_reason": None,
    "codec": "PCMU",
    "engine": "embedded",
    "voice": None,
    "held_by_us": False,
    "agent_url": None,
    "speech": [{"utterance": 1, "state": "speaking", "text": "Hello.", "mark": None, "played_ms": 240}],
    "quality": {"mos_in": 4.4},
    "counts": {"rtp_packets_sent": 250},
    "first_audio_ms": 61.0,
    "parameters": {},
}
_VOICE = {"name": "heart", "engine": "embedded", "default": True}
_MODEL = {"id": "tts-1", "object": "model", "created": 0, "owned_by": "chatterline"}
_STREAM = {
    "stream_id": "MZ0f1e2d3c4b5a69788796a5b4c3d2e1f0",
    "name": "recogniser",
    "url": "wss://recogniser.example.com/audio",
    "tracks": ["inbound"],
    "state": "open",
    "lost": 0,
}
_HISTOGRAM = {"labels": {"engine": "embedded", "queued": "no"}, "bounds": [0.1, 0.2], "counts": [3, 4, 4], "sum": 0.31}

_OF_MODELS: dict[str, Any] = {
    "Call": _CALL,
    "CallList": {"calls": [_CALL], "total": 1},
    "Placed": {
        **_CALL,
        "direction": "outbound",
        "state": "ringing",
        "answered_at": None,
        "codec": None,
        "unsupported": [],
    },
    "Cleared": {"cut": [{"utterance": 3, "played_ms": 820, "total_ms": None, "heard_text": "Your table is"}]},
    "DtmfRequest": {"digits": "12#w34"},
    "TransferRequest": {"to": "sip:desk@pbx.example"},
    "StreamRequest": {
        "url": "wss://recogniser.example.com/audio",
        "tracks": ["inbound"],
        "name": "recogniser",
        "parameters": {"room": "12"},
    },
    "Stream": _STREAM,
    "StreamList": {"streams": [_STREAM]},
    "Voice": _VOICE,
    "NewVoice": {"name": "anna", "engine": "chatterbox", "default": False, "warnings": ["it was recorded at 8000 Hz"]},
    "VoiceList": {"voices": [_VOICE], "can_enrol": False},
    "Body_enrol_voice": {"name": "anna", "file": "anna.wav", "consent": "Anna Smith, 1 March 2026"},
    "Model": _MODEL,
    "ModelList": {"object": "list", "data": [_MODEL]},
    "Health": {"status": "ok"},
    "Draining": {"draining": True, "calls": 3},
    "Status": {
        "version": "0.1.0",
        "started_at": 1772362800.0,
        "now": 1772366400.0,
        "draining": False,
        "load": 0.02,
        "calls": {"running": 3, "max": 200, "by_state": {"answered": 3}},
        "engines": [
            {
                "name": "embedded",
                "ready": True,
                "available": None,
                "voices": ["heart"],
                "default_voice": "heart",
                "features": ["phonemes", "rate"],
            }
        ],
        "first_audio": [_HISTOGRAM],
        "underruns": {"engine": 0, "engine_busy": 0, "event_loop": 0, "sound": 0},
        "metrics": {"calls": [{"labels": {}, "value": 3}]},
        "histograms": {"speech_first_packet_seconds": [_HISTOGRAM]},
        "api": {"unauthorized": 1, "watchers": 0},
    },
}
"Of models that have none of their own. Theirs cannot have null: FastAPI leaves it out."

_NO_CALL = Problem(404, "no-such-call", "there is no such call, or it ended a while ago", title="No Such Call")
_NO_MODEL = Problem(
    404, "model_not_found", "the model 'tts-2' does not exist; available: embedded, tts-1", param="model"
)
_NOT_VALID = [{"location": "body.txt", "message": "Extra inputs are not permitted"}]
_PROBLEMS = {
    400: Problem(400, "malformed-json", "the body is not valid JSON"),
    401: Problem(401, "unauthorized", "the token is unknown or has expired"),
    404: _NO_CALL,
    408: Problem(408, "too-slow", "the body took more than 30 s"),
    409: Problem(409, "call-ended", CallEndedError().fault.reason, title="Call Has Ended"),
    413: Problem(413, "body-too-long", "the body is longer than 1048576 bytes"),
    422: Problem(422, "invalid-request", "not valid: body.txt", errors=_NOT_VALID),
    429: Problem(429, "too-many-requests", "more than 200 requests a second"),
    500: Problem(500, "internal", "something went wrong here; the log says what"),
    503: Problem(503, "unavailable", "Call Limit Reached"),
}
_OF_OPERATIONS = {
    ("post", "/v1/calls", 404): Problem(404, "not-found", "Unknown Trunk 'pxb': It Is Not In [trunks]"),
    ("delete", "/v1/calls/{call_id}/streams/{stream}", 404): Problem(
        404, "no-such-stream", "the call has no such stream, or it has ended", title="No Such Stream"
    ),
    ("post", "/v1/voices", 409): Problem(
        409, "voice-exists", "there is a voice 'anna' already; replace=true overwrites it"
    ),
    ("post", "/v1/audio/speech", 404): _NO_MODEL,
    ("get", "/v1/models/{model}", 404): _NO_MODEL,
    ("get", "/v1/voices/{name}", 404): Problem(404, "not-found", "there is no voice 'anna'"),
}


def add_examples(path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """To every content that is JSON or a form and has none yet. schemas: of the document's components."""
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        if kind in (_JSON, "multipart/form-data"):
            _set(content, _of_model(content, schemas))
    for status, response in operation["responses"].items():
        for kind, content in response.get("content", {}).items():
            if kind == MEDIA_TYPE:
                _set(content, _problem(path, method, int(status), operation).document(_instance(path)))
            elif kind == _JSON and int(status) >= HTTPStatus.BAD_REQUEST and path != "/healthz":
                _set(content, error_of(_problem(path, method, int(status), operation)))
            elif kind == _JSON:
                _set(content, _of_model(content, schemas))


def _set(content: dict[str, Any], example: Any) -> None:
    if example is not None and not content.keys() & {"example", "examples"}:
        content["example"] = example


def _of_model(content: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """None for a schema without a name."""
    _, _, name = content.get("schema", {}).get("$ref", "").rpartition("/")
    (own, *_) = schemas.get(name, {}).get("examples", (None,))
    return _OF_MODELS.get(name) if own is None else own


def _problem(path: str, method: str, status: int, operation: dict[str, Any]) -> Problem:
    if status == HTTPStatus.FORBIDDEN:
        (scope, *_) = operation["security"][0]["token"] or ("calls:read",)
        return Problem(status, "forbidden", f"the token lacks the scope {scope}")
    return _OF_OPERATIONS.get((method, path, status), _PROBLEMS[status])


def _instance(path: str) -> str:
    return path.format(call_id=_CALL_ID, name="anna", stream="recogniser", model="tts-2")
