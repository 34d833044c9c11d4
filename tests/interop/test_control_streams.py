"""Media streams of calls of a real phone, to an application that knows Twilio's published messages only."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from mediaserver.phone import Dtmf, HangUp, Play, place_call
from mediaserver.phone.local_server import HOST
from mediaserver.phone.recording import measure, read_wav
from mediaserver.rtp.codec import audioop
from tests.interop.caller_speech import WORDS
from tests.interop.control_agent import Line, application
from tests.interop.control_server import ControlledServer, post, watching
from tests.interop.server import check_end, free_tcp_port
from tests.recogniser import Recogniser, word_error_rate

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 13), reason="pjsua2-python has no wheel for 3.13")

AGENT_PORT, STREAM_PORT = free_tcp_port(), free_tcp_port()
TRUNK = "127.0.0.2"
RATE = 8000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlledServer]:
    trunk = {
        "host": TRUNK, "networks": [f"{TRUNK}/32"], "agent_url": f"ws://{HOST}:{AGENT_PORT}/",
        "stream_url": f"ws://{HOST}:{STREAM_PORT}/recogniser", "parameters": {"lang": "en"},
    }  # fmt: skip
    settings = {
        "TRUNKS": json.dumps({"pbx": trunk}),
        "API__ALLOW_URLS": json.dumps([f"ws://{HOST}:{STREAM_PORT}/player"]),
        "API__ALLOW_NETWORKS": '["127.0.0.0/8"]',
        "CALLS__GREETING": "",
    }
    with ControlledServer(tmp_path_factory.mktemp("streams"), settings) as server:
        yield server
        check_end(server)


async def test_what_the_caller_says_reaches_the_agent(
    server: ControlledServer, caller_speech: Path, recogniser: Recogniser, tmp_path: Path
) -> None:
    """The trunk's calls are forked to a recogniser, whose transcript is the agent's prompt, which it answers."""
    streams: list[Line] = []
    prompts: list[str] = []

    async def recognise(line: Line) -> None:
        streams.append(line)
        await line.next("start")
        await line.next("dtmf")  # the caller is done
        text = await asyncio.to_thread(recogniser.transcribe, line.heard("inbound"), RATE)
        await line.send(event="transcript", transcript={"text": text, "lang": "en-US", "final": True})
        await line.rest()

    async def agent(line: Line) -> None:
        await line.next("setup")
        prompt = await line.next("prompt")
        assert (prompt["lang"], prompt["last"]) == ("en-US", True)
        prompts.append(prompt["voicePrompt"])
        await line.say("I have understood you. Goodbye.", interruptible=False)
        await line.send(type="end")
        await line.rest()

    wav = tmp_path / "heard.wav"
    async with application(STREAM_PORT, recognise), application(AGENT_PORT, agent):
        report = await asyncio.to_thread(
            place_call,
            server.uri,
            local_host=TRUNK,
            actions=[Play(at=0.3, path=caller_speech), Dtmf(at=4.1, digits="#")],
            record=wav,
            max_seconds=25,
        )
    assert report.ended_by == "server", report
    assert word_error_rate(WORDS, prompts[0]) <= 0.2, prompts
    samples, rate = read_wav(wav)
    answer = recogniser.transcribe(samples.tobytes(), rate)
    assert word_error_rate("I have understood you. Goodbye.", answer) <= 0.2, answer

    (line,) = streams
    connected, start, *rest = line.messages
    assert connected == {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    ident = start["streamSid"]
    assert start["start"]["streamSid"] == ident
    assert start["start"]["tracks"] == ["inbound"]
    assert start["start"]["mediaFormat"] == {"encoding": "audio/x-mulaw", "sampleRate": RATE, "channels": 1}
    assert start["start"]["customParameters"] == {"lang": "en"}
    assert {one["streamSid"] for one in rest} == {ident}
    numbers = [one["sequenceNumber"] for one in (start, *rest)]
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    media = [one["media"] for one in rest if one["event"] == "media"]
    assert [one["chunk"] for one in media] == [str(number) for number in range(1, len(media) + 1)]
    stamps = [int(one["timestamp"]) for one in media]
    assert stamps == list(range(0, 20 * len(media), 20)), "20 ms each, none lost"
    assert len(line.heard("inbound")) == 320 * len(media)
    assert [one["dtmf"]["digit"] for one in rest if one["event"] == "dtmf"] == ["#"]
    assert rest[-1]["event"] == "stop"
    assert rest[-1]["stop"]["callSid"] == start["start"]["callSid"]


async def test_an_application_speaks_with_its_own_voice(
    server: ControlledServer, caller_speech: Path, recogniser: Recogniser, tmp_path: Path
) -> None:
    """Bidirectional: media is heard by the phone, a mark tells when, clear silences; and what is sent is forked too.

    A consumer that does not read loses audio, and the call nothing.
    """
    pcm = read_wav(caller_speech)[0].tobytes()
    ulaw = audioop.lin2ulaw(pcm, 2)
    lines: list[Line] = []

    async def player(line: Line) -> None:
        assert line.socket.request is not None
        if line.socket.request.path.endswith("deaf"):
            line.socket.transport.pause_reading()
            await line.socket.wait_closed()
            return
        lines.append(line)
        ident = (await line.next("start"))["streamSid"]
        for first in range(0, len(ulaw), 4321):  # chunks of any length
            await line.play(ulaw[first : first + 4321], ident)
        await line.send(event="mark", streamSid=ident, mark={"name": "said"})
        assert (await line.next("mark"))["mark"] == {"name": "said"}
        await line.play(ulaw, ident)
        await line.send(event="mark", streamSid=ident, mark={"name": "again"})
        for _ in range(25):
            await line.next("media")
        await line.send(event="clear", streamSid=ident)
        assert (await line.next("mark"))["mark"] == {"name": "again"}
        await line.send(event="mark", streamSid=ident, mark={"name": "silent"})
        await line.rest()

    wav = tmp_path / "heard.wav"
    url = f"ws://{HOST}:{STREAM_PORT}/player"
    async with (
        application(STREAM_PORT, player, narrow=True),
        server.client() as client,
        watching(client) as events,
    ):
        phone = asyncio.create_task(
            asyncio.to_thread(place_call, server.uri, actions=[HangUp(at=6.0)], record=wav, max_seconds=25)
        )
        call = (await events.until("call.answered"))["call_id"]
        deaf = await post(client, f"/v1/calls/{call}/streams", 201, url=f"{url}/deaf", tracks=["outbound"])
        await post(
            client, f"/v1/calls/{call}/streams", 201, url=url, tracks=["outbound", "inbound"], parameters={"a": "b"}
        )
        refused = await post(client, f"/v1/calls/{call}/streams", 422, url="ws://127.0.0.1:1/elsewhere")
        assert refused["type"] == "urn:chatterline:problem:url-not-allowed"
        report = await phone
        await events.until("call.ended", call)
        stopped = await events.until("stream.stopped", call, stream_id=deaf["stream_id"])
    assert report.received.lost == 0, report
    assert stopped["data"]["reason"] in ("call_ended", "not_reading")

    (line,) = lines
    assert word_error_rate(WORDS, recogniser.transcribe(line.heard("outbound"), RATE)[: len(WORDS) + 10]) <= 0.3
    samples, rate = read_wav(wav)
    loudness = measure(samples, rate)
    assert loudness.first_audible_s is not None
    begin = round(loudness.first_audible_s * rate)
    first = samples[max(0, begin - 1600) : begin + len(ulaw)]
    heard = recogniser.transcribe(first.tobytes(), rate)
    assert word_error_rate(WORDS, heard) <= 0.2, heard
    assert measure(samples[begin + len(ulaw) :], rate).audible_s < 0.9, "the rest was cleared"
    marks = [one["mark"]["name"] for one in line.messages if one["event"] == "mark"]
    assert marks == ["said", "again", "silent"]


async def test_a_listener_connects_to_us(server: ControlledServer, recogniser: Recogniser) -> None:
    """As the operator page does; its token is a subprotocol, as a browser's has to be."""
    from websockets.asyncio.client import connect

    async with server.client() as client, watching(client) as events:
        phone = asyncio.create_task(
            asyncio.to_thread(place_call, server.uri, say="Good morning, this is the exchange.", max_seconds=20)
        )
        call = (await events.until("call.started"))["call_id"]
        protocols = ["chatterline", f"chatterline.bearer.{server.token}"]
        url = f"{server.url.replace('http', 'ws')}/v1/calls/{call}/media?tracks=both"
        async with connect(url, subprotocols=protocols, proxy=None) as socket:  # type: ignore[arg-type]
            assert socket.subprotocol == "chatterline"
            line = Line(socket)
            assert await line.rest() == 1000
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert (await phone).ended_by == "server"
    heard = recogniser.transcribe(line.heard("outbound"), RATE)
    assert word_error_rate("Good morning, this is the exchange.", heard) <= 0.25, heard
