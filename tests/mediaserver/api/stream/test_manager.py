from __future__ import annotations

import asyncio
import base64
import gc
import json
import socket
import threading
import weakref
from typing import Any, cast

import pytest

from mediaserver.api.signature import twilio_signature
from mediaserver.api.state import ApiState
from mediaserver.api.stream import session
from mediaserver.api.stream.manager import NameTakenError, StreamManager, TooManyStreamsError
from mediaserver.api.urls import UrlNotAllowedError, UrlPolicy
from mediaserver.call.control import CallEndedError, StreamOrder
from mediaserver.call.events import CallEvent
from mediaserver.rtp.codec import audioop
from tests.mediaserver.api.fake_calls import FakeCall, FakeCalls
from tests.mediaserver.api.stream.receiver import Peer, Receiver

PCM = bytes(range(160)) * 2


def events_of(call: FakeCall) -> list[CallEvent]:
    seen: list[CallEvent] = []
    call.on_event(lambda event: seen.append(event) if event.type.startswith("stream.") else None)
    return seen


async def begun(call: FakeCall, streams: StreamManager, receiver: Receiver, **arguments: Any) -> Peer:
    """A stream, after `start`."""
    streams.fork(call, StreamOrder(receiver.url, **arguments))
    peer = await receiver.peer()
    await peer.until("start")
    while not call.audio["inbound"]:
        await asyncio.sleep(0)
    return peer


async def stopped(seen: list[CallEvent]) -> CallEvent:
    async with asyncio.timeout(10):
        while not seen or seen[-1].type != "stream.stopped":
            await asyncio.sleep(0.001)
    return seen[-1]


