"""INFO requests of ours within a session: one at a time, in order (RFC 6086, RFC 2976)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

MAX_QUEUED = 64
SESSION_OVER = 481
"The result of what the session's end overtook."

OnResult = Callable[[int], None]
"Is given the final status code; 408 if none came."


class InfoQueueFullError(Exception):
    """More requests would wait than the bound."""


@dataclass(frozen=True, slots=True)
class Info:
    """A request that waits."""

    body: bytes
    content_type: str
    on_result: OnResult | None

    def tell(self, code: int) -> None:
        if self.on_result is not None:
            self.on_result(code)


class InfoQueue:
    """Requests are sent one after another: a peer may take them in the order in which UDP brings them."""

    def __init__(self, send: Callable[[Info, OnResult], None]) -> None:
        """`send` puts one on its way, and calls what it is given with its result, once."""
        self._send = send
        self._waiting: deque[Info] = deque()
        self._under_way = False
        self._open = False
        self._closed = False

    def open(self) -> None:
        """The session is confirmed: requests may be sent."""
        self._open = True
        self._send_next()

    def push(self, info: Info) -> None:
        """Queue one. Raises InfoQueueFullError."""
        if self._closed:
            info.tell(SESSION_OVER)
            return
        if len(self._waiting) >= MAX_QUEUED:
            raise InfoQueueFullError(f"{MAX_QUEUED} INFO requests wait already")
        self._waiting.append(info)
        self._send_next()

    def close(self) -> None:
        """The session is over: what waits is not sent. The one under way will still be answered. Idempotent."""
        self._closed = True
        while self._waiting:
            self._waiting.popleft().tell(SESSION_OVER)

    def discard(self) -> None:
        """Close without a word to anyone."""
        self._waiting.clear()
        self.close()

    def release(self) -> None:
        """Closed, and the session has been forgotten: let go of it."""
        self._send = _unsent

    def _send_next(self) -> None:
        if not self._open or self._under_way or not self._waiting:
            return
        info = self._waiting.popleft()
        self._under_way = True

        def done(code: int) -> None:
            self._under_way = False
            self._send_next()
            info.tell(code)

        self._send(info, done)


def _unsent(_info: Info, _done: OnResult) -> None:
    pass
