"""The server: its parts made, started in order, and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from mediaserver import __version__, garbage, systemd
from mediaserver.api.server import ApiServer
from mediaserver.call.engines import CallEngines
from mediaserver.calls import Calls
from mediaserver.config import Config
from mediaserver.engine_watch import EngineWatch
from mediaserver.engines import choose, make_engine, make_overflow_engine
from mediaserver.metrics import MetricsServer, make_registry
from mediaserver.prompts import with_prompts
from sip.access import AccessList
from sip.timers import TimerValues
from sip.transport import UdpTransport, host_port
from sip.user_agent import UserAgent, UserAgentConfig
from tts_engine.errors import EngineError

_log = structlog.get_logger("server")

SWITCH_INTERVAL_S = 0.0001
"""How long one thread may keep the interpreter from another. The default of 5 ms is a quarter of a frame: the pacer
would wait that long, once for each thread before it, whenever workers are busy in Python. No more CPU was measured."""

SPARE_STREAMS = 8
"Beyond one a call: the stream of a call that has just ended may still be closing."

SPARE_FILES = 256
"Beside the sockets of calls: models, logs, pipes of workers, metrics."

LOOK_S = 0.5
"How often the engines are looked at, to say when one is down or up again; calls do not wait for that."

FAREWELL_S = 2.0
"How long to wait for answers to our BYEs before the socket is closed."


class StartError(Exception):
    """The server cannot start; the message is for the person who started it."""


class Server:
    """One node. run() serves until stop() is called."""

    def __init__(self, config: Config) -> None:
        self._config = config
        calls = config.calls
        text_limit = max(calls.max_text_chars, len(calls.greeting))
        choice = choose(config.tts)
        _log.info("engine", engine=choice.kind, reason=choice.reason)
        engine = make_engine(config.tts, calls.max_calls + SPARE_STREAMS, text_limit, choice)
        overflow = make_overflow_engine(config.tts, choice.kind, text_limit)
        self.engine, self.overflow = with_prompts(engine, overflow, config, choice.kind)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    def stop(self) -> None:
        """Begin a graceful stop; a second call makes it an immediate one."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Start, serve, drain, stop. Raises StartError."""
        async with contextlib.AsyncExitStack() as stack:
            for engine in filter(None, (self.engine, self.overflow)):
                if not await self._unless_stopped(engine.start()):
                    return
                stack.push_async_callback(engine.stop)
            calls, agent = await self._start_serving(stack)
            garbage.settle()
            address = host_port((self._config.sip.host, self._config.sip.port))
            overflow = None if self.overflow is None else self.overflow.name
            _log.info("ready", version=__version__, sip=address, voices=self.engine.voices, overflow=overflow)
            watch = EngineWatch(calls.engines, f"Serving SIP on {address}", asyncio.get_running_loop().time())
            systemd.notify(f"READY=1\nSTATUS={watch.status}")
            await self._serve(calls, watch)
            systemd.notify("STOPPING=1\nSTATUS=Draining")
            await self._drain(calls, agent)
        _log.info("stopped")

    async def _unless_stopped(self, start: Coroutine[Any, Any, None]) -> bool:
        """Whether the engine has started; a model may take minutes to load, and a stop need not wait for it.

        Raises StartError.
        """
        starting, stopped = asyncio.ensure_future(start), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError, EngineError):
                await starting
            _log.info("stopped", ready=False)
            return False
        try:
            await starting
        except Exception as error:
            raise StartError(f"speech engine: {error}") from error
        return True

    async def _start_serving(self, stack: contextlib.AsyncExitStack) -> tuple[Calls, UserAgent]:
        config = self._config
        transport = UdpTransport(config.sip.advertised_host)
        calls = Calls(config, CallEngines(self.engine, self.overflow), lambda caller: transport.advertised(caller)[0])
        agent_config = UserAgentConfig(
            server_name=f"Chatterline/{__version__}",
            access=AccessList(config.sip.allow),
            timers=_timers(config.sip.t1_ms / 1000),
        )
        agent = UserAgent(calls, agent_config, transport)
        registry = make_registry(calls, agent.stats)
        try:
            stack.callback(MetricsServer(config.metrics, registry).close)
        except OSError as error:
            raise StartError(
                f"[metrics] cannot listen on {config.metrics.host}:{config.metrics.port}: {error}"
            ) from None
        calls.pacer.start()
        stack.callback(calls.pacer.stop)
        stack.callback(agent.close)
        await self._start_api(stack, calls, registry)  # before any call can come: agents attach to the first one too
        try:
            await transport.listen(config.sip.host, config.sip.port)
        except OSError as error:
            raise StartError(f"[sip] cannot listen on {config.sip.host}:{config.sip.port}: {error.strerror}") from None
        calls.connect(agent.invite, lambda: transport.local_address)
        return calls, agent

    async def _start_api(self, stack: contextlib.AsyncExitStack, calls: Calls, registry: CollectorRegistry) -> None:
        """Raises StartError."""
        api = ApiServer(self._config, calls, calls.engines, registry)
        try:
            await api.start()
        except OSError as error:
            raise StartError(str(error)) from None
        stack.push_async_callback(api.close)  # when the calls have ended, so that events of that still leave

    async def _serve(self, calls: Calls, watch: EngineWatch) -> None:
        """Until asked to stop; the watchdog is fed by the loop that serves, while the pacer's thread lives."""
        interval = systemd.watchdog_interval()
        loop = asyncio.get_running_loop()
        collections = garbage.FullCollections(loop.time())
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(interval or LOOK_S, LOOK_S)):
                    await self._stop.wait()
            collections.look(loop.time(), len(calls.legs))
            if watch.look(loop.time()):
                systemd.notify(f"STATUS={watch.status}")
            if interval is not None and calls.pacer.alive:
                systemd.notify("WATCHDOG=1")

    async def _drain(self, calls: Calls, agent: UserAgent) -> None:
        drain = asyncio.ensure_future(calls.drain(self._config.calls.drain_s))
        hurry = asyncio.ensure_future(self._hurry.wait())
        interval = systemd.watchdog_interval()
        while not (drain.done() or hurry.done()):
            await asyncio.wait((drain, hurry), timeout=interval, return_when=asyncio.FIRST_COMPLETED)
            if calls.pacer.alive:
                systemd.notify("WATCHDOG=1")
        for task in (drain, hurry):
            task.cancel()
        await asyncio.wait((drain, hurry))
        calls.end_all()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await agent.wait_idle()


def _timers(t1: float) -> TimerValues:
    """All timers scale with T1, as their defaults are to its default."""
    return TimerValues(t1=t1, t2=8 * t1, t4=10 * t1)


def _files(config: Config) -> int:
    """That the process may have open at once: two sockets a call, one of its agent, connections to [api]."""
    api = config.api.max_connections if config.api.port or config.api.socket else 0
    return 3 * config.calls.max_calls + api + SPARE_FILES


def _raise_file_limit(wanted: int) -> None:
    """It is more than the 1,024 files that a process may open by default (getrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        _log.warning(
            "few_files",
            allowed=allowed,
            wanted=wanted,
            text="ulimit -n is too low for [calls] max_calls and [api] max_connections",
        )


async def serve(config: Config) -> None:
    """Run a server until SIGTERM or SIGINT. Raises StartError."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _raise_file_limit(_files(config))
    try:
        server = Server(config)
    except EngineError as error:
        raise StartError(f"speech engine: {error}") from error
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    await server.run()
