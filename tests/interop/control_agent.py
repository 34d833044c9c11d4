"""Applications at the other end of our WebSockets, written with `websockets` and Twilio's published pages only."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request

from mediaserver.phone.local_server import HOST
from mediaserver.rtp.codec import audioop

Message = dict[str, Any]
LIMIT_S = 20.0

SETUP_KEYS = {
    "type", "sessionId", "accountSid", "parentCallSid", "callSid", "from", "to", "forwardedFrom", "callType",
    "callerName", "direction", "callStatus", "customParameters",
}  # fmt: skip
"https://www.twilio.com/docs/voice/conversationrelay/websocket-messages"


class Line:
    """One connection, with what came over it in order."""

    def __init__(self, socket: Connection) -> None:
        self.socket = socket
        self.messages: list[Message] = []

    async def next(self, kind: str | None = None) -> Message:
        """The next message, or the next of this type, or event."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                text = await self.socket.recv()
                assert isinstance(text, str)
                message: Message = json.loads(text)
                self.messages.append(message)
                if kind is None or kind in (message.get("type"), message.get("event")):
                    return message

    async def rest(self) -> int:
        """Read to the end: the close code, 1006 without a closing handshake."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.next()
        return self.socket.close_code or 1006

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def say(self, text: str, **rest: Any) -> None:
        """A talk cycle, as a model streams it: word by word, then an empty last token."""
        for word in text.split(" "):
            await self.send(type="text", token=word + " ", last=False, **rest)
        await self.send(type="text", token="", last=True, **rest)

    async def play(self, ulaw: bytes, stream: str) -> None:
        """To be heard by whom the stream is of."""
        await self.send(event="media", streamSid=stream, media={"payload": base64.b64encode(ulaw).decode()})

    def heard(self, track: str) -> bytes:
        """Signed 16-bit PCM at 8 kHz of all media messages of a track so far."""
        media = [one["media"] for one in self.messages if one.get("event") == "media"]
        ulaw = b"".join(base64.b64decode(one["payload"]) for one in media if one["track"] == track)
        return audioop.ulaw2lin(ulaw, 2)


Behaviour = Callable[[Line], Awaitable[None]]


class Application:
    """A server that does `behaviour` with each connection; an error in it is raised at the end."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.requests: list[Request] = []
        self._behaviour = behaviour
        self._errors: list[Exception] = []

    def check(self) -> None:
        if self._errors:
            raise self._errors[0]

    async def talk(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.requests.append(socket.request)
        try:
            await self._behaviour(Line(socket))
        except Exception as error:  # noqa: BLE001 - raised by check(), where the test sees it
            self._errors.append(error)


@contextlib.asynccontextmanager
async def application(port: int, behaviour: Behaviour, *, narrow: bool = False) -> AsyncIterator[Application]:
    """Serve `behaviour` on that port of the loopback interface; `narrow`: the kernel buffers little for it."""
    app = Application(behaviour)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if narrow:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # what a sender buffers goes by it
        listener.bind((HOST, port))
        async with serve(app.talk, sock=listener, close_timeout=0.5, ping_interval=None, max_size=None):
            yield app
    app.check()
