"""An agent that follows only Twilio's published message shapes talks to callers on real phones."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from mediaserver.phone import Dtmf, Play, place_call
from mediaserver.phone.local_server import HOST
from mediaserver.phone.recording import read_wav
from tests.interop import baresip
from tests.interop.control_agent import SETUP_KEYS, Behaviour, Line, application
from tests.interop.control_server import ControlledServer, watching
from tests.interop.server import check_end, free_tcp_port
from tests.recogniser import Recogniser, word_error_rate

needs_pjsip = pytest.mark.skipif(sys.version_info >= (3, 13), reason="pjsua2-python has no wheel for 3.13")

AGENT_PORT, OTHER_PORT = free_tcp_port(), free_tcp_port()
RELAY = f"ws://{HOST}:{AGENT_PORT}/relay?tenant=7"
SECRET = "interop-secret"
CALLER = "127.0.0.2"
"Whose calls are of the trunk that has the agent; calls from elsewhere have that of [agent] url."
PRESSED_S = 6.0
FALLBACK = "Our assistant has gone away."
LONG = " ".join(f"This is sentence number {number} of a long answer." for number in range(1, 9))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlledServer]:
    trunk = {"host": CALLER, "networks": [f"{CALLER}/32"], "agent_url": RELAY, "parameters": {"queue": "sales"}}
    settings = {
        "TRUNKS": json.dumps({"pbx": trunk}),
        "AGENT__URL": f"ws://{HOST}:{OTHER_PORT}/",
        "AGENT__SECRET": SECRET,
        "AGENT__RECONNECTS": "1",
        "AGENT__RECONNECT_S": "0.2",
        "AGENT__FALLBACK": FALLBACK,
    }
    with ControlledServer(tmp_path_factory.mktemp("agents"), settings) as server:
        yield server
        check_end(server)


@dataclass(frozen=True)
class LostAgent:
    """A call of baresip whose agent was lost: the handshakes that came, and why each connection ended."""

    call: baresip.BaresipCall
    handshakes: int
    reasons: list[str]


async def lose_agent(server: ControlledServer, directory: Path, lose: Behaviour, *, narrow: bool = False) -> LostAgent:
    async with server.client() as client, watching(client) as events:
        async with application(OTHER_PORT, lose, narrow=narrow) as app:
            call = await asyncio.to_thread(baresip.call, server.uri, directory)
        url = f"ws://{HOST}:{OTHER_PORT}/"
        gone = [one["data"] for one in events.told if one["type"] == "agent.disconnected"]
    return LostAgent(call, len(app.requests), [data["reason"] for data in gone if data["url"] == url])


async def die(line: Line) -> None:
    """In the middle of its talk, and once more when it is called again."""
    await line.next("setup")
    await line.send(type="text", token="Welcome to the shop. ", last=False)
    line.socket.transport.abort()


async def be_deaf(line: Line) -> None:
    """Never read, and send more in a second than may be."""
    await line.next("setup")
    await line.say("Good morning.")
    line.socket.transport.pause_reading()
    with contextlib.suppress(ConnectionClosed):
        while True:
            await line.socket.send('{"type": "nonsense", "with": "' + "x" * 200 + '"}')


@pytest.fixture(scope="module", autouse=True)
def lost(server: ControlledServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Future[LostAgent]]]:
    """Two calls, one after the other, beside those of the tests."""
    with ThreadPoolExecutor(1) as beside:
        yield [
            beside.submit(lambda: asyncio.run(lose_agent(server, tmp_path_factory.mktemp("dies"), die))),
            beside.submit(
                lambda: asyncio.run(lose_agent(server, tmp_path_factory.mktemp("deaf"), be_deaf, narrow=True))
            ),
        ]


def heard_in(recogniser: Recogniser, wav: Path, first_s: float = 0.0, last_s: float | None = None) -> str:
    samples, rate = read_wav(wav)
    part = samples[round(first_s * rate) : None if last_s is None else round(last_s * rate)]
    return recogniser.transcribe(part.tobytes(), rate)


def is_twilio_signed(url: str, header: str) -> bool:
    """As Twilio's helper libraries check it."""
    expected = base64.b64encode(hmac.new(SECRET.encode(), url.encode(), hashlib.sha1).digest()).decode()
    return hmac.compare_digest(expected, header)


