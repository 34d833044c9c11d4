"""An agent: a WebSocket server of its own, that follows Twilio's published messages only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

Behaviour = Callable[["FarConnection"], Awaitable[None]]


class FarConnection:
    """One connection, as the agent has it."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.setup: dict[str, Any] = {}

    async def next(self, kind: str | None = None) -> dict[str, Any]:
        """The next message, of this type if one is named."""
        while True:
            message: dict[str, Any] = json.loads(await asyncio.wait_for(self.socket.recv(), 10))
            if kind is None or message["type"] == kind:
                return message

    async def say(self, text: str, *, last: bool = True, **rest: Any) -> None:
        await self.send(type="text", token=text, last=last, **rest)

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def until_closed(self) -> None:
        await self.socket.wait_closed()


class FarAgent:
    """Its connections wait in `connections` once they have begun; what each does is `behaviour`."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.connections: asyncio.Queue[FarConnection] = asyncio.Queue()
        self.requests: list[Request] = []
        self.refuses = 0
        "Handshakes that are answered 503."
        self._behaviour = behaviour
        self._server: Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        host, port = next(iter(self._server.sockets)).getsockname()[:2]
        return f"ws://{host}:{port}/relay?token=abc"

    async def connection(self) -> FarConnection:
        return await asyncio.wait_for(self.connections.get(), 10)

    async def _serve(self, socket: ServerConnection) -> None:
        connection = FarConnection(socket)
        if self._behaviour is None:
            self.connections.put_nowait(connection)
            await connection.until_closed()
        else:
            connection.setup = await connection.next("setup")
            self.connections.put_nowait(connection)
            await self._behaviour(connection)

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        if self.refuses:
            self.refuses -= 1
            return connection.respond(503, "busy\n")
        return None

    async def __aenter__(self) -> FarAgent:
        self._server = await serve(
            self._serve, "127.0.0.1", 0, process_request=self._admit, close_timeout=0.2, ping_interval=None
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()


@asynccontextmanager
async def redirecting(to: str) -> AsyncIterator[str]:
    """A server that answers each handshake with a redirect."""

    def redirect(connection: ServerConnection, _request: Request) -> Response:
        response = connection.respond(302, "")
        response.headers["Location"] = to
        return response

    async def nothing(_socket: ServerConnection) -> None:
        raise AssertionError

    async with serve(nothing, "127.0.0.1", 0, process_request=redirect) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
