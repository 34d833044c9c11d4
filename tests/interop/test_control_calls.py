"""A back end places and controls calls to real phones over HTTP, and is told of them by events and webhooks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from mediaserver.api.tokens import TokenStore
from mediaserver.phone.local_server import HOST, free_udp_port
from mediaserver.phone.recording import read_wav
from tests.interop.control_agent import Line
from tests.interop.control_callee import SCENARIOS, BaresipCallee, baresip_callee, sipp_callee
from tests.interop.control_server import ControlledServer, Events, post, watching
from tests.interop.server import check_end, wait_for
from tests.interop.test_webhooks import SECRET, Application
from tests.recogniser import Recogniser, word_error_rate

GREETING = "You have reached the desk."
LONG = " ".join(f"This is sentence number {number} of a long text." for number in range(1, 4))


@dataclass(frozen=True)
class Exchange:
    """The server, its phones and the application behind it."""

    server: ControlledServer
    phone: BaresipCallee
    "Answers by itself."
    ringing: BaresipCallee
    "Never answers."
    sipp_port: int
    "Where the trunks `carrier`, which asks who calls, and `busy` lead."
    webhooks: Application


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exchange]:
    directory = tmp_path_factory.mktemp("calls")
    sipp_port = free_udp_port()
    with contextlib.ExitStack() as running:
        phone = running.enter_context(baresip_callee(directory / "phone"))
        ringing = running.enter_context(baresip_callee(directory / "ringing", answers=False))
        webhooks = running.enter_context(_application())
        trunks = {
            "pbx": {"host": HOST, "port": phone.port, "from_user": "reception", "from_name": "The Exchange"},
            "nobody": {"host": HOST, "port": ringing.port, "max_calls": 2},
            "carrier": {"host": HOST, "port": sipp_port, "username": "tts", "password": "secret"},
            "gone": {"host": HOST, "port": free_udp_port()},
        }
        settings = {
            "TRUNKS": json.dumps(trunks),
            "CALLS__GREETING": GREETING,
            "WEBHOOKS__URL": webhooks.url,
            "WEBHOOKS__SECRET": SECRET,
            "WEBHOOKS__SPOOL_DIR": str(directory / "spool"),
            "WEBHOOKS__EVENTS": '["call.ended"]',
            "API__REQUESTS_PER_S": "25",
            "CALLS__DRAIN_S": "1",  # a test that fails may leave a call
        }
        server = running.enter_context(ControlledServer(directory, settings))
        yield Exchange(server, phone, ringing, sipp_port, webhooks)
        check_end(server)
        assert webhooks.forged == 0
        assert "secret" not in server.log


@contextlib.contextmanager
def _application() -> Iterator[Application]:
    with Application() as application:
        application.away = False
        thread = threading.Thread(target=application.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield application
        application.shutdown()
        thread.join()


def assert_in_order(wanted: list[str], told: list[str]) -> None:
    """`wanted` is what is left of `told` when others are left out."""
    rest = iter(told)
    assert all(any(one == other for other in rest) for one in wanted), f"{wanted}\nin\n{told}"


async def test_a_call_from_its_order_to_its_transfer(exchange: Exchange, recogniser: Recogniser) -> None:
    """Text, a mark, SSML, digits, hold and resume, and a REFER that the phone follows."""
    server, phone = exchange.server, exchange.phone
    async with server.client() as client, watching(client) as events:
        placed = await client.post(
            "/v1/calls",
            json={"to": "phone", "trunk": "pbx", "text": "Good morning, Anna.", "headers": {"X-Ticket": "17"}},
            headers={"Idempotency-Key": "ticket-17"},
        )
        assert placed.status_code == 201, placed.text
        call = placed.json()["id"]
        path = f"/v1/calls/{call}"
        assert placed.headers["Location"] == path
        assert (placed.json()["direction"], placed.json()["state"]) == ("outbound", "ringing")
        again = await client.post(
            "/v1/calls",
            json={"to": "phone", "trunk": "pbx", "text": "Good morning, Anna.", "headers": {"X-Ticket": "17"}},
            headers={"Idempotency-Key": "ticket-17"},
        )
        assert again.json() == placed.json()
        assert again.headers["Idempotency-Replayed"] == "true"
        said = await post(
            client,
            f"{path}/say",
            202,
            ssml="<speak>Your code is <say-as interpret-as='digits'>47</say-as>.<mark name='code'/>"
            "<emphasis>Keep</emphasis> it <prosody rate='slow'>safe</prosody>.</speak>",
            mark="all",
        )
        assert said["unsupported"] == ["emphasis"]
        await events.until("mark.reached", call, name="code", utterance=said["utterance"])
        await events.until("mark.reached", call, name="all")

        cleared = await post(client, f"{path}/say", 202, text=LONG)
        await events.until("speech.started", call, utterance=cleared["utterance"])
        replacing = await post(client, f"{path}/say", 202, text="Never mind.", mode="replace")
        await events.until("speech.cleared", call, utterance=cleared["utterance"])
        await post(client, f"{path}/dtmf", 202, digits="12#")
        await events.until("dtmf.sent", call, count=3)
        finished = await events.until("speech.finished", call, utterance=replacing["utterance"])
        assert finished["number"] < events.of(call, "dtmf.sent")[0]["number"]

        # Held in the middle of a sentence: nothing is lost of it. (baresip records nothing after a hold.)
        await post(client, f"{path}/say", 202, text="Please hold the line for us.", mark="said")
        await events.until("speech.started", call, utterance=replacing["utterance"] + 1)
        await post(client, f"{path}/hold", 202)
        await events.until("call.held", call)
        held = (await client.get(path)).json()
        assert held["held_by_us"]
        (speaking,) = held["speech"]
        await asyncio.sleep(0.6)
        (still,) = (await client.get(path)).json()["speech"]
        assert still["state"] == "speaking"
        assert still["played_ms"] == pytest.approx(speaking["played_ms"], abs=60)
        await post(client, f"{path}/resume", 202)
        await events.until("mark.reached", call, name="said")

        await post(client, f"{path}/transfer", 202, to=f"sip:desk@{HOST}:{server.port}")
        ended = await events.until("call.ended", call)
        desk = next(one["call_id"] for one in events.told if one["data"].get("direction") == "inbound")
        await events.until("speech.finished", desk)
        assert (await client.delete(f"/v1/calls/{desk}")).status_code == 204
        await events.until("call.ended", desk)
        assert (await client.get("/v1/calls")).json()["total"] == 0
        shown = (await client.get(path)).json()

    assert_in_order(
        [
            "call.started", "speech.queued", "call.ringing", "call.answered", "speech.started", "speech.finished",
            "mark.reached", "mark.reached", "speech.cleared", "speech.finished", "dtmf.sent", "call.held",
            "call.resumed", "mark.reached", "call.transferred", "call.transferred", "call.ended",
        ],
        events.types(call),
    )  # fmt: skip
    numbers = [one["number"] for one in events.told]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert events.of(call, "call.transferred")[-1]["data"]["status"] == 200
    assert ended["data"]["reason"] == shown["end_reason"] == "transferred"
    assert ended["data"]["quality"]["mos_in"] > 3.5
    assert ended["data"]["counts"]["dtmf_sent"] == 3

    deadline = time.monotonic() + 10
    while not (told := [one for one in exchange.webhooks.events if one["call_id"] == call]):
        assert time.monotonic() < deadline, "the webhook"
        await asyncio.sleep(0.05)
    assert [(one["type"], one["data"]) for one in told] == [("call.ended", ended["data"])]

    assert [digit for digit in "12#" if f"received event: '{digit}' (end=0)" not in phone.output] == []
    assert f"transferring call {shown['sip_call_id']} to '<sip:desk@{HOST}:{server.port}>'" in phone.output
    await asyncio.to_thread(wait_for, lambda: phone.calls_ended == 2, "the recordings")
    first, second = phone.recordings()
    heard = transcribed(recogniser, first)
    expected = "Good morning, Anna. Your code is 47. Keep it safe. Never mind."
    assert word_error_rate(expected, heard) <= 0.2, heard
    assert word_error_rate(GREETING, transcribed(recogniser, second)) <= 0.2


def transcribed(recogniser: Recogniser, wav: Path) -> str:
    samples, rate = read_wav(wav)
    return recogniser.transcribe(samples.tobytes(), rate)


async def test_a_carrier_that_asks_who_calls(exchange: Exchange, tmp_path: Path) -> None:
    """SIPp checks the digest, and that nothing but the text's end ends the call."""
    with sipp_callee(SCENARIOS / "uas_challenge.xml", tmp_path, port=exchange.sipp_port) as sipp:
        async with exchange.server.client() as client, watching(client) as events:
            order = {"to": "+15550100", "trunk": "carrier", "text": "Your table is booked.", "hang_up_after": True}
            call = (await post(client, "/v1/calls", 201, **order))["id"]
            ended = await events.until("call.ended", call)
        assert await asyncio.to_thread(sipp.wait, 10) == 0, (tmp_path / "errors").read_text()
    assert ended["data"]["reason"] == "played"
    assert len(events.of(call, "speech.finished")) == 1


