"""Agents on calls, end to end but for the calls: real WebSockets, and an agent that knows Twilio's messages only."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from websockets.exceptions import ConnectionClosed

from mediaserver.api.agent.call_agent import backoff_s
from mediaserver.api.agent.manager import AgentManager, voice_for
from mediaserver.api.state import ApiState, make_state
from mediaserver.api_config import AgentConfig
from mediaserver.call.engines import CallEngines
from mediaserver.call.events import CallEvent
from mediaserver.config import Config
from tests.mediaserver.api.agent.far_agent import FarAgent, FarConnection
from tests.mediaserver.api.fake_calls import FakeCall, FakeCalls, FakeUtterance
from tests.mediaserver.fake_engine import FakeEngine

FALLBACK = "Something is wrong here."


class Node:
    """A node with fake calls whose agents are real."""

    def __init__(self, far_url: str, tmp_path: Path, **agent: Any) -> None:
        settings = {"url": far_url, "reconnect_s": 0.01, "fallback": FALLBACK, **agent}
        config = Config(agent=settings, api={"tokens_file": str(tmp_path / "tokens")})  # type: ignore[arg-type]
        self.calls = FakeCalls()
        self.url = far_url
        self.state: ApiState = make_state(config, self.calls, CallEngines(FakeEngine(voices=("heart", "es"))))
        self.manager = self.state.agents = AgentManager(self.state)
        self.manager.start()
        self.events: list[CallEvent] = []
        self.calls.hub.listen(self.events.append)

    def arrive(self, *, answered: bool = True, **arguments: Any) -> FakeCall:
        return self.calls.arrive(answered=answered, agent_url=self.url, **arguments)

    async def until(self, true: Callable[[], object]) -> None:
        """What some events tell of, and the end of a turn none."""
        async with asyncio.timeout(10):
            while not true():
                await asyncio.sleep(0.005)

    async def says(self, call: FakeCall, count: int = 1) -> list[FakeUtterance]:
        """The first utterances of a call, once they are all there."""
        await self.until(lambda: len(call.said) >= count and not any(turn.open for turn in call.turns))
        return call.said

    def types(self, prefix: str = "agent.") -> list[str]:
        return [event.type for event in self.events if event.type.startswith(prefix)]

    def data(self, kind: str) -> list[dict[str, Any]]:
        return [dict(event.data) for event in self.events if event.type == kind]


@asynccontextmanager
async def node_with(far: FarAgent, tmp_path: Path, **agent: Any) -> Any:
    node = Node(far.url, tmp_path, **agent)
    try:
        yield node
    finally:
        await node.manager.close()


async def test_a_conversation(tmp_path: Path) -> None:
    async def agent(line: FarConnection) -> None:
        for token in ("Hello", " there.", " What", " can", " I", " do?"):
            await line.say(token, last=False)
        await line.say("")
        interrupt = await line.next("interrupt")
        await line.say(f"I said: {interrupt['utteranceUntilInterrupt']}.")
        prompt = await line.next("prompt")
        await line.say(f"You said: {prompt['voicePrompt']}.")
        digit = await line.next("dtmf")
        await line.say(f"You pressed {digit['digit']}. Good bye.")
        await line.send(type="end", handoffData='{"done":true}')
        await line.until_closed()

    async with FarAgent(agent) as far, node_with(far, tmp_path) as node:
        call = node.arrive(parameters={"name": "Ann"})
        line = await far.connection()
        assert line.setup["callSid"] == call.id
        assert line.setup["customParameters"] == {"name": "Ann"}
        assert (await node.says(call))[0].text == "Hello there. What can I do?"
        call.interrupt(heard="Hello there.", played_ms=700)
        assert (await node.says(call, 2))[1].text == "I said: Hello there.."
        session = node.manager.session_of(call.id)
        assert session is not None
        session.prompt("Nothing")
        assert (await node.says(call, 3))[2].text == "You said: Nothing."
        call.press("7")
        assert (await node.says(call, 4))[3].text == "You pressed 7. Good bye."
        await node.until(lambda: "agent.disconnected" in node.types())
        assert not call.over
        for _ in range(3):
            call.pass_utterance()
        assert call.over
        await asyncio.wait_for(line.until_closed(), 5)
        assert line.socket.close_code == 1000
    assert node.types() == ["agent.connected", "agent.disconnected"]
    shown = node.url.partition("?")[0]
    assert node.data("agent.connected") == [{"url": shown, "attempt": 1}]
    assert node.data("agent.disconnected") == [{"url": shown, "reason": "ended", "handoff_data": '{"done":true}'}]
    assert node.manager.session_of(call.id) is None


async def test_nothing_of_a_call_that_has_ended_is_kept(tmp_path: Path) -> None:
    """Not for the time that a silent agent would have had, nor until the cycle collector comes."""
    gc.collect()
    gc.disable()
    try:
        await _nothing_is_kept(tmp_path)
    finally:
        gc.enable()


async def _nothing_is_kept(tmp_path: Path) -> None:
    async with FarAgent() as far, node_with(far, tmp_path, prompt_timeout_s=3600) as node:
        call = node.arrive()
        line = await far.connection()
        await line.next("setup")
        session = weakref.ref(node.manager.session_of(call.id))
        call.end()
        await asyncio.wait_for(line.until_closed(), 5)
        await node.until(lambda: node.manager.session_of(call.id) is None)
        node.events.clear()
        await node.until(lambda: session() is None)


async def test_setup_waits_for_the_answer_but_the_connection_does_not(tmp_path: Path) -> None:
    async with FarAgent() as far, node_with(far, tmp_path) as node:
        call = node.arrive(answered=False, direction="outbound")
        line = await far.connection()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(line.socket.recv(), 0.05)
        call.answer()
        setup = await line.next()
        assert (setup["type"], setup["callStatus"], setup["direction"]) == ("setup", "IN-PROGRESS", "outbound")


async def test_a_call_without_an_agent_has_none(tmp_path: Path) -> None:
    async with FarAgent() as far, node_with(far, tmp_path) as node:
        call = node.calls.arrive()
        await asyncio.sleep(0)
        assert node.manager.session_of(call.id) is None
        assert far.requests == []


async def test_the_connection_ends_with_the_call(tmp_path: Path) -> None:
    async with FarAgent() as far, node_with(far, tmp_path) as node:
        call = node.arrive()
        line = await far.connection()
        await line.next("setup")
        call.end()
        await asyncio.wait_for(line.until_closed(), 5)
        assert (line.socket.close_code, line.socket.close_reason) == (1000, "call_ended")
        assert node.events[-1].type == "call.ended", "nothing is told of a call that is over"


async def test_a_call_that_ends_unanswered_lets_its_agent_go(tmp_path: Path) -> None:
    async with FarAgent() as far, node_with(far, tmp_path) as node:
        call = node.arrive(answered=False, direction="outbound")
        line = await far.connection()
        call.end("busy")
        await asyncio.wait_for(line.until_closed(), 5)
        assert line.socket.close_code == 1000


async def test_a_lost_agent_is_dialled_again(tmp_path: Path) -> None:
    async with FarAgent() as far, node_with(far, tmp_path) as node:
        call = node.arrive()
        first = await far.connection()
        await first.next("setup")
        await first.say("I was about to", last=False)
        await first.socket.close(1011)
        second = await far.connection()
        setup = await second.next("setup")
        assert setup["reconnected"] is True
        assert setup["callSid"] == call.id
        await second.say("Here I am again.")
        assert [said.text for said in await node.says(call, 2)] == ["I was about to", "Here I am again."]
        call.end()
    assert node.types() == ["agent.connected", "agent.disconnected", "agent.connected"]
    assert [data["attempt"] for data in node.data("agent.connected")] == [1, 2]
    assert node.data("agent.disconnected")[0]["reason"] == "closed_1011"


async def test_an_agent_that_is_busy_at_first(tmp_path: Path) -> None:
    async with FarAgent() as far, node_with(far, tmp_path) as node:
        far.refuses = 3
        node.arrive()
        assert (await (await far.connection()).next())["type"] == "setup"
        assert node.data("agent.connected")[0]["attempt"] == 4
        assert node.state.counts["agent_connect_failures"] == 3


async def test_an_agent_that_is_lost_for_good_leaves_an_apology_and_an_end(tmp_path: Path) -> None:
    async with FarAgent() as far, node_with(far, tmp_path, reconnects=1) as node:
        far.refuses = 99
        call = node.arrive()
        (said,) = await node.says(call)
        assert (said.text, said.barge_in) == (FALLBACK, "none")
        assert not call.over
        call.pass_utterance()
        await node.until(lambda: call.over)
        assert call.done == ["hang_up"]
        assert node.state.counts["agent_fallbacks"] == 1
        assert len(far.requests) == 2


async def test_what_the_lost_agent_has_said_is_heard_before_the_apology(tmp_path: Path) -> None:
    async def die(line: FarConnection) -> None:
        await line.say("This is all I have.")
        line.socket.transport.abort()

    async with FarAgent(die) as far, node_with(far, tmp_path, reconnects=0) as node:
        call = node.arrive()
        assert [said.text for said in await node.says(call, 2)] == ["This is all I have.", FALLBACK]
        call.pass_utterance()
        assert not call.over
        call.interrupt()  # what comes before the apology can be, and takes it along
        await node.until(lambda: call.over)


async def test_the_fallback_may_be_a_transfer(tmp_path: Path) -> None:
    target = "sip:desk@pbx.example"
    async with FarAgent() as far, node_with(far, tmp_path, reconnects=0, fallback_transfer=target) as node:
        far.refuses = 99
        call = node.arrive()
        await node.says(call)
        call.pass_utterance()
        await node.until(lambda: f"transfer {target}" in call.done)
        call.publish("call.transferred", target=target, status=100)
        call.publish("call.transferred", target=target, status=200)
        await asyncio.sleep(0)
        assert not call.over, "its end is the transfer's"
        call.end("transferred")
        assert "hang_up" not in call.done


async def test_a_fallback_transfer_that_fails_ends_the_call(tmp_path: Path) -> None:
    settings = {"fallback_transfer": "sip:desk@pbx.example", "fallback": "", "reconnects": 0}
    async with FarAgent() as far, node_with(far, tmp_path, **settings) as node:
        far.refuses = 99
        call = node.arrive()
        await node.until(lambda: "transfer sip:desk@pbx.example" in call.done)
        call.publish("call.transferred", target="sip:desk@pbx.example", status=486)
        await node.until(lambda: call.over)
        assert call.said == []
        assert call.done[-1] == "hang_up"


async def test_nobody_is_called_for_an_apology(tmp_path: Path) -> None:
    async with FarAgent() as far, node_with(far, tmp_path, reconnects=0) as node:
        far.refuses = 99
        call = node.arrive(answered=False, direction="outbound")
        await node.until(lambda: call.over)
        assert call.said == []


async def test_a_call_that_ends_while_its_agent_is_dialled_again(tmp_path: Path) -> None:
    async with FarAgent() as far, node_with(far, tmp_path, reconnects=5, reconnect_s=60) as node:
        far.refuses = 99
        call = node.arrive()
        await node.until(lambda: node.state.counts["agent_connect_failures"])
        call.end()
        assert node.state.counts["agent_fallbacks"] == 0
        assert call.said == []


async def test_a_url_that_is_not_allowed_is_not_tried_again(tmp_path: Path) -> None:
    async with FarAgent() as far, node_with(far, tmp_path, url="", reconnects=99, reconnect_s=60) as node:
        call = node.calls.arrive(agent_url=far.url)
        assert (await node.says(call))[0].text == FALLBACK
        assert far.requests == []


async def test_an_agent_that_says_nothing_at_all_is_lost(tmp_path: Path) -> None:
    async with FarAgent() as far, node_with(far, tmp_path, prompt_timeout_s=0.05, reconnects=9) as node:
        call = node.arrive()
        line = await far.connection()
        await line.next("setup")
        assert (await node.says(call))[0].text == FALLBACK
        await line.until_closed()
        assert (line.socket.close_code, line.socket.close_reason) == (1008, "silent")
        assert node.data("agent.disconnected")[0]["reason"] == "silent"
        assert len(far.requests) == 1


async def test_an_agent_that_listens_while_somebody_else_speaks_is_not_lost(tmp_path: Path) -> None:
    async with FarAgent() as far, node_with(far, tmp_path, prompt_timeout_s=0.03) as node:
        call = node.arrive()
        call.say(())
        line = await far.connection()
        await line.next("setup")
        await asyncio.sleep(0.1)
        await line.say("Now me.")
        assert (await node.says(call, 2))[1].text == "Now me."


async def test_an_agent_that_closes_as_it_should_is_done(tmp_path: Path) -> None:
    async def greet(line: FarConnection) -> None:
        await line.say("Good bye.")

    async with FarAgent(greet) as far, node_with(far, tmp_path) as node:
        call = node.arrive()
        await node.until(lambda: "agent.disconnected" in node.types())
        await node.until(lambda: "hang_up_when_said" in call.done)
        assert not call.over
        call.pass_utterance()
        assert call.over
        assert len(far.requests) == 1
        assert node.data("agent.disconnected")[0]["reason"] == "closed_1000"


async def test_an_agent_that_leaves_after_end_still_has_its_goodbye_ended(tmp_path: Path) -> None:
    async def leave(line: FarConnection) -> None:
        await line.say("Good bye, and thank you for calling.")
        await line.send(type="end")

    async with FarAgent(leave) as far, node_with(far, tmp_path) as node:
        call = node.arrive()
        line = await far.connection()
        await asyncio.wait_for(line.until_closed(), 5)
        await node.until(lambda: "hang_up_when_said" in call.done)
        call.interrupt()
        await node.until(lambda: call.over)
    assert node.types() == ["agent.connected", "agent.disconnected"]


async def test_errors_reach_the_agent_and_the_call_goes_on(tmp_path: Path) -> None:
    async with FarAgent() as far, node_with(far, tmp_path) as node:
        call = node.arrive()
        line = await far.connection()
        await line.next("setup")
        for bad, hint in [
            ("{", "Invalid JSON"),
            ('{"foo":"bar"}', "type"),
            ('{"type":"dance"}', "dance"),
            (b"\x00\x01", "2 bytes of binary"),
            ('{"type":"text","token":"' + 1_000_000 * "a" + '"}', "longer than 64 KB"),
        ]:
            await line.socket.send(bad)
            description = (await line.next("error"))["description"]
            assert description.startswith("Invalid message received: ")
            assert hint in description
        await line.say("Still here.")
        assert (await node.says(call))[0].text == "Still here."
        assert node.state.counts["agent_messages_refused"] == 5


async def test_ten_thousand_messages_a_second_do_not_disturb_others(tmp_path: Path) -> None:
    async def flood(line: FarConnection) -> None:
        for _ in range(10_000):
            await line.socket.send('{"type":"text","token":"a"}')

    async with FarAgent(flood) as far, node_with(far, tmp_path) as node:
        call = node.arrive()
        line = await far.connection()
        gaps = []
        loop = asyncio.get_running_loop()
        for _ in range(50):
            before = loop.time()
            await asyncio.sleep(0.005)
            gaps.append(loop.time() - before)
        assert sorted(gaps)[25] < 0.1
        taken = node.state.counts["agent_messages"]
        assert 0 < taken < 1500, "they are taken as fast as is allowed"
        call.end()
        await asyncio.wait_for(line.until_closed(), 10)


async def test_an_agent_that_never_reads_is_dropped(tmp_path: Path) -> None:
    """Its socket's buffers take a part; what they do not take is bounded."""
    async with FarAgent() as far, node_with(far, tmp_path, reconnects=0) as node:
        call = node.arrive()
        line = await far.connection()
        await line.next("setup")
        line.socket.transport.pause_reading()
        session = node.manager.session_of(call.id)
        async with asyncio.timeout(20):
            while not node.state.counts["agent_not_reading"]:
                session.prompt("word " * 4000)
                await asyncio.sleep(0)
        assert (await node.says(call))[0].text == FALLBACK
        assert node.data("agent.disconnected")[0]["reason"] == "not_reading"
        line.socket.transport.resume_reading()
        with pytest.raises(ConnectionClosed):  # after what the network had taken
            while True:
                await line.next("prompt")
        call.end()


