"""The server as a process: readiness, watchdog, graceful stop, and its systemd unit."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest

from mediaserver.phone.local_server import free_udp_port
from tests.sip.doubles import make_request

UNIT = Path(__file__).parents[2] / "systemd" / "chatterline.service"


class Service:
    """The server, and systemd's end of its notification socket."""

    def __init__(self, directory: Path) -> None:
        self.port = free_udp_port()
        self.notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.notifications.bind(str(directory / "notify"))
        self.sip = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sip.connect(("127.0.0.1", self.port))
        self._path = directory / "notify"

    async def start(self, **settings: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CHATTERLINE_")}
        own = {
            "NOTIFY_SOCKET": str(self._path),
            "WATCHDOG_USEC": "200000",
            "CHATTERLINE_SIP__PORT": str(self.port),
            "CHATTERLINE_API__PORT": "0",
        }
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mediaserver", "serve", env={**kept, **own, **settings}, stderr=subprocess.PIPE
        )

    async def notified(self, wanted: str) -> str:
        """The next notification that begins so; others are passed over."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):
            while True:
                text = (await loop.sock_recv(self.notifications, 500)).decode()
                if text.startswith(wanted):
                    return text

    async def answer(self, datagram: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.sip, datagram)
        async with asyncio.timeout(10):
            return await loop.sock_recv(self.sip, 4000)

    async def call(self) -> bytes:
        """An answered call that is never acknowledged: it lasts for 32 s."""
        offer = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n"
        return await self.answer(make_request("INVITE", headers={"Content-Type": "application/sdp"}, body=offer))

    async def ended(self) -> tuple[int | None, str]:
        """Exit status and log."""
        async with asyncio.timeout(15):
            _, log = await self.process.communicate()
        return self.process.returncode, log.decode()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    made = Service(tmp_path)
    yield made
    if made.process.returncode is None:
        made.process.kill()
        await made.process.wait()
    made.notifications.close()
    made.sip.close()


async def test_ready_watched_and_stopped(service: Service, tmp_path: Path) -> None:
    api, tokens = tmp_path / "api.sock", tmp_path / "tokens"
    await service.start(CHATTERLINE_API__SOCKET=str(api), CHATTERLINE_API__TOKENS_FILE=str(tokens))
    ready = await service.notified("READY=1")
    assert f"127.0.0.1:{service.port}" in ready
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(api)), base_url="http://api") as client:
        assert (await client.get("/healthz")).status_code == 200
    assert (await service.answer(make_request("OPTIONS"))).startswith(b"SIP/2.0 200 OK")
    for _ in range(3):
        await service.notified("WATCHDOG=1")
    service.process.send_signal(signal.SIGTERM)
    await service.notified("STOPPING=1")
    code, log = await service.ended()
    assert code == 0
    assert "Traceback" not in log
    assert "stopped" in log
    assert not api.exists()


async def test_a_draining_server_takes_no_calls_and_is_watched(service: Service) -> None:
    await service.start()
    await service.notified("READY=1")
    assert (await service.call()).startswith(b"SIP/2.0 200")
    service.process.send_signal(signal.SIGTERM)
    await service.notified("STOPPING=1")
    await service.notified("WATCHDOG=1")
    refused = await service.answer(make_request("OPTIONS"))
    while b"CSeq: 1 OPTIONS" not in refused:  # the 200 of the call is being sent again
        refused = await service.answer(make_request("OPTIONS"))
    assert refused.startswith(b"SIP/2.0 503 Server Is Draining")
    assert b"Retry-After: " in refused
    service.process.send_signal(signal.SIGTERM)  # the second time: at once
    code, log = await service.ended()
    assert code == 0
    assert "drained" in log
    assert "Traceback" not in log


async def test_the_drain_is_bounded(service: Service) -> None:
    await service.start(CHATTERLINE_CALLS__DRAIN_S="0.2")
    await service.notified("READY=1")
    await service.call()
    service.process.send_signal(signal.SIGTERM)
    code, log = await service.ended()
    assert code == 0
    assert "drained" in log


def test_the_unit_is_valid() -> None:
    result = subprocess.run(["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_unit_is_valid_with_the_settings_for_a_gpu(tmp_path: Path) -> None:
    drop_ins = tmp_path / "chatterline.service.d"
    drop_ins.mkdir()
    (tmp_path / UNIT.name).write_bytes(UNIT.read_bytes())
    (drop_ins / "gpu.conf").write_bytes(UNIT.with_name("chatterline-gpu.conf").read_bytes())
    result = subprocess.run(
        ["systemd-analyze", "verify", UNIT.name],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_unit_waits_longer_than_the_drain() -> None:
    from mediaserver.config import CallsConfig
    from mediaserver.server import FAREWELL_S

    settings = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#")
    assert float(settings["TimeoutStopSec"]) > CallsConfig().drain_s + FAREWELL_S
    assert settings["Type"] == "notify"


async def test_connections_to_the_interfaces_do_not_take_the_sockets_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,024 files are what a process has by default, and 1,000 what the interfaces alone may take."""
    import resource

    from mediaserver import server as server_module
    from mediaserver.config import Config
    from tts_engine.errors import EngineError

    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (1024, 100_000))
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, both: limits.append(both))
    monkeypatch.setattr(sys, "setswitchinterval", lambda _seconds: None)
    monkeypatch.setattr(server_module, "Server", Mock(side_effect=EngineError("enough")))
    config = Config(calls={"max_calls": 50}, api={"max_connections": 1000})  # type: ignore[arg-type]
    with pytest.raises(server_module.StartError):
        await server_module.serve(config)
    assert limits == [(limits[0][0], 100_000)]
    assert limits[0][0] >= 1000 + 2 * 50 + 50


async def test_a_stop_does_not_wait_for_a_model_that_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading takes minutes on a GPU."""
    from mediaserver.config import load
    from mediaserver.server import Server

    server = Server(load())
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def start() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    monkeypatch.setattr(server.engine, "start", start)
    running = asyncio.create_task(server.run())
    await asyncio.wait_for(began.wait(), 10)
    server.stop()
    await asyncio.wait_for(running, 10)
    assert cancelled.is_set()


async def test_an_address_that_is_taken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from mediaserver.config import Config
    from mediaserver.server import Server, StartError

    async def nothing() -> None:
        pass

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = Server(Config(api={"port": port}))  # type: ignore[arg-type]
        monkeypatch.setattr(server.engine, "start", nothing)
        monkeypatch.setattr(server.engine, "stop", nothing)
        with pytest.raises(
            StartError, match=rf"^\[api\] cannot listen on 127.0.0.1:{port}: Address already in use;.* port"
        ):
            await server.run()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"api": {"tls_certificate": "/none.pem", "tls_key": "/none.pem"}},
            "[api] tls_certificate cannot be read: /none.pem: No such file",
        ),
        ({"webhooks": {"url": "http://a.example/", "secret": "s", "spool_dir": "/dev/null/x"}}, "[webhooks] /dev/null"),
    ],
)
async def test_what_else_keeps_the_interfaces_from_starting_is_told(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, dict[str, str]], said: str
) -> None:
    """By its section: it has nothing to do with the address."""
    from mediaserver.config import Config
    from mediaserver.server import Server, StartError

    async def nothing() -> None:
        pass

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    api = {"port": port, **settings.get("api", {})}
    server = Server(Config(**{**settings, "api": api}))  # type: ignore[arg-type]
    monkeypatch.setattr(server.engine, "start", nothing)
    monkeypatch.setattr(server.engine, "stop", nothing)
    with pytest.raises(StartError) as caught:
        await server.run()
    assert str(caught.value).startswith(said)
