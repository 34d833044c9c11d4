"""WebSockets of messages, whoever dialled: agents and media streams are served over them alike."""

from __future__ import annotations

import asyncio
from typing import Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

ACCOUNT = "AC" + 32 * "0"
"Twilio's messages name an account; we have none, and applications may insist on its form."

CLOSE_TIMEOUT_S = 2.0
"For the closing handshake."

NORMAL_CLOSE, GOING_AWAY, NO_STATUS, NO_CLOSE_FRAME, POLICY_CLOSE, ERROR_CLOSE = 1000, 1001, 1005, 1006, 1008, 1011
"RFC 6455 section 7.4.1."

NOT_FOUND_CLOSE, CONFLICT_CLOSE = 4404, 4409
"Ours: the HTTP status, where it is too late for one."


class SocketClosedError(Exception):
    """The WebSocket is closed; code as in RFC 6455 section 7.4, 1006 when there was no closing handshake."""

    def __init__(self, code: int) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class Socket(Protocol):
    """A WebSocket."""

    async def receive(self) -> str | bytes:
        """The next message. Raises SocketClosedError."""

    async def send(self, text: str) -> None:
        """Returns when the network has taken it, or nearly. Raises SocketClosedError."""

    async def close(self, code: int, reason: str) -> None:
        """Idempotent. Cancelled, as by a time-out, it leaves nothing open for long."""


class AcceptedSocket:
    """A Socket that the other side connected. The server cuts it some time after its handler has returned."""

    def __init__(self, websocket: WebSocket) -> None:
        self.closed = asyncio.Event()
        self._websocket = websocket

    async def receive(self) -> str | bytes:
        if self._websocket.client_state is not WebSocketState.CONNECTED:
            raise SocketClosedError(NORMAL_CLOSE)
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            lost = (
                "reason" not in message
            )  # uvicorn gives a lost connection the code of one that was closed without any
            raise SocketClosedError(NO_CLOSE_FRAME if lost else message.get("code") or NORMAL_CLOSE)
        text: str | None = message.get("text")
        return text if text is not None else bytes(message["bytes"])

    async def send(self, text: str) -> None:
        try:
            await self._websocket.send_text(text)
        except (WebSocketDisconnect, RuntimeError):  # RuntimeError: we have closed it
            raise SocketClosedError(NO_CLOSE_FRAME) from None

    async def close(self, code: int, reason: str) -> None:
        if self.closed.is_set():
            return
        self.closed.set()
        if WebSocketState.DISCONNECTED in (self._websocket.client_state, self._websocket.application_state):
            return
        try:
            await self._websocket.close(code, reason)
        except (WebSocketDisconnect, RuntimeError):
            return  # it was closed meanwhile
