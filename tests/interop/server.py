"""The real server, as a fixture: a subprocess that must end cleanly and log no traceback."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mediaserver.phone.local_server import HOST, LocalServer

StartServer = Callable[..., LocalServer]


@pytest.fixture
def chatterline_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start servers with settings such as `CALLS__MAX_CALLS="1"`; each is stopped and looked at afterwards."""
    with ExitStack() as running:
        servers: list[LocalServer] = []

        def start(**settings: str) -> LocalServer:
            server = LocalServer(tmp_path / f"server-{len(servers)}.log", {"LOG__LEVEL": "debug", **settings})
            running.enter_context(server)
            servers.append(server)
            return server

        yield start
        for server in servers:
            check_end(server)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server with default settings, but for a T1 of 50 ms, for all tests of a module."""
    log = tmp_path_factory.mktemp("server") / "server.log"
    with LocalServer(log, {"LOG__LEVEL": "debug", "SIP__T1_MS": "50"}) as running:
        yield running
        check_end(running)


def check_end(server: LocalServer) -> None:
    """Stop `server`; it must have been alive, end with 0, and have logged no traceback."""
    assert server.alive, f"the server died:\n{server.log}"
    server.stop()
    print(server.log)  # pytest shows it when the test fails
    assert server.exit_code == 0, f"exit code {server.exit_code}:\n{server.log}"
    for sign in ("Traceback (most recent call last)", "Task exception was never retrieved", "was never awaited"):
        assert sign not in server.log, server.log


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 5.0) -> None:
    """Poll `condition` of another process until it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.02)


def free_tcp_port() -> int:
    """A TCP port of the loopback interface that nobody has at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
