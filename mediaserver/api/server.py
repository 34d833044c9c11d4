"""The control interfaces as a part of the server: they listen, attach to calls, and stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import structlog
import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mediaserver.api.agent.manager import AgentManager
from mediaserver.api.app import make_app
from mediaserver.api.http_protocol import BoundedHttp, bounded_http
from mediaserver.api.state import ApiState, make_state
from mediaserver.api.stream.manager import StreamManager
from mediaserver.api.tokens import tokens_path
from mediaserver.api.webhooks.sender import WebhookSender
from mediaserver.api.websocket_protocol import ServerWebSocket
from mediaserver.api_config import ApiConfig
from mediaserver.call.control import CallsControl
from mediaserver.call.engines import CallEngines
from mediaserver.config import Config

_log = structlog.get_logger("api")

NO_TOKENS = "nobody may use it yet: chatterline tokens add NAME --scope SCOPE"
UNIX = "unix:"
SOCKET_MODE = 0o660
BACKLOG = 256
KEEP_ALIVE_S = 30
GRACE_S = 3
"For requests under way when the server stops."
MAX_HEADER_BYTES = 16 * 1024
WS_PING_S = 20.0
STALL_S = 60
"A client that takes nothing of what was sent for so long is cut off (TCP_USER_TIMEOUT, tcp(7))."


class Part(Protocol):
    """What runs beside the interfaces and attaches to calls."""

    async def close(self) -> None: ...


class ApiServer:
    """[api]. Everything belongs to the event loop."""

    def __init__(
        self,
        config: Config,
        calls: CallsControl,
        engines: CallEngines,
        registry: CollectorRegistry | None = None,
        *,
        listener: socket.socket | None = None,
    ) -> None:
        """registry: the node's metrics, which GET /v1/status shows and ours are added to. listener: a bound socket to
        serve on, instead of the configured one.
        """
        self.state = make_state(config, calls, engines, registry)
        self.state.registry.register(_ApiCollector(self.state, self))
        self.protocol: type[BoundedHttp] = bounded_http(config.api.max_connections)
        self._config = config.api
        self._listener = listener
        self._address: str | None = None
        self._http: _Uvicorn | None = None
        self._serving: asyncio.Task[None] | None = None
        self._parts: list[Part] = []

    @property
    def address(self) -> str | None:
        """Where it listens: the beginning of URLs, or "unix:" and a path; None while it does not."""
        return self._address

    @property
    def open_connections(self) -> int:
        return 0 if self._http is None else len(self._http.server_state.connections)

    async def start(self) -> None:
        """Attach to calls, and listen.

        Raises OSError, which begins with the section of the configuration that it is about: the address cannot be
        bound, a certificate or the spool of webhooks cannot be used.
        """
        try:
            await self._start_parts()
            await self._listen()
        except BaseException:
            await self.close()
            raise
        if self.address is not None:
            tokens = self.state.tokens.list()
            _log.info("api_ready", address=self.address, tokens=len(tokens))
            if not tokens:
                path = tokens_path(self.state.config)
                _log.warning("api_has_no_tokens", file=str(path), text=NO_TOKENS)

    async def close(self) -> None:
        """Take no more requests, end what is under way, and stop what is attached. Idempotent."""
        if self._http is not None and self._serving is not None:
            self.state.calls.hub.close()  # event streams end by themselves
            self._http.stop()
            await self._serving
        self._http = self._serving = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._address is not None and self._address.startswith(UNIX):
            _remove(self._address.removeprefix(UNIX))
        self._address = None
        while self._parts:
            await self._parts.pop().close()

    async def _start_parts(self) -> None:
        """Webhooks first, and closed last: they tell of what the others do."""
        state = self.state
        state.webhooks = WebhookSender(state)
        self._parts.append(state.webhooks)
        try:
            await state.webhooks.start()
        except OSError as error:
            raise OSError(f"[webhooks] {error}") from None
        state.agents = AgentManager(state)
        self._parts.append(state.agents)
        state.agents.start()
        state.streams = StreamManager(state)
        self._parts.append(state.streams)
        state.streams.start()

    async def _listen(self) -> None:
        if self._listener is None:
            if not self._config.port and not self._config.socket:
                return
            self._listener = open_listener(self._config)
        self._listener.listen(BACKLOG)  # here, where a failure is told
        app = make_app(self.state)
        app.openapi()  # takes 0.1 s, which calls would feel later
        config = uvicorn.Config(
            app,
            http=self.protocol,
            ws=ServerWebSocket,
            ws_max_size=self._config.max_body_kb * 1024,
            ws_ping_interval=WS_PING_S,
            ws_ping_timeout=WS_PING_S,
            ws_per_message_deflate=False,  # costs more than it saves, and its bombs are not counted in ws_max_size
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
            backlog=BACKLOG,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            ssl_certfile=self._config.tls_certificate or None,
            ssl_keyfile=self._config.tls_key or None,
        )
        try:
            config.load()
        except OSError as error:
            raise OSError(_why_no_tls(self._config, error)) from None
        self._http = _Uvicorn(config)
        self._serving = asyncio.create_task(self._http.serve([self._listener]), name="api")
        await self._http.ready.wait()
        self._address = _address_of(self._listener, "https" if self._config.tls_certificate else "http")


def _why_no_tls(config: ApiConfig, error: OSError) -> str:
    """Python's errors do not name the file."""
    for key, path in (("tls_certificate", config.tls_certificate), ("tls_key", config.tls_key)):
        try:
            Path(path).open("rb").close()
        except OSError as unreadable:
            return f"[api] {key} cannot be read: {path}: {unreadable.strerror}"
    return f"[api] tls_certificate or tls_key cannot be used: {error}"


