"""WebSocket handshakes that come to nothing, and peers that never go: what uvicorn's protocol leaves undone."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from mediaserver.api.http_protocol import last_response
from mediaserver.api.problems import Problem

CUT_TIMEOUT_S = 10.0
"From the end of a WebSocket's handler, or its last ping, to the end of its connection."


class ServerWebSocket(WebSocketsSansIOProtocol):
    """One connection, from the request to upgrade it."""

    _cut: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """A request that is no handshake, as it has a body, gets an answer: uvicorn would wait for ever."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.transport.is_closing():
            text = "a WebSocket begins with a GET without a body"
            self.transport.write(last_response(Problem(400, "bad-request", text)))
            self.transport.close()

    async def send(self, message: Any) -> None:
        """A handshake that was refused with a whole response is complete: uvicorn would log it as a fault of ours."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True

    async def run_asgi(self) -> None:
        """Whoever does not read is cut: uvicorn would wait for ever to be rid of what was sent."""
        await super().run_asgi()
        self._cut_soon()

    def keepalive_timeout(self) -> None:
        """As above; the handler learns of it then."""
        super().keepalive_timeout()
        self._cut_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._cut is not None:
            self._cut.cancel()
        super().connection_lost(exc)

    def _cut_soon(self) -> None:
        if self._cut is None and not self.disconnected:
            self._cut = self.loop.call_later(CUT_TIMEOUT_S, self.transport.abort)
