"""Who may do what: scopes of requests and WebSockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import websockets
from fastapi import FastAPI, WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mediaserver.api.app import make_app
from mediaserver.api.auth import SCOPES, accepted_subprotocol, authorize_websocket
from mediaserver.api.limits import Turns
from mediaserver.api.problems import Problem
from mediaserver.api.server import ApiServer
from mediaserver.api.state import ApiState
from mediaserver.api.tokens import Scope
from mediaserver.call.engines import CallEngines
from mediaserver.config import Config
from tests.mediaserver.api.conftest import app_of, bearer, bound_socket, client_of, token_of
from tests.mediaserver.api.fake_calls import FakeCalls
from tests.mediaserver.api.test_calls import problem
from tests.mediaserver.fake_engine import FakeEngine

NEEDED: list[tuple[str, str, Scope]] = [
    ("GET", "/v1/calls", "calls:read"),
    ("GET", "/v1/calls/CA1", "calls:read"),
    ("GET", "/v1/status", "calls:read"),
    ("POST", "/v1/calls", "calls:write"),
    ("DELETE", "/v1/calls/CA1", "calls:write"),
    ("POST", "/v1/calls/CA1/say", "calls:write"),
    ("POST", "/v1/calls/CA1/clear", "calls:write"),
    ("POST", "/v1/calls/CA1/dtmf", "calls:write"),
    ("POST", "/v1/calls/CA1/transfer", "calls:write"),
    ("POST", "/v1/calls/CA1/hold", "calls:write"),
    ("POST", "/v1/calls/CA1/resume", "calls:write"),
    ("POST", "/v1/drain", "admin"),
    ("DELETE", "/v1/drain", "admin"),
    ("GET", "/v1/events?types=none", "events"),
]
"none: no event type, so that the stream does not begin."


@pytest.mark.parametrize("exists", [True, False])
async def test_without_a_token_nobody_may_do_anything(state: ApiState, calls: FakeCalls, exists: bool) -> None:
    """Every operation there is, known here or not, but for one; nor learn which calls there are."""
    call = calls.arrive()
    app = app_of(state)
    open_to_all = {"/healthz"}
    async with client_of(state, None) as client:
        tried = 0
        for path, operations in app.openapi()["paths"].items():
            if path in open_to_all:
                continue
            for method in operations:
                url = path.replace("{call_id}", call.id if exists else "CA0").replace("{", "").replace("}", "")
                response = await client.request(method.upper(), url)
                assert response.status_code == 401, (method, path)
                assert response.headers["www-authenticate"] == 'Bearer realm="chatterline"'
                tried += 1
        assert tried >= len(NEEDED)
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/openapi.json")).status_code == 200
    assert not call.over


async def test_each_operation_needs_its_scope_and_no_other_helps(state: ApiState) -> None:
    secrets = {scope: token_of(state, scope) for scope in SCOPES}
    others = token_of(state, *(scope for scope in SCOPES if scope not in ("admin", "calls:read")))
    async with client_of(state, None) as client:
        for method, path, needed in NEEDED:
            for scope, secret in secrets.items():
                response = await client.request(method, path, headers=bearer(secret))
                allowed = scope in (needed, "admin")
                assert (response.status_code != 403) == allowed, (method, path, scope)
                assert response.status_code != 401
                if not allowed:
                    assert f'scope="{needed}"' in response.headers["www-authenticate"]
        problem(await client.get("/v1/calls", headers=bearer(others)), 403, "forbidden")
    assert state.counts["forbidden"] > 0


async def test_who_has_no_token_is_told_how_to_come_by_one(state: ApiState) -> None:
    """Only as long as there is none: then it is the operator who asks."""
    async with client_of(state, None) as client:
        before = (await client.get("/v1/calls")).json()["detail"]
        token_of(state, "admin")
        after = (await client.get("/v1/calls")).json()["detail"]
        wrong = (await client.get("/v1/calls", headers=bearer("ctl_wrong"))).json()["detail"]
    assert before.endswith("there is none yet: chatterline tokens add NAME --scope SCOPE")
    assert after == "a token is needed, as Authorization: Bearer ctl_..."
    assert wrong == "the token is unknown or has expired"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "bearer ctl_wrong",
        "Bearer ctl_" + "a" * 43,
        "Bearer " + "x" * 5000,
        "ctl_",
    ],
)
async def test_what_is_no_token(state: ApiState, header: str) -> None:
    token_of(state, "admin")
    async with client_of(state, None) as client:
        problem(await client.get("/v1/calls", headers={"Authorization": header}), 401, "unauthorized")
    assert state.counts["unauthorized"] == 1


async def test_the_scheme_is_not_case_sensitive(state: ApiState, admin: str) -> None:
    async with client_of(state, None) as client:
        assert (await client.get("/v1/calls", headers={"Authorization": f"bearer {admin}"})).status_code == 200


async def test_a_token_that_has_expired(state: ApiState) -> None:
    _, secret = state.tokens.add("old", ["admin"], time.time() - 60, expires=time.time() - 1)
    async with client_of(state, secret) as client:
        response = await client.get("/v1/calls")
        problem(response, 401, "unauthorized")
        assert 'error="invalid_token"' in response.headers["www-authenticate"]


async def test_a_token_does_not_pass_in_the_url(state: ApiState, admin: str) -> None:
    """It would be in logs of proxies."""
    async with client_of(state, None) as client:
        assert (await client.get(f"/v1/calls?token={admin}&access_token={admin}")).status_code == 401


def with_echo(state: ApiState) -> FastAPI:
    app = make_app(state)

    @app.websocket("/echo")
    async def echo(websocket: WebSocket) -> None:
        token = await authorize_websocket(websocket, "agent")
        await websocket.accept(accepted_subprotocol(websocket))
        await websocket.send_text(token.name)
        if await websocket.receive_text() == "fail":
            raise Problem(409, "conflict", "as asked")
        await websocket.close()

    app.router.routes.insert(0, app.router.routes.pop())  # before the page's, whatever that takes
    return app


class TestWebSockets:
    @pytest.fixture
    async def server(
        self, config: Config, calls: FakeCalls, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[ApiServer]:
        """One that also has a WebSocket that says the token's name."""
        monkeypatch.setattr("mediaserver.api.server.make_app", with_echo)
        server = ApiServer(config, calls, CallEngines(engine), listener=bound_socket())
        await server.start()
        yield server
        await server.close()

    @pytest.fixture
    def url(self, server: ApiServer) -> str:
        assert server.address is not None
        return server.address.replace("http", "ws") + "/echo"

    async def test_the_header(self, server: ApiServer, url: str) -> None:
        async with websockets.connect(url, additional_headers=bearer(token_of(server.state, "agent"))) as socket:
            assert await socket.recv() == "test"
            assert socket.subprotocol is None

    async def test_many_at_once_begin_one_after_the_other(self, server: ApiServer, url: str) -> None:
        server.state.sockets = Turns(per_s=20, burst=1)
        headers = bearer(token_of(server.state, "agent"))
        begin = time.monotonic()

        async def come() -> float:
            async with websockets.connect(url, additional_headers=headers) as socket:
                assert await socket.recv() == "test"
                return time.monotonic() - begin

        begun = sorted(await asyncio.gather(*(come() for _ in range(4))))
        assert all(at >= 0.05 * number for number, at in enumerate(begun))

    async def test_who_has_no_token_takes_no_turn(self, server: ApiServer, url: str) -> None:
        server.state.sockets = Turns(per_s=0.001, burst=1)
        for _ in range(2):
            with pytest.raises(InvalidStatus):
                await websockets.connect(url)
        assert server.state.sockets.take(time.monotonic()) == 0.0

    async def test_who_goes_away_while_it_waits_gives_up_its_place(self, server: ApiServer, url: str) -> None:
        server.state.sockets = Turns(per_s=1, burst=1)
        headers = bearer(token_of(server.state, "agent"))
        await server.state.sockets.wait()
        for _ in range(8):
            with pytest.raises(TimeoutError):
                await websockets.connect(url, additional_headers=headers, open_timeout=0.03)
        async with asyncio.timeout(4.0), websockets.connect(url, additional_headers=headers) as socket:
            assert await socket.recv() == "test"

    async def test_a_server_that_stops_waits_for_nobodys_turn(
        self, server: ApiServer, url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.state.sockets = Turns(per_s=0.01, burst=1)
        headers = bearer(token_of(server.state, "agent"))
        await server.state.sockets.wait()
        come = [asyncio.create_task(websockets.connect(url, additional_headers=headers).__aenter__()) for _ in range(3)]
        while server.open_connections < 3:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # until the tokens are seen
        async with asyncio.timeout(2.0):  # less than it gives to requests under way
            await server.close()
        refused = await asyncio.gather(*come, return_exceptions=True)
        assert all(isinstance(error, InvalidStatus) for error in refused)
        assert not [record for record in caplog.records if record.levelname == "ERROR"]

    async def test_the_subprotocol_of_browsers(self, server: ApiServer, url: str) -> None:
        """The one with the token in it is not repeated in the response."""
        secret = token_of(server.state, "agent")
        offered = [websockets.Subprotocol("chatterline"), websockets.Subprotocol(f"chatterline.bearer.{secret}")]
        async with websockets.connect(url, subprotocols=offered) as socket:
            assert await socket.recv() == "test"
            assert socket.subprotocol == "chatterline"

    @pytest.mark.parametrize(("scope", "status"), [(None, 401), ("calls:read", 403), ("admin", None)])
    async def test_the_scope(self, server: ApiServer, url: str, scope: Scope | None, status: int | None) -> None:
        headers = bearer(token_of(server.state, scope)) if scope else {}
        if status is None:
            async with websockets.connect(url, additional_headers=headers) as socket:
                assert await socket.recv() == "test"
            return
        with pytest.raises(InvalidStatus) as refused:
            await websockets.connect(url, additional_headers=headers)
        response = refused.value.response
        assert response.status_code == status
        assert response.headers["Content-Type"] == "application/problem+json"
        assert f'"status":{status}'.encode() in (response.body or b"")

    async def test_what_goes_wrong_after_the_handshake_is_in_the_close_code(self, server: ApiServer, url: str) -> None:
        async with websockets.connect(url, additional_headers=bearer(token_of(server.state, "agent"))) as socket:
            await socket.recv()
            await socket.send("fail")
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4409, "as asked")
