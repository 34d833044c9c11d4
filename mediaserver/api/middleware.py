"""What every request passes: the size and pace of its body, and the headers that browsers heed."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mediaserver import __version__
from mediaserver.api.problems import Problem
from mediaserver.api.state import state_of
from mediaserver.api_config import ApiConfig

BODY_TIMEOUT_S = 30.0
"For all of a body to arrive."

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
    """Refuses bodies that are too long (413), whether they say so or not, or too slow (408)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = _limit(scope["path"], state_of(HTTPConnection(scope)).config.api)
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdigit() and int(declared) > limit:
            # Closed behind the answer: the rest of the body would be taken for a request.
            await _too_long(limit).response(scope["path"])(scope, receive, send)
            return
        await self._app(scope, _Body(receive, limit).receive, send)


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


_CLOSE = {"Connection": "close"}


def _too_long(limit: int) -> Problem:
    return Problem(413, "body-too-long", f"the body is longer than {limit} bytes", headers=_CLOSE)


def _limit(path: str, config: ApiConfig) -> int:
    """Bytes that a body for this path may have."""
    if path.rstrip("/") in UPLOADS:
        return config.max_upload_mb * 1024 * 1024
    return config.max_body_kb * 1024
