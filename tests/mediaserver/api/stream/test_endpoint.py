from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from mediaserver.api.state import ApiState
from mediaserver.api.tokens import Scope
from tests.mediaserver.api.conftest import bearer, token_of
from tests.mediaserver.api.fake_calls import FakeCalls
from tests.mediaserver.api.stream.receiver import Peer, Receiver

PCM = bytes(range(160)) * 2


@pytest.fixture
async def http(address: str, state: ApiState) -> AsyncIterator[httpx.AsyncClient]:
    headers = bearer(token_of(state, "calls:read", "calls:write"))
    async with httpx.AsyncClient(base_url=f"http://{address}", headers=headers) as http:
        yield http


Opener = Callable[..., connect]


@pytest.fixture
def opened(address: str, state: ApiState) -> Opener:
    """Connects to a call's media with a token of these scopes."""

    def open_media(call_id: str, query: str = "", *scopes: Scope, **arguments: Any) -> connect:
        secret = token_of(state, *(scopes or ("calls:read", "calls:write")))
        url = f"ws://{address}/v1/calls/{call_id}/media{query}"
        return connect(url, additional_headers=bearer(secret), proxy=None, close_timeout=0.2, **arguments)

    return open_media


async def refused(connecting: connect) -> int:
    """The HTTP status of a handshake that fails."""
    with pytest.raises(InvalidStatus) as caught:
        await connecting
    return caught.value.response.status_code


async def listened_to(calls: FakeCalls, socket: ClientConnection) -> Peer:
    peer = Peer(socket)
    await peer.until("start")
    return peer


