"""Calls over HTTP, against calls without a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from mediaserver.api.schemas import PlaceRequest, SayRequest
from mediaserver.api.state import ApiState, make_state
from mediaserver.call.control import CallControl, CallsControl
from mediaserver.call.engines import CallEngines
from mediaserver.config import Config
from mediaserver.refusal import RefusedError
from mediaserver.speech.script import Mark, Pause, Words
from tests.mediaserver.api.conftest import client_of, token_of
from tests.mediaserver.api.fake_calls import FakeCall, FakeCalls
from tests.mediaserver.fake_engine import FakeEngine


def problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """The body, once it is seen to be that problem (RFC 9457)."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"urn:chatterline:problem:{slug}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


def test_the_fakes_are_what_interfaces_expect(calls: FakeCalls) -> None:
    every: CallsControl = calls
    one: CallControl = calls.arrive()
    assert every.find(one.id) is one


async def test_a_call_is_seen(client: httpx.AsyncClient, calls: FakeCalls) -> None:
    call = calls.arrive(parameters={"customer": "17"})
    call.say((Words("Hello there."),), mark="greeted")
    response = await client.get(f"/v1/calls/{call.id}")
    assert response.status_code == 200
    seen = response.json()
    assert (seen["id"], seen["state"], seen["codec"]) == (call.id, "answered", "PCMU")
    assert (seen["from"], seen["to"]) == ("sip:alice@pbx.example", "sip:tts@chatterline.example")
    assert seen["speech"] == [
        {"utterance": 1, "state": "speaking", "text": "Hello there.", "mark": "greeted", "played_ms": 240}
    ]
    assert seen["quality"]["mos_in"] == 4.4
    assert seen["parameters"] == {"customer": "17"}


async def test_a_call_is_found_by_sips_call_id(client: httpx.AsyncClient, calls: FakeCalls) -> None:
    call = calls.arrive()
    assert (await client.get(f"/v1/calls/{call.view().sip_call_id}")).json()["id"] == call.id


async def test_calls_are_listed(client: httpx.AsyncClient, calls: FakeCalls) -> None:
    first, second, over = calls.arrive(), calls.arrive(), calls.arrive()
    over.end()

    async def ids(query: str = "") -> list[str]:
        listed = (await client.get(f"/v1/calls{query}")).json()
        return [call["id"] for call in listed["calls"]]

    assert await ids() == [first.id, second.id]
    assert await ids("?state=ended") == [over.id]
    assert await ids("?state=all") == [first.id, second.id, over.id]
    assert await ids("?limit=1") == [first.id]
    assert await ids("?state=all&limit=3") == [first.id, second.id, over.id]
    assert (await client.get("/v1/calls?state=all&limit=1")).json()["total"] == 3
    problem(await client.get("/v1/calls?limit=0"), 422, "invalid-request")
    problem(await client.get("/v1/calls?state=happy"), 422, "invalid-request")


async def test_a_call_that_is_none(client: httpx.AsyncClient) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/clear"), ("POST", "/hold")):
        problem(await client.request(method, f"/v1/calls/CA0{path}"), 404, "no-such-call")


async def test_an_ended_call_is_seen_and_refuses_all_else(client: httpx.AsyncClient, calls: FakeCalls) -> None:
    call = calls.arrive()
    call.end("caller")
    seen = (await client.get(f"/v1/calls/{call.id}")).json()
    assert (seen["state"], seen["end_reason"]) == ("ended", "caller")
    orders: list[tuple[str, dict[str, str] | None]] = [
        ("say", {"text": "Hello."}),
        ("dtmf", {"digits": "1"}),
        ("transfer", {"to": "sip:a@b.example"}),
        ("clear", None),
        ("hold", None),
        ("resume", None),
    ]
    for name, body in orders:
        problem(await client.post(f"/v1/calls/{call.id}/{name}", json=body), 409, "call-ended")
    problem(await client.delete(f"/v1/calls/{call.id}"), 409, "call-ended")


