"""GET and POST /v1/voices: what can be asked for as `voice`, and enrolling a new one from a recording."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, Request, Response, UploadFile
from fastapi import Path as PathParameter
from pydantic import BaseModel, Field

from mediaserver.api.auth import Token, require
from mediaserver.api.enrolment import Enroller, EnrolmentBusyError, EnrolmentFailedError, EnrolmentOrder
from mediaserver.api.problems import Problem, problem_responses
from mediaserver.api.state import ApiState, State
from tts_engine.engine import Engine, SpeechRequest
from tts_engine.errors import EngineError

MEGABYTE = 1024 * 1024
RETRY_S = 30
NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
_UNSAFE = re.compile(r"[^A-Za-z0-9._ -]")
_MAX_FILE_NAME = 80

router = APIRouter(tags=["voices"])


class Voice(BaseModel):
    """A voice of an engine."""

    name: Annotated[str, Field(examples=["heart"])]
    engine: Annotated[str, Field(examples=["embedded"])]
    default: Annotated[bool, Field(description="Of its engine.")]


class VoiceList(BaseModel):
    """Those of the configured engine first."""

    voices: list[Voice]
    can_enrol: Annotated[bool, Field(description="Whether POST /v1/voices works here.")]


class NewVoice(Voice):
    """A voice that was made a moment ago."""

    warnings: Annotated[
        list[str],
        Field(description="What will be heard of the recording's faults.", examples=[["it was recorded at 8000 Hz"]]),
    ]


@router.get(
    "/v1/voices",
    summary="The voices",
    description="For calls and for speech without one. Any token may ask.",
    response_model=VoiceList,
    responses=problem_responses(401, 429),
)
async def list_voices(state: State, token: Annotated[Token, Depends(require())]) -> VoiceList:
    return VoiceList(voices=_voices(state), can_enrol=_cannot_enrol(state) is None)


@router.get(
    "/v1/voices/{name}",
    summary="One voice",
    description="Whose it is. Any token may ask.",
    response_model=Voice,
    responses=problem_responses(401, 404, 422, 429),
)
async def get_voice(
    state: State,
    token: Annotated[Token, Depends(require())],
    name: Annotated[str, PathParameter(max_length=128, examples=["heart"])],
) -> Voice:
    for voice in _voices(state):
        if voice.name == name:
            return voice
    raise Problem(404, "not-found", f"there is no voice {name[:64]!r}")


@router.post(
    "/v1/voices",
    status_code=201,
    summary="Enrol a voice",
    description="Make a voice of a recording with 5 s of clean speech or more; best 10 to 15. Takes a while: the "
    "answer comes when the voice can be used. Only have people's voices cloned who have agreed to it.",
    response_model=NewVoice,
    responses=problem_responses(400, 401, 403, 409, 413, 422, 429, 500, 503),
)
async def enrol_voice(
    request: Request,
    response: Response,
    state: State,
    token: Annotated[Token, Depends(require("voices:write"))],
    name: Annotated[str, Form(pattern=NAME, description="1 to 64 of a-z, 0-9, - and _.", examples=["anna"])],
    file: Annotated[UploadFile, File(description="WAV, FLAC, Ogg or MP3.")],
    consent: Annotated[str, Form(max_length=500, description="Kept with the voice: who agreed to it, and when.")] = "",
    replace: Annotated[bool, Form(description="Overwrite a voice of that name.")] = False,
) -> NewVoice:
    why_not = _cannot_enrol(state)
    if why_not is not None:
        # Not 501: nothing is wrong with this server, it has another engine.
        raise Problem(409, "enrolment-not-possible", why_not)
    engine = _enrolling_engine(state)
    enroller = _enroller(request, state)
    if any(character < " " for character in consent):
        raise Problem(422, "invalid-request", "consent has control characters")
    if enroller.exists(name) and not replace:
        raise Problem(409, "voice-exists", f"there is a voice {name!r} already; replace=true overwrites it")
    limit = state.config.api.max_upload_mb * MEGABYTE
    if file.size is None or file.size > limit:
        raise Problem(413, "too-large", f"the recording is over {state.config.api.max_upload_mb} MB")
    with tempfile.TemporaryDirectory(prefix="chatterline-voice-") as directory:
        clip = Path(directory) / _file_name(file.filename)
        await asyncio.to_thread(_copy, file, clip)
        warnings = await _enrol(enroller, EnrolmentOrder(name, clip, consent, replace))
    try:
        engine.check(SpeechRequest("", name))  # it learns of the new file by being asked for it
    except EngineError as error:
        raise Problem(500, "voice-not-usable", str(error)) from None
    state.counts["voices_enrolled"] += 1
    response.headers["Location"] = f"/v1/voices/{name}"
    return NewVoice(name=name, engine=engine.name, default=name == engine.default_voice, warnings=warnings)


async def _enrol(enroller: Enroller, order: EnrolmentOrder) -> list[str]:
    try:
        return await enroller.enrol(order)
    except EnrolmentBusyError as error:
        raise Problem(503, "enrolment-busy", str(error), headers={"Retry-After": str(RETRY_S)}) from None
    except EnrolmentFailedError as error:
        raise Problem(422, "voice-not-made", str(error)) from None


def _voices(state: ApiState) -> list[Voice]:
    return [
        Voice(name=name, engine=engine.name, default=name == engine.default_voice)
        for engine in state.engines.all
        for name in engine.voices
    ]


def _enrolling_engine(state: ApiState) -> Engine:
    return next(engine for engine in state.engines.all if "enrol" in engine.features)


def _cannot_enrol(state: ApiState) -> str | None:
    """Why no voice can be made here; None if one can."""
    if not any("enrol" in engine.features for engine in state.engines.all):
        return f"the engine {state.engines.all[0].name} has its own voices and makes no new ones; Chatterbox does"
    if importlib.util.find_spec("chatterbox") is None:
        return "enrolment needs Resemble AI's own package, which is not installed here; docs/chatterbox.md says how"
    return None


def _enroller(request: Request, state: ApiState) -> Enroller:
    """Of the server that the request came to."""
    kept = request.app.state
    if not hasattr(kept, "enroller"):
        kept.enroller = Enroller(state.config)
    enroller: Enroller = kept.enroller
    return enroller


def _file_name(given: str | None) -> str:
    """The recording's own name, which is kept with the voice, as far as it is harmless."""
    name = _UNSAFE.sub("_", Path(given or "").name)[-_MAX_FILE_NAME:].lstrip(". ")
    return name or "recording"


def _copy(upload: UploadFile, path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(upload.file, file)
