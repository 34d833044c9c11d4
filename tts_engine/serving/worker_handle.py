"""A worker as the event loop sees it: started, watched, and started again when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from queue import SimpleQueue

from tts_engine.errors import EngineError
from tts_engine.serving.messages import CannotStart, Logged, Order, Ready, Report, Status, Stop
from tts_engine.serving.settings import WorkerSettings
from tts_engine.serving.worker_host import WorkerHost

logger = logging.getLogger(__name__)

SILENCE_S, CPU_SILENCE_S = 10.0, 300.0
"""A worker that shows no sign of life for so long is stuck: a kernel that hangs, a device that is gone. On a CPU one
turn may take a minute.
"""

MOST_UNSENT = 10_000
"Orders that wait to be sent: a worker that takes none any more is lost."

STOP_S = 5.0
"How long a worker is given to end by itself."

START_S = 1800.0
"""How long it may take to load and to capture every graph. A minute is usual; at a first start with TensorRT-RTX's
engines kernels are compiled for some 250 sets of sizes, some seconds each. What was compiled is kept, so that a start
which was cut off goes on there the next time.
"""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"Before a lost worker is started again; doubled each time, until one has run for that long."


class EnginesFailedError(EngineError):
    """It could not start because of TensorRT's engines, or ended while it may have used them: the next goes without."""


