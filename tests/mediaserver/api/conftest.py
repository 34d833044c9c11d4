"""What tests of the control interfaces share: fake calls, a state, tokens, clients."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.datastructures import State

from mediaserver.api import server as server_module
from mediaserver.api.app import make_app
from mediaserver.api.server import ApiServer
from mediaserver.api.state import ApiState, make_state
from mediaserver.api.tokens import MODE, PREFIX, RANDOM_BYTES, Scope, Token, hash_of
from mediaserver.call.engines import CallEngines
from mediaserver.config import Config
from tests.mediaserver.api.fake_calls import FakeCalls
from tests.mediaserver.fake_engine import FakeEngine

BASE = "http://chatterline.test"


def bound_socket() -> socket.socket:
    """On a free port of the loopback interface."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    return listener


def token_of(state: ApiState, *scopes: Scope) -> str:
    """A fresh token with these scopes; written as TokenStore.add() does, but for waiting until the disk has it."""
    secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    token = Token(secrets.token_hex(4), "test", frozenset(scopes), hash_of(secret), time.time())
    state.tokens.path.touch(MODE)
    with state.tokens.path.open("a", encoding="utf-8") as file:
        file.write(token.line() + "\n")
    return secret


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@cache
def shared_app() -> FastAPI:
    """The application compiles its routes at its first request, which takes longer than most tests."""
    config = Config()
    return make_app(make_state(config, FakeCalls(), CallEngines(FakeEngine())))


def app_of(state: ApiState) -> FastAPI:
    """Serves that state, which is all that it knows; one test at a time."""
    app = shared_app()
    app.state = State({"api": state})
    return app


def client_of(state: ApiState, secret: str | None, **arguments: object) -> httpx.AsyncClient:
    """In-process, without a socket."""
    transport = httpx.ASGITransport(app_of(state), raise_app_exceptions=False)
    headers = bearer(secret) if secret else {}
    return httpx.AsyncClient(transport=transport, base_url=BASE, headers=headers, **arguments)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _one_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of servers, too: its document alone takes longer than most tests."""
    monkeypatch.setattr(server_module, "make_app", app_of)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(api={"tokens_file": str(tmp_path / "tokens.jsonl"), "requests_per_s": 0})


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def calls() -> FakeCalls:
    return FakeCalls()


@pytest.fixture
async def state(config: Config, calls: FakeCalls, engine: FakeEngine) -> ApiState:
    return make_state(config, calls, CallEngines(engine))


@pytest.fixture
def admin(state: ApiState) -> str:
    """A token that may do everything."""
    return token_of(state, "admin")


@pytest.fixture
async def client(state: ApiState, admin: str) -> AsyncIterator[httpx.AsyncClient]:
    """Of somebody who may do everything."""
    async with client_of(state, admin) as client:
        yield client


@pytest.fixture
async def server(config: Config, calls: FakeCalls, engine: FakeEngine) -> AsyncIterator[ApiServer]:
    """On a real socket, at `server.address`; tokens are made with token_of(server.state, ...)."""
    server = ApiServer(config, calls, CallEngines(engine), listener=bound_socket())
    await server.start()
    yield server
    await server.close()
