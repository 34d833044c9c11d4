"""The agent of one call, over all its connections: connecting, coming back, and what follows when it is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import structlog

from mediaserver.api.agent.connection import AgentConnection, Ending
from mediaserver.api.agent.fallback import Fallback
from mediaserver.api.agent.session import AgentSession, OpenSound, VoiceOf
from mediaserver.api.dial import DialError
from mediaserver.api.sockets import NORMAL_CLOSE, Socket
from mediaserver.api.urls import shown
from mediaserver.api_config import AgentConfig
from mediaserver.call.control import CallControl
from mediaserver.call.events import CallEvent

MAX_BACKOFF_S = 10.0

STABLE_S = 30.0
"A connection that lasted so long was a good one: attempts are counted from none again."

Result = Literal["over", "ended", "detached", "lost"]
"over: the call has ended. ended: the agent was done with it. detached: it left, and the call goes on without."


class AgentSource(Protocol):
    """Where a call's agent comes from."""

    @property
    def url(self) -> str | None:
        """None when it connects to us."""

    @property
    def waits(self) -> bool:
        """Whether connect() itself waits for `delay_s`, for the agent to come; else the delay is before it."""

    async def connect(self, delay_s: float) -> Socket:
        """The next connection. Raises DialError."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every agent's session needs of the rest of the server."""

    config: AgentConfig
    counts: Counter[str]
    open_sound: OpenSound
    voice_of: VoiceOf


def backoff_s(failures: int, config: AgentConfig) -> float:
    """Before the next attempt, after so many that failed one after the other."""
    return 0.0 if failures == 0 else float(min(MAX_BACKOFF_S, config.reconnect_s * 2 ** (failures - 1)))


async def _abandon(connecting: asyncio.Future[Socket]) -> None:
    """Nobody needs this connection any more, if it is made at all."""
    connecting.cancel()
    await asyncio.wait((connecting,))
    if not connecting.cancelled() and connecting.exception() is None:
        await connecting.result().close(NORMAL_CLOSE, "call_ended")


