from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from mediaserver.api import problems
from mediaserver.api.state import ApiState, make_state
from mediaserver.api.stream import endpoint
from mediaserver.api.stream.manager import StreamManager
from mediaserver.call.engines import CallEngines
from mediaserver.config import Config
from tests.mediaserver.api.conftest import bound_socket
from tests.mediaserver.api.fake_calls import FakeCalls
from tests.mediaserver.api.stream.receiver import Receiver, receiving
from tests.mediaserver.fake_engine import FakeEngine


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
def config(tmp_path: Path, receiver: Receiver) -> Config:
    return Config(
        api={
            "tokens_file": str(tmp_path / "tokens.jsonl"),
            "requests_per_s": 0,
            "allow_urls": [receiver.url],
            "allow_networks": ["127.0.0.0/8"],
        },
        agent={"secret": "shared", "connect_timeout_s": 5},
    )


@pytest.fixture
async def state(config: Config, calls: FakeCalls, engine: FakeEngine) -> AsyncIterator[ApiState]:
    state = make_state(config, calls, CallEngines(engine))
    state.streams = StreamManager(state)
    state.streams.start()
    yield state
    await state.streams.close()


@pytest.fixture
def streams(state: ApiState) -> StreamManager:
    assert state.streams is not None
    return state.streams


class _Server(uvicorn.Server):
    """In the test's loop: signals are pytest's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest.fixture
async def address(state: ApiState) -> AsyncIterator[str]:
    """Host and port of a server with the routes of streams."""
    app = FastAPI()
    app.state.api = state
    problems.install(app)
    app.include_router(endpoint.router)
    listener = bound_socket()
    server = _Server(uvicorn.Config(app, ws="websockets-sansio", lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.001)
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    assert state.streams is not None
    await state.streams.close()
    server.should_exit = True
    await serving
    listener.close()
