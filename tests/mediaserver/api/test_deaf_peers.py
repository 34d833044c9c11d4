"""Peers that do not read, against uvicorn with our protocol."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from mediaserver.api import websocket_protocol
from mediaserver.api.websocket_protocol import ServerWebSocket
from tests.mediaserver.api.conftest import bound_socket

MUCH = 16_000_000
"Bytes: more than the buffers of both ends take."


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    config = uvicorn.Config(app, ws=ServerWebSocket, lifespan="off", log_config=None, **options)
    server, listener = uvicorn.Server(config), bound_socket()
    task = asyncio.create_task(server._serve([listener]))
    try:
        while not server.started:
            await asyncio.sleep(0.005)
        yield server, listener.getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 10)


@asynccontextmanager
async def deaf_peer(port: int) -> AsyncIterator[None]:
    """Makes the handshake, and reads nothing more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    key = base64.b64encode(bytes(16)).decode()
    writer.write(
        f"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    try:
        yield
    finally:
        writer.transport.abort()


async def until_rid_of(server: uvicorn.Server) -> None:
    async with asyncio.timeout(5):
        while server.server_state.connections:
            await asyncio.sleep(0.01)


async def test_a_deaf_peer_is_cut_when_its_handler_has_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_protocol, "CUT_TIMEOUT_S", 0.05)
    returned = asyncio.Event()

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": bytes(MUCH)})
        returned.set()

    async with serving(app) as (server, port), deaf_peer(port):
        await returned.wait()
        await until_rid_of(server)


async def test_a_handler_learns_that_its_deaf_peer_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a message; no ping is answered."""
    monkeypatch.setattr(websocket_protocol, "CUT_TIMEOUT_S", 0.05)
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": bytes(MUCH)})
        told.set_result((await receive())["type"])

    async with serving(app, ws_ping_interval=0.05, ws_ping_timeout=0.05) as (server, port), deaf_peer(port):
        assert await asyncio.wait_for(told, 20) == "websocket.disconnect"
        await until_rid_of(server)
