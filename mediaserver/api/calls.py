"""Calls over HTTP: see, place and control them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Response

from mediaserver.api.auth import CallsRead, CallsWrite
from mediaserver.api.problems import Problem, problem_responses
from mediaserver.api.responses import Call, CallList, Cleared, Cut, Placed, Said
from mediaserver.api.schemas import DtmfRequest, PlaceRequest, SayRequest, Spoken, StreamRequest, TransferRequest
from mediaserver.api.ssml import SsmlError, parse_ssml
from mediaserver.api.state import ApiState, State
from mediaserver.api.urls import UrlNotAllowedError
from mediaserver.call.control import CallControl, PlaceOrder, StreamOrder
from mediaserver.speech.script import Script, Words

router = APIRouter(prefix="/v1/calls", tags=["calls"], responses=problem_responses(401, 403, 422, 429))

MAX_LISTED = 1000

CallId = Annotated[
    str,
    Path(
        min_length=1,
        max_length=256,
        description="Of ours, CA and 32 hexadecimal digits, or SIP's Call-ID.",
        examples=["CA5f0c6a0e1d9b4c7f8a2e3b4c5d6e7f80"],
    ),
]


async def call_of(call_id: CallId, state: State) -> CallControl:
    """The call that a path names. Raises Problem: 404. Ask for the token first: who has none learns of no call."""
    call = state.calls.find(call_id)
    if call is None:
        raise Problem(404, "no-such-call", "there is no such call, or it ended a while ago", title="No Such Call")
    return call


NamedCall = Annotated[CallControl, Depends(call_of)]
_GONE = problem_responses(404, 409)


@router.get("", summary="List calls")
async def list_calls(
    state: State,
    _token: CallsRead,
    wanted: Annotated[
        Literal["running", "ended", "all"], Query(alias="state", description="ended: those of the last minutes.")
    ] = "running",
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED, description="Of calls that are shown.")] = 100,
) -> CallList:
    """Running calls, oldest first; then those that have ended, newest first."""
    running = state.calls.running() if wanted != "ended" else ()
    ended = state.calls.ended() if wanted != "running" else ()
    views = [call.view() for call in running[:limit]]
    views += ended[: limit - len(views)]
    return CallList(calls=[Call.of(view) for view in views], total=len(running) + len(ended))


@router.post(
    "",
    status_code=201,
    summary="Place a call",
    responses={
        201: {"headers": {"Location": {"schema": {"type": "string"}, "description": "Of the call."}}},
        **problem_responses(404, 409, 413, 503),
    },
)
async def place_call(order: PlaceRequest, state: State, _token: CallsWrite, response: Response) -> Placed:
    """Place a call through a trunk. It rings when this returns; events tell how it goes on."""
    if order.agent_url:
        _check_url(state, order.agent_url, "agent_url")
    script, unsupported = script_of(order, state, state.engines.all[0].name)
    call = state.calls.place(
        PlaceOrder(
            to=order.to,
            trunk=order.trunk,
            script=script,
            voice=order.voice,
            from_user=order.from_user,
            from_name=order.from_name,
            answer_timeout_s=order.answer_timeout_s,
            hang_up_after=order.hang_up_after,
            barge_in=order.barge_in,
            agent_url=order.agent_url,
            streams=tuple(stream_order(stream, state) for stream in order.stream_list),
            parameters=order.parameters,
            headers=tuple(order.headers.items()),
        )
    )
    response.headers["Location"] = f"/v1/calls/{call.id}"
    return Placed(**Call.of(call.view()).model_dump(), unsupported=unsupported)


@router.get("/{call_id}", summary="See a call", responses=problem_responses(404))
async def get_call(_token: CallsRead, call: NamedCall) -> Call:
    """Its state, codec, quality and what is being said; also of a call that ended a moment ago."""
    return Call.of(call.view())


@router.delete("/{call_id}", status_code=204, summary="Hang up", responses=_GONE)
async def hang_up(_token: CallsWrite, call: NamedCall) -> None:
    """End the call now: BYE, or CANCEL while it rings."""
    call.hang_up()


@router.post("/{call_id}/say", status_code=202, summary="Say something", responses=_GONE | problem_responses(413, 503))
async def say(_token: CallsWrite, call: NamedCall, order: SayRequest, state: State) -> Said:
    """Queue an utterance, or speak it at once instead of what is queued."""
    script, unsupported = script_of(order, state, call.view().engine)
    number = call.say(
        script, voice=order.voice, mark=order.mark, barge_in=order.barge_in, replace=order.mode == "replace"
    )
    return Said(utterance=number, unsupported=unsupported)


@router.post("/{call_id}/clear", summary="Stop speaking", responses=_GONE)
async def clear(_token: CallsWrite, call: NamedCall) -> Cleared:
    """Stop within one frame and forget what is queued."""
    return Cleared(cut=[Cut.of(cut) for cut in call.clear()])


@router.post("/{call_id}/dtmf", status_code=202, summary="Send digits", responses=_GONE)
async def send_digits(_token: CallsWrite, call: NamedCall, order: DtmfRequest) -> Call:
    """Send digits when all that is queued has been said; dtmf.sent tells that they have gone."""
    call.send_digits(order.digits)
    return Call.of(call.view())


@router.post("/{call_id}/transfer", status_code=202, summary="Transfer the call", responses=_GONE)
async def transfer(_token: CallsWrite, call: NamedCall, order: TransferRequest) -> Call:
    """Blind transfer (REFER). call.transferred tells its progress; when it succeeds the call here ends."""
    call.transfer(order.to)
    return Call.of(call.view())


@router.post("/{call_id}/hold", status_code=202, summary="Hold the call", responses=_GONE)
async def hold(_token: CallsWrite, call: NamedCall) -> Call:
    """Have the peer hold; speech pauses. call.held tells that it is so."""
    call.hold()
    return Call.of(call.view())


@router.post("/{call_id}/resume", status_code=202, summary="Resume the call", responses=_GONE)
async def resume(_token: CallsWrite, call: NamedCall) -> Call:
    """Take the call off hold; speech goes on where it stopped."""
    call.resume()
    return Call.of(call.view())


def script_of(order: Spoken, state: ApiState, engine_name: str) -> tuple[Script, list[str]]:
    """What is to be said, and what of its SSML that engine cannot do. Raises Problem: 422."""
    if order.ssml is None:
        return ((Words(order.text),) if order.text is not None else ()), []
    features: frozenset[str] = next(
        (engine.features for engine in state.engines.all if engine.name == engine_name), frozenset()
    )
    try:
        parsed = parse_ssml(order.ssml, features)
    except SsmlError as error:
        extensions: dict[str, Any] = {} if error.line is None else {"line": error.line}
        raise Problem(422, "invalid-ssml", str(error), title="Invalid SSML", **extensions) from None
    return parsed.script, list(parsed.unsupported)


def stream_order(request: StreamRequest, state: ApiState) -> StreamOrder:
    """The fork that is asked for. Raises Problem: 422 for a URL that is not allowed."""
    _check_url(state, request.url, "stream.url")
    return StreamOrder(request.url, tuple(dict.fromkeys(request.tracks)), request.name, request.parameters)


def _check_url(state: ApiState, url: str, member: str) -> None:
    try:
        state.urls.check(url, ("ws", "wss"))
    except UrlNotAllowedError as error:
        state.counts["urls_refused"] += 1
        errors = [{"location": f"body.{member}", "message": str(error)}]
        raise Problem(422, "url-not-allowed", str(error), title="URL Not Allowed", errors=errors) from None