async def test_calls_that_nobody_answers(exchange: Exchange, tmp_path: Path) -> None:
    """Busy, given up, out of time, nobody there: each is told as what it is, and none has spoken."""
    with sipp_callee(SCENARIOS / "uas_busy.xml", tmp_path, port=exchange.sipp_port):
        async with exchange.server.client() as client, watching(client) as events:

            async def place(trunk: str, **more: object) -> str:
                order = {"to": "phone", "trunk": trunk, "text": "Hello."}
                return str((await post(client, "/v1/calls", 201, **order, **more))["id"])

            busy = await place("carrier")
            gone = await place("gone")
            unanswered = await place("nobody", answer_timeout_s=1)
            given_up = await place("nobody")
            over_limit = await post(client, "/v1/calls", 503, to="phone", trunk="nobody")
            unknown = await post(client, "/v1/calls", 404, to="phone", trunk="elsewhere")
            await events.until("call.ringing", given_up)
            assert (await client.delete(f"/v1/calls/{given_up}")).status_code == 204
            ends = {}
            for name, call in (
                ("busy", busy), ("gone", gone), ("unanswered", unanswered), ("given_up", given_up),
            ):  # fmt: skip
                data = (await events.until("call.ended", call))["data"]
                ends[name] = (data["reason"], data["status"])
                assert "speech.started" not in events.types(call)
                assert "call.answered" not in events.types(call)
    assert over_limit["status"] == 503
    assert unknown["type"].startswith("urn:chatterline:problem:")
    print(ends, over_limit, unknown)
    assert ends["busy"] == ("busy", 486)
    assert ends["unanswered"] == ("no_answer", 408)
    assert ends["given_up"][0] in ("hung_up", "cancelled")
    assert ends["gone"] in (("no_answer", 408), ("unreachable", 503))


