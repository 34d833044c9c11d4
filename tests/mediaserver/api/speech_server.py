"""The speech interfaces on a real port, with a fake engine or a real one."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from openai import AsyncOpenAI
from starlette.datastructures import State

from mediaserver.api import audio_speech, problems, voices
from mediaserver.api.state import ApiState, make_state
from mediaserver.call.engines import CallEngines
from mediaserver.config import Config
from tests.mediaserver.api.fake_calls import FakeCalls
from tts_engine.engine import Engine


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are the test runner's


@dataclass
class SpeechServer:
    app: FastAPI
    state: ApiState
    url: str
    token: str
    weak_token: str
    "Of no use for speech."

    @property
    def openai(self) -> AsyncOpenAI:
        # Reading the certificates of all authorities takes longer than most tests.
        http = httpx.AsyncClient(verify=False, trust_env=False)
        return AsyncOpenAI(api_key=self.token, base_url=f"{self.url}/v1", max_retries=0, timeout=20, http_client=http)

    @property
    def http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=20,
            verify=False,
            trust_env=False,
        )

    @property
    def slots(self) -> int:
        """Streams that run."""
        taken: int = self.app.state.speech_slots.taken
        return taken


@contextlib.asynccontextmanager
async def serving(directory: Path, *engines: Engine, **api: Any) -> AsyncIterator[SpeechServer]:
    """A server; `api` are keys of [api]."""
    config = Config(
        api={"tokens_file": str(directory / "tokens.jsonl"), **api},
        tts={"chatterbox": {"voices_dir": str(directory / "voices")}},
    )
    state = make_state(config, FakeCalls(), CallEngines(*engines))
    _, token = state.tokens.add("test", ("speech", "voices:write"), time.time())
    _, weak_token = state.tokens.add("weak", ("events",), time.time())
    app = _app()
    app.state = State({"api": state})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = _Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield SpeechServer(app, state, url, token, weak_token)
        finally:
            # At once, instead of at the server's next tick.
            running.cancel()
            server.force_exit = True
            await asyncio.gather(running, return_exceptions=True)
            await server.shutdown([listener])


@functools.cache
def _app() -> FastAPI:
    app = FastAPI()
    problems.install(app)
    app.include_router(audio_speech.router)
    app.include_router(voices.router)
    return app
