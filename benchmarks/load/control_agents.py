"""Agents of benchmarks/control.py: they speak ConversationRelay over a WebSocket, to a timetable."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from mediaserver.api.agent.clauses import ClauseSplitter

TOKEN_SECONDS = 0.020
"50 tokens a second."
SETUP_SECONDS = 10.0
AT_ONCE = 20
"Connections that are being made."
_TOKEN = re.compile(r"\s*\S{1,5}")
"A language model's tokens are some four characters of English, most with the blank before them."


def tokens_of(text: str) -> list[str]:
    return _TOKEN.findall(text)


def first_clause_end(tokens: Sequence[str]) -> int:
    """The number of the token that holds the last character of the first clause that is spoken by itself."""
    splitter = ClauseSplitter()
    clauses: list[str] = []
    for token in tokens:
        clauses = splitter.feed(token)
        if clauses:
            break
    clauses = clauses or splitter.finish()
    left = len("".join(clauses[0].split()))
    for number, token in enumerate(tokens):
        left -= len(token.strip())
        if left <= 0:
            return number
    raise ValueError("a clause is longer than its tokens")


class Agents:
    """One for each call. Everything belongs to the event loop."""

    def __init__(self) -> None:
        self.sockets: dict[str, Connection] = {}
        "By the call's id."
        self.interrupts: list[tuple[str, int]] = []
        "Call, and ns since the epoch when `interrupt` was read."
        self.errors: list[str] = []
        "What calls complained about."
        self.lost = 0
        "Connections that ended while they were not to."
        self.sent = 0
        self._closing = False
        self._waiting: dict[str, asyncio.Event] = {}

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Agents that are dialled; what is yielded is their URL."""
        async with serve(self._serve, "127.0.0.1", 0, compression=None) as server:
            host, port = next(iter(server.sockets)).getsockname()[:2]
            yield f"ws://{host}:{port}/"

    def expect_end(self) -> None:
        """From now on connections may end: calls are over."""
        self._closing = True

    @contextlib.asynccontextmanager
    async def attached(self, base: str, token: str, calls: Sequence[str]) -> AsyncIterator[None]:
        """Agents that connect to calls. Raises what websockets raises if one is refused."""
        headers = {"Authorization": f"Bearer {token}"}
        urls = [f"ws{base.removeprefix('http')}/v1/calls/{call}/agent" for call in calls]
        self._closing = False
        opened: list[Connection] = []
        try:
            for first in range(0, len(urls), AT_ONCE):
                dials = (
                    connect(url, additional_headers=headers, compression=None, proxy=None)
                    for url in urls[first : first + AT_ONCE]
                )
                opened += await asyncio.gather(*dials)
            readers = [asyncio.create_task(self._serve(socket)) for socket in opened]
            async with asyncio.timeout(SETUP_SECONDS):
                await asyncio.gather(*(self._introduced(call) for call in calls))
            yield
        finally:
            self._closing = True
            await asyncio.gather(*(socket.close() for socket in opened))
        await asyncio.gather(*readers)

    async def _introduced(self, call: str) -> None:
        await self._waiting.setdefault(call, asyncio.Event()).wait()

    async def _serve(self, socket: Connection) -> None:
        call = ""
        try:
            async for message in socket:
                now = time.time_ns()
                call = self._take(socket, json.loads(message), now) or call
        except ConnectionClosed:
            pass
        self.lost += not self._closing
        self.sockets.pop(call, None)
        self._waiting.pop(call, None)

    def _take(self, socket: Connection, message: dict[str, Any], now: int) -> str | None:
        """One message of a call's; its id, if it introduced itself."""
        if message["type"] == "setup":
            call = str(message["callSid"])
            self.sockets[call] = socket
            self._waiting.setdefault(call, asyncio.Event()).set()
            return call
        if message["type"] == "interrupt":
            call = next(name for name, kept in self.sockets.items() if kept is socket)
            self.interrupts.append((call, now))
        elif message["type"] == "error":
            self.errors.append(str(message["description"]))
        return None

    async def stream(self, call: str, text: str) -> int:
        """Send a text as a language model would; when the last token of the first clause was sent, in ns."""
        tokens = tokens_of(text)
        marked = first_clause_end(tokens)
        begin, stamp = time.monotonic(), 0
        for number, token in enumerate(tokens):
            await asyncio.sleep(begin + number * TOKEN_SECONDS - time.monotonic())
            data = json.dumps({"type": "text", "token": token, "last": number == len(tokens) - 1})
            if number == marked:
                stamp = time.time_ns()
            await self.sockets[call].send(data)
            self.sent += 1
        return stamp

    async def say(self, call: str, text: str) -> None:
        """Send a text in one message."""
        await self.sockets[call].send(json.dumps({"type": "text", "token": text, "last": True}))
        self.sent += 1
