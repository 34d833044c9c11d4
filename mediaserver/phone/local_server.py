"""A server in a subprocess on free ports of the loopback interface, for the demonstration and the tests."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

HOST = "127.0.0.1"
RTP_PORTS = 200
# Below the kernel's ephemeral ports, which start at 32768.
RTP_FIRST, RTP_LAST = 16384, 32766


class ServerStartError(Exception):
    """The server did not come up; the message ends with its log."""


class LocalServer:
    """`chatterline serve`; entered, it answers OPTIONS.

    `settings` are environment variables without their prefix: `{"CALLS__MAX_CALLS": "1"}`. Standard output
    and error go to `log_path`.
    """

    def __init__(self, log_path: Path, settings: Mapping[str, str] | None = None, timeout_s: float = 30.0) -> None:
        self.log_path = log_path
        self.port = free_udp_port()
        self.exit_code: int | None = None
        self._timeout_s = timeout_s
        first = random.randrange(RTP_FIRST, RTP_LAST - RTP_PORTS, 2)  # noqa: S311  # no secret
        self._settings = {
            "SIP__HOST": HOST,
            "SIP__PORT": str(self.port),
            "RTP__PORT_MIN": str(first),
            "RTP__PORT_MAX": str(first + RTP_PORTS),
            "API__PORT": "0",  # off, unless `settings` say otherwise: its default port may be somebody else's
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Where to call it."""
        return f"sip:tts@{HOST}:{self.port}"

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CHATTERLINE_")}
        environment = kept | {f"CHATTERLINE_{name}": value for name, value in self._settings.items()}
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mediaserver", "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, timeout_s: float = 15.0) -> None:
        """SIGTERM, and SIGKILL where that is not heeded in time, which `exit_code` shows as -9."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self.exit_code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.exit_code = self._process.wait()
        self._process = None

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline:
            if not self.alive:
                raise ServerStartError(f"the server ended at once; its log:\n{self.log}")
            if options(self.port, timeout_s=0.2) == 200:
                return
        raise ServerStartError(f"no answer to OPTIONS in {self._timeout_s:g} s; its log:\n{self.log}")


def free_udp_port() -> int:
    """A UDP port of the loopback interface that nobody has at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def free_tcp_port() -> int:
    """The same of TCP, for `API__PORT`."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def options(port: int, timeout_s: float) -> int | None:
    """Status of the response to one OPTIONS over UDP (RFC 3261 section 11), None when none came in time."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        sock.settimeout(timeout_s)
        local_port = sock.getsockname()[1]
        lines = [
            f"OPTIONS sip:{HOST}:{port} SIP/2.0",
            f"Via: SIP/2.0/UDP {HOST}:{local_port};rport;branch=z9hG4bK{uuid4().hex}",
            "Max-Forwards: 70",
            f"From: <sip:probe@{HOST}>;tag={uuid4().hex[:8]}",
            f"To: <sip:{HOST}:{port}>",
            f"Call-ID: {uuid4().hex}",
            "CSeq: 1 OPTIONS",
            f"Contact: <sip:probe@{HOST}:{local_port}>",
            "Content-Length: 0",
        ]
        sock.sendto(("\r\n".join(lines) + "\r\n\r\n").encode(), (HOST, port))
        try:
            answer = sock.recv(65535).decode(errors="replace")
        except TimeoutError:
            return None
    match = re.match(r"SIP/2\.0 (\d{3}) ", answer)
    return int(match[1]) if match else None
