"""The operator page's files, and what the API has for it alone: levels and trunks."""

from __future__ import annotations

import asyncio
import json
import math
import re
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from mediaserver.api.page.assets import DIRECTORY, load_assets
from mediaserver.api.page.meters import FLOOR_DB, MAX_METERED, Meters, TrackMeter
from mediaserver.api.server import ApiServer
from mediaserver.api.state import ApiState, make_state
from mediaserver.call.engines import CallEngines
from mediaserver.config import Config
from tests.mediaserver.api.conftest import BASE, bound_socket, client_of, token_of
from tests.mediaserver.api.fake_calls import FakeCall, FakeCalls
from tests.mediaserver.fake_engine import FakeEngine


def tone(amplitude: int) -> bytes:
    """20 ms of 400 Hz at 8 kHz."""
    return struct.pack("<160h", *(round(amplitude * math.sin(math.pi * n / 10)) for n in range(160)))


# Files


async def test_the_page_needs_no_token(state: ApiState) -> None:
    async with client_of(state, None) as client:
        answer = await client.get("/")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Chatterline</title>" in answer.text


async def test_everything_that_the_page_names_is_there_and_from_here(state: ApiState) -> None:
    async with client_of(state, None) as client:
        page = (await client.get("/")).text
        named = re.findall(r'(?:src|href)="([^"#]+)"', page)
        assert {"/page/app.js", "/page/style.css"} <= set(named)
        for path in named:
            assert (await client.get(path)).status_code == 200, path
        for script in DIRECTORY.glob("*.js"):
            for imported in re.findall(r'from "\./([^"]+)"', script.read_text(encoding="utf-8")):
                assert (await client.get(f"/page/{imported}")).headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("path", sorted(DIRECTORY.iterdir()), ids=lambda path: path.name)
def test_files_keep_to_the_content_security_policy(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    outside = [url for url in re.findall(r"https?://[^\s\"'`]+", text) if url != "http://www.w3.org/2000/svg"]
    assert outside == []
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    if path.suffix == ".html":
        assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", text)


async def test_a_policy_forbids_all_that_is_not_from_here(client: httpx.AsyncClient) -> None:
    headers = (await client.get("/")).headers

    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"


async def test_a_browser_that_has_a_file_is_told_so(state: ApiState) -> None:
    async with client_of(state, None) as client:
        first = await client.get("/page/app.js")
        again = await client.get("/page/app.js", headers={"If-None-Match": first.headers["etag"]})
        other = await client.get("/page/app.js", headers={"If-None-Match": '"other"'})

    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert other.status_code == 200


async def test_head_has_the_length_and_no_body(state: ApiState) -> None:
    async with client_of(state, None) as client:
        whole, head = await client.get("/page/style.css"), await client.head("/page/style.css")

    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == str(len(whole.content))


@pytest.mark.parametrize(
    "path", ["/page/none.js", "/page/..%2fassets.py", "/page/../assets.py", "/page/", "/page/__init__.py"]
)
async def test_nothing_else_is_served(state: ApiState, path: str) -> None:
    async with client_of(state, None) as client:
        answer = await client.get(path)

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_only_files_for_browsers_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("1")
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "a.js~").write_text("1")

    assert list(load_assets(tmp_path)) == ["a.js"]


def test_the_page_is_small() -> None:
    assert sum(len(asset.content) for asset in load_assets().values()) < 64 * 1024


# Trunks


async def test_trunks_are_those_configured_and_this_server_itself(calls: FakeCalls, tmp_path: Path) -> None:

    trunks = {"pbx": {"host": "pbx.example", "username": "u", "password": "s3cret"}}
    config = Config(api={"tokens_file": str(tmp_path / "tokens")}, trunks=trunks)
    state = make_state(config, calls, CallEngines(FakeEngine()))
    async with client_of(state, token_of(state, "calls:read")) as client:
        answer = await client.get("/v1/trunks")

    assert answer.json() == {"trunks": ["pbx", "self"]}


async def test_trunks_need_a_token(state: ApiState) -> None:
    async with client_of(state, None) as client:
        assert (await client.get("/v1/trunks")).status_code == 401
    async with client_of(state, token_of(state, "speech")) as client:
        assert (await client.get("/v1/trunks")).status_code == 403


# Meters


@pytest.mark.parametrize(("amplitude", "level"), [(32767, -3), (3277, -23), (33, -63), (0, FLOOR_DB), (1, FLOOR_DB)])
def test_a_level_is_the_rms_in_decibels(amplitude: int, level: int) -> None:
    meter = TrackMeter()
    meter(tone(amplitude), 0)

    assert meter.read() == pytest.approx(level, abs=1)


def test_a_reading_is_the_loudest_since_the_last() -> None:
    meter = TrackMeter()
    for amplitude in (100, 16000, 50):
        meter(tone(amplitude), 0)

    assert meter.read() == -9
    assert meter.read() == FLOOR_DB