class TestFork:
    async def test_a_call_as_twilio_would_send_it(self, calls: FakeCalls, streams: StreamManager, receiver: Receiver):
        call = calls.arrive()
        seen = events_of(call)
        fork = streams.fork(call, StreamOrder(receiver.url, ("inbound", "outbound"), "", {"room": "12"}))
        peer = await receiver.peer()
        start = await peer.until("start")
        assert peer.events == ["connected", "start"]
        assert start["streamSid"] == start["start"]["streamSid"] == fork.id
        assert start["start"]["callSid"] == call.id
        assert start["start"]["tracks"] == ["inbound", "outbound"]
        assert start["start"]["customParameters"] == {"room": "12"}
        for at in (1000, 1020):
            call.hear(PCM, at)
            call.hear(PCM, at, "outbound")
        call.press("5")
        call.end()
        assert await peer.closed() == 1000
        assert peer.messages[-1]["event"] == "stop"
        assert [message["sequenceNumber"] for message in peer.messages[1:]] == [str(n) for n in range(1, 8)]
        assert [message["dtmf"]["digit"] for message in peer.messages if message["event"] == "dtmf"] == ["5"]
        media = [message["media"] for message in peer.messages if message["event"] == "media"]
        assert [(one["track"], one["chunk"], one["timestamp"]) for one in media] == [
            ("inbound", "1", "0"),
            ("outbound", "1", "0"),
            ("inbound", "2", "20"),
            ("outbound", "2", "20"),
        ]
        assert {base64.b64decode(one["payload"]) for one in media} == {audioop.lin2ulaw(PCM, 2)}
        assert (await stopped(seen)).data == {"stream_id": fork.id, "reason": "call_ended", "lost": 0}
        assert seen[0].data == {"stream_id": fork.id, "url": receiver.url, "tracks": ["inbound", "outbound"]}
        assert call.audio == {"inbound": [], "outbound": []}
        while streams.of(call.id):  # its socket is being closed
            await asyncio.sleep(0)

    async def test_a_stream_that_has_ended_is_freed_without_the_cycle_collector(
        self, calls: FakeCalls, streams: StreamManager, receiver: Receiver
    ):
        gc.collect()
        gc.disable()
        try:
            call = calls.arrive()
            peer = await begun(call, streams, receiver)
            (fork,) = streams.of(call.id)
            stream = weakref.ref(fork.stream)
            del fork
            call.end()
            await peer.closed()
            async with asyncio.timeout(10):
                while stream() is not None:
                    await asyncio.sleep(0.001)
        finally:
            gc.enable()

    async def test_the_connection_is_signed(self, calls: FakeCalls, streams: StreamManager, receiver: Receiver):
        await begun(calls.arrive(), streams, receiver)
        headers = receiver.headers[0]
        assert headers["x-twilio-signature"] == twilio_signature("shared", receiver.url)
        assert headers["x-chatterline-signature"].startswith("t=")

    async def test_it_waits_for_the_answer(self, calls: FakeCalls, streams: StreamManager, receiver: Receiver):
        call = calls.arrive(answered=False, streams=[StreamOrder(receiver.url)])
        assert [fork.stream for fork in streams.of(call.id)] == [None]
        await asyncio.sleep(0)
        assert receiver.headers == []
        call.answer()
        start = await (await receiver.peer()).until("start")
        assert start["start"]["callSid"] == call.id

    async def test_a_call_that_is_never_answered(self, calls: FakeCalls, streams: StreamManager, receiver: Receiver):
        call = calls.arrive(answered=False, streams=[StreamOrder(receiver.url)])
        seen = events_of(call)
        await asyncio.sleep(0)
        call.end()
        assert (await stopped(seen)).data["reason"] == "call_ended"
        assert receiver.headers == []

    async def test_what_a_call_is_to_have_but_may_not(self, calls: FakeCalls, state: ApiState):
        call = FakeCall(calls.hub, streams=[StreamOrder("ws://169.254.169.254/")])
        seen = events_of(call)
        for told in calls.on_call:
            told(call)
        assert [event.data["reason"] for event in seen] == ["refused"]
        assert state.counts["streams_failed"] == 1

    async def test_nobody_is_there(self, calls: FakeCalls, state: ApiState):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"ws://127.0.0.1:{unused.getsockname()[1]}/"
            state.urls = UrlPolicy([], [], [url])
            call = calls.arrive()
            seen = events_of(call)
            assert state.streams is not None
            state.streams.fork(call, StreamOrder(url))
            assert (await stopped(seen)).data["reason"] == "connect_failed"
        assert not call.over

    async def test_what_is_not_allowed(self, calls: FakeCalls, streams: StreamManager, receiver: Receiver):
        call = calls.arrive()
        for url in ("ws://example.com/", "http://127.0.0.1/", receiver.url.replace("127.0.0.1", "localhost")):
            with pytest.raises(UrlNotAllowedError):
                streams.fork(call, StreamOrder(url))
        streams.fork(call, StreamOrder(receiver.url, name="a"))
        with pytest.raises(NameTakenError):
            streams.fork(call, StreamOrder(receiver.url, name="a"))
        for _ in range(3):
            streams.fork(call, StreamOrder(receiver.url))
        with pytest.raises(TooManyStreamsError):
            streams.fork(call, StreamOrder(receiver.url))
        call.end()
        with pytest.raises(CallEndedError):
            streams.fork(call, StreamOrder(receiver.url))

    async def test_stopping_one(self, calls: FakeCalls, streams: StreamManager, receiver: Receiver):
        call = calls.arrive()
        seen = events_of(call)
        peer = await begun(call, streams, receiver, name="mine")
        fork = streams.find(call.id, "mine")
        assert fork is not None
        assert streams.find(call.id, fork.id) is fork
        fork.stop("stopped")
        assert await peer.closed() == 1000
        assert peer.events[-1] == "stop"
        assert (await stopped(seen)).data["reason"] == "stopped"
        assert not call.over

    async def test_stopping_one_that_has_not_begun(self, calls: FakeCalls, streams: StreamManager, receiver: Receiver):
        call = calls.arrive(answered=False)
        seen = events_of(call)
        fork = streams.fork(call, StreamOrder(receiver.url))
        await asyncio.sleep(0)
        fork.stop("stopped")
        assert (await stopped(seen)).data == {"stream_id": fork.id, "reason": "stopped", "lost": 0}
        call.answer()
        assert streams.of(call.id) == ()

    async def test_the_server_stops(self, calls: FakeCalls, streams: StreamManager, receiver: Receiver):
        call = calls.arrive()
        peer = await begun(call, streams, receiver)
        closing = asyncio.create_task(streams.close())
        assert await peer.closed() == 1001
        await closing
        assert peer.events[-1] == "stop"
        assert calls.on_call == []