async def test_neither_query_nor_text_is_logged(tmp_path: Path) -> None:
    async with FarAgent() as far, node_with(far, tmp_path) as node:
        with capture_logs() as logs:
            call = node.arrive()
            line = await far.connection()
            await line.next("setup")
            await line.say("My secret.")
            await node.says(call)
            await line.socket.close(1011)
            await (await far.connection()).next("setup")
            call.end()
        assert {"agent_connected", "agent_disconnected"} <= {log["event"] for log in logs}
        assert "secret" not in repr(logs)
        assert "token=abc" not in repr(logs)
        assert "token=abc" not in repr([event.data for event in node.events])


async def test_close_ends_all_connections_and_no_call_begins_with_an_agent_any_more(tmp_path: Path) -> None:
    async with FarAgent() as far, node_with(far, tmp_path) as node:
        ringing, talking = node.arrive(answered=False), node.arrive()
        lines = [await far.connection(), await far.connection()]
        await node.manager.close()
        await asyncio.wait_for(asyncio.gather(*(line.until_closed() for line in lines)), 5)
        assert not ringing.over
        assert not talking.over
        node.arrive()
        await asyncio.sleep(0.02)
        assert len(far.requests) == 2


async def test_many_agents_at_once(tmp_path: Path) -> None:
    async def greet(line: FarConnection) -> None:
        await line.say("Hello.")
        await line.until_closed()

    async with FarAgent(greet) as far, node_with(far, tmp_path) as node:
        calls = [node.arrive() for _ in range(50)]
        await node.until(lambda: all(call.said for call in calls))
        assert node.state.counts["agent_connections"] == 50
        for call in calls:
            call.end()
        await node.until(lambda: not any(node.manager.session_of(call.id) for call in calls))


def test_backoff_doubles_up_to_a_bound() -> None:
    config = AgentConfig(reconnect_s=0.5)
    assert [backoff_s(failures, config) for failures in range(8)] == [0, 0.5, 1, 2, 4, 8, 10, 10]


@pytest.mark.parametrize(
    ("lang", "voice"),
    [
        ("en", None),
        ("en-GB", None),
        ("EN_us", None),
        ("es", "es"),
        ("es-AR", "es"),
        ("es-MX", "es-mx"),
        ("heart", "heart"),
    ],
)
def test_voices_of_languages(lang: str, voice: str | None) -> None:
    assert voice_for(lang, ("heart", "es", "es-mx")) == voice


@pytest.mark.parametrize("lang", ["fr", "zh-CN", "", "e"])
def test_languages_without_a_voice(lang: str) -> None:
    with pytest.raises(LookupError):
        voice_for(lang, ("heart",))
