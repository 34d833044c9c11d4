"""POST /v1/audio/speech and GET /v1/models: speech without a call, as OpenAI's API has it.

https://platform.openai.com/docs/api-reference/audio/createSpeech
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Body, Depends, Path, Request, Response
from pydantic import BaseModel, Field

from mediaserver.api.auth import Token, require
from mediaserver.api.encoders import MEDIA_TYPES, AudioFormat, make_encoder
from mediaserver.api.openai_errors import OpenAiRoute, openai_responses
from mediaserver.api.problems import Problem
from mediaserver.api.speech_stream import Events, Speech, SpeechResponse, encoded, pieces
from mediaserver.api.state import ApiState, State
from tts_engine.engine import Engine, SpeechRequest
from tts_engine.errors import EngineError, TextTooLongError
from tts_engine.text.speakable import has_speech

_log = structlog.get_logger("api")

ALIASES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
"OpenAI's models: here they mean the configured engine, so that an application need not be changed."
OPENAI_VOICES = frozenset(
    ("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse")
)
"Of these, those that the engine has not mean its default voice."
MAX_INPUT_CHARS = 4096
"OpenAI's; an engine that takes more is given more, one that takes less is given pieces."
SLOWEST, FASTEST = 0.5, 2.0
"What engines do of the speeds that can be asked for."
RETRY_S = 1

Speaker = Annotated[Token, Depends(require("speech"))]
router = APIRouter(tags=["speech"], route_class=OpenAiRoute)


class VoiceId(BaseModel):
    """A voice by its id."""

    id: Annotated[str, Field(max_length=128)]


class CreateSpeech(BaseModel):
    """What to say, and how. Members that are not known are ignored."""

    model: Annotated[str, Field(max_length=128, description="One of GET /v1/models.")] = ALIASES[0]
    input: Annotated[str, Field(min_length=1, max_length=1_000_000, description="The text.", repr=False)]
    voice: Annotated[
        Annotated[str, Field(max_length=128)] | VoiceId | None,
        Field(description="One of GET /v1/voices; OpenAI's names mean the default voice."),
    ] = None
    response_format: Annotated[
        AudioFormat,
        Field(description="pcm: 24 kHz, 16-bit little-endian, mono. ulaw: G.711 mu-law, 8 kHz. opus: in Ogg."),
    ] = "mp3"
    speed: Annotated[
        float, Field(ge=0.25, le=4.0, description="Engines speak at 0.5 to 2.0, or at their own speed only.")
    ] = 1.0
    instructions: Annotated[str | None, Field(max_length=4096, description="Taken, but no engine heeds them.")] = None
    stream_format: Annotated[
        Literal["audio", "sse"], Field(description="sse: events speech.audio.delta and speech.audio.done.")
    ] = "audio"

    @property
    def voice_name(self) -> str | None:
        return self.voice.id if isinstance(self.voice, VoiceId) else self.voice


class Model(BaseModel):
    """An engine, or a name for the configured one."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "chatterline"


class ModelList(BaseModel):
    """What `model` can be."""

    object: Literal["list"] = "list"
    data: list[Model]


_EXAMPLES: dict[str, Any] = {
    "mp3": {
        "summary": "MP3 in the default voice",
        "value": {"model": "tts-1", "input": "Your parcel comes tomorrow.", "voice": "alloy"},
    },
    "telephone": {
        "summary": "For a telephone",
        "value": {"model": "tts-1", "input": "Please hold the line.", "voice": "heart", "response_format": "ulaw"},
    },
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_EVENTS = {
    "schema": {"type": "string"},
    "example": 'data: {"type":"speech.audio.delta","audio":"//PkxAAA"}\n\n',
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The speech, as it is synthesised.",
        "headers": {
            "X-Chatterline-Unsupported": {
                "description": "What was asked for and cannot be done, such as `speed`.",
                "schema": {"type": "string"},
            }
        },
        "content": {**dict.fromkeys(MEDIA_TYPES.values(), _BINARY), "text/event-stream": _EVENTS},
    },
    **openai_responses(400, 401, 403, 404, 413, 429, 500, 503),
}


