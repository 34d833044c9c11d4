"""The real server with its control interfaces, and what a client has of them: HTTP, events, webhooks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from mediaserver.api.tokens import TokenStore
from mediaserver.phone.local_server import HOST
from tests.interop.media_servers import MeasuredServer
from tests.interop.server import free_tcp_port

LIMIT_S = 20.0
"For anything that is waited for."

Told = Mapping[str, Any]
"An event, as JSON has it."


class ControlledServer(MeasuredServer):
    """A server with [api] on a free port, and a token that may do everything; `settings` as those of LocalServer."""

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        self.api_port = free_tcp_port()
        tokens = directory / "tokens"
        self.token = TokenStore(tokens).add("interop", ("admin",), time.time())[1]
        always = {"API__PORT": str(self.api_port), "API__TOKENS_FILE": str(tokens)}
        super().__init__(directory / "server.log", {**always, **(settings or {})})

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.api_port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=LIMIT_S, trust_env=False)


class Events:
    """GET /v1/events, read as it comes: lines of text, as the specification of server-sent events has them."""

    def __init__(self, response: httpx.Response) -> None:
        self.told: list[Told] = []
        self._response = response
        self._news = asyncio.Event()

    async def read(self) -> None:
        name, ident = "", ""
        async for line in self._response.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "id":
                ident = value
            elif field == "data":
                event = json.loads(value)
                assert event["type"] == name
                assert ident.endswith(f"-{event['number']}")
                self.told.append(event)
                self._news.set()

    def of(self, call: str, *types: str) -> list[Told]:
        """Those of a call, in order: all, or of these types."""
        return [one for one in self.told if one["call_id"] == call and (not types or one["type"] in types)]

    def types(self, call: str) -> list[str]:
        return [one["type"] for one in self.of(call)]

    async def until(self, kind: str, call: str | None = None, **data: object) -> Told:
        """The first event of this type, of that call if one is named, with these data; waits for it."""
        return await self.first(
            lambda one: (
                one["type"] == kind
                and call in (None, one["call_id"])
                and all(one["data"].get(name) == value for name, value in data.items())
            ),
            f"{kind} {data or ''}",
        )

    async def first(self, wanted: Callable[[Told], bool], what: str) -> Told:
        try:
            async with asyncio.timeout(LIMIT_S):
                while True:
                    for one in self.told:
                        if wanted(one):
                            return one
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            seen = "\n".join(f"{one['type']} {one['data']}" for one in self.told)
            raise AssertionError(f"{what}: not within {LIMIT_S:g} s; events:\n{seen}") from None


@contextlib.asynccontextmanager
async def watching(client: httpx.AsyncClient) -> AsyncIterator[Events]:
    """All events from now on."""
    async with client.stream("GET", "/v1/events", timeout=None) as response:
        assert response.status_code == 200
        events = Events(response)
        reading = asyncio.create_task(events.read())
        try:
            yield events
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading


async def post(client: httpx.AsyncClient, path: str, status: int, **body: Any) -> Any:
    """The answer's JSON to a POST that must get this status."""
    response = await client.post(path, json=body)
    assert response.status_code == status, f"{path}: {response.status_code} {response.text}"
    return response.json() if response.content else None
