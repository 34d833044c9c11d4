"""GET and POST /v1/voices, on a real port."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mediaserver.api import voices as voices_module
from mediaserver.api.enrolment import EnrolmentBusyError, EnrolmentFailedError, EnrolmentOrder
from tests.mediaserver.api.speech_server import SpeechServer, serving
from tests.mediaserver.fake_engine import FakeEngine


class FakeEnroller:
    """Keeps what it was given; adds the voice to the engine."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.orders: list[EnrolmentOrder] = []
        self.clips: list[bytes] = []
        self.fault: Exception | None = None

    def exists(self, name: str) -> bool:
        return name in self.engine.voices

    async def enrol(self, order: EnrolmentOrder) -> list[str]:
        self.orders.append(order)
        self.clips.append(order.clip.read_bytes())
        if self.fault is not None:
            raise self.fault
        self.engine.voices = (*self.engine.voices, order.name)
        return ["it was recorded at 8000 Hz"]


@pytest.fixture
def engine() -> FakeEngine:
    engine = FakeEngine()
    engine.features = frozenset(("enrol",))
    return engine


@pytest.fixture
async def server(tmp_path: Path, engine: FakeEngine) -> AsyncIterator[SpeechServer]:
    async with serving(tmp_path, engine, FakeEngine("second", ("deep",)), max_upload_mb=1) as running:
        yield running


@pytest.fixture
def enroller(server: SpeechServer, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> FakeEnroller:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    server.app.state.enroller = FakeEnroller(engine)
    made: FakeEnroller = server.app.state.enroller
    return made


async def post(
    server: SpeechServer, name: str | None = "anna", clip: bytes | None = b"RIFF", file_name: str = "a.wav", **data: str
) -> httpx.Response:
    fields = {"name": name, **data} if name is not None else data
    files = {"file": (file_name, clip)} if clip is not None else None
    async with server.http as client:
        return await client.post("/v1/voices", data=fields, files=files)


async def get(server: SpeechServer, path: str = "/v1/voices") -> httpx.Response:
    async with server.http as client:
        return await client.get(path)


def problem(answer: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["type"].endswith(f":{slug}")
    return document


async def test_voices_of_all_engines(server: SpeechServer) -> None:
    assert (await get(server)).json()["voices"] == [
        {"name": "heart", "engine": "fake", "default": True},
        {"name": "other", "engine": "fake", "default": False},
        {"name": "deep", "engine": "second", "default": False},
    ]


async def test_one_voice(server: SpeechServer) -> None:
    assert (await get(server, "/v1/voices/deep")).json()["engine"] == "second"
    problem(await get(server, "/v1/voices/nobody"), 404, "not-found")


async def test_any_token_may_ask_but_only_some_may_enrol(server: SpeechServer, enroller: FakeEnroller) -> None:
    server.token = server.weak_token
    assert (await get(server)).status_code == 200
    problem(await post(server), 403, "forbidden")
    server.token = "ctl_wrong"
    problem(await get(server), 401, "unauthorized")
    assert enroller.orders == []


async def test_a_voice_is_made_of_a_recording(server: SpeechServer, enroller: FakeEnroller) -> None:
    answer = await post(server, "anna", b"RIFF...", "take 1.wav", consent="Anna, 2026-11-22")
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == "/v1/voices/anna"
    assert answer.json() == {
        "name": "anna",
        "engine": "fake",
        "default": False,
        "warnings": ["it was recorded at 8000 Hz"],
    }
    (order,) = enroller.orders
    assert (order.name, order.clip.name, order.consent, order.replace) == (
        "anna",
        "take 1.wav",
        "Anna, 2026-11-22",
        False,
    )
    assert enroller.clips == [b"RIFF..."]
    assert not order.clip.parent.exists()  # nothing of it is left
    assert (await get(server, "/v1/voices/anna")).status_code == 200


async def test_a_voice_that_exists_is_replaced_only_if_asked(server: SpeechServer, enroller: FakeEnroller) -> None:
    problem(await post(server, "heart"), 409, "voice-exists")
    assert enroller.orders == []
    assert (await post(server, "heart", replace="true")).status_code == 201
    assert enroller.orders[0].replace


@pytest.mark.parametrize("name", ["", "Anna", "../etc", "-x", "a" * 65, "a b", "a\n", "ä"])
async def test_names_that_are_none(server: SpeechServer, enroller: FakeEnroller, name: str) -> None:
    problem(await post(server, name), 422, "invalid-request")
    assert enroller.orders == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("..", "recording"),
        (".hidden.wav", "hidden.wav"),
        ("-rf.wav", "-rf.wav"),
        ("a;b|c\u00e9.wav", "a_b_c_.wav"),
        ("x" * 300 + ".wav", "x" * 76 + ".wav"),
    ],
)
async def test_file_names_are_made_harmless(
    server: SpeechServer, enroller: FakeEnroller, given: str, kept: str
) -> None:
    assert (await post(server, file_name=given)).status_code == 201
    assert enroller.orders[0].clip.name == kept


async def test_what_is_missing(server: SpeechServer, enroller: FakeEnroller) -> None:
    assert "body.file" in problem(await post(server, clip=None), 422, "invalid-request")["detail"]
    assert "body.name" in problem(await post(server, name=None), 422, "invalid-request")["detail"]
    problem(await post(server, consent="a" * 501), 422, "invalid-request")
    problem(await post(server, consent="a\nb"), 422, "invalid-request")


async def test_a_recording_that_is_too_large(server: SpeechServer, enroller: FakeEnroller) -> None:
    problem(await post(server, clip=bytes((1 << 20) + 1)), 413, "too-large")
    assert (await post(server, clip=bytes(1 << 20))).status_code == 201


async def test_a_body_that_is_no_form(server: SpeechServer, enroller: FakeEnroller) -> None:
    async with server.http as client:
        answer = await client.post("/v1/voices", json={"name": "anna"})
        assert answer.status_code == 422
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = await client.post("/v1/voices", content=b"--y\r\n", headers=headers)
        assert answer.status_code in (400, 422)


async def test_no_voice_came_of_it(server: SpeechServer, enroller: FakeEnroller) -> None:
    enroller.fault = EnrolmentFailedError("a.wav has 2.0 s of speech")
    assert problem(await post(server), 422, "voice-not-made")["detail"] == "a.wav has 2.0 s of speech"
    enroller.fault = EnrolmentBusyError("another voice is being made")
    answer = await post(server)
    problem(answer, 503, "enrolment-busy")
    assert answer.headers["retry-after"] == "30"


async def test_an_engine_that_makes_no_voices(server: SpeechServer, engine: FakeEngine) -> None:
    engine.features = frozenset()
    assert "has its own voices" in problem(await post(server), 409, "enrolment-not-possible")["detail"]
    assert not (await get(server)).json()["can_enrol"]


async def test_without_the_package_that_enrolment_needs(server: SpeechServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices_module.importlib.util, "find_spec", lambda name: None)
    assert "not installed" in problem(await post(server), 409, "enrolment-not-possible")["detail"]


async def test_can_enrol(server: SpeechServer, enroller: FakeEnroller) -> None:
    assert (await get(server)).json()["can_enrol"]