class TestReceiver:
    async def test_audio_comes_from_another_thread(self, calls: FakeCalls, streams: StreamManager, receiver: Receiver):
        call = calls.arrive()
        peer = await begun(call, streams, receiver)
        thread = threading.Thread(target=lambda: [call.hear(PCM, 20 * n) for n in range(200)])
        thread.start()
        stamps = [(await peer.until("media"))["media"]["timestamp"] for _ in range(200)]
        thread.join()
        assert stamps == [str(20 * n) for n in range(200)]

    async def test_one_that_reads_slowly_loses_audio_with_a_count_and_the_call_goes_on(
        self, calls: FakeCalls, streams: StreamManager, state: ApiState, receiver: Receiver
    ):
        call = calls.arrive()
        seen = events_of(call)
        peer = await begun(call, streams, receiver)
        peer.socket.transport.pause_reading()
        for n in range(40_000):
            call.hear(PCM, 20 * n)
            if n % 50 == 0:
                await asyncio.sleep(0)
        fork = streams.of(call.id)[0]
        assert fork.stream is not None
        peer.socket.transport.resume_reading()
        last = 0
        while last < 20 * 39_999:
            last = int((await peer.until("media"))["media"]["timestamp"])
        lost = fork.stream.lost
        assert lost > 1000
        assert peer.events.count("media") == 40_000 - lost
        call.end()
        assert (await stopped(seen)).data["lost"] == lost
        assert state.counts["stream_frames_lost"] == lost

    async def test_one_that_never_reads_is_given_up(
        self, calls: FakeCalls, streams: StreamManager, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(session, "WRITE_TIMEOUT_S", 0.05)
        monkeypatch.setattr(session, "FLUSH_S", 0.05)
        call = calls.arrive()
        seen = events_of(call)
        peer = await begun(call, streams, receiver)
        peer.socket.transport.pause_reading()
        while not seen or seen[-1].type != "stream.stopped":
            for n in range(200):
                call.hear(PCM, n)
            await asyncio.sleep(0)
        assert seen[-1].data["reason"] == "not_reading"
        assert not call.over

    @pytest.mark.parametrize(("code", "reason"), [(1000, "closed"), (1011, "lost")])
    async def test_one_that_leaves(
        self, calls: FakeCalls, streams: StreamManager, receiver: Receiver, code: int, reason: str
    ):
        call = calls.arrive()
        seen = events_of(call)
        peer = await begun(call, streams, receiver)
        await peer.socket.close(code)
        assert (await stopped(seen)).data["reason"] == reason
        assert call.audio["inbound"] == []
        assert not call.over

    async def test_one_that_drops_dead(self, calls: FakeCalls, streams: StreamManager, receiver: Receiver):
        call = calls.arrive()
        seen = events_of(call)
        peer = await begun(call, streams, receiver)
        peer.socket.transport.abort()
        assert (await stopped(seen)).data["reason"] == "lost"


class TestBothWays:
    async def test_media_is_played_and_its_mark_comes_back(
        self, calls: FakeCalls, streams: StreamManager, receiver: Receiver
    ):
        call = calls.arrive()
        peer = await begun(call, streams, receiver)
        stream_id = peer.messages[-1]["streamSid"]
        await peer.send("mark", streamSid=stream_id, mark={"name": "nothing yet"})
        assert (await peer.until("mark"))["mark"] == {"name": "nothing yet"}
        for _ in range(3):
            await peer.play(bytes(160))
        await peer.send("mark", streamSid=stream_id, mark={"name": "my label"})
        await peer.send("mark", mark={"name": "second"})
        async with asyncio.timeout(5):
            while not call.said or len(call.said[0].script) < 3:
                await asyncio.sleep(0)
        call.pass_utterance()
        assert (await peer.until("mark"))["mark"] == {"name": "my label"}
        assert (await peer.until("mark"))["mark"] == {"name": "second"}

    async def test_clear_sends_the_marks_back(self, calls: FakeCalls, streams: StreamManager, receiver: Receiver):
        call = calls.arrive()
        peer = await begun(call, streams, receiver)
        await peer.play(bytes(8000))
        await peer.send("mark", mark={"name": "a"})
        await peer.send("clear")
        assert (await peer.until("mark"))["mark"] == {"name": "a"}
        assert call.done == ["clear"]

    @pytest.mark.parametrize(
        ("message", "why"),
        [
            ("{", "JSON"),
            (b"\x00", "binary"),
            (json.dumps({"event": "stop"}), "stop"),
            (json.dumps({"event": "media", "media": {"payload": "?"}}), "base64"),
        ],
    )
    async def test_bad_messages_get_an_error_and_nothing_else_is_disturbed(
        self, calls: FakeCalls, streams: StreamManager, state: ApiState, receiver: Receiver, message: Any, why: str
    ):
        call = calls.arrive()
        peer = await begun(call, streams, receiver)
        await peer.socket.send(message)
        assert why in (await peer.until("error"))["error"]["message"]
        call.hear(PCM, 0)
        await peer.until("media")
        assert state.counts["stream_messages_refused"] == 1

    async def test_ten_thousand_bad_ones_end_the_stream_and_not_the_call(
        self, calls: FakeCalls, streams: StreamManager, receiver: Receiver
    ):
        call = calls.arrive()
        seen = events_of(call)
        peer = await begun(call, streams, receiver)

        async def flood() -> None:
            for _ in range(10_000):
                await peer.socket.send("{")

        flooding = asyncio.create_task(flood())
        assert await peer.closed() == 1008
        assert peer.events.count("error") <= 3  # the same error is told once a second
        await asyncio.gather(flooding, return_exceptions=True)
        assert (await stopped(seen)).data["reason"] == "bad_messages"
        assert not call.over

    async def test_good_ones_are_read_more_slowly_when_they_are_too_many(
        self, calls: FakeCalls, streams: StreamManager, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(session, "MESSAGES_PER_S", 100)
        monkeypatch.setattr(session, "BURST", 10)
        peer = await begun(calls.arrive(), streams, receiver)
        began = asyncio.get_running_loop().time()
        for n in range(40):
            await peer.send("mark", mark={"name": str(n)})
        for n in range(40):
            assert (await peer.until("mark"))["mark"]["name"] == str(n)
        assert asyncio.get_running_loop().time() - began >= 0.25

    async def test_more_than_is_kept(self, calls: FakeCalls, streams: StreamManager, receiver: Receiver):
        call = calls.arrive()
        peer = await begun(call, streams, receiver)
        for _ in range(4):
            await peer.play(bytes(700_000))
        assert "300 s" in (await peer.until("error"))["error"]["message"]


class FakeAgents:
    """An AgentManager with one session, and what that was told."""

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self.prompts: list[tuple[str, str | None, bool]] = []

    def session_of(self, call_id: str) -> FakeAgents | None:
        return self if call_id == self.call_id else None

    def prompt(self, text: str, lang: str | None = None, *, last: bool = True) -> None:
        self.prompts.append((text, lang, last))


class TestTranscript:
    async def test_goes_to_the_agent_of_the_call(
        self, calls: FakeCalls, streams: StreamManager, state: ApiState, receiver: Receiver
    ):
        call = calls.arrive()
        agents = FakeAgents(call.id)
        state.agents = cast(Any, agents)
        peer = await begun(call, streams, receiver)
        await peer.send("transcript", transcript={"text": "book a", "lang": "en-US", "final": False})
        await peer.send("transcript", transcript={"text": "book a table"})
        await peer.send("mark", mark={"name": "done"})
        await peer.until("mark")
        assert agents.prompts == [("book a", "en-US", False), ("book a table", None, True)]

    async def test_without_an_agent_it_is_told(self, calls: FakeCalls, streams: StreamManager, receiver: Receiver):
        peer = await begun(calls.arrive(), streams, receiver)
        await peer.send("transcript", transcript={"text": "hello"})
        assert "no agent" in (await peer.until("error"))["error"]["message"]
