"""The control interfaces on a real socket over calls that a test makes happen, in a thread of their own."""

from __future__ import annotations

import asyncio
import math
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from mediaserver.api.server import ApiServer
from mediaserver.api.tokens import Scope
from mediaserver.call.engines import CallEngines
from mediaserver.config import Config
from tests.mediaserver.api.conftest import bound_socket, token_of
from tests.mediaserver.api.fake_calls import FakeCalls
from tests.mediaserver.fake_engine import FakeEngine

_T = TypeVar("_T")


def tone(amplitude: int, at_ms: int) -> bytes:
    """20 ms of 400 Hz at 8 kHz."""
    start = at_ms * 8
    return struct.pack("<160h", *(round(amplitude * math.sin(math.pi * (start + n) / 10)) for n in range(160)))


class FakeNode:
    """`do` runs in its event loop; calls that are answered sound, ours loud, theirs softly."""

    def __init__(self, directory: Path, **trunks: dict[str, str]) -> None:
        api = {"tokens_file": str(directory / "tokens"), "requests_per_s": 0}
        self.config = Config(api=api, trunks=trunks)
        self.calls: FakeCalls
        self.url = ""
        self._server: ApiServer
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="fake node")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(15)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(15)

    def do(self, work: Callable[[FakeCalls], _T]) -> _T:
        """What `work` gives."""

        async def run() -> _T:
            return work(self.calls)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def token(self, *scopes: Scope) -> str:
        return self.do(lambda _calls: token_of(self._server.state, *scopes))

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.calls = FakeCalls(trunks=(*self.config.trunks, "self"))
        self._server = ApiServer(self.config, self.calls, CallEngines(FakeEngine()), listener=bound_socket())
        await self._server.start()
        assert self._server.address is not None
        self.url = self._server.address
        sound = asyncio.create_task(self._sound())
        self._ready.set()
        await self._stop.wait()
        sound.cancel()
        await self._server.close()

    async def _sound(self) -> None:
        at_ms, begun = 0, self._loop.time()
        while True:
            at_ms += 20
            await asyncio.sleep(begun + at_ms / 1000 - self._loop.time())
            for call in self.calls.running():
                if call.state == "answered":
                    call.hear(tone(1000, at_ms), at_ms, "inbound")
                    call.hear(tone(12_000, at_ms), at_ms, "outbound")