class WorkerHandle:
    """All methods belong to the event loop."""

    def __init__(
        self,
        settings: WorkerSettings,
        make_host: Callable[[WorkerSettings], WorkerHost],
        on_report: Callable[[Report], None],
        on_lost: Callable[[], None],
        *,
        silence_s: float | None = None,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        """`on_report` gets Audio and Failed; `on_lost` is called when all that the worker was saying is lost."""
        self.settings = settings
        self.status: Status | None = None
        self.restarts = 0
        self._make_host = make_host
        self._on_report = on_report
        self._on_lost = on_lost
        usual = SILENCE_S if settings.device.startswith("cuda") else CPU_SILENCE_S
        self._silence_s = usual if silence_s is None else silence_s
        self._first_pause_s = first_pause_s
        self._host: WorkerHost | None = None
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        self._ready: Ready | None = None
        self._started: asyncio.Future[Ready] | None = None
        self._gone = asyncio.Event()
        self._last_sign = 0.0
        self._keeper: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether it takes orders."""
        return self._ready is not None

    @property
    def silent_seconds(self) -> float:
        """Since its last sign of life."""
        return time.monotonic() - self._last_sign

    async def start(self) -> Ready:
        """Once the model is loaded and warm. Raises EngineError if it cannot be."""
        try:
            ready = await self._launch()
        except EnginesFailedError as fault:
            logger.warning("%s; it is started once more, without TensorRT's engines", fault)
            ready = await self._launch()
        self._keeper = asyncio.create_task(self._keep())
        return ready

    async def stop(self) -> None:
        """Idempotent."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        self._ready = None
        self.send(Stop())
        await self._end(STOP_S)

    def send(self, order: Order) -> None:
        """Lost if the worker is: on_lost tells. A thread sends it: a worker that is stuck leaves the pipe full."""
        if self._host is not None:
            self._orders.put(order)
            if self._orders.qsize() > MOST_UNSENT:
                self._gone.set()

    async def _launch(self) -> Ready:
        loop = asyncio.get_running_loop()
        self._gone.clear()
        self._started = started = loop.create_future()
        # In a thread: a process takes a moment to be made, and torch seconds to be imported.
        self._host = host = await self._made()
        orders: SimpleQueue[Order | None] = SimpleQueue()
        self._orders = orders
        threading.Thread(target=_write, args=(host.connection, orders), name="tts-writer", daemon=True).start()
        threading.Thread(target=_read, args=(host.connection, loop, self._take), name="tts-reader", daemon=True).start()
        try:
            async with asyncio.timeout(START_S):
                self._ready = await started
        except TimeoutError:
            await self._end(0)
            raise EngineError(f"the worker on {self.settings.device} did not get ready in {START_S:.0f} s") from None
        except EngineError:
            await self._end(STOP_S)  # it is ending by itself
            raise
        except BaseException:
            await self._end(0)
            raise
        self._last_sign = time.monotonic()
        return self._ready

    async def _made(self) -> WorkerHost:
        making = asyncio.ensure_future(asyncio.to_thread(self._make_host, self.settings))
        try:
            return await asyncio.shield(making)
        except OSError as error:
            raise EngineError(f"a worker cannot be made: {error}") from error
        except asyncio.CancelledError:
            making.add_done_callback(_end_unwanted)  # the thread goes on, and nobody else holds what it makes
            raise

    def _take(self, host_connection: Connection, report: Report | None) -> None:
        """Every report, on the event loop; None when there will be no more."""
        if self._host is None or host_connection is not self._host.connection:
            return  # of a worker that was given up
        self._last_sign = time.monotonic()
        match report:
            case None:
                self._gone.set()
                self._settle(self._ended_early())
            case Ready():
                self._settle(report)
            case CannotStart(reason, engines_failed):
                self._settle(self._without_engines(reason) if engines_failed else EngineError(reason))
            case Status():
                self.status = report
            case Logged(name, level, message):
                logging.getLogger(name).log(level, "%s", message)
            case _:
                self._on_report(report)

    def _ended_early(self) -> EngineError:
        """It ended without a word. Native code that was given a bad plan may end its process."""
        said, settings = "the worker ended while it was loading", self.settings
        loading = self._started is not None and not self._started.done()
        may_use_engines = settings.device.startswith("cuda") and settings.engine.engines_dir is not None
        if loading and may_use_engines and settings.engine.backend == "auto" and not settings.engines_failed:
            return self._without_engines(said)
        return EngineError(said)

    def _without_engines(self, reason: str) -> EngineError:
        """From the next start on."""
        if self.settings.engines_failed:
            return EngineError(reason)
        self.settings = replace(self.settings, engines_failed=reason)
        return EnginesFailedError(reason)

    def _settle(self, outcome: Ready | EngineError) -> None:
        if self._started is None or self._started.done():
            return
        if isinstance(outcome, Ready):
            self._started.set_result(outcome)
        else:
            self._started.set_exception(outcome)

    async def _keep(self) -> None:
        """Start it again whenever it is lost."""
        pause = self._first_pause_s
        while True:
            began = time.monotonic()
            await self._lost()
            self._ready = self.status = None
            host, self._host = self._host, None
            self._on_lost()
            await self._end(0, host)
            pause = self._first_pause_s if time.monotonic() - began > LONGEST_PAUSE_S else pause
            while not self.ready:
                logger.error("the worker on %s is lost; another is started in %.0f s", self.settings.device, pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                self.restarts += 1
                try:
                    ready = await self._launch()
                    logger.info("ready again: %s", ready.summary)
                except EngineError as error:
                    logger.error("it could not start: %s", error)  # noqa: TRY400 - it says all itself

    async def _lost(self) -> None:
        """Until the worker has ended, or shows no sign of life."""
        while not self._gone.is_set():
            silent = time.monotonic() - self._last_sign
            if silent > self._silence_s:
                logger.error("no sign of life from the worker on %s for %.0f s", self.settings.device, silent)
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._silence_s - silent + 0.01):
                    await self._gone.wait()

    async def _end(self, grace_s: float, host: WorkerHost | None = None) -> None:
        """Of that host, or of the present one."""
        if host is None:
            host, self._host = self._host, None
        self._orders.put(None)
        if host is not None:
            await asyncio.to_thread(_end, host, grace_s)


def _end_unwanted(making: asyncio.Future[WorkerHost]) -> None:
    if not making.cancelled() and making.exception() is None:
        making.result().kill()


def _end(host: WorkerHost, grace_s: float) -> None:
    if not (grace_s and host.join(grace_s)):
        host.kill()
        host.join(1.0)
    host.connection.close()


def _write(connection: Connection, orders: SimpleQueue[Order | None]) -> None:
    """The writer's thread."""
    while (order := orders.get()) is not None:
        try:
            connection.send(order)
        except (OSError, TypeError, ValueError):  # it has been closed
            return


def _read(
    connection: Connection, loop: asyncio.AbstractEventLoop, take: Callable[[Connection, Report | None], None]
) -> None:
    """The reader's thread."""
    report: Report | None = None
    while True:
        try:
            report = connection.recv()
        except (EOFError, OSError, TypeError):  # TypeError: it was closed in between
            report = None
        try:
            loop.call_soon_threadsafe(take, connection, report)
        except RuntimeError:
            return  # the loop has closed
        if report is None:
            return