async def test_bad_requests_leave_the_call_alone(exchange: Exchange, recogniser: Recogniser) -> None:
    """All while it speaks: each gets its error, and the phone hears the text from its beginning to its end."""
    server = exchange.server
    bomb = '<!DOCTYPE s [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><speak>&b;</speak>'
    outside = '<!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><speak>&x;</speak>'
    deep = "<speak>" + "<p>" * 5000 + "</p>" * 5000 + "</speak>"
    reader = TokenStore(Path(server.log_path).parent / "tokens").add("reader", ("calls:read",), time.time())[1]
    async with server.client() as client, watching(client) as events:
        over = (await post(client, "/v1/calls", 201, to="phone", trunk="pbx"))["id"]
        await events.until("call.answered", over)
        await client.delete(f"/v1/calls/{over}")
        await events.until("call.ended", over)
        call = (await post(client, "/v1/calls", 201, to="phone", trunk="pbx", text=LONG))["id"]
        await events.until("speech.started", call)
        path = f"/v1/calls/{call}"

        async def refusal(where: str, **request: object) -> tuple[int, str]:
            response = await client.post(where, **request)  # type: ignore[arg-type]
            assert response.headers["Content-Type"] == "application/problem+json", response.text
            assert len(response.content) < 5000
            problem = response.json()
            assert problem["status"] == response.status_code
            return response.status_code, problem["type"].rpartition(":")[2]

        say, plain = f"{path}/say", {"Content-Type": "application/json"}
        assert await refusal(say, content=b'{"text": ', headers=plain) == (400, "malformed-json")
        assert await refusal(say, content=b'{"text": "\xff"}', headers=plain) == (400, "malformed-json")
        assert await refusal(say, json={"text": "x" * 1_000_000}) == (413, "too-long")
        assert await refusal(say, json={"text": "x" * 2_000_000}) == (413, "body-too-long")
        assert await refusal(say, json={"sing": "la"}) == (422, "invalid-request")
        assert await refusal(say, json={"text": "a", "ssml": "<speak/>"}) == (422, "invalid-request")
        for ssml in (bomb, outside, deep, "<speak>open", "no markup"):
            assert await refusal(say, json={"ssml": ssml}) == (422, "invalid-ssml"), ssml[:50]
        assert await refusal(f"{path}/dtmf", json={"digits": "12x"}) == (422, "invalid-request")
        stream = {"url": "ws://169.254.169.254/latest"}
        assert await refusal(f"{path}/streams", json=stream) == (422, "url-not-allowed")
        assert await refusal(f"/v1/calls/{over}/say", json={"text": "Hello?"}) == (409, "call-ended")
        assert await refusal(f"/v1/calls/{over}/hold") == (409, "call-ended")
        assert await refusal("/v1/calls/CA00/say", json={"text": "Hello?"}) == (404, "no-such-call")
        nobody = {"Authorization": "Bearer ctl_" + "0" * 43}
        assert await refusal(say, json={"text": "Hello?"}, headers=nobody) == (401, "unauthorized")
        assert await refusal(say, json={"text": "Hi"}, headers={"Authorization": f"Bearer {reader}"}) == (
            403, "forbidden",
        )  # fmt: skip

        await _two_agents(server, call, over)
        flood = await asyncio.gather(
            *(client.get(path, headers={"Authorization": f"Bearer {reader}"}) for _ in range(150))
        )
        statuses = [response.status_code for response in flood]
        assert set(statuses) == {200, 429}
        assert all("Retry-After" in response.headers for response in flood if response.status_code == 429)
        finished = await events.until("speech.finished", call)
        counts = (await client.get(path)).json()["counts"]
        assert (await client.delete(path)).status_code == 204
        await events.until("call.ended", call)
    assert finished["data"]["utterance"] == 1
    assert counts["rtp_underruns"] == 0, counts
    await asyncio.to_thread(
        wait_for, lambda: exchange.phone.calls_ended == len(exchange.phone.recordings()), "the recording"
    )
    heard = transcribed(recogniser, exchange.phone.recordings()[-1])
    assert word_error_rate(LONG, heard) <= 0.15, heard


