"""An agent on a real call: SIP and RTP on one side, a WebSocket on the other, and a fake engine between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mediaserver.api.agent.manager import AgentManager
from mediaserver.api.state import make_state
from mediaserver.call.engines import CallEngines
from mediaserver.call.events import CallEvent
from mediaserver.config import Config
from tests.mediaserver.api.agent.far_agent import FarAgent, FarConnection
from tests.mediaserver.caller import Caller, is_silence, running_caller
from tests.mediaserver.fake_engine import SAMPLES_PER_WORD, pcm_of

WORD_S = SAMPLES_PER_WORD / 8000


@asynccontextmanager
async def caller_with(far: FarAgent, tmp_path: Path, **agent: Any) -> AsyncIterator[Caller]:
    settings = {"url": far.url, "reconnects": 0, "fallback": "sorry", **agent}
    api = {"tokens_file": str(tmp_path / "tokens")}
    async with running_caller(agent=settings, api=api) as caller:
        config = Config(agent=settings, api=api)  # type: ignore[arg-type]
        manager = AgentManager(make_state(config, caller.calls, CallEngines(caller.engine)))
        manager.start()
        try:
            yield caller
        finally:
            await manager.close()


async def test_tokens_are_heard_and_end_hangs_up(tmp_path: Path) -> None:
    async def agent(line: FarConnection) -> None:
        for token in ("wel", "come", " there", "."):
            await line.say(token, last=token == ".")
        await line.send(type="end")
        await line.until_closed()

    async with FarAgent(agent) as far, caller_with(far, tmp_path) as caller:
        await caller.call()
        line = await far.connection()
        assert line.setup["direction"] == "inbound"
        speech = await caller.speech(2 * WORD_S)
        assert [stream.request.text for stream in caller.engine.streams] == ["welcome there."], "and no greeting"
        assert len(speech) == len(pcm_of("welcome")) * 2
        await caller.request("BYE")
        await caller.ended()
        await asyncio.wait_for(line.until_closed(), 5)
        assert line.socket.close_code == 1000


async def test_a_key_interrupts_and_the_rest_of_the_cycle_is_not_heard(tmp_path: Path) -> None:
    order: list[str] = []

    async def agent(line: FarConnection) -> None:
        await line.say("one two three four five six seven eight. And more of it,", last=False)
        for _ in range(2):
            order.append((await line.next())["type"])
        await line.say("done")
        await line.send(type="end")
        await line.until_closed()

    async with FarAgent(agent) as far, caller_with(far, tmp_path, barge_in="digit") as caller:
        events: list[CallEvent] = []
        caller.calls.hub.listen(events.append)
        await caller.call()
        await caller.speech(1.5 * WORD_S)
        await caller.in_dialog("INFO", b"Signal=5\r\n", Content_Type="application/dtmf-relay")
        await caller.request("BYE")
        await caller.ended()
    assert order == ["interrupt", "dtmf"]
    (interrupted,) = [event for event in events if event.type == "speech.interrupted"]
    assert str(interrupted.data["heard_text"]).startswith("one")
    texts = [stream.request.text for stream in caller.engine.streams]
    assert texts[-1] == "done"


async def test_what_is_not_interruptible_is_heard_to_its_end(tmp_path: Path) -> None:
    async def agent(line: FarConnection) -> None:
        await line.say("one two three.", interruptible=False)
        await line.next("dtmf")
        await line.send(type="end")
        await line.until_closed()

    async with FarAgent(agent) as far, caller_with(far, tmp_path) as caller:
        await caller.call()
        packets = await caller.speech_packets(5)
        await caller.in_dialog("INFO", b"Signal=5\r\n", Content_Type="application/dtmf-relay")
        packets += await caller.packets(round(3 * WORD_S / 0.02) - 5)
        assert not any(is_silence(packet) for packet in packets)
        await caller.request("BYE")


async def test_a_dead_agent_leaves_words_and_an_end(tmp_path: Path) -> None:
    async def die(line: FarConnection) -> None:
        line.socket.transport.abort()

    async with FarAgent(die) as far, caller_with(far, tmp_path) as caller:
        await caller.call()
        await caller.request("BYE")
        await caller.ended()
        assert [stream.request.text for stream in caller.engine.streams] == ["sorry"]


async def test_a_caller_who_hangs_up_takes_the_agent_along(tmp_path: Path) -> None:
    async with FarAgent() as far, caller_with(far, tmp_path) as caller:
        await caller.call()
        line = await far.connection()
        await line.next("setup")
        assert (await caller.in_dialog("BYE")).code == 200
        await asyncio.wait_for(line.until_closed(), 5)
        assert line.socket.close_reason == "call_ended"