@needs_pjsip
async def test_a_conversation(
    server: ControlledServer, caller_speech: Path, recogniser: Recogniser, tmp_path: Path
) -> None:
    """Tokens are heard; the caller's voice interrupts; digits arrive, both ways; the agent hangs up."""
    lines: list[Line] = []
    closed_with: list[int] = []

    async def agent(line: Line) -> None:
        lines.append(line)
        setup = await line.next()
        assert setup["type"] == "setup"
        assert set(setup) == SETUP_KEYS
        await line.say(LONG)
        await line.next("interrupt")
        await line.say("All right, I am listening to you.", interruptible=False)
        pressed = [(await line.next("dtmf"))["digit"] for _ in range(2)]
        await line.say(f"You have pressed {' and '.join(pressed)}. Goodbye.", interruptible=False)
        await line.send(type="sendDigits", digits="9#")
        await line.send(type="end", handoffData='{"reason":"done"}')
        await line.send(type="text", token="This is not heard any more.", last=True)
        assert "after end" in (await line.next("error"))["description"]
        closed_with.append(await line.rest())

    wav = tmp_path / "heard.wav"
    async with application(AGENT_PORT, agent) as app, server.client() as client, watching(client) as events:
        report = await asyncio.to_thread(
            place_call,
            server.uri,
            local_host=CALLER,
            headers={"X-Room": "12"},
            actions=[Play(at=1.8, path=caller_speech), Dtmf(at=PRESSED_S, digits="42")],
            record=wav,
            max_seconds=25,
        )
        started = await events.until("call.started", trunk="pbx")
        call = started["call_id"]
        ended = await events.until("call.ended", call)
        app.check()

    assert (report.answered, report.ended_by) == (True, "server"), report
    assert "".join(digit.digit for digit in report.digits) == "9#"
    (request,) = app.requests
    assert request.headers["X-Chatterline-Call"] == call
    assert is_twilio_signed(RELAY, request.headers["X-Twilio-Signature"])

    (line,) = lines
    setup, interrupt, *rest = line.messages
    assert setup["callSid"] == call
    assert (setup["direction"], setup["callStatus"]) == ("inbound", "IN-PROGRESS")
    assert "phone@" in setup["from"]
    assert setup["customParameters"] == {"queue": "sales", "X-Room": "12"}
    assert [one["type"] for one in rest] == ["dtmf", "dtmf", "error"]
    assert [one["digit"] for one in rest[:2]] == ["4", "2"]
    assert closed_with == [1000]

    # What the agent is told was heard, was heard.
    assert interrupt["utteranceUntilInterrupt"].startswith("This is sentence number 1")
    assert LONG.startswith(interrupt["utteranceUntilInterrupt"])
    assert isinstance(interrupt["durationUntilInterruptMs"], int)
    assert interrupt["durationUntilInterruptMs"] == pytest.approx(1900, abs=900)

    assert report.recording_at is not None
    middle = PRESSED_S - report.recording_at
    first, last = heard_in(recogniser, wav, 0, middle), heard_in(recogniser, wav, middle)
    assert "sentence number one" in first.lower().replace("1", "one"), first
    assert "listening to you" in first.lower(), first
    assert word_error_rate("You have pressed 4 and 2. Goodbye.", last) <= 0.3, last
    assert "not heard" not in last

    types = events.types(call)
    assert types[0] == "call.started"
    assert types[-1] == "call.ended"
    wanted = ["call.answered", "speech.started", "speech.interrupted", "dtmf.received", "dtmf.sent"]
    assert sorted(wanted, key=types.index) == wanted
    assert ended["data"]["reason"] == "played"
    disconnected = events.of(call, "agent.disconnected")[0]["data"]
    assert disconnected == {
        "url": f"ws://{HOST}:{AGENT_PORT}/relay", "reason": "ended", "handoff_data": '{"reason":"done"}',
    }  # fmt: skip


@needs_pjsip
async def test_what_an_agent_does_wrong_it_is_told(
    server: ControlledServer, recogniser: Recogniser, tmp_path: Path
) -> None:
    """Malformed JSON, unknown types, binary, 1 MB of text, a flood: the call is spoken to all the while."""
    told: list[str] = []

    async def agent(line: Line) -> None:
        await line.next("setup")
        await line.say("This sentence is heard, whatever comes next, from its beginning to its end.")
        for bad in (
            '{"type": "text", "token": ',
            '"text"',
            '{"type": "sing", "token": "la"}',
            '{"type": "text", "token": 7}',
            '{"type": "play", "source": "http://169.254.169.254/latest/meta-data"}',
            '{"type": "play", "source": "file:///etc/passwd"}',
            b"\x00\x01\x02",
            json.dumps({"type": "text", "token": "x" * 1_000_000, "last": True}),
        ):
            await line.socket.send(bad)
            told.append((await line.next("error"))["description"])
        for _ in range(600):
            await line.socket.send('{"type": "nonsense"}')
        await line.say("And this is heard after the flood.")
        errors = 0
        while errors < 600:
            errors += "nonsense" in (await line.next("error"))["description"]
        await line.send(type="end")
        await line.rest()

    wav = tmp_path / "heard.wav"
    async with application(AGENT_PORT, agent) as app:
        report = await asyncio.to_thread(place_call, server.uri, local_host=CALLER, record=wav, max_seconds=25)
    assert len(app.requests) == 1
    assert report.ended_by == "server"
    assert report.received.lost == 0
    assert len(told) == 8
    assert all(len(one) < 1000 for one in told)
    for description, word in zip(
        told, ("JSON", "object", "sing", "token", "play", "play", "binary", "longer"), strict=True
    ):
        assert word.lower() in description.lower(), (description, word)
    heard = heard_in(recogniser, wav)
    expected = (
        "This sentence is heard, whatever comes next, from its beginning to its end. And this is heard after the flood."
    )
    assert word_error_rate(expected, heard) <= 0.2, heard


def test_an_agent_that_dies_leaves_no_silence(lost: list[Future[LostAgent]], recogniser: Recogniser) -> None:
    """What it has said is heard, then the fallback, and the call ends."""
    dead = lost[0].result(60)
    assert dead.call.established
    assert dead.call.ended_by_server
    assert dead.handshakes == 2
    assert dead.reasons == ["closed_1006", "closed_1006"]
    heard = heard_in(recogniser, dead.call.decoded)
    assert heard.lower().startswith("welcome to the shop"), heard
    assert word_error_rate(FALLBACK, heard[heard.lower().find("our ass") :]) <= 0.25, heard


def test_an_agent_that_never_reads_is_given_up(lost: list[Future[LostAgent]], recogniser: Recogniser) -> None:
    """Nothing of that delays what is said on the call."""
    deaf = lost[1].result(60)
    assert deaf.reasons == ["not_reading", "not_reading"]
    assert deaf.call.ended_by_server
    heard = heard_in(recogniser, deaf.call.decoded)
    assert heard.lower().startswith("good morning"), heard
    assert FALLBACK[:-1].lower() in heard.lower(), heard
