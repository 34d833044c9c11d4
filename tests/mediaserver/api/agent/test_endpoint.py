"""Agents that connect to us: uvicorn and websockets, with fake calls."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mediaserver.api.agent.endpoint import router
from mediaserver.api.agent.manager import AgentManager
from mediaserver.api.state import make_state
from mediaserver.api.tokens import Scope
from mediaserver.call.engines import CallEngines
from mediaserver.config import Config
from tests.mediaserver.api.fake_calls import FakeCalls
from tests.mediaserver.fake_engine import FakeEngine


class Server:
    def __init__(self, tmp_path: Path) -> None:
        config = Config(
            agent={"reconnect_s": 0.05, "fallback": "Gone."},  # type: ignore[arg-type]
            api={"tokens_file": str(tmp_path / "tokens")},  # type: ignore[arg-type]
        )
        self.calls = FakeCalls()
        self.state = make_state(config, self.calls, CallEngines(FakeEngine()))
        self.manager = self.state.agents = AgentManager(self.state)
        self.manager.start()
        app = FastAPI()
        app.state.api = self.state
        app.include_router(router)
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=0, ws="websockets-sansio", log_config=None, lifespan="off")
        )
        self.token = self.new_token("agent")
        self._task: asyncio.Task[None] | None = None

    def new_token(self, *scopes: Scope) -> str:
        return self.state.tokens.add("test", scopes, time.time())[1]

    async def start(self) -> None:
        self._task = asyncio.create_task(self._uvicorn._serve())
        while not self._uvicorn.started:
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        await self.manager.close()
        self._uvicorn.should_exit = True
        assert self._task is not None
        await asyncio.wait_for(self._task, 10)

    def connect(self, call_id: str, token: str | None = None, **options: Any) -> connect:
        port = self._uvicorn.servers[0].sockets[0].getsockname()[1]
        headers = {"Authorization": f"Bearer {token or self.token}"}
        url = f"ws://127.0.0.1:{port}/v1/calls/{call_id}/agent"
        return connect(url, **{"additional_headers": headers, "proxy": None, **options})


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    one = Server(tmp_path)
    await one.start()
    yield one
    await one.stop()


async def receive(agent: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await asyncio.wait_for(agent.recv(), 5))
    return message


async def say(agent: ClientConnection, text: str) -> None:
    await agent.send(json.dumps({"type": "text", "token": text, "last": True}))


async def until(true: Any) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


async def test_an_agent_connects_to_a_call(server: Server) -> None:
    call = server.calls.arrive()
    async with server.connect(call.id) as agent:
        setup = await receive(agent)
        assert (setup["type"], setup["callSid"]) == ("setup", call.id)
        await say(agent, "Hello.")
        await until(lambda: call.said)
        assert call.said[0].text == "Hello."
        call.press("4")
        assert await receive(agent) == {"type": "dtmf", "digit": "4"}
        call.interrupt(heard="Hel")
        assert (await receive(agent))["utteranceUntilInterrupt"] == "Hel"
        call.end()
        with pytest.raises(ConnectionClosed) as closed:
            await receive(agent)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1000, "call_ended")


async def test_bad_messages_are_told(server: Server) -> None:
    call = server.calls.arrive()
    async with server.connect(call.id) as agent:
        await receive(agent)
        for bad in ("{", b"\x01", '{"type":"text","token":"' + 1_000_000 * "a" + '"}'):
            await agent.send(bad)
            assert (await receive(agent))["type"] == "error"
        await say(agent, "Still here.")
        await until(lambda: call.said)
        call.end()


async def test_end_from_an_agent_that_connected(server: Server) -> None:
    call = server.calls.arrive()
    async with server.connect(call.id) as agent:
        await receive(agent)
        await agent.send('{"type":"end"}')
        await asyncio.wait_for(agent.wait_closed(), 5)
    assert call.over


async def test_a_second_agent_is_refused_and_the_first_goes_on(server: Server) -> None:
    call = server.calls.arrive()
    async with server.connect(call.id) as agent:
        await receive(agent)
        with pytest.raises(InvalidStatus) as refused:
            await server.connect(call.id)
        assert refused.value.response.status_code == 409
        problem = json.loads(refused.value.response.body or b"")
        assert problem["type"] == "urn:chatterline:problem:agent-taken"
        await say(agent, "Here I am.")
        await until(lambda: call.said)
        call.end()


async def test_a_call_whose_agent_we_dial_is_taken(server: Server) -> None:
    call = server.calls.arrive(agent_url="ws://agent.example/")
    with pytest.raises(InvalidStatus) as refused:
        await server.connect(call.id)
    assert refused.value.response.status_code == 409
    call.end()


async def test_calls_that_are_not_there_and_calls_that_have_ended(server: Server) -> None:
    with pytest.raises(InvalidStatus) as unknown:
        await server.connect("CA0")
    assert unknown.value.response.status_code == 404
    call = server.calls.arrive()
    call.end()
    with pytest.raises(InvalidStatus) as ended:
        await server.connect(call.id)
    assert ended.value.response.status_code == 409


async def test_only_with_a_token_of_the_scope(server: Server) -> None:
    call = server.calls.arrive()
    for token in ("wrong", server.new_token("calls:read")):
        with pytest.raises(InvalidStatus) as refused:
            await server.connect(call.id, token)
        assert refused.value.response.status_code == 403
    assert server.manager.session_of(call.id) is None
    async with server.connect(call.id, server.new_token("admin")) as agent:
        await receive(agent)
        call.end()


async def test_a_browser_has_its_token_in_a_subprotocol(server: Server) -> None:
    call = server.calls.arrive()
    offered = ["chatterline", f"chatterline.bearer.{server.token}"]
    async with server.connect(call.id, additional_headers={}, subprotocols=offered) as agent:
        assert agent.subprotocol == "chatterline"
        await receive(agent)
        call.end()


async def test_an_agent_that_leaves_as_it_should_leaves_the_call_alone(server: Server) -> None:
    call = server.calls.arrive()
    async with server.connect(call.id) as agent:
        await receive(agent)
    await until(lambda: not server.manager.is_taken(call))
    assert not call.over
    assert call.said == []
    async with server.connect(call.id) as another:
        await receive(another)
        call.end()


async def test_an_agent_that_is_lost_may_come_back(server: Server) -> None:
    call = server.calls.arrive()
    first = await server.connect(call.id)
    await receive(first)
    await say(first, "Hello.")
    await until(lambda: call.said)
    first.transport.abort()
    await until(lambda: not server.manager.is_taken(call))
    async with server.connect(call.id) as again:
        assert (await receive(again))["reconnected"] is True
        call.end()


async def test_an_agent_that_is_lost_and_does_not_come_back(server: Server) -> None:
    call = server.calls.arrive()
    agent = await server.connect(call.id)
    await receive(agent)
    agent.transport.abort()
    await until(lambda: call.said)
    assert call.said[0].text == "Gone."
    call.pass_utterance()
    await until(lambda: call.over)


async def test_a_call_that_is_not_answered_yet(server: Server) -> None:
    call = server.calls.arrive(answered=False)
    async with server.connect(call.id) as agent:
        await until(lambda: server.manager.is_taken(call))
        call.answer()
        assert (await receive(agent))["type"] == "setup"
        call.end()


async def test_a_server_that_stops_closes_its_agents(server: Server) -> None:
    call = server.calls.arrive()
    async with server.connect(call.id) as agent:
        await receive(agent)
        await server.manager.close()
        await asyncio.wait_for(agent.wait_closed(), 5)
    assert not call.over
