"""The server under test of benchmarks/control.py, with a token for its API, and a client of that."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import server
from benchmarks.load.run import SERVER_RTP_PORTS
from mediaserver.api.tokens import TokenStore

HOST = "127.0.0.1"
SPARE_CALLS = 10


@dataclass(frozen=True, slots=True)
class Controlled:
    """A server that runs, and how to control it."""

    target: server.Target
    port: int
    token: str

    @property
    def base(self) -> str:
        return f"http://{HOST}:{self.port}"


@contextlib.contextmanager
def controlled(directory: Path, calls: int, settings: Mapping[str, str]) -> Iterator[Controlled]:
    """A server of our own for so many calls, with further settings; gone when the block is left. Raises ServerError."""
    directory.mkdir(parents=True, exist_ok=True)
    tokens = directory / "tokens"
    _, token = TokenStore(tokens).add("benchmark", ("admin",), time.time())
    target = (HOST, server.free_port(socket.SOCK_DGRAM))
    metrics_port, port = server.free_port(socket.SOCK_STREAM), server.free_port(socket.SOCK_STREAM)
    environment = {
        "CHATTERLINE_SIP__HOST": target[0],
        "CHATTERLINE_SIP__PORT": str(target[1]),
        "CHATTERLINE_RTP__PORT_MIN": str(SERVER_RTP_PORTS[0]),
        "CHATTERLINE_RTP__PORT_MAX": str(SERVER_RTP_PORTS[1]),
        "CHATTERLINE_CALLS__MAX_CALLS": str(calls + SPARE_CALLS),
        "CHATTERLINE_METRICS__PORT": str(metrics_port),
        "CHATTERLINE_API__HOST": HOST,
        "CHATTERLINE_API__PORT": str(port),
        "CHATTERLINE_API__TOKENS_FILE": str(tokens),
        "CHATTERLINE_AGENT__PROMPT_TIMEOUT_S": "0",
    }
    command = [str(Path(sys.executable).with_name("chatterline")), "serve"]
    with server.running(command, environment | dict(settings), target, metrics_port, directory / "server.log") as found:
        yield Controlled(found, port, token)


class Client:
    """One kept connection; requests one after the other."""

    def __init__(self, controlled: Controlled) -> None:
        self._http = http.client.HTTPConnection(HOST, controlled.port, timeout=10)
        self._headers = {"Authorization": f"Bearer {controlled.token}", "Content-Type": "application/json"}

    def connect(self) -> None:
        """Raises OSError."""
        self._http.connect()
        assert self._http.sock is not None
        self._http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, path: str) -> Any:
        """The JSON of a page. Raises RuntimeError for another status than 200, OSError."""
        self._http.request("GET", path, headers=self._headers)
        response = self._http.getresponse()
        data = response.read()
        if response.status != 200:
            raise RuntimeError(f"GET {path}: {response.status}")
        return json.loads(data)

    def say(self, call: str, text: str) -> tuple[int, float, int]:
        """Ask a call to say a text: ns since the epoch when that was sent, ms to the response, and its status."""
        body = json.dumps({"text": text})
        stamp, begin = time.time_ns(), time.perf_counter()
        self._http.request("POST", f"/v1/calls/{call}/say", body, self._headers)
        response = self._http.getresponse()
        response.read()
        return stamp, (time.perf_counter() - begin) * 1000, response.status

    def call_ids(self) -> dict[str, str]:
        """Ids of running calls by their SIP Call-IDs."""
        return {call["sip_call_id"]: call["id"] for call in self.get("/v1/calls?limit=1000")["calls"]}

    def close(self) -> None:
        self._http.close()
