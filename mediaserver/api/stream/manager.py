"""The media streams of all calls of this node."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from mediaserver.api.dial import DialError, dial
from mediaserver.api.schemas import MAX_STREAMS
from mediaserver.api.sockets import GOING_AWAY, Socket
from mediaserver.api.stream.fork import Bell
from mediaserver.api.stream.protocol import TranscriptMessage
from mediaserver.api.stream.session import FLUSH_S, MediaStream, Reason
from mediaserver.api.urls import UrlNotAllowedError
from mediaserver.call.control import CallControl, CallEndedError, StreamOrder
from mediaserver.call.events import CallEvent

if TYPE_CHECKING:
    from mediaserver.api.state import ApiState

_log = structlog.get_logger("stream")

SCHEMES = ("ws", "wss")


class TooManyStreamsError(Exception):
    """The call has as many streams as it may."""


class NameTakenError(Exception):
    """A stream of the call has this name."""


@dataclass(slots=True, eq=False)
class Fork:
    """A stream of a call, also one that is not connected yet."""

    id: str
    "MZ and 32 hexadecimal digits."
    order: StreamOrder
    stream: MediaStream | None = None
    task: asyncio.Task[None] | None = None
    ended: Reason | None = None
    "Set by who ends it before it is connected."

    def stop(self, reason: Reason) -> None:
        self.ended = reason
        if self.stream is not None:
            self.stream.stop(reason)
        elif self.task is not None:
            self.task.cancel()


class StreamManager:
    """Begins the streams that calls are to have, and those that are asked for. Everything belongs to the event loop."""

    def __init__(self, state: ApiState) -> None:
        self._state = state
        self._forks: dict[str, dict[str, Fork]] = {}
        self._bell: Bell | None = None

    def start(self) -> None:
        """Calls get their streams from now on, when they are answered."""
        self._state.calls.on_call.append(self._call_begins)

    async def close(self) -> None:
        """End all streams; calls that still run go on without."""
        if self._call_begins in self._state.calls.on_call:
            self._state.calls.on_call.remove(self._call_begins)
        forks = [fork for forks in self._forks.values() for fork in forks.values()]
        for fork in forks:
            fork.stop("shutdown")
        tasks = [fork.task for fork in forks if fork.task is not None]
        if tasks:
            _done, late = await asyncio.wait(tasks, timeout=2 * FLUSH_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def fork(self, call: CallControl, order: StreamOrder) -> Fork:
        """Have the call's audio sent to a URL, from its answer on; what comes back is played.

        Events tell what becomes of it. Raises UrlNotAllowedError, TooManyStreamsError, NameTakenError, CallEndedError.
        """
        self._state.urls.check(order.url, SCHEMES)
        fork = self._add(call, order)
        fork.task = _task(self._dialled(call, fork))
        return fork

    async def attach(self, call: CallControl, order: StreamOrder, socket: Socket, *, may_play: bool) -> None:
        """Serve somebody who has connected to us, until the stream ends; the socket is closed then.

        order.url is empty. Raises as fork().
        """
        fork = self._add(call, order)
        fork.task = _task(self._connected(call, fork, socket, may_play=may_play))
        await asyncio.wait((fork.task,))

    def of(self, call_id: str) -> Sequence[Fork]:
        """The streams of a call, oldest first."""
        return tuple(self._forks.get(call_id, {}).values())

    def find(self, call_id: str, stream: str) -> Fork | None:
        """A stream by its id, or by its name."""
        return next((fork for fork in self.of(call_id) if stream in (fork.id, fork.order.name)), None)

    def require_room(self, call_id: str, name: str) -> None:
        """Whether a stream of this name, empty for none, could be added. Raises TooManyStreamsError, NameTakenError."""
        if len(self.of(call_id)) >= MAX_STREAMS:
            raise TooManyStreamsError(f"a call has at most {MAX_STREAMS} streams")
        if name and self.find(call_id, name) is not None:
            raise NameTakenError("a stream of the call has this name")

    def _call_begins(self, call: CallControl) -> None:
        for order in call.streams[:MAX_STREAMS]:
            try:
                self.fork(call, order)
            except (UrlNotAllowedError, NameTakenError) as error:
                self._state.counts["streams_failed"] += 1
                _log.warning("stream_refused", call=call.id, error=str(error))
                call.report("stream.stopped", stream_id=None, reason="refused", lost=0)

    def _add(self, call: CallControl, order: StreamOrder) -> Fork:
        if call.over:
            raise CallEndedError
        self.require_room(call.id, order.name)
        fork = Fork("MZ" + uuid.uuid4().hex, order)
        self._forks.setdefault(call.id, {})[fork.id] = fork
        return fork

    async def _dialled(self, call: CallControl, fork: Fork) -> None:
        failure = "call_ended"
        try:
            if await answered(call):
                socket = await dial(fork.order.url, call.id, self._state.config.agent, self._state.urls)
                await self._serve(call, fork, socket, may_play=True)
                return
        except DialError as error:
            failure = "connect_failed"
            self._state.counts["streams_failed"] += 1
            _log.warning("stream_connect_failed", call=call.id, stream=fork.id, error=str(error))
        except asyncio.CancelledError:
            if fork.ended is None or fork.stream is not None:
                raise
            failure = fork.ended
        finally:
            self._remove(call, fork)
        call.report("stream.stopped", stream_id=fork.id, reason=failure, lost=0)

    async def _connected(self, call: CallControl, fork: Fork, socket: Socket, *, may_play: bool) -> None:
        try:
            if await answered(call):
                await self._serve(call, fork, socket, may_play=may_play)
        finally:
            self._remove(call, fork)
            if fork.stream is None:
                await socket.close(GOING_AWAY, fork.ended or "call_ended")

    async def _serve(self, call: CallControl, fork: Fork, socket: Socket, *, may_play: bool) -> None:
        if self._bell is None:
            self._bell = Bell(asyncio.get_running_loop())

        def prompt(message: TranscriptMessage) -> bool:
            return self._prompt(call.id, message)

        self._state.counts["streams_started"] += 1
        fork.stream = MediaStream(
            call,
            fork.id,
            fork.order,
            socket,
            self._bell,
            may_play=may_play,
            prompt=prompt,
            counts=self._state.counts,
        )
        await fork.stream.run()

    def _prompt(self, call_id: str, message: TranscriptMessage) -> bool:
        agents = self._state.agents
        session = agents.session_of(call_id) if agents is not None else None
        if session is None:
            return False
        heard = message.transcript
        session.prompt(heard.text, heard.lang, last=heard.final)
        return True

    def _remove(self, call: CallControl, fork: Fork) -> None:
        forks = self._forks.get(call.id, {})
        forks.pop(fork.id, None)
        if not forks:
            self._forks.pop(call.id, None)


def _task(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
    def done(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("stream_failed", exc_info=error)

    task = asyncio.create_task(work)
    task.add_done_callback(done)
    return task


async def answered(call: CallControl) -> bool:
    """Wait until the call is answered; False if it ended before."""
    if call.over:
        return False
    if call.view().state != "ringing":
        return True
    known: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def on_event(event: CallEvent) -> None:
        if event.type in ("call.answered", "call.ended") and not known.done():
            known.set_result(event.type == "call.answered")

    stop = call.on_event(on_event)
    try:
        return await known
    finally:
        stop()
