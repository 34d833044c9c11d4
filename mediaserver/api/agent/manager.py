"""The agents of all calls of this node."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from mediaserver.api.agent.call_agent import CallAgent, Tools
from mediaserver.api.agent.session import AgentSession
from mediaserver.api.dial import DialError, DialledSocket, dial
from mediaserver.api.sockets import Socket
from mediaserver.call.control import CallControl, CallEndedError
from mediaserver.speech.script import Sound

if TYPE_CHECKING:
    from mediaserver.api.state import ApiState

_log = structlog.get_logger("agent")

ENGLISH = "en"
"What a voice speaks that is not named for a language."


class AgentTakenError(Exception):
    """The call has an agent already."""


class AgentManager:
    """Gives each call with an agent_url its agent, and lets agents connect to calls that have none.

    Everything belongs to the event loop.
    """

    def __init__(self, state: ApiState) -> None:
        self._state = state
        self._agents: dict[str, CallAgent] = {}
        self._visits: dict[str, _Visit] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """New calls get their agents from now on."""
        self._state.calls.on_call.append(self._call_begins)

    async def close(self) -> None:
        """End all connections; calls that still run go on without."""
        if self._call_begins in self._state.calls.on_call:
            self._state.calls.on_call.remove(self._call_begins)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def session_of(self, call_id: str) -> AgentSession | None:
        """The session of a call's agent, to be told what the caller said; None while no agent is connected."""
        agent = self._agents.get(call_id)
        return agent.session if agent is not None else None

    def attach(self, call: CallControl, socket: Socket) -> None:
        """An agent has connected to this call. The socket is closed when it is done.

        Raises AgentTakenError if it has one, CallEndedError.
        """
        if call.over:
            raise CallEndedError
        visit = self._visits.get(call.id)
        if visit is not None and visit.come(socket):
            return
        if call.id in self._agents:
            raise AgentTakenError
        visit = _Visit(socket)
        self._visits[call.id] = visit
        self._begin(call, CallAgent(call, visit, self._tools(call)))

    def is_taken(self, call: CallControl) -> bool:
        """Whether attach() would raise AgentTakenError."""
        visit = self._visits.get(call.id)
        return call.id in self._agents and not (visit is not None and visit.expects)

    def _call_begins(self, call: CallControl) -> None:
        if call.agent_url:
            self._begin(call, CallAgent(call, _Dialler(call, call.agent_url, self._state), self._tools(call)))

    def _begin(self, call: CallControl, agent: CallAgent) -> None:
        self._agents[call.id] = agent
        task = asyncio.create_task(agent.run())
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            del self._agents[call.id]
            self._visits.pop(call.id, None)
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("agent_failed", call=call.id, exc_info=error)
                if not call.over:
                    call.hang_up()

        task.add_done_callback(done)

    def _tools(self, call: CallControl) -> Tools:
        def voice_of(lang: str) -> str | None:
            return voice_for(lang, self._voices(call))

        return Tools(self._state.config.agent, self._state.counts, self._open_sound, voice_of)

    def _voices(self, call: CallControl) -> tuple[str, ...]:
        name = call.view().engine
        engines = self._state.engines.all
        return next((engine for engine in engines if engine.name == name), engines[0]).voices

    def _open_sound(self, url: str) -> Sound:
        from mediaserver.api.sounds import open_sound  # noqa: PLC0415 - decoders are loaded by who uses them

        return open_sound(url, self._state)


def voice_for(lang: str, voices: tuple[str, ...]) -> str | None:
    """The voice for a BCP 47 language tag: one of that name, such as "es-MX" or "es"; None for the call's own, which
    speaks English. Raises LookupError.
    """
    tag = lang.lower().replace("_", "-")
    language = tag.partition("-")[0]
    named = {voice.lower().replace("_", "-"): voice for voice in voices}
    for name in (tag, language):
        if name in named:
            return named[name]
    if language == ENGLISH:
        return None
    raise LookupError(lang)


class _Dialler:
    """An agent that we connect to."""

    waits = False

    def __init__(self, call: CallControl, url: str, state: ApiState) -> None:
        self.url: str | None = url
        self._call = call
        self._to = url
        self._state = state

    async def connect(self, delay_s: float) -> DialledSocket:
        return await dial(self._to, self._call.id, self._state.config.agent, self._state.urls)


class _Visit:
    """An agent that connects to us, and may come back."""

    waits = True
    url: str | None = None

    def __init__(self, socket: Socket) -> None:
        self._next: asyncio.Future[Socket] | None = asyncio.get_running_loop().create_future()
        self._next.set_result(socket)

    @property
    def expects(self) -> bool:
        """Whether the agent has been lost, and may come back now."""
        return self._next is not None and not self._next.done()

    def come(self, socket: Socket) -> bool:
        """Whether it was waited for."""
        if self._next is None or self._next.done():
            return False
        self._next.set_result(socket)
        return True

    async def connect(self, delay_s: float) -> Socket:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        try:
            return await asyncio.wait_for(self._next, delay_s or None)
        except TimeoutError:
            raise DialError("the agent did not come back") from None
        finally:
            self._next = None
