from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from mediaserver.api.agent import connection as connection_module
from mediaserver.api.agent.connection import MAX_WAITING, AgentConnection, Ending
from mediaserver.api.agent.session import AgentSession
from mediaserver.api.sockets import SocketClosedError
from mediaserver.api_config import AgentConfig
from mediaserver.call.events import EventHub
from tests.mediaserver.api.fake_calls import FakeCall


class FakeSocket:
    """What comes is put into `incoming`: a message, or the code it closes with."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[str | bytes | int] = asyncio.Queue()
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.reads = asyncio.Event()
        self.reads.set()
        self.closed: tuple[int, str] | None = None

    async def receive(self) -> str | bytes:
        message = await self.incoming.get()
        if isinstance(message, int):
            raise SocketClosedError(message)
        return message

    async def send(self, text: str) -> None:
        await self.reads.wait()
        self.sent.put_nowait(json.loads(text))

    async def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)


class Line:
    """A connection with a fake socket, running."""

    def __init__(self, **config: Any) -> None:
        self.call = FakeCall(EventHub())
        self.call.answer()
        self.socket = FakeSocket()
        self.counts: Counter[str] = Counter()
        self.connection = AgentConnection(self.socket, AgentConfig(**config), self.counts)
        self.session = AgentSession(
            self.call,
            AgentConfig(**config),
            asyncio.get_running_loop(),
            self.connection.send,
            open_sound=lambda _url: pytest.fail("no sound was asked for"),
            voice_of=lambda _lang: None,
            counts=self.counts,
            on_end=lambda _data: None,
        )
        self.task = asyncio.create_task(self.connection.run(self.session))

    async def error(self) -> str:
        message = await asyncio.wait_for(self.socket.sent.get(), 5)
        assert message["type"] == "error"
        return str(message["description"])

    async def ending(self) -> Ending:
        return await asyncio.wait_for(self.task, 5)


async def test_messages_go_both_ways_and_the_socket_is_closed_in_the_end() -> None:
    line = Line()
    line.session.begin()
    assert (await line.socket.sent.get())["type"] == "setup"
    line.socket.incoming.put_nowait('{"type": "text", "token": "Hello.", "last": true}')
    line.socket.incoming.put_nowait(1000)
    assert await line.ending() == Ending("closed", "closed_1000")
    assert line.call.said[0].text == "Hello."
    assert line.socket.closed == (1000, "closed_1000")


async def test_an_end_without_a_code_is_as_it_should_be() -> None:
    """What close() of a browser's or of Node's WebSocket sends by itself."""
    line = Line()
    line.socket.incoming.put_nowait(1005)
    assert (await line.ending()).outcome == "closed"


@pytest.mark.parametrize("code", [1001, 1006, 1011, 4000])
async def test_any_other_end_is_a_loss(code: int) -> None:
    line = Line()
    line.socket.incoming.put_nowait(code)
    assert await line.ending() == Ending("lost", f"closed_{code}")


async def test_what_waits_is_sent_before_we_close() -> None:
    line = Line()
    for digit in "123":
        line.call.publish("dtmf.received", digit=digit, source="info")
        line.session.prompt(digit)
    line.connection.stop("call_ended")
    assert await line.ending() == Ending("stopped", "call_ended")
    assert [(await line.socket.sent.get())["voicePrompt"] for _ in "123"] == ["1", "2", "3"]


async def test_binary_is_refused() -> None:
    line = Line()
    line.socket.incoming.put_nowait(b"\x00\x01\x02")
    assert "3 bytes of binary" in await line.error()
    assert line.counts["agent_messages_refused"] == 1
    line.socket.incoming.put_nowait('{"type": "text", "token": "Hello.", "last": true}')
    line.connection.stop("done")
    line.socket.incoming.put_nowait(1000)
    await line.ending()


async def test_a_megabyte_is_refused_and_the_connection_goes_on() -> None:
    line = Line()
    line.socket.incoming.put_nowait(json.dumps({"type": "text", "token": "word " * 200_000, "last": True}))
    description = await line.error()
    assert "longer than 64 KB" in description
    assert len(description) < 200
    line.socket.incoming.put_nowait('{"type": "text", "token": "Hello.", "last": true}')
    line.socket.incoming.put_nowait(1000)
    await line.ending()
    assert [said.text for said in line.call.said] == ["Hello."]


async def test_size_is_that_on_the_wire() -> None:
    line = Line(max_message_kb=1)
    line.socket.incoming.put_nowait(json.dumps({"type": "text", "token": "ü" * 600}, ensure_ascii=False))
    assert "longer than 1 KB" in await line.error()
    line.connection.stop("done")
    await line.ending()


async def test_a_flood_is_taken_slowly_and_told_once_a_second() -> None:
    line = Line(messages_per_s=100)
    flood = 90
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(flood):
        line.socket.incoming.put_nowait('{"type": "language"}')
    line.socket.incoming.put_nowait(1000)
    await line.ending()
    assert loop.time() - began >= 0.3, "50 at once, then 100 a second"
    assert line.counts["agent_messages"] == flood, "none is lost"
    assert line.socket.sent.qsize() == 1
    assert "More than 100 messages a second" in await line.error()


async def test_a_flood_leaves_time_to_others() -> None:
    line = Line(messages_per_s=100_000)
    for _ in range(2000):
        line.socket.incoming.put_nowait('{"type": "language"}')
    line.socket.incoming.put_nowait(1000)
    turns = 0
    while not line.task.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 2000 / 32


async def test_an_agent_that_never_reads_is_given_up() -> None:
    line = Line()
    line.socket.reads.clear()
    await asyncio.sleep(0)
    for number in range(MAX_WAITING + 1):
        line.session.prompt(str(number))
    assert await line.ending() == Ending("lost", "not_reading")
    assert line.counts["agent_not_reading"] == 1
    assert line.socket.closed == (1008, "not_reading")


async def test_a_message_that_is_never_taken_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "WRITE_TIMEOUT_S", 0.01)
    line = Line()
    line.socket.reads.clear()
    line.session.begin()
    assert await line.ending() == Ending("lost", "not_reading")


async def test_a_fault_of_ours_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()

    def fail(_text: str) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(line.session, "take", fail)
    line.socket.incoming.put_nowait("{}")
    assert await line.ending() == Ending("lost", "error")


async def test_cancelled_it_closes_the_socket() -> None:
    line = Line()
    await asyncio.sleep(0)
    line.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await line.task
    assert line.socket.closed == (1000, "shutdown")


async def test_after_the_end_nothing_is_queued() -> None:
    line = Line()
    line.socket.incoming.put_nowait(1006)
    await line.ending()
    for _ in range(MAX_WAITING + 1):
        line.session.prompt("late")
    assert line.counts["agent_not_reading"] == 0
