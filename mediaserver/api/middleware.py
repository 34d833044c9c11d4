"""What every request passes: the size and pace of its body, and the headers that browsers heed."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mediaserver import __version__
from mediaserver.api.auth import is_known
from mediaserver.api.problems import Problem
from mediaserver.api.state import state_of
from mediaserver.api_config import ApiConfig

BODY_TIMEOUT_S = 30.0
"For all of a body to arrive."

LINGER_S, LINGER_IDLE_S = 5.0, 0.5
"""How long the rest of a body that is too long is read, and thrown away: closed over unread bytes a connection is
reset, and the answer lost with it. The second: without any of it."""

UPLOADS = ("/v1/voices",)
"Paths that take files."

SERVER_HEADERS = {
    "Server": f"Chatterline/{__version__}",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # The operator page brings all that it needs; 'self' includes WebSockets of the same origin.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class ServerHeaders:
    """Sets SERVER_HEADERS where the application has not; nothing is cached unless it says so."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in SERVER_HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, with_headers)


class BodyLimit:
    """Refuses bodies that are too long (413), whether they say so or not, or too slow (408); without a token all."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        if _has_body(connection.headers) and not is_known(connection):
            await self._app(scope, _no_body, send)  # which answers 401: whoever it is, nothing is read for nobody
            return
        limit = _limit(scope["path"], state_of(connection).config.api)
        body = _Body(receive, limit)
        sender = send if "expect" in connection.headers else body.lingering(send)
        declared = connection.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > limit:
            # Closed behind the answer: the rest of the body would be taken for a request.
            await _too_long(limit).response(scope["path"])(scope, receive, sender)
            return
        await self._app(scope, body.receive, sender)


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


class _Body:
    """Counts a body as it is read."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._got = 0
        self._deadline = asyncio.get_running_loop().time() + BODY_TIMEOUT_S
        self._complete = False

    async def receive(self) -> Message:
        """Raises Problem: 408, 413."""
        if self._complete:  # what comes now is that the client is gone, which may take its time
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise Problem(408, "too-slow", f"the body took more than {BODY_TIMEOUT_S:g} s", headers=_CLOSE) from None
        self._complete = not message.get("more_body", False)
        self._got += len(message.get("body", b""))
        if self._got > self._limit:
            raise _too_long(self._limit)
        return message

    def lingering(self, send: Send) -> Send:
        """`send`, but that the end of a 413 waits for the body's, for a moment."""
        status = 0

        async def send_lingering(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            if status == 413 and message["type"] == "http.response.body" and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await self._discard()
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        return send_lingering

    async def _discard(self) -> None:
        try:
            async with asyncio.timeout(LINGER_S):
                while not self._complete:
                    message = await asyncio.wait_for(self._receive(), LINGER_IDLE_S)
                    self._complete = not message.get("more_body", False)
        except TimeoutError:
            return


_CLOSE = {"Connection": "close"}


def _too_long(limit: int) -> Problem:
    return Problem(413, "body-too-long", f"the body is longer than {limit} bytes", headers=_CLOSE)


def _limit(path: str, config: ApiConfig) -> int:
    """Bytes that a body for this path may have."""
    if path.rstrip("/") in UPLOADS:
        return config.max_upload_mb * 1024 * 1024
    return config.max_body_kb * 1024
