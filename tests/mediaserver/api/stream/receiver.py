"""An application that takes media streams, written with nothing but `websockets` and Twilio's page."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed


class Peer:
    """One connection of it: what came, in order."""

    def __init__(self, socket: Connection) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []

    async def until(self, event: str) -> dict[str, Any]:
        """Read on to the next message of this event."""
        async with asyncio.timeout(10):
            while True:
                message: dict[str, Any] = json.loads(await self.socket.recv())
                self.messages.append(message)
                if message["event"] == event:
                    return message

    async def closed(self) -> int:
        """Read to the end: the close code."""
        async with asyncio.timeout(10):
            try:
                while True:
                    self.messages.append(json.loads(await self.socket.recv()))
            except ConnectionClosed as error:
                return error.rcvd.code if error.rcvd is not None else 1006

    @property
    def events(self) -> list[str]:
        return [message["event"] for message in self.messages]

    async def send(self, event: str, **about: Any) -> None:
        await self.socket.send(json.dumps({"event": event, **about}))

    async def play(self, ulaw: bytes) -> None:
        await self.send("media", media={"payload": base64.b64encode(ulaw).decode()})


class Receiver:
    """A server of it."""

    def __init__(self) -> None:
        self.url = ""
        self.headers: list[dict[str, str]] = []
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()

    async def peer(self) -> Peer:
        async with asyncio.timeout(10):
            return await self._peers.get()

    async def handle(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.headers.append({name.lower(): value for name, value in socket.request.headers.raw_items()})
        self._peers.put_nowait(Peer(socket))
        await socket.wait_closed()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with serve(receiver.handle, "127.0.0.1", 0, max_size=None, close_timeout=0.2) as server:
        receiver.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/stream"
        yield receiver
