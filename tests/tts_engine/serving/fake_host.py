"""A worker that says what the test lets it say: the other end of a host's pipe."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from multiprocessing import Pipe

from tts_engine.serving.admission import Load
from tts_engine.serving.messages import Audio, Order, Ready, Report, Status
from tts_engine.serving.settings import WorkerSettings

IDLE = Load(0, 0, 0, 4, 100, 5.0, 100.0, 0.001, 8, 0.001, 0, 1e-6, 0.001, None)

WAIT_S = 10.0
"Seconds after which a test has failed."


async def until(condition: Callable[[], object]) -> None:
    """Where there is no event to wait for."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.002)


class FakeHost:
    """See WorkerHost. What it was told is in `orders`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.connection, self._theirs = Pipe()
        self.orders: list[Order] = []
        self.killed = False
        self.hangs = False
        "Whether it ignores that it is told to stop."
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def say(self, *reports: Report) -> None:
        for report in reports:
            self._theirs.send(report)

    def ready(self, *, built_in_voice: bool = True) -> None:
        self.say(Ready(built_in_voice, "fake"), Status(IDLE, ()))

    def speak(self, id: int, seconds: float = 0.5, *, final: bool = False, rate: int = 8000) -> None:
        self.say(Audio(id, bytes(2 * int(seconds * rate)), final, deadline=time.monotonic() + seconds))

    def told(self, kind: type[Order]) -> list[Order]:
        return [order for order in self.orders if isinstance(order, kind)]

    def end(self) -> None:
        """As a process that has gone."""
        from tts_engine.serving.worker_host import _hang_up

        _hang_up(self._theirs)
        self._ended.set()

    def kill(self) -> None:
        self.killed = True
        self.end()

    def join(self, timeout: float) -> bool:
        return self._ended.wait(timeout)

    def _read(self) -> None:
        from tts_engine.serving.messages import Stop

        while True:
            try:
                order = self._theirs.recv()
            except (EOFError, OSError):
                return
            self.orders.append(order)
            if isinstance(order, Stop) and not self.hangs:
                self.end()
                return


class Hosts:
    """Makes them, and keeps them for the test; `script` is what each does when it is made."""

    def __init__(self, script: Callable[[FakeHost], None] = FakeHost.ready, kind: type[FakeHost] = FakeHost) -> None:
        self.script = script
        self.kind = kind
        self.made: list[FakeHost] = []

    def __call__(self, settings: WorkerSettings) -> FakeHost:
        host = self.kind(settings)
        self.made.append(host)
        self.script(host)
        return host
