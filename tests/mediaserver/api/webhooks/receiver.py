"""An application that webhooks are posted to: a real HTTP/1.1 server on a port of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    "Names in lower case."
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self.body)
        return fields


Answer = tuple[int, dict[str, str]] | None
"Status and headers; None: no answer at all, until the client gives up."


class Receiver:
    """`requests` has what came; `answers` decides, 200 unless told otherwise."""

    def __init__(self, answer: Callable[[Received], Answer] = lambda _request: (200, {})) -> None:
        self.answer = answer
        self.requests: list[Received] = []
        self.connections = 0
        self.at_once = 0
        self.most_at_once = 0
        self.gate = asyncio.Event()
        "Answers wait for it."
        self.gate.set()
        self.port = 0
        self._news = asyncio.Condition()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?key=s3cret"

    @property
    def types(self) -> list[str]:
        return [request.event["type"] for request in self.requests]

    async def __aenter__(self) -> Receiver:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def wait_for(self, count: int, timeout_s: float = 10.0) -> list[Received]:
        """Until so many requests have come."""
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(lambda: len(self.requests) >= count)
        return self.requests

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                await self._take(Received(head[0].split(" ")[1], headers, body), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _take(self, request: Received, writer: asyncio.StreamWriter) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        async with self._news:
            self.requests.append(request)
            self._news.notify_all()
        await self.gate.wait()
        self.at_once -= 1
        answer = self.answer(request)
        if answer is None:
            raise ConnectionError
        status, headers = answer
        lines = [
            f"HTTP/1.1 {status} Answer",
            "Content-Length: 2",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write(("\r\n".join(lines) + "\r\n\r\nok").encode())
        await writer.drain()