class TestSay:
    async def test_text(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        call = calls.arrive()
        order = {"text": "Hello.", "voice": "other", "mark": "m", "interruptible": "digit"}
        response = await client.post(f"/v1/calls/{call.id}/say", json=order)
        assert response.status_code == 202
        assert response.json() == {"utterance": 1, "unsupported": []}
        (said,) = call.said
        assert (said.script, said.voice, said.mark, said.barge_in) == ((Words("Hello."),), "other", "m", "digit")

    async def test_replace_clears_first(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        call = calls.arrive()
        call.say((Words("Old."),))
        await client.post(f"/v1/calls/{call.id}/say", json={"text": "Queued."})
        assert call.done == []
        response = await client.post(f"/v1/calls/{call.id}/say", json={"text": "New.", "mode": "replace"})
        assert response.json()["utterance"] == 3
        assert [said.text for said in call.said if not said.done] == ["New."]

    @pytest.mark.parametrize(
        ("given", "meant"),
        [(True, "either"), (False, "none"), (None, None), ("speech", "speech"), ("none", "none")],
    )
    def test_interruptible(self, given: object, meant: str | None) -> None:
        assert SayRequest.model_validate({"text": "a", "interruptible": given}).barge_in == meant

    async def test_ssml(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        call = calls.arrive()
        ssml = '<speak>Wait.<break time="300ms"/><mark name="waited"/><prosody pitch="high">Go.</prosody></speak>'
        response = await client.post(f"/v1/calls/{call.id}/say", json={"ssml": ssml})
        assert response.status_code == 202, response.text
        assert any("pitch" in name for name in response.json()["unsupported"])
        script = call.said[0].script
        assert Pause(300) in script
        assert Mark("waited") in script
        assert call.said[0].text.split() == ["Wait.", "Go."]

    @pytest.mark.parametrize(
        "ssml", ["<speak>", "no xml", '<!DOCTYPE s [<!ENTITY a "b">]><speak>&a;</speak>', "<speak>" * 10_000]
    )
    async def test_ssml_that_is_none(self, client: httpx.AsyncClient, calls: FakeCalls, ssml: str) -> None:
        call = calls.arrive()
        problem(await client.post(f"/v1/calls/{call.id}/say", json={"ssml": ssml}), 422, "invalid-ssml")
        assert call.said == []

    @pytest.mark.parametrize(
        "order",
        [
            {},
            {"text": ""},
            {"text": None},
            {"text": 7},
            {"text": "a", "ssml": "<speak>a</speak>"},
            {"text": "a", "txt": "b"},
            {"text": "a", "interruptible": "always"},
            {"text": "a", "mode": "append"},
            {"text": "a", "mark": ""},
            {"text": "\ud800"},
            {"\udfff": "a"},
            [],
            "text",
            7,
        ],
    )
    async def test_orders_that_are_none(self, client: httpx.AsyncClient, calls: FakeCalls, order: object) -> None:
        import json

        call = calls.arrive()
        response = await client.post(
            f"/v1/calls/{call.id}/say", content=json.dumps(order), headers={"Content-Type": "application/json"}
        )
        assert problem(response, 422, "invalid-request")["errors"]
        assert call.said == []

    @pytest.mark.parametrize("body", [b'{"text":', b"\xff\xfe", b"[" * 100_000, b'{"text":' + b"1" * 5000 + b"}"])
    async def test_json_that_is_none(self, client: httpx.AsyncClient, calls: FakeCalls, body: bytes) -> None:
        call = calls.arrive()
        response = await client.post(
            f"/v1/calls/{call.id}/say", content=body, headers={"Content-Type": "application/json"}
        )
        assert response.status_code in (400, 422)
        assert response.headers["content-type"] == "application/problem+json"
        assert call.said == []

    async def test_what_was_sent_is_not_repeated(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        """It may be a caller's text, and errors are logged by clients."""
        call = calls.arrive()
        response = await client.post(f"/v1/calls/{call.id}/say", json={"text": ["my pin is 1234"]})
        assert "1234" not in response.text

    async def test_a_text_of_1_mb(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        call = calls.arrive()
        response = await client.post(f"/v1/calls/{call.id}/say", json={"text": "a" * (1 << 20)})
        problem(response, 413, "body-too-long")

    @pytest.mark.parametrize(
        ("refusal", "status", "slug"),
        [
            (RefusedError(413, "Speech Queue Is Full", (("Retry-After", "5"),)), 429, "queue-full"),
            (RefusedError(413, "Text Is Longer Than 2000 Characters"), 413, "too-long"),
            (RefusedError(400, "Unknown Voice 'x'"), 422, "not-possible"),
            (RefusedError(503, "Speech Engine: busy", (("Retry-After", "7"),)), 503, "unavailable"),
        ],
    )
    async def test_what_the_call_refuses(
        self, client: httpx.AsyncClient, calls: FakeCalls, refusal: RefusedError, status: int, slug: str
    ) -> None:
        call = calls.arrive()
        call.refusal = refusal
        response = await client.post(f"/v1/calls/{call.id}/say", json={"text": "Hello."})
        body = problem(response, status, slug)
        assert body["detail"] == str(refusal)
        assert body["instance"] == f"/v1/calls/{call.id}/say"
        for name, value in refusal.fault.headers:
            assert response.headers[name] == value


class TestControl:
    async def test_clear_tells_what_was_cut(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        call = calls.arrive()
        call.say((Words("One."),))
        call.say((Words("Two."),))
        response = await client.post(f"/v1/calls/{call.id}/clear")
        assert response.status_code == 200
        assert response.json() == {
            "cut": [
                {"utterance": 1, "played_ms": 460, "total_ms": None, "heard_text": "One."},
                {"utterance": 2, "played_ms": 0, "total_ms": None, "heard_text": ""},
            ]
        }
        assert (await client.post(f"/v1/calls/{call.id}/clear")).json() == {"cut": []}

    async def test_digits(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        call = calls.arrive()
        assert (await client.post(f"/v1/calls/{call.id}/dtmf", json={"digits": "1w2#D"})).status_code == 202
        assert call.digits == ["1w2#D"]

    @pytest.mark.parametrize("digits", ["", "x", "1 2", "1" * 65, "１", None, 12, "1\n"])
    async def test_digits_that_are_none(self, client: httpx.AsyncClient, calls: FakeCalls, digits: object) -> None:
        call = calls.arrive()
        problem(await client.post(f"/v1/calls/{call.id}/dtmf", json={"digits": digits}), 422, "invalid-request")
        assert call.digits == []

    async def test_hold_and_resume(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        call = calls.arrive()
        assert (await client.post(f"/v1/calls/{call.id}/hold")).json()["held_by_us"] is True
        assert (await client.post(f"/v1/calls/{call.id}/resume")).json()["held_by_us"] is False
        assert call.done == ["hold", "resume"]

    async def test_transfer(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        call = calls.arrive()
        response = await client.post(f"/v1/calls/{call.id}/transfer", json={"to": "sip:desk@pbx.example"})
        assert response.status_code == 202
        assert call.done == ["transfer sip:desk@pbx.example"]

    @pytest.mark.parametrize("to", ["", "a b", "a\r\nVia: x", "ü@b.example", "a" * 257])
    async def test_targets_that_are_none(self, client: httpx.AsyncClient, calls: FakeCalls, to: str) -> None:
        call = calls.arrive()
        problem(await client.post(f"/v1/calls/{call.id}/transfer", json={"to": to}), 422, "invalid-request")
        assert call.done == []

    async def test_hang_up(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        call = calls.arrive()
        response = await client.delete(f"/v1/calls/{call.id}")
        assert (response.status_code, response.content) == (204, b"")
        assert call.over

    async def test_other_methods(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        call = calls.arrive()
        response = await client.put(f"/v1/calls/{call.id}", json={})
        problem(response, 405, "method-not-allowed")
        assert response.headers["allow"]
        problem(await client.get("/v1/nothing"), 404, "not-found")


class TestPlace:
    @pytest.fixture
    def config(self, tmp_path: Path) -> Config:
        return Config(
            api={
                "tokens_file": str(tmp_path / "tokens.jsonl"),
                "allow_urls": ["wss://agent.example.com/", "ws://media.example.com/fork/"],
            }
        )

    async def test_a_reminder(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        order = {
            "to": "+15550100",
            "trunk": "pbx",
            "text": "Tomorrow at ten.",
            "voice": "other",
            "answer_timeout_s": 20,
            "hang_up_after": True,
            "barge_in": "digit",
            "parameters": {"customer": "17"},
            "headers": {"X-Campaign": "spring"},
        }
        response = await client.post("/v1/calls", json=order)
        assert response.status_code == 201, response.text
        (call,) = calls.calls
        assert response.headers["location"] == f"/v1/calls/{call.id}"
        assert response.json()["id"] == call.id
        assert (response.json()["direction"], response.json()["state"]) == ("outbound", "ringing")
        (placed,) = calls.orders
        assert (placed.to, placed.trunk, placed.script) == ("+15550100", "pbx", (Words("Tomorrow at ten."),))
        assert (placed.voice, placed.answer_timeout_s, placed.hang_up_after) == ("other", 20.0, True)
        assert (placed.barge_in, placed.agent_url) == ("digit", None)
        assert placed.parameters == {"customer": "17"}
        assert placed.headers == (("X-Campaign", "spring"),)

    async def test_an_agents_call_with_streams(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        stream = {"url": "ws://media.example.com/fork/a", "tracks": ["inbound", "outbound"], "name": "asr"}
        order = {"to": "a", "trunk": "self", "agent_url": "wss://agent.example.com/voice", "stream": stream}
        assert (await client.post("/v1/calls", json=order)).status_code == 201
        (placed,) = calls.orders
        assert placed.agent_url == "wss://agent.example.com/voice"
        assert [(one.url, one.tracks, one.name) for one in placed.streams] == [
            ("ws://media.example.com/fork/a", ("inbound", "outbound"), "asr")
        ]

    async def test_no_agent_is_not_the_trunks(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        await client.post("/v1/calls", json={"to": "a", "trunk": "pbx", "agent_url": ""})
        assert calls.orders[0].agent_url == ""

    @pytest.mark.parametrize(
        "more",
        [
            {"agent_url": "wss://agent.example.com.evil.example/"},
            {"agent_url": "ws://169.254.169.254/latest/meta-data"},
            {"stream": {"url": "ws://127.0.0.1:6379/"}},
            {"stream": [{"url": "ws://media.example.com/other"}]},
        ],
    )
    async def test_urls_that_nobody_allowed(
        self, client: httpx.AsyncClient, calls: FakeCalls, state: ApiState, more: dict[str, Any]
    ) -> None:
        response = await client.post("/v1/calls", json={"to": "a", "trunk": "pbx", **more})
        (error,) = problem(response, 422, "url-not-allowed")["errors"]
        assert error["location"] in ("body.agent_url", "body.stream.url")
        assert calls.calls == []
        assert state.counts["urls_refused"] == 1

    @pytest.mark.parametrize(
        "more",
        [
            {"to": "a\r\nX: y"},
            {"to": ""},
            {"trunk": ""},
            {"hang_up_after": True},
            {"answer_timeout_s": 0},
            {"answer_timeout_s": 601},
            {"headers": {"From": "sip:a@b"}},
            {"headers": {"X-A\r\nB": "c"}},
            {"headers": {"X-A": "c\r\nd"}},
            {"headers": {f"X-{n}": "a" for n in range(33)}},
            {"parameters": {str(n): "a" for n in range(33)}},
            {"parameters": {"a": "b" * 257}},
            {"agent_url": "https://agent.example.com/"},
            {"stream": {"url": "wss://agent.example.com/", "tracks": []}},
            {"stream": {"url": "wss://agent.example.com/", "tracks": ["both"]}},
            {"stream": [{"url": "wss://agent.example.com/"}] * 5},
            {"barge_in": True},
            {"text": "a", "ssml": "<speak>a</speak>"},
            {"from_name": "a\nb"},
        ],
    )
    async def test_orders_that_are_none(
        self, client: httpx.AsyncClient, calls: FakeCalls, more: dict[str, Any]
    ) -> None:
        response = await client.post("/v1/calls", json={"to": "a", "trunk": "pbx", **more})
        problem(response, 422, "invalid-request")
        assert calls.calls == []

    async def test_numbers_that_json_has_not(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        body = b'{"to": "a", "trunk": "pbx", "answer_timeout_s": NaN}'
        response = await client.post("/v1/calls", content=body, headers={"Content-Type": "application/json"})
        problem(response, 422, "invalid-request")

    async def test_an_unknown_trunk(self, client: httpx.AsyncClient) -> None:
        problem(await client.post("/v1/calls", json={"to": "a", "trunk": "mars"}), 404, "not-found")

    async def test_none_can_be_taken(self, client: httpx.AsyncClient, calls: FakeCalls) -> None:
        calls.refusal = RefusedError(503, "Call Limit Reached", (("Retry-After", "10"),))
        response = await client.post("/v1/calls", json={"to": "a", "trunk": "pbx"})
        problem(response, 503, "unavailable")
        assert response.headers["retry-after"] == "10"


@pytest.mark.parametrize("body", [b'{"text": ', b'{"text": "\xff"}', b"\xff\xfe{\x00"])
async def test_what_is_no_json(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post("/v1/calls", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["type"] == "urn:chatterline:problem:malformed-json"


async def test_a_fault_of_ours_says_nothing_of_it(
    client: httpx.AsyncClient, calls: FakeCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: FakeCall) -> None:
        raise ZeroDivisionError("secret")

    call = calls.arrive()
    monkeypatch.setattr(FakeCall, "hold", broken)
    response = await client.post(f"/v1/calls/{call.id}/hold")
    assert "secret" not in problem(response, 500, "internal")["detail"]
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_features_are_those_of_the_calls_engine(config: Config, calls: FakeCalls) -> None:
    able, plain = FakeEngine("fake"), FakeEngine("other")
    able.features = frozenset({"rate"})
    state = make_state(config, calls, CallEngines(plain, able))
    call = calls.arrive()  # it has the engine "fake"
    async with client_of(state, token_of(state, "calls:write")) as client:
        ssml = '<speak><prosody rate="fast">Hello.</prosody></speak>'
        response = await client.post(f"/v1/calls/{call.id}/say", json={"ssml": ssml})
        assert response.json()["unsupported"] == []
        assert any(part.rate > 1 for part in call.said[0].script if isinstance(part, Words))
        able.features = frozenset()
        response = await client.post(f"/v1/calls/{call.id}/say", json={"ssml": ssml})
        assert response.json()["unsupported"]


@pytest.mark.parametrize(
    "body",
    [
        {f"key{n}": n for n in range(50_000)},
        {"to": "a", "trunk": "b", "parameters": {f"key{n}": n for n in range(50_000)}},
        {"to": "a", "trunk": "b", "stream": [{"a": n} for n in range(50_000)]},
        {"to": "a", "trunk": "b", "stream": {"url": "wss://a/", "parameters": {f"key{n}": n for n in range(50_000)}}},
    ],
)
async def test_a_body_with_thousands_of_faults_is_refused_at_once(body: dict[str, Any]) -> None:
    """An error for each would keep the event loop, and with it all calls, for seconds."""
    with pytest.raises(ValidationError) as caught:
        PlaceRequest.model_validate(body)
    assert caught.value.error_count() <= 3


async def test_who_may_not_see_calls_does_not_learn_of_them(state: ApiState, calls: FakeCalls) -> None:
    """Neither by a call's path nor by that of its streams."""
    call = calls.arrive()
    async with client_of(state, token_of(state, "speech")) as other:
        for name in (call.id, "nobody"):
            for path in (f"/v1/calls/{name}", f"/v1/calls/{name}/streams"):
                problem(await other.get(path), 403, "forbidden")
            problem(await other.delete(f"/v1/calls/{name}/streams/a"), 403, "forbidden")
            problem(await other.post(f"/v1/calls/{name}/streams", json={"url": "wss://a/"}), 403, "forbidden")