class CallAgent:
    """run() is its life; it ends with the call, or before when the agent is done with it."""

    def __init__(self, call: CallControl, source: AgentSource, tools: Tools) -> None:
        self.session: AgentSession | None = None
        "Of the connection that lasts; after `end`, of the last one."
        self._call = call
        self._source = source
        self._url = None if source.url is None else shown(source.url)
        "For logs and events."
        self._tools = tools
        self._config = tools.config
        self._answered = asyncio.Event()
        self._over = asyncio.Event()
        self._connection: AgentConnection | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._fallback: Fallback | None = None
        self._attempt = 0
        self._connections = 0
        self._reported_end = False
        self._log = structlog.get_logger("agent").bind(call=call.id, url=self._url)
        self._stop_listening: Callable[[], None] = call.on_event(self._event)
        if call.view().state != "ringing":
            self._answered.set()
        if call.over:
            self._over.set()

    async def run(self) -> None:
        """Raises nothing but CancelledError."""
        try:
            match await self._converse():
                case "lost":
                    await self._fall_back()
                case "ended":
                    await self._over.wait()  # an interrupted goodbye still has to end the call
                case _:
                    pass
        finally:
            self._stop_listening()
            # Both lead back here: freed at once, an agent's memory does not wait for the cycle collector.
            self._stop_listening = _nothing
            self.session = None

    def _event(self, event: CallEvent) -> None:
        if event.type == "call.answered":
            self._answered.set()
        if event.type == "call.ended":
            self._over.set()
            self._answered.set()
            if self._connection is not None:
                self._connection.stop("call_ended")
        if self.session is not None:
            self.session.event(event)
        if self._fallback is not None:
            self._fallback.event(event)

    async def _converse(self) -> Result:
        failures = 0
        loop = asyncio.get_running_loop()
        while not self._over.is_set():
            socket = await self._next_socket(failures)
            if socket is None:
                failures += 1
            elif isinstance(socket, DialError):
                return "lost"
            else:
                began = loop.time()
                result = await self._serve(socket)
                if result is not None:
                    return result
                failures = 1 if loop.time() - began >= STABLE_S else failures + 1
            if failures > self._config.reconnects:
                return "over" if self._over.is_set() else "lost"
        return "over"

    async def _next_socket(self, failures: int) -> Socket | DialError | None:
        """None where a further attempt may do, or the call is over."""
        delay = backoff_s(failures, self._config)
        if delay and not self._source.waits and await self._is_over_within(delay):
            return None
        self._attempt += 1
        connecting = asyncio.ensure_future(self._source.connect(delay))
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((connecting, over), return_when=asyncio.FIRST_COMPLETED)
            if connecting.done():
                return connecting.result()
        except DialError as error:
            self._tools.counts["agent_connect_failures"] += 1
            self._log.warning("agent_not_connected", attempt=self._attempt, reason=str(error))
            return error if error.final else None
        except asyncio.CancelledError:
            await _abandon(connecting)
            raise
        finally:
            over.cancel()
        await _abandon(connecting)
        return None

    async def _is_over_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._over.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _serve(self, socket: Socket) -> Result | None:
        """One connection, from its beginning to its end; None if it was lost, and another may do."""
        self._tools.counts["agent_connections"] += 1
        connection = self._connection = AgentConnection(socket, self._config, self._tools.counts)
        session = AgentSession(
            self._call,
            self._config,
            asyncio.get_running_loop(),
            connection.send,
            open_sound=self._tools.open_sound,
            voice_of=self._tools.voice_of,
            counts=self._tools.counts,
            on_end=self._agent_ends,
        )
        self._connections += 1
        self._report_connected()
        try:
            await self._answered.wait()
            self._begin(connection, session)
            ending = await connection.run(session)
        finally:
            self._connection = None
            if self._silence is not None:
                self._silence.cancel()  # it would keep the call in memory
            session.close()
            await connection.close()
        self._report_disconnected(ending, session)
        return self._result_of(ending, session)

    def _begin(self, connection: AgentConnection, session: AgentSession) -> None:
        if self._over.is_set():
            connection.stop("call_ended")
            return
        self.session = session
        first = self._connections == 1
        session.begin(reconnected=not first)
        if first and self._config.prompt_timeout_s:
            self._watch_silence(connection, session)

    def _result_of(self, ending: Ending, session: AgentSession) -> Result | None:
        if self._over.is_set():
            return "over"
        if session.ended:
            return "ended"
        self.session = None
        if ending.reason == "silent":
            return "lost"
        if ending.outcome == "closed" and self._source.url is None:
            return "detached"  # nobody asked for it, so nobody waits for what it would have said
        if ending.outcome == "closed":
            self.session = session
            session.hang_up_when_said()
            return "ended"
        return None

    def _watch_silence(self, connection: AgentConnection, session: AgentSession) -> None:
        """An agent that has nothing to say to a caller who hears nothing is lost."""

        def look() -> None:
            if session.active:
                return
            if self._call.idle:
                connection.stop("silent")
            else:
                self._watch_silence(connection, session)

        self._silence = asyncio.get_running_loop().call_later(self._config.prompt_timeout_s, look)

    async def _fall_back(self) -> None:
        self._tools.counts["agent_fallbacks"] += 1
        self._log.warning("agent_lost", attempts=self._attempt)
        self._fallback = Fallback(self._call, self._config)
        await self._fallback.run()

    # Events

    def _report_connected(self) -> None:
        self._reported_end = False
        self._log.info("agent_connected", attempt=self._attempt)
        if not self._call.over:
            self._call.report("agent.connected", url=self._url, attempt=self._attempt)

    def _agent_ends(self, handoff_data: str | None) -> None:
        self._reported_end = True
        self._log.info("agent_ended", handoff=handoff_data is not None)
        data = {} if handoff_data is None else {"handoff_data": handoff_data}
        if not self._call.over:
            self._call.report("agent.disconnected", url=self._url, reason="ended", **data)

    def _report_disconnected(self, ending: Ending, session: AgentSession) -> None:
        self._log.info("agent_disconnected", reason=ending.reason, messages_refused=session.refused)
        if not self._reported_end and not self._call.over:
            self._call.report("agent.disconnected", url=self._url, reason=ending.reason)


def _nothing() -> None:
    pass
