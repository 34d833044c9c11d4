"""Media streams over HTTP: begin, list and stop them; and the WebSocket by which a receiver connects to us."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Response, WebSocket
from pydantic import BaseModel, Field

from mediaserver.api.auth import CallsRead, CallsWrite, accepted_subprotocol, authorize_websocket
from mediaserver.api.calls import CallId, NamedCall
from mediaserver.api.problems import Problem, problem_responses
from mediaserver.api.schemas import StreamRequest
from mediaserver.api.sockets import CONFLICT_CLOSE, AcceptedSocket
from mediaserver.api.state import ApiState, State, state_of
from mediaserver.api.stream.manager import Fork, NameTakenError, StreamManager, TooManyStreamsError
from mediaserver.api.stream.protocol import MAX_NAME_CHARS
from mediaserver.api.urls import UrlNotAllowedError, shown
from mediaserver.call.control import CallEndedError, StreamOrder, Track

router = APIRouter(tags=["streams"], responses=problem_responses(401, 403, 404, 422, 429))

_TRACKS: dict[str, tuple[Track, ...]] = {
    "inbound": ("inbound",),
    "outbound": ("outbound",),
    "both": ("inbound", "outbound"),
}


class Stream(BaseModel):
    """A media stream of a call."""

    stream_id: Annotated[str, Field(examples=["MZ0f1e2d3c4b5a69788796a5b4c3d2e1f0"])]
    name: str
    url: Annotated[str | None, Field(description="Without its query; null if the receiver connected to us.")]
    tracks: list[Track]
    state: Annotated[
        Literal["connecting", "open"], Field(description="connecting: also while the call has not been answered.")
    ]
    lost: Annotated[int, Field(description="Frames of 20 ms that the receiver was too slow for.")]

    @classmethod
    def of(cls, fork: Fork) -> Stream:
        return cls(
            stream_id=fork.id,
            name=fork.order.name,
            url=shown(fork.order.url) if fork.order.url else None,
            tracks=list(fork.order.tracks),
            state="connecting" if fork.stream is None else "open",
            lost=0 if fork.stream is None else fork.stream.lost,
        )


class StreamList(BaseModel):
    """GET /v1/calls/{call_id}/streams."""

    streams: list[Stream]


StreamName = Annotated[str, Path(min_length=1, max_length=256, description="Its stream_id, or its name.")]


@router.post(
    "/v1/calls/{call_id}/streams",
    status_code=201,
    summary="Fork a call's audio to a WebSocket",
    responses={
        201: {"headers": {"Location": {"schema": {"type": "string"}, "description": "Of the stream."}}},
        **problem_responses(409, 503),
    },
)
async def begin_stream(
    _token: CallsWrite, call: NamedCall, body: StreamRequest, state: State, response: Response
) -> Stream:
    """Connects to `url` and speaks Twilio's Media Streams protocol: docs/media-streams.md.

    It begins when the call is answered. The events stream.started and stream.stopped tell what becomes of it.
    """
    tracks = tuple(dict.fromkeys(body.tracks))
    with _as_problems():
        fork = _manager(state).fork(call, StreamOrder(body.url, tracks, body.name, body.parameters))
    response.headers["Location"] = f"/v1/calls/{call.id}/streams/{fork.id}"
    return Stream.of(fork)


@router.get("/v1/calls/{call_id}/streams", summary="List a call's media streams")
async def list_streams(_token: CallsRead, call: NamedCall, state: State) -> StreamList:
    """Those that run, or are being connected, oldest first."""
    return StreamList(streams=[Stream.of(fork) for fork in _manager(state).of(call.id)])


@router.delete("/v1/calls/{call_id}/streams/{stream}", status_code=204, summary="Stop a media stream")
async def stop_stream(_token: CallsWrite, call: NamedCall, stream: StreamName, state: State) -> None:
    """The receiver gets `stop`, and the connection is closed; the call goes on."""
    fork = _manager(state).find(call.id, stream)
    if fork is None:
        raise Problem(404, "no-such-stream", "the call has no such stream, or it has ended", title="No Such Stream")
    fork.stop("stopped")


@router.websocket("/v1/calls/{call_id}/media")
async def media(websocket: WebSocket, call_id: CallId, tracks: str = "inbound", name: str = "") -> None:
    """The same protocol, for a receiver that connects to us; tracks: inbound, outbound or both.

    Scope calls:read to listen, calls:write to be heard as well.
    """
    token = await authorize_websocket(websocket, "calls:read")
    state = state_of(websocket)
    call = state.calls.find(call_id)
    if call is None:
        raise Problem(404, "no-such-call", "there is no such call, or it ended a while ago", title="No Such Call")
    if call.over:
        raise CallEndedError
    _require_valid(tracks, name)
    with _as_problems():
        _manager(state).require_room(call.id, name)
    await websocket.accept(subprotocol=accepted_subprotocol(websocket))
    socket = AcceptedSocket(websocket)
    order = StreamOrder("", _TRACKS[tracks], name)
    try:
        await _manager(state).attach(call, order, socket, may_play=token.may("calls:write"))
    except (TooManyStreamsError, NameTakenError, CallEndedError) as error:  # while the handshake was accepted
        await socket.close(CONFLICT_CLOSE, str(error))


def _require_valid(tracks: str, name: str) -> None:
    """Raises Problem."""
    if tracks not in _TRACKS:
        raise Problem(422, "invalid-request", "tracks is one of inbound, outbound and both")
    if len(name) > MAX_NAME_CHARS:
        raise Problem(422, "invalid-request", f"name is longer than {MAX_NAME_CHARS} characters")


@contextmanager
def _as_problems() -> Iterator[None]:
    try:
        yield
    except UrlNotAllowedError as error:
        errors = [{"location": "body.url", "message": str(error)}]
        raise Problem(422, "url-not-allowed", str(error), title="URL Not Allowed", errors=errors) from None
    except TooManyStreamsError as error:
        raise Problem(409, "too-many-streams", str(error)) from None
    except NameTakenError as error:
        raise Problem(409, "name-taken", str(error)) from None


def _manager(state: ApiState) -> StreamManager:
    if state.streams is None:
        raise Problem(503, "unavailable", "media streams are not served now")
    return state.streams
