"""Server-sent events: in order, to be taken up again, bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.api import events
from mediaserver.api.events import wanted_types
from mediaserver.api.problems import Problem
from mediaserver.api.server import ApiServer
from mediaserver.call import events as call_events
from mediaserver.call.events import EVENT_TYPES
from tests.mediaserver.api.conftest import bearer, token_of
from tests.mediaserver.api.fake_calls import FakeCalls
from tests.mediaserver.api.test_calls import problem


@dataclass
class Told:
    """One event, as a browser's EventSource would have it."""

    id: str
    type: str
    data: dict[str, object]


class Watcher:
    """Reads a stream of events as WHATWG HTML has it, section 9.2.6."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.comments: list[str] = []
        self._lines = response.aiter_lines()

    async def next(self) -> Told:
        fields: dict[str, str] = {}
        async with asyncio.timeout(5):
            async for line in self._lines:
                if not line and "data" in fields:
                    return Told(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
                name, _, value = line.partition(":")
                if name:
                    fields[name] = value.removeprefix(" ")
                elif line:
                    self.comments.append(value)
        raise EOFError


@pytest.fixture
async def http(server: ApiServer) -> AsyncIterator[httpx.AsyncClient]:
    assert server.address is not None
    headers = bearer(token_of(server.state, "events"))
    async with httpx.AsyncClient(base_url=server.address, headers=headers) as client:
        yield client


@asynccontextmanager
async def watching(
    http: httpx.AsyncClient, query: str = "", headers: dict[str, str] | None = None
) -> AsyncIterator[Watcher]:
    async with http.stream("GET", f"/v1/events{query}", headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        yield Watcher(response)


async def test_what_happens_is_told_in_order(http: httpx.AsyncClient, calls: FakeCalls) -> None:
    async with watching(http) as watcher:
        call = calls.arrive()
        call.press("5")
        call.end("caller")
        told = [await watcher.next() for _ in range(4)]
    assert [event.type for event in told] == ["call.started", "call.answered", "dtmf.received", "call.ended"]
    digit = told[2].data
    assert (digit["type"], digit["call_id"], digit["number"]) == ("dtmf.received", call.id, 3)
    assert digit["data"] == {"digit": "5", "source": "rfc4733"}
    assert isinstance(digit["at"], float)


async def test_of_one_call_and_of_some_types(http: httpx.AsyncClient, calls: FakeCalls) -> None:
    one, other = calls.arrive(), calls.arrive()
    query = f"?call={one.view().sip_call_id}&types=dtmf.received,mark.*"
    async with watching(http, query) as watcher:
        other.press("1")
        one.publish("speech.started", utterance=1)
        one.press("2")
        one.publish("mark.reached", name="m", utterance=1)
        told = [await watcher.next() for _ in range(2)]
    assert [(event.type, event.data["call_id"]) for event in told] == [
        ("dtmf.received", one.id),
        ("mark.reached", one.id),
    ]


async def test_who_comes_back_has_missed_nothing(http: httpx.AsyncClient, calls: FakeCalls) -> None:
    call = calls.arrive()
    async with watching(http) as watcher:
        call.press("1")
        last = await watcher.next()
    call.press("2")
    call.press("3")
    async with watching(http, headers={"Last-Event-ID": last.id}) as watcher:
        call.press("4")
        digits = [(await watcher.next()).data["data"] for _ in range(3)]
    assert [digit["digit"] for digit in digits if isinstance(digit, dict)] == ["2", "3", "4"]


@pytest.mark.parametrize("last", ["18f0a0b-7", "nonsense", "7", "-", "7-7-7"])
async def test_who_comes_back_after_a_restart_gets_what_there_is(
    http: httpx.AsyncClient, calls: FakeCalls, last: str
) -> None:
    """Numbers begin again with the server, so ids of an earlier one say nothing of where to go on."""
    calls.arrive()
    async with watching(http, headers={"Last-Event-ID": last}) as watcher:
        assert (await watcher.next()).data["number"] == 1


async def test_a_slow_subscriber_is_told_how_many_it_lost(
    http: httpx.AsyncClient, calls: FakeCalls, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_events, "MAX_WAITING", 10)
    call = calls.arrive()
    async with watching(http) as watcher:
        for number in range(25):  # in one go: nobody can read meanwhile
            call.press(str(number % 10))
        lost = await watcher.next()
        assert (lost.type, lost.data, lost.id) == ("lost", {"lost": 15}, "")
        assert [(await watcher.next()).data["number"] for _ in range(10)] == list(range(18, 28))
    assert server.state.counts["events_lost"] == 15


async def test_subscribers_are_bounded(http: httpx.AsyncClient, calls: FakeCalls, server: ApiServer) -> None:
    server.state.watchers = server.state.config.api.max_watchers - 1
    async with watching(http) as watcher:
        response = await http.get("/v1/events")
        problem(response, 503, "too-many-watchers")
        assert response.headers["retry-after"]
        calls.arrive()
        assert (await watcher.next()).type == "call.started"


async def test_a_subscriber_that_goes_is_forgotten(
    http: httpx.AsyncClient, calls: FakeCalls, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()
    close = call_events.Subscription.close

    def closed(subscription: call_events.Subscription) -> None:
        close(subscription)
        ended.set()

    monkeypatch.setattr(call_events.Subscription, "close", closed)
    async with watching(http) as watcher:
        calls.arrive()
        await watcher.next()
        assert server.state.watchers == 1
    async with asyncio.timeout(5):
        await ended.wait()
        while server.state.watchers:
            await asyncio.sleep(0)
    calls.arrive()


async def test_a_stream_ends_when_its_token_does(http: httpx.AsyncClient, calls: FakeCalls, server: ApiServer) -> None:
    async with watching(http) as watcher:
        call = calls.arrive()
        await watcher.next()
        await watcher.next()
        server.state.tokens.remove(server.state.tokens.list()[0].id)
        call.press("1")
        with pytest.raises(EOFError):
            await watcher.next()


async def test_a_quiet_stream_is_kept_alive(
    http: httpx.AsyncClient, calls: FakeCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PING_S", 0.01)
    async with watching(http) as watcher:
        async with asyncio.timeout(5):
            async for line in watcher.response.aiter_lines():
                if "ping" in line:
                    break


@pytest.mark.parametrize("types", ["nothing", "", ",", "call", "call.", "*", ".*", "call.*,x", "call.started.*"])
def test_types_that_are_none(types: str) -> None:
    with pytest.raises(Problem) as caught:
        wanted_types(types)
    assert (caught.value.status_code, caught.value.slug) == (422, "unknown-event-type")


async def test_types_that_are_none_are_told(client: httpx.AsyncClient) -> None:
    problem(await client.get("/v1/events", params={"types": "nothing"}), 422, "unknown-event-type")


@pytest.mark.parametrize(
    ("given_types", "meant"),
    [
        (None, set(EVENT_TYPES)),
        ("call.ended", {"call.ended"}),
        (" call.ended , call.ended,", {"call.ended"}),
        ("dtmf.*", {"dtmf.received", "dtmf.sent"}),
        ("mark.*,agent.connected", {"mark.reached", "agent.connected"}),
    ],
)
def test_types(given_types: str | None, meant: set[str]) -> None:
    assert wanted_types(given_types) == meant


@given(st.text())
def test_any_types_are_known_or_refused(types: str) -> None:
    try:
        assert wanted_types(types) <= set(EVENT_TYPES)
    except Problem as refused:
        assert refused.status_code == 422
