"""HTTP/1.1 connections with bounds: how many there are, and how long one may take to say what it wants."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mediaserver.api.problems import MEDIA_TYPE, Problem

REQUEST_TIMEOUT_S = 10.0
"From a connection's beginning, or a request's first byte, to the end of its headers. uvicorn itself has no such limit."


def last_response(problem: Problem) -> bytes:
    """For what never reaches the application: a whole response, behind which the connection is closed."""
    body = json.dumps(problem.document()).encode()
    headers = {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
        **(problem.headers or {}),
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {problem.status_code} {HTTPStatus(problem.status_code).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


TOO_MANY_CONNECTIONS = Problem(
    503, "too-many-connections", "too many connections; try again in a moment", headers={"Retry-After": "5"}
)


class BoundedHttp(H11Protocol):
    """Subclassed with a limit of its own for each server."""

    max_connections = 1000
    refused = 0
    "Connections, of this class."

    _timer: asyncio.TimerHandle | None = None
    _upgraded = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn's
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            type(self).refused += 1
            transport.write(last_response(TOO_MANY_CONNECTIONS))
            transport.close()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._upgraded = True
        self._forget()
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # not into another response
            self.transport.write(last_response(Problem(400, "bad-request", msg)))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Have a timer run while a request has begun to arrive and is not there yet."""
        if self._upgraded or (self.cycle is not None and not self.cycle.response_complete):
            self._forget()
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(REQUEST_TIMEOUT_S, self._give_up)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def bounded_http(max_connections: int) -> type[BoundedHttp]:
    """The protocol of one server."""
    return type("BoundedHttp", (BoundedHttp,), {"max_connections": max_connections, "refused": 0})
