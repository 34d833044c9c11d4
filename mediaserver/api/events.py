"""GET /v1/events: what happens to calls, as server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from mediaserver.api.auth import Token, require
from mediaserver.api.problems import Problem, problem_responses
from mediaserver.api.responses import Event
from mediaserver.api.state import ApiState, State
from mediaserver.call.events import EVENT_TYPES, CallEvent, Subscription, matching_types

router = APIRouter(prefix="/v1/events", tags=["events"])

PING_S = 15.0
SEND_TIMEOUT_S = 30.0
"A subscriber that takes nothing for so long is gone."


class EventStream(EventSourceResponse):
    """Ends its subscription, however it ends; the class also gives the OpenAPI document its media type."""

    media_type = "text/event-stream"

    def __init__(self, state: ApiState, token: Token, subscription: Subscription) -> None:
        super().__init__(_told(state, token, subscription), ping=PING_S, send_timeout=SEND_TIMEOUT_S)
        self._state = state
        self._subscription = subscription
        state.watchers += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            self._state.counts["watchers_given_up"] += 1
        finally:
            self._subscription.close()
            self._state.watchers -= 1


_EXAMPLE = """\
id: 19cab2c8c00-17
event: dtmf.received
data: {"type":"dtmf.received","call_id":"CA5f0c6a0e1d9b4c7f8a2e3b4c5d6e7f80","at":1772366405.12,"number":17,\
"data":{"digit":"5","source":"rfc4733"}}

"""


@router.get(
    "",
    status_code=200,
    summary="Events as they happen",
    response_class=EventStream,
    responses={
        200: {
            "description": "A stream without an end. `event` is the type, `data` an Event as JSON, `id` for "
            'Last-Event-ID. An event `lost` with `{"lost": 3}` tells how many a slow subscriber has missed.',
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
        },
        **problem_responses(401, 403, 422, 429, 503),
    },
)
async def events(
    state: State,
    token: Annotated[Token, Depends(require("events"))],
    call: Annotated[str | None, Query(max_length=256, description="Of one call only.")] = None,
    types: Annotated[
        str | None,
        Query(max_length=1000, description="Of these types only: names with commas, `speech.*` for all of a kind."),
    ] = None,
    last_event_id: Annotated[
        str | None, Header(max_length=64, description="Where to go on, as far back as the server remembers.")
    ] = None,
) -> EventStream:
    """Events of all calls, or of one, as they happen."""
    wanted = wanted_types(types)
    call_id = _call_id(state, call)

    def is_wanted(event: CallEvent) -> bool:
        return event.type in wanted and (call_id is None or event.call_id == call_id)

    if state.watchers >= state.config.api.max_watchers:
        raise Problem(503, "too-many-watchers", "too many subscribers watch events", headers={"Retry-After": "10"})
    return EventStream(state, token, state.calls.hub.subscribe(is_wanted, after=_after(state, last_event_id)))


def wanted_types(types: str | None) -> frozenset[str]:
    """The types that a list such as "call.*,mark.reached" names; all without one. Raises Problem: 422."""
    if types is None:
        return frozenset(EVENT_TYPES)
    try:
        wanted = matching_types(filter(None, (part.strip() for part in types.split(","))))
    except ValueError as error:
        raise Problem(422, "unknown-event-type", str(error)) from None
    if not wanted:
        raise Problem(422, "unknown-event-type", "types names no event type")
    return wanted


def event_id(state: ApiState, number: int) -> str:
    """Told from those of the same server before it was started again, which counted from 1 as well."""
    return f"{int(state.started_at * 1000):x}-{number}"


def _after(state: ApiState, last: str | None) -> int | None:
    if not last:
        return None
    run, _, number = last.partition("-")
    if run != event_id(state, 0).partition("-")[0] or not number.isascii() or not number.isdigit():
        return 0  # of an earlier run: all that happened in this one is news
    return int(number)


def _call_id(state: ApiState, call: str | None) -> str | None:
    """Ours, where it is SIP's Call-ID that was given."""
    if call is None:
        return None
    found = state.calls.find(call)
    return call if found is None else found.id


async def _told(state: ApiState, token: Token, subscription: Subscription) -> AsyncIterator[ServerSentEvent]:
    told = 0
    yield ServerSentEvent(comment="events follow")  # so that a proxy passes the headers on
    async for event in subscription:
        if not state.tokens.valid(token, time.time()):
            return
        if subscription.lost > told:
            state.counts["events_lost"] += subscription.lost - told
            yield ServerSentEvent(json.dumps({"lost": subscription.lost - told}), event="lost")
            told = subscription.lost
        yield ServerSentEvent(Event.of(event).model_dump_json(), event=event.type, id=event_id(state, event.number))