class TestBegin:
    async def test_a_stream_begins_is_listed_and_stopped(
        self, calls: FakeCalls, http: httpx.AsyncClient, receiver: Receiver
    ):
        call = calls.arrive()
        body = {
            "url": receiver.url + "?token=secret",
            "tracks": ["outbound", "inbound", "inbound"][:2],
            "name": "mine",
            "parameters": {"a": "b"},
        }
        response = await http.post(f"/v1/calls/{call.id}/streams", json=body)
        assert response.status_code == 201, response.text
        stream = response.json()
        assert response.headers["location"] == f"/v1/calls/{call.id}/streams/{stream['stream_id']}"
        peer = await receiver.peer()
        start = await peer.until("start")
        assert start["start"]["streamSid"] == stream["stream_id"]
        assert start["start"]["tracks"] == ["outbound", "inbound"]
        listed = (await http.get(f"/v1/calls/{call.id}/streams")).json()["streams"]
        assert listed == [
            {
                "stream_id": stream["stream_id"],
                "name": "mine",
                "url": receiver.url,
                "tracks": ["outbound", "inbound"],
                "state": "open",
                "lost": 0,
            }
        ]
        assert (await http.delete(f"/v1/calls/{call.id}/streams/mine")).status_code == 204
        assert await peer.closed() == 1000
        assert peer.events[-1] == "stop"

    async def test_errors(self, calls: FakeCalls, http: httpx.AsyncClient, receiver: Receiver):
        call = calls.arrive(answered=False)
        path = f"/v1/calls/{call.id}/streams"

        async def problem(method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
            response = await http.request(method, path, json=body)
            assert response.headers["content-type"] == "application/problem+json"
            return response.status_code, response.json()["type"].rpartition(":")[2]

        assert await problem("POST", path, {"url": "ws://127.0.0.1:1/"}) == (422, "url-not-allowed")
        assert await problem("POST", path, {"url": "http://127.0.0.1:1/"}) == (422, "invalid-request")
        assert await problem("POST", path, {"url": receiver.url, "tracks": []}) == (422, "invalid-request")
        assert await problem("POST", "/v1/calls/CA0/streams", {"url": receiver.url}) == (404, "no-such-call")
        assert await problem("DELETE", path + "/MZ0") == (404, "no-such-stream")
        assert (await http.post(path, json={"url": receiver.url, "name": "a"})).status_code == 201
        assert await problem("POST", path, {"url": receiver.url, "name": "a"}) == (409, "name-taken")
        for _ in range(3):
            await http.post(path, json={"url": receiver.url})
        assert await problem("POST", path, {"url": receiver.url}) == (409, "too-many-streams")
        call.end()
        assert await problem("POST", path, {"url": receiver.url}) == (409, "call-ended")

    async def test_who_may(self, calls: FakeCalls, address: str, state: ApiState, receiver: Receiver):
        call = calls.arrive()
        path = f"/v1/calls/{call.id}/streams"
        async with httpx.AsyncClient(base_url=f"http://{address}") as http:
            assert (await http.get(path)).status_code == 401
            http.headers.update(bearer(token_of(state, "calls:read")))
            assert (await http.get(path)).json() == {"streams": []}
            assert (await http.post(path, json={"url": receiver.url})).status_code == 403
            assert (await http.delete(path + "/MZ0")).status_code == 403


class TestMedia:
    async def test_the_event_has_no_url(self, calls: FakeCalls, opened: Opener):
        call = calls.arrive()
        seen = []
        call.on_event(seen.append)
        async with opened(call.id) as socket:
            await listened_to(calls, socket)
            assert [event.data["url"] for event in seen if event.type == "stream.started"] == [None]

    async def test_a_receiver_that_connects_gets_both_tracks(self, calls: FakeCalls, opened: Opener):
        call = calls.arrive()
        async with opened(call.id, "?tracks=both&name=page") as socket:
            peer = await listened_to(calls, socket)
            assert peer.events == ["connected", "start"]
            assert peer.messages[-1]["start"]["tracks"] == ["inbound", "outbound"]
            call.hear(PCM, 20)
            call.hear(PCM, 20, "outbound")
            assert {(await peer.until("media"))["media"]["track"] for _ in range(2)} == {"inbound", "outbound"}
            call.end()
            assert await peer.closed() == 1000
            assert peer.events[-1] == "stop"

    async def test_it_may_speak_with_calls_write(self, calls: FakeCalls, opened: Opener):
        call = calls.arrive()
        async with opened(call.id) as socket:
            peer = await listened_to(calls, socket)
            await peer.play(bytes(160))
            await peer.send("mark", mark={"name": "x"})
            while not call.said or len(call.said[0].script) < 2:
                await asyncio.sleep(0.001)
            call.pass_utterance()
            assert (await peer.until("mark"))["mark"] == {"name": "x"}

    async def test_with_calls_read_it_may_only_listen(self, calls: FakeCalls, opened: Opener):
        call = calls.arrive()
        async with opened(call.id, "", "calls:read") as socket:
            peer = await listened_to(calls, socket)
            await peer.play(bytes(160))
            assert "may listen" in (await peer.until("error"))["error"]["message"]
            call.hear(PCM, 0)
            await peer.until("media")
        assert call.said == []

    async def test_a_browser_gives_its_token_as_a_subprotocol(self, calls: FakeCalls, address: str, state: ApiState):
        call = calls.arrive()
        secret = token_of(state, "calls:read")
        url = f"ws://{address}/v1/calls/{call.id}/media"
        offered = ["chatterline", f"chatterline.bearer.{secret}"]
        async with connect(url, subprotocols=offered, proxy=None) as socket:  # type: ignore[arg-type]
            assert socket.subprotocol == "chatterline"
            await listened_to(calls, socket)

    async def test_it_waits_for_the_answer(self, calls: FakeCalls, opened: Opener):
        call = calls.arrive(answered=False)
        async with opened(call.id) as socket:
            call.answer()
            await listened_to(calls, socket)

    async def test_a_call_that_is_never_answered(self, calls: FakeCalls, opened: Opener):
        call = calls.arrive(answered=False)
        async with opened(call.id) as socket:
            call.end()
            peer = Peer(socket)
            assert await peer.closed() == 1001
            assert peer.messages == []

    async def test_leaving(self, calls: FakeCalls, opened: Opener, state: ApiState):
        call = calls.arrive()
        async with opened(call.id) as socket:
            await listened_to(calls, socket)
        while call.audio["inbound"]:
            await asyncio.sleep(0.001)
        assert not call.over

    async def test_refusals(self, calls: FakeCalls, opened: Opener, address: str):
        call = calls.arrive()
        assert await refused(opened("CA0")) == 404
        assert await refused(opened(call.id, "?tracks=all")) == 422
        assert await refused(opened(call.id, "?name=" + "x" * 300)) == 422
        assert await refused(opened(call.id, "", "speech")) == 403
        assert await refused(connect(f"ws://{address}/v1/calls/{call.id}/media", proxy=None)) == 401
        async with opened(call.id, "?name=a") as socket:
            await listened_to(calls, socket)
            assert await refused(opened(call.id, "?name=a")) == 409
        call.end()
        assert await refused(opened(call.id)) == 409
