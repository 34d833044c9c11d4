"""One media stream: a call on one side, a WebSocket on the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Literal

import structlog

from mediaserver.api.limits import RateLimiter
from mediaserver.api.sockets import (
    ERROR_CLOSE,
    GOING_AWAY,
    NO_STATUS,
    NORMAL_CLOSE,
    POLICY_CLOSE,
    Socket,
    SocketClosedError,
)
from mediaserver.api.stream.fork import AudioFork, Bell, Frame
from mediaserver.api.stream.playback import Playback, PlaybackFullError
from mediaserver.api.stream.protocol import (
    ClearMessage,
    MarkMessage,
    MediaMessage,
    ProtocolError,
    StreamWriter,
    TranscriptMessage,
    parse,
)
from mediaserver.api.urls import shown
from mediaserver.call.control import CallControl, StreamOrder
from mediaserver.call.events import CallEvent
from mediaserver.refusal import RefusedError
from mediaserver.rtp.codec import BYTES_PER_SAMPLE, audioop

WRITE_TIMEOUT_S = 30.0
"A message that the network does not take for so long: nobody reads there any more."
FLUSH_S = 2.0
"For what still waits when a stream ends, and for closing its socket."
MAX_WAITING = 2000
"Marks, digits and errors that a receiver may be behind by."
MAX_BAD = 1000
"Messages of no sense in one stream; then it is given up."
MESSAGES_PER_S = 1000
"That are taken; who sends more is read more slowly."
BURST = 2000
TELL_EVERY_S = 1.0
"An error is repeated to the sender no more often."
_TURN = 32
"Messages taken before other tasks get their turn."

Reason = Literal["call_ended", "stopped", "shutdown", "closed", "lost", "not_reading", "bad_messages", "error"]
"""Why a stream ended. closed: by the receiver, as it should be; lost: its connection broke; stopped: by request."""

_CLOSE_CODES: dict[Reason, int] = {
    "shutdown": GOING_AWAY,
    "not_reading": POLICY_CLOSE,
    "bad_messages": POLICY_CLOSE,
    "error": ERROR_CLOSE,
}

Prompt = Callable[[TranscriptMessage], bool]
"Gives what a recogniser heard to the call's agent; whether there is one."


class MediaStream:
    """Sends a call's audio to a socket, and plays what comes from there. Everything belongs to the event loop."""

    def __init__(
        self,
        call: CallControl,
        stream_id: str,
        order: StreamOrder,
        socket: Socket,
        bell: Bell,
        *,
        may_play: bool,
        prompt: Prompt,
        counts: Counter[str],
    ) -> None:
        """order: its url is empty if the receiver connected to us. may_play: or only listen."""
        self._call = call
        self._id = stream_id
        self._order = order
        self._socket = socket
        self._may_play = may_play
        self._prompt = prompt
        self._counts = counts
        self._writer = StreamWriter(stream_id, call.id)
        self._news = asyncio.Event()
        self._fork = AudioFork(bell, len(order.tracks), self._news.set)
        self._waiting: deque[Callable[[], str]] = deque()  # messages yet to be written, and so numbered
        self._playback = Playback(call, lambda name: self._send(partial(self._writer.mark, name)))
        self._began_ms: int | None = None
        self._ending: asyncio.Future[Reason] = asyncio.get_running_loop().create_future()
        self._finishing = False
        self._bad = 0
        self._told: dict[str, float] = {}
        self._log = structlog.get_logger("stream").bind(call=call.id, stream=stream_id)

    @property
    def lost(self) -> int:
        """Frames of 20 ms that the receiver was too slow for."""
        return self._fork.lost

    def stop(self, reason: Reason) -> None:
        """End it from our side. Idempotent."""
        if not self._ending.done():
            self._ending.set_result(reason)

    async def run(self) -> Reason:
        """Until it ends, by either side; the socket is closed then, and the call told."""
        self._send(self._writer.connected)
        self._send(partial(self._writer.start, self._order.tracks, self._order.parameters))
        undo = [self._call.on_event(self._on_event)]
        tasks: list[asyncio.Task[None]] = []
        reason: Reason = "error"
        try:
            undo += [self._call.listen(track, partial(self._fork.hear, track)) for track in self._order.tracks]
            url = shown(self._order.url) or None
            self._call.report("stream.started", stream_id=self._id, url=url, tracks=list(self._order.tracks))
            self._log.info("stream_started", url=url, tracks=self._order.tracks)
            tasks += [self._task(self._write()), self._task(self._read())]
            reason = await self._ending
        except RefusedError:  # it ended before it could be listened to
            reason = "call_ended"
            tasks.append(self._task(self._write()))
        finally:
            for each in undo:
                each()
            self._playback.close()
            await self._finish(reason, tasks)
            self._playback.forget_marks()  # they lead back to us: freed at once, not by the cycle collector
        return reason

    async def _finish(self, reason: Reason, tasks: list[asyncio.Task[None]]) -> None:
        """Send what waits, and `stop`, if anybody is there to read it; then close."""
        if tasks and reason in ("call_ended", "stopped", "shutdown"):
            self._finishing = True
            self._news.set()
            await asyncio.wait(tasks[:1], timeout=FLUSH_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fork.abandon()
        self._counts["stream_frames_lost"] += self._fork.lost
        self._call.report("stream.stopped", stream_id=self._id, reason=reason, lost=self._fork.lost)
        self._log.info("stream_stopped", reason=reason, frames_lost=self._fork.lost)
        await self._close(reason)

    async def _close(self, reason: Reason) -> None:
        """Read on meanwhile: the closing handshake's answer lies behind whatever was still sent to us."""
        discarding = asyncio.create_task(self._discard())
        try:
            async with asyncio.timeout(2 * FLUSH_S):  # beyond the socket's own time-out, which cuts the connection
                await self._socket.close(_CLOSE_CODES.get(reason, NORMAL_CLOSE), reason)
        except TimeoutError:
            self._log.debug("stream_close_timed_out")
        finally:
            discarding.cancel()
            await asyncio.gather(discarding, return_exceptions=True)

    async def _discard(self) -> None:
        with contextlib.suppress(SocketClosedError):
            while True:
                await self._socket.receive()
                await asyncio.sleep(0)

    def _task(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """With one half broken the stream must not stay as if it were alive."""

        def done(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._log.error("stream_failed", exc_info=error)
                self.stop("error")

        task = asyncio.create_task(work)
        task.add_done_callback(done)
        return task

    # To the receiver

    def _send(self, write: Callable[[], str]) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self.stop("not_reading")
            return
        self._waiting.append(write)
        self._news.set()

    async def _write(self) -> None:
        try:
            while True:
                while (message := self._next()) is not None:
                    async with asyncio.timeout(WRITE_TIMEOUT_S):
                        await self._socket.send(message)
                if self._finishing:
                    await self._socket.send(self._writer.stop())
                    return
                self._news.clear()
                await self._news.wait()
        except SocketClosedError as error:
            self._closed(error)
        except TimeoutError:
            self.stop("not_reading")

    def _next(self) -> str | None:
        if self._waiting:
            return self._waiting.popleft()()
        frame = self._fork.next()
        return None if frame is None else self._media(frame)

    def _media(self, frame: Frame) -> str:
        if self._began_ms is None:
            self._began_ms = frame.at_ms
        payload = audioop.lin2ulaw(frame.pcm, BYTES_PER_SAMPLE)
        return self._writer.media(frame.track, max(0, frame.at_ms - self._began_ms), payload)

    def _on_event(self, event: CallEvent) -> None:
        if event.type == "dtmf.received":
            self._send(partial(self._writer.dtmf, event.data["digit"]))
        self._playback.on_event(event)
        if event.type == "call.ended":
            self.stop("call_ended")

    # From the receiver

    async def _read(self) -> None:
        rate = RateLimiter(MESSAGES_PER_S, burst=BURST)
        loop = asyncio.get_running_loop()
        taken = 0
        try:
            while True:
                message = await self._socket.receive()
                if wait := rate.take("", loop.time()):
                    await asyncio.sleep(wait)
                    rate.take("", loop.time())
                self._take(message)
                taken += 1
                if taken % _TURN == 0:
                    await asyncio.sleep(0)
        except SocketClosedError as error:
            self._closed(error)

    def _take(self, message: str | bytes) -> None:
        self._counts["stream_messages"] += 1
        try:
            received = parse(message, self._id)
            if not self._may_play:
                raise ProtocolError("this token may listen to the call, but not speak on it")
        except ProtocolError as error:
            self._bad += 1
            self._refuse(str(error))
            if self._bad >= MAX_BAD:
                self.stop("bad_messages")
            return
        try:
            match received:
                case MediaMessage():
                    self._playback.play(received.media.payload)
                case MarkMessage():
                    self._playback.mark(received.mark.name)
                case ClearMessage():
                    self._playback.clear()
                case TranscriptMessage():
                    if not self._prompt(received):
                        self._refuse("no agent is connected to this call: the transcript went to nobody")
        except PlaybackFullError as error:
            self._refuse(str(error))
        except RefusedError as error:
            self._refuse(error.fault.reason)

    def _refuse(self, text: str) -> None:
        """Tell the sender, unless it has just been told the same."""
        self._counts["stream_messages_refused"] += 1
        now = asyncio.get_running_loop().time()
        if now - self._told.get(text, -TELL_EVERY_S) < TELL_EVERY_S:
            return
        if len(self._told) >= MAX_BAD:
            self._told.clear()
        self._told[text] = now
        self._log.debug("stream_message_refused", why=text)
        self._send(partial(self._writer.error, text))

    def _closed(self, error: SocketClosedError) -> None:
        self.stop("closed" if error.code in (NORMAL_CLOSE, GOING_AWAY, NO_STATUS) else "lost")
