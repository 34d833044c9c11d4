"""One WebSocket between a call and its agent: what is read, how fast, and what becomes of one that does not read."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass
from typing import Literal

import structlog

from mediaserver.api.agent.session import AgentSession
from mediaserver.api.limits import RateLimiter
from mediaserver.api.sockets import (
    CLOSE_TIMEOUT_S,
    NO_STATUS,
    NORMAL_CLOSE,
    POLICY_CLOSE,
    Socket,
    SocketClosedError,
)
from mediaserver.api_config import AgentConfig

MAX_WAITING = 256
"Messages that an agent may be behind by."

WRITE_TIMEOUT_S = 10.0
"A message that the network does not take for so long: the agent does not read."

DEAF_CLOSE_TIMEOUT_S = 0.1
"With an agent that does not read: its caller waits."

_BURST_S = 0.5
"Of messages at the limit, at once."

_TURN = 32
"Messages taken before other tasks get their turn."

Outcome = Literal["closed", "lost", "stopped"]
"closed: the agent closed it as it should be (1000, or without a code). lost: any other end. stopped: we ended it."


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ended."""

    outcome: Outcome
    reason: str
    "A word or two for logs and events."


class AgentConnection:
    """Reads and writes one socket."""

    def __init__(self, socket: Socket, config: AgentConfig, counts: Counter[str]) -> None:
        self._socket = socket
        self._config = config
        self._counts = counts
        self._waiting: deque[str] = deque()
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        "All has been sent."
        self._idle.set()
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._log = structlog.get_logger("agent")

    def send(self, text: str) -> None:
        """Queue a message; an agent that is too far behind is given up."""
        if self._ending.done():
            return
        if len(self._waiting) >= MAX_WAITING:
            self._counts["agent_not_reading"] += 1
            self._end("lost", "not_reading")
            return
        self._waiting.append(text)
        self._idle.clear()
        self._news.set()

    def stop(self, reason: str) -> None:
        """End it from our side. Idempotent."""
        self._end("stopped", reason)

    async def run(self, session: AgentSession) -> Ending:
        """Until it ends, by either side; the socket is closed then."""
        tasks = [asyncio.create_task(self._read(session)), asyncio.create_task(self._write())]
        try:
            ending = await asyncio.shield(self._ending)  # else it would be cancelled with us
            if ending.outcome == "stopped":
                await self._flush()
            return ending
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.close()

    async def close(self) -> None:
        """Close the socket, if it still is open."""
        ending = self._ending.result() if self._ending.done() else Ending("stopped", "shutdown")
        limit = DEAF_CLOSE_TIMEOUT_S if ending.reason == "not_reading" else CLOSE_TIMEOUT_S
        code = POLICY_CLOSE if ending.reason in ("not_reading", "silent") else NORMAL_CLOSE
        try:
            async with asyncio.timeout(limit):
                await self._socket.close(code, ending.reason)
        except TimeoutError:
            self._log.debug("agent_close_timed_out")

    def _end(self, outcome: Outcome, reason: str) -> None:
        if not self._ending.done():
            self._ending.set_result(Ending(outcome, reason))

    async def _read(self, session: AgentSession) -> None:
        per_s = self._config.messages_per_s
        rate = RateLimiter(per_s, burst=max(1.0, per_s * _BURST_S))
        loop = asyncio.get_running_loop()
        told_at = -1.0
        taken = 0
        try:
            while True:
                message = await self._socket.receive()
                while wait := rate.take("", loop.time()):
                    if loop.time() - told_at >= 1.0:
                        told_at = loop.time()
                        session.refuse(f"More than {per_s} messages a second: they are taken more slowly", "too_fast")
                    await asyncio.sleep(wait)
                self._take(session, message)
                taken += 1
                if taken % _TURN == 0:
                    await asyncio.sleep(0)
        except SocketClosedError as error:
            self._end("closed" if error.code in (NORMAL_CLOSE, NO_STATUS) else "lost", f"closed_{error.code}")
        except Exception:  # noqa: BLE001 - a fault of ours: as if the agent were lost, not a call in silence
            self._log.exception("agent_connection_failed")
            self._end("lost", "error")

    def _take(self, session: AgentSession, message: str | bytes) -> None:
        if isinstance(message, bytes):
            session.refuse(
                f"Invalid message received: {len(message)} bytes of binary, where text is expected", "binary"
            )
        elif len(message.encode()) > self._config.max_message_kb * 1024:
            excerpt = message[:50]
            session.refuse(
                f"Invalid message received: {excerpt}… (longer than {self._config.max_message_kb} KB)", "too_long"
            )
        else:
            session.take(message)

    async def _write(self) -> None:
        try:
            while True:
                while self._waiting:
                    async with asyncio.timeout(WRITE_TIMEOUT_S):
                        await self._socket.send(self._waiting[0])
                    self._waiting.popleft()
                self._idle.set()
                self._news.clear()
                await self._news.wait()
        except SocketClosedError as error:
            self._end("lost", f"closed_{error.code}")
        except TimeoutError:
            self._counts["agent_not_reading"] += 1
            self._end("lost", "not_reading")

    async def _flush(self) -> None:
        """Give the writer a moment for what waits."""
        try:
            await asyncio.wait_for(self._idle.wait(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            self._log.debug("agent_messages_left", count=len(self._waiting))