@router.post(
    "/v1/audio/speech",
    summary="Speak a text",
    description="OpenAI-compatible: works with its clients. Sent as it is synthesised. Calls come first: while the "
    "engine has no room for one more, the answer is 503.",
    response_class=Response,
    responses=_RESPONSES,
)
async def create_speech(
    request: Request,
    state: State,
    token: Speaker,
    order: Annotated[CreateSpeech, Body(openapi_examples=_EXAMPLES)],
) -> Response:
    engine = _engine(state, order.model)
    requests, unsupported = _requests(engine, order)
    fault = engine.available()
    if fault is not None:
        state.counts["speech_refused"] += 1
        raise fault
    slots = _slots(request, state)
    slots.take()
    try:
        encoder = await asyncio.to_thread(make_encoder, order.response_format)
        speech = Speech(engine, requests, slots.release)
    except BaseException:
        slots.release()
        raise
    try:
        await speech.begin()
    except BaseException:
        speech.close()
        raise
    state.counts["speech_requests"] += 1
    _log.info("speech", engine=engine.name, format=order.response_format, chars=len(order.input), token=token.id)
    headers = {"Cache-Control": "no-store"}
    if unsupported:
        headers["X-Chatterline-Unsupported"] = ", ".join(unsupported)
    if order.stream_format == "sse":
        events = Events(speech, encoder, len(order.input))
        return SpeechResponse(speech, events.stream(), "text/event-stream", headers)
    return SpeechResponse(speech, encoded(speech, encoder), MEDIA_TYPES[order.response_format], headers)


@router.get(
    "/v1/models",
    summary="The models",
    description="The engines of this node, and OpenAI's names, which mean the configured one.",
    response_model=ModelList,
    responses=openai_responses(401, 403, 429),
)
async def list_models(state: State, token: Speaker) -> ModelList:
    return ModelList(data=[Model(id=name) for name in _models(state)])


@router.get(
    "/v1/models/{model}",
    summary="One model",
    description="Answered if `model` of POST /v1/audio/speech can have that value.",
    response_model=Model,
    responses=openai_responses(400, 401, 403, 404, 429),
)
async def get_model(
    state: State, token: Speaker, model: Annotated[str, Path(max_length=128, examples=[ALIASES[0]])]
) -> Model:
    _engine(state, model)
    return Model(id=model)


class SpeechSlots:
    """How many streams of speech there are at once."""

    def __init__(self, limit: int) -> None:
        self.taken = 0
        self._limit = limit

    def take(self) -> None:
        """Raises Problem."""
        if not self._limit:
            raise Problem(403, "speech_is_off", "speech without a call is off: [api] max_speech_streams is 0")
        if self.taken >= self._limit:
            raise Problem(
                429,
                "too_many_streams",
                f"{self._limit} streams of speech run already",
                headers={"Retry-After": str(RETRY_S)},
            )
        self.taken += 1

    def release(self) -> None:
        self.taken -= 1


def _slots(request: Request, state: ApiState) -> SpeechSlots:
    """Of the server that the request came to."""
    kept = request.app.state
    if not hasattr(kept, "speech_slots"):
        kept.speech_slots = SpeechSlots(state.config.api.max_speech_streams)
    slots: SpeechSlots = kept.speech_slots
    return slots


def _models(state: ApiState) -> list[str]:
    return [*(engine.name for engine in state.engines.all), *ALIASES]


def _engine(state: ApiState, model: str) -> Engine:
    engines = state.engines.all
    if model in ALIASES or model.startswith("gpt-4o-mini-tts-"):  # dated versions
        return engines[0]
    for engine in engines:
        if engine.name == model:
            return engine
    raise Problem(
        404,
        "model_not_found",
        f"the model {model!r} does not exist; available: {', '.join(_models(state))}",
        param="model",
    )


def _requests(engine: Engine, order: CreateSpeech) -> tuple[list[SpeechRequest], list[str]]:
    """What the engine is to be asked for, and what it cannot do. Raises EngineError, Problem."""
    limit = max(MAX_INPUT_CHARS, engine.limits.max_text_chars)
    if len(order.input) > limit:
        raise TextTooLongError(len(order.input), limit)
    if not has_speech(order.input):
        raise Problem(400, "nothing_to_say", "input has nothing that can be said", param="input")
    unsupported = ["instructions"] if order.instructions else []
    rate = min(max(order.speed, SLOWEST), FASTEST)
    if "rate" not in engine.features:
        rate = 1.0
    if rate != order.speed:
        unsupported.append("speed")
    sample_rate = 8000 if order.response_format == "ulaw" else 24_000
    voice = _voice(engine, order.voice_name)
    requests = [
        SpeechRequest(text, voice, sample_rate, rate=rate) for text in pieces(order.input, engine.limits.max_text_chars)
    ]
    for each in requests:
        engine.check(each)
    return requests, unsupported


def _voice(engine: Engine, name: str | None) -> str | None:
    if name not in OPENAI_VOICES and name != "default":
        return name
    try:
        engine.check(SpeechRequest("", name))
    except EngineError:
        return None
    return name