class _Uvicorn(uvicorn.Server):
    """In a loop that is not its own: signals are the server's."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Have serve() end."""
        self.should_exit = True
        self._stop.set()

    async def main_loop(self) -> None:
        """Uvicorn's wakes ten times a second, to see whether it should stop and to set the Date of responses."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._stop.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


def open_listener(config: ApiConfig) -> socket.socket:
    """A bound socket, as configured. Raises OSError."""
    where = config.socket or f"{config.host}:{config.port}"
    try:
        return _open_unix(Path(config.socket)) if config.socket else _open_tcp(config)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE and not config.socket
        hint = "; choose another [api] port, or 0 for none" if taken else ""
        raise OSError(f"[api] cannot listen on {where}: {error.strerror or error}{hint}") from None


def _open_tcp(config: ApiConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALL_S * 1000)  # of its connections
        listener.bind((config.host, config.port))
    except BaseException:
        listener.close()
        raise
    return listener


def _open_unix(path: Path) -> socket.socket:
    """Only its owner and group may connect; what a server that died has left there is replaced. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
            path.unlink()
        listener.bind(str(path))
        # Nobody can connect before listen().
        path.chmod(SOCKET_MODE)
    except BaseException:
        listener.close()
        raise
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
        return True


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _address_of(listener: socket.socket, scheme: str) -> str:
    if listener.family == socket.AF_UNIX:
        return f"{UNIX}{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class _ApiCollector(Collector):
    """Our counters among the node's metrics."""

    def __init__(self, state: ApiState, server: ApiServer) -> None:
        self._state = state
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """Called by the exporter's thread, which may see a counter a moment old."""
        text = "What the control interfaces have refused, lost and the like"
        occurrences = CounterMetricFamily("chatterline_api_occurrences", text, labels=["kind"])
        counts = dict(self._state.counts) | {"connections_refused": self._server.protocol.refused}
        for kind, count in counts.items():
            occurrences.add_metric([kind], count)
        yield occurrences
        yield GaugeMetricFamily(
            "chatterline_api_connections", "Connections to the control interfaces", self._server.open_connections
        )
        yield GaugeMetricFamily("chatterline_api_watchers", "Subscribers of events", self._state.watchers)
