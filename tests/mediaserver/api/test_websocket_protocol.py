"""Handshakes of WebSockets that come to nothing."""

from __future__ import annotations

import asyncio
import json

import pytest

from mediaserver.api.server import ApiServer
from tests.mediaserver.api.conftest import bearer, token_of

HANDSHAKE = (
    "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


async def answer_to(server: ApiServer, request: str, body: bytes = b"") -> tuple[bytes, dict[str, object]]:
    """The status line and the problem, once the server has closed the connection."""
    assert server.address is not None
    host, _, port = server.address.rpartition("://")[2].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode() + b"\r\n" + body)
    async with asyncio.timeout(5):
        head, _, text = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head.partition(b"\r\n")[0], json.loads(text)


@pytest.mark.parametrize("first", ["POST /v1/calls/a/media", "GET /v1/calls/a/media", "PUT /"])
async def test_a_handshake_with_a_body_is_answered(server: ApiServer, first: str) -> None:
    """Without an end such connections would add up to [api] max_connections."""
    status, problem = await answer_to(server, f"{first} HTTP/1.1\r\n{HANDSHAKE}Content-Length: 3\r\n", b"abc")
    assert status == b"HTTP/1.1 400 Bad Request"
    assert problem["status"] == 400
    async with asyncio.timeout(5):
        while server.open_connections:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(("scope", "status"), [(None, 401), ("speech", 403), ("calls:read", 404)])
async def test_a_refusal_is_no_fault_of_ours(
    server: ApiServer, caplog: pytest.LogCaptureFixture, scope: str | None, status: int
) -> None:
    headers = "" if scope is None else f"Authorization: {bearer(token_of(server.state, scope))['Authorization']}\r\n"
    line, problem = await answer_to(server, f"GET /v1/calls/a/media HTTP/1.1\r\n{HANDSHAKE}{headers}")
    assert line.split()[1] == str(status).encode()
    assert problem["status"] == status
    async with asyncio.timeout(5):
        while server.open_connections:
            await asyncio.sleep(0.001)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