async def _two_agents(server: ControlledServer, call: str, over: str) -> None:
    """The second on one call, and one on a call that ended a moment ago, are refused; the first stays."""

    def url(ident: str) -> str:
        return f"{server.url.replace('http', 'ws')}/v1/calls/{ident}/agent"

    async with connect(url(call), additional_headers=server.headers, proxy=None) as socket:
        first = Line(socket)
        assert (await first.next())["callSid"] == call
        for ident, slug in ((call, "agent-taken"), (over, "call-ended")):
            with pytest.raises(InvalidStatus) as refused:
                await connect(url(ident), additional_headers=server.headers, proxy=None)
            assert refused.value.response.status_code == 409
            assert json.loads(refused.value.response.body)["type"] == f"urn:chatterline:problem:{slug}"
        await first.send(type="unheard-of")
        assert "unheard-of" in (await first.next())["description"]


async def test_events_can_be_chosen_and_caught_up_with(exchange: Exchange) -> None:
    """Whoever comes back with Last-Event-ID gets what was missed, and no more than was asked for."""
    async with exchange.server.client() as client, watching(client) as events:
        call = (await post(client, "/v1/calls", 201, to="phone", trunk="pbx", text="Hi.", hang_up_after=True))["id"]
        await events.until("call.ended", call)
        wanted = {"call": call, "types": "call.*"}
        missed: list[str] = []
        async with client.stream("GET", "/v1/events", params=wanted, headers={"Last-Event-ID": "0-0"}) as response:
            again = Events(response)
            reading = asyncio.create_task(again.read())
            await again.until("call.ended", call)
            missed = [one["type"] for one in again.told]
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, httpx.StreamClosed):
                await reading
    assert missed == [one for one in events.types(call) if one.startswith("call.")]
