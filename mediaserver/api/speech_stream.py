"""Speech for somebody who is not on a call: texts through an engine, encoded as they come."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import structlog
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mediaserver.api.encoders import Encoder
from mediaserver.api.openai_errors import error_document
from tts_engine.engine import Engine, SpeechRequest, SpeechStream
from tts_engine.errors import EngineBusyError, EngineError, TextTooLongError
from tts_engine.text.sentences import split

_log = structlog.get_logger("api")

PATIENCE_S = 2.0
"""What such a listener is taken to hold already. Engines serve first whose audio runs out first, so calls, which begin
with nothing, come before."""
MIN_PIECE_CHARS = 40
"An engine that takes less than that at once is not given longer texts in pieces."
BUSY_WAIT_S = 0.25
BUSY_WAITS = 40
"Of an utterance that has begun, for an engine that is busy when its next piece is due."
SLOW_READER_S = 60.0
"Without a byte taken: then the reader has gone, or holds an engine's stream for nothing."
TOKENS_A_SECOND = 25
"Of speech, as Chatterbox makes them; so output is counted for every engine."


def pieces(text: str, max_chars: int) -> list[str]:
    """The text in texts that an engine takes, cut between sentences where that can be. Raises TextTooLongError."""
    if len(text) <= max_chars:
        return [text]
    if max_chars < MIN_PIECE_CHARS:
        raise TextTooLongError(len(text), max_chars)
    return split(text, max_chars, max_chars, max_chars // 2)


class Speech:
    """The PCM of some texts, one after the other, as one signal. Everything belongs to the event loop."""

    def __init__(self, engine: Engine, requests: Sequence[SpeechRequest], on_close: Callable[[], None]) -> None:
        """Begins with the first text at once; raises what Engine.synthesize() does. `on_close` is called once."""
        self.seconds = 0.0
        "Taken so far."
        self._engine = engine
        self._waiting = [replace(request, buffered_seconds=_patience) for request in requests[1:]]
        self._on_close: Callable[[], None] | None = on_close
        self._begun = False
        self._ahead: bytes | None = None
        self._stream: SpeechStream | None = engine.synthesize(replace(requests[0], buffered_seconds=_patience))

    async def begin(self) -> None:
        """Wait until there is something to hear, or nothing will be. Raises EngineError, as chunks() does."""
        self._ahead = await self._next()
        self._begun = True

    async def chunks(self) -> AsyncIterator[bytes]:
        if not self._begun:
            await self.begin()
        pcm, self._ahead = self._ahead, None
        while pcm:
            yield pcm
            pcm = await self._next()

    def close(self) -> None:
        """Stop the work behind it. Idempotent."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()
        self._waiting.clear()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    async def _next(self) -> bytes | None:
        while self._stream is not None:
            async for chunk in self._stream:
                if chunk.pcm:
                    self.seconds += chunk.seconds
                    return chunk.pcm
            self._stream = await self._following()
        return None

    async def _following(self) -> SpeechStream | None:
        for _ in range(BUSY_WAITS):
            if not self._waiting:
                return None
            try:
                stream = self._engine.synthesize(self._waiting[0])
            except EngineBusyError:
                await asyncio.sleep(BUSY_WAIT_S)
                continue
            del self._waiting[0]
            return stream
        raise EngineBusyError(f"the {self._engine.name} engine stayed busy in the middle of the text")


def _patience() -> float:
    return PATIENCE_S


async def encoded(speech: Speech, encoder: Encoder) -> AsyncIterator[bytes]:
    """The bytes of the file, as soon as there are some. What takes long is done on a thread."""
    async for pcm in speech.chunks():
        for block in _blocks(pcm, encoder.sample_rate):
            data = await asyncio.to_thread(encoder.encode, block) if encoder.heavy else encoder.encode(block)
            if data:
                yield data
    rest = await asyncio.to_thread(encoder.finish) if encoder.heavy else encoder.finish()
    if rest:
        yield rest


def _blocks(pcm: bytes, size: int) -> Iterator[bytes]:
    """Of half a second: a greeting that is kept comes whole, and the first of it shall not wait for the last."""
    return (pcm[at : at + size] for at in range(0, len(pcm), size))


@dataclass(frozen=True, slots=True)
class Events:
    """The same as server-sent events (OpenAI's speech.audio.delta and speech.audio.done)."""

    speech: Speech
    encoder: Encoder
    characters: int
    "Of the text: what input is counted in."

    async def stream(self) -> AsyncIterator[bytes]:
        try:
            async for data in encoded(self.speech, self.encoder):
                yield _event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
        except EngineError as error:
            _log.warning("speech_failed", reason=str(error))
            yield _event({"type": "error", **error_document(str(error), "server_error", "synthesis_failed")})
            return
        spoken = round(self.speech.seconds * TOKENS_A_SECOND)
        usage = {
            "input_tokens": self.characters,
            "output_tokens": spoken,
            "total_tokens": self.characters + spoken,
        }
        yield _event({"type": "speech.audio.done", "usage": usage})


def _event(data: dict[str, object]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


@dataclass
class Reader:
    """How long since a reader last took something."""

    limit_s: float
    timeout: asyncio.Timeout | None = field(default=None)

    def took(self) -> None:
        if self.timeout is not None and not self.timeout.expired():
            self.timeout.reschedule(asyncio.get_running_loop().time() + self.limit_s)


class SpeechResponse(StreamingResponse):
    """Streams speech; however it ends, the work behind it does too.

    An utterance that fails half way, and a reader that takes nothing, end the connection without the end of the body:
    so nobody takes half a sentence for a whole one.
    """

    def __init__(
        self,
        speech: Speech,
        body: AsyncIterator[bytes],
        media_type: str,
        headers: dict[str, str],
        *,
        slow_reader_s: float = SLOW_READER_S,
    ) -> None:
        self._speech = speech
        self._reader = Reader(slow_reader_s)
        super().__init__(self._watched(body), media_type=media_type, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._reader.limit_s) as self._reader.timeout:
                await super().__call__(scope, receive, send)
        except EngineError as error:
            _log.warning("speech_failed", reason=str(error))
        except TimeoutError:
            _log.warning("speech_reader_too_slow", seconds=self._reader.limit_s)
        finally:
            self._speech.close()

    async def _watched(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for data in body:
            self._reader.took()
            yield data