def test_nothing_listens_unless_somebody_watches() -> None:
    calls = FakeCalls()
    call = calls.arrive()
    meters = Meters(calls)
    first, second = meters.watch([call.id]), meters.watch([call.id])
    assert [len(call.audio["inbound"]), len(call.audio["outbound"])] == [1, 1]

    call.hear(tone(16000), 20, "outbound")
    assert meters.read() == {call.id: (FLOOR_DB, -9)}
    meters.unwatch(first)
    assert len(call.audio["inbound"]) == 1
    meters.unwatch(second)
    assert [len(call.audio["inbound"]), len(call.audio["outbound"])] == [0, 0]
    assert meters.metered == 0


def test_calls_that_are_over_or_unknown_are_not_watched() -> None:
    calls = FakeCalls()
    over = calls.arrive()
    over.end()
    meters = Meters(calls)

    assert meters.watch([over.id, "CA0", ""]) == set()
    assert meters.metered == 0


def test_a_call_that_ends_while_it_is_watched() -> None:
    calls = FakeCalls()
    call = calls.arrive()
    meters = Meters(calls)
    watched = meters.watch([call.id])
    call.end()

    assert meters.read() == {call.id: (FLOOR_DB, FLOOR_DB)}
    meters.unwatch(watched)
    assert meters.metered == 0


def test_meters_are_bounded() -> None:
    calls = FakeCalls()
    ids = [calls.arrive().id for _ in range(MAX_METERED + 5)]
    meters = Meters(calls)
    watched = meters.watch(ids)

    assert len(watched) == meters.metered == MAX_METERED
    meters.unwatch(watched)


# The WebSocket


@asynccontextmanager
async def watching(server: ApiServer, secret: str | None = None) -> AsyncIterator[ClientConnection]:
    """A page's connection to /v1/levels."""
    assert server.address is not None
    protocols = ["chatterline", f"chatterline.bearer.{secret or token_of(server.state, 'calls:read')}"]
    url = server.address.replace("http", "ws") + "/v1/levels"
    async with connect(url, subprotocols=protocols) as socket:  # type: ignore[arg-type]
        yield socket


async def reading(socket: ClientConnection, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first levels that are as wanted."""
    async with asyncio.timeout(5):
        while True:
            levels: dict[str, Any] = json.loads(await socket.recv())["levels"]
            if wanted(levels):
                return levels


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def heard_by(call: FakeCall) -> int:
    return len(call.audio["inbound"])


async def test_levels_of_the_calls_asked_for(server: ApiServer, calls: FakeCalls) -> None:
    call, other = calls.arrive(), calls.arrive()
    async with watching(server) as socket:
        assert socket.subprotocol == "chatterline"
        await socket.send(json.dumps({"calls": [call.id]}))
        await until(lambda: heard_by(call) == 1)
        assert heard_by(other) == 0
        call.hear(tone(16000), 20)

        assert (await reading(socket, lambda levels: levels[call.id][0] > FLOOR_DB)) == {call.id: [-9, FLOOR_DB]}
        await socket.send(json.dumps({"calls": [other.id]}))
        await until(lambda: heard_by(call) == 0 and heard_by(other) == 1)
    await until(lambda: heard_by(other) == 0)
    await until(lambda: server.state.watchers == 0)


async def test_two_pages_see_the_same(server: ApiServer, calls: FakeCalls) -> None:
    call = calls.arrive()
    async with watching(server) as first, watching(server) as second:
        for socket in (first, second):
            await socket.send(json.dumps({"calls": [call.id]}))
            await reading(socket, lambda levels: call.id in levels)
        assert heard_by(call) == 1
        call.hear(tone(16000), 20)

        for socket in (first, second):
            await reading(socket, lambda levels: levels[call.id][0] == -9)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("no json", "not JSON"),
        ("[" * 5000, "not JSON"),
        ("[]", "calls"),
        ('{"calls": "CA1"}', "calls"),
        ('{"calls": [1]}', "calls"),
        (json.dumps({"calls": ["CA1"] * (MAX_METERED + 1)}), "at most 50"),
        (json.dumps({"calls": ["x" * 9000]}), "longer"),
        (b"\x00\x01", "text"),
    ],
    ids=["words", "deep", "list", "string", "numbers", "too many", "long", "binary"],
)
async def test_a_bad_message_is_told_so(server: ApiServer, message: str | bytes, why: str) -> None:
    async with watching(server) as socket:
        await socket.send(message)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4400
    assert why in closed.value.rcvd.reason
    await until(lambda: server.state.watchers == 0)


@pytest.mark.parametrize("secret", ["ctl_wrong", None])
async def test_levels_need_a_token(server: ApiServer, secret: str | None) -> None:
    with pytest.raises(websockets.InvalidStatus):
        async with watching(server, secret or token_of(server.state, "speech")):
            pass


async def test_watchers_are_bounded(calls: FakeCalls, tmp_path: Path) -> None:
    config = Config(api={"tokens_file": str(tmp_path / "tokens"), "max_watchers": 1})
    server = ApiServer(config, calls, CallEngines(FakeEngine()), listener=bound_socket())
    await server.start()
    try:
        async with watching(server), watching(server) as second:
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await second.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4429
    finally:
        await server.close()


async def test_the_document_has_trunks_and_not_the_page(client: httpx.AsyncClient) -> None:
    paths = (await client.get(f"{BASE}/openapi.json")).json()["paths"]

    assert "/v1/trunks" in paths
    assert "/" not in paths
    assert not [path for path in paths if path.startswith("/page")]
