"""Two servers for the tests of the media, shared by all of them, and what they tell of their calls."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mediaserver.phone.local_server import HOST, LocalServer
from tests.interop.server import check_end, free_tcp_port, wait_for

Event = Mapping[str, Any]
"A line of the server's log."

TIMEOUT_S = 1.5
"How long `odd_server` waits for media."


class MeasuredServer(LocalServer):
    """A server with a JSON log and metrics."""

    def __init__(self, log_path: Path, settings: Mapping[str, str]) -> None:
        self.metrics_port = free_tcp_port()
        always = {
            "LOG__LEVEL": "debug",
            "LOG__FORMAT": "json",
            "SIP__T1_MS": "50",
            "METRICS__PORT": str(self.metrics_port),
        }
        super().__init__(log_path, {**always, **settings})

    def events(self, name: str = "") -> list[Event]:
        """Lines of the log: all, or those of one event."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if name in ("", line["event"])]

    def last_call(self) -> list[Event]:
        """Lines about the call that ended last, `call_ended` the last of them."""
        wait_for(lambda: self._calls_open() == 0, "the end of all calls")
        lines = self.events()
        last = max(place for place, line in enumerate(lines) if line["event"] == "call_ended")
        return [line for line in lines[: last + 1] if line.get("call_id") == lines[last]["call_id"]]

    def _calls_open(self) -> int:
        return len(self.events("call_offered")) - len(self.events("call_ended"))

    def metric(self, name: str) -> float:
        """The value of a metric without labels, named without its prefix."""
        with urllib.request.urlopen(f"http://{HOST}:{self.metrics_port}/metrics", timeout=5) as answer:
            match = re.search(rf"(?m)^chatterline_{name} (\S+)$", answer.read().decode())
        assert match, name
        return float(match[1])


@pytest.fixture(scope="package")
def media_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeasuredServer]:
    """Default settings, but it listens for digits sent as tones."""
    log = tmp_path_factory.mktemp("media-server") / "server.log"
    with MeasuredServer(log, {"DTMF__DETECT_INBAND": "true"}) as server:
        yield server
        check_end(server)


@pytest.fixture(scope="package")
def odd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeasuredServer]:
    """Speaks G.722, sends digits by INFO, is interrupted by speech, and soon misses a caller's packets."""
    log = tmp_path_factory.mktemp("odd-server") / "server.log"
    settings = {
        "RTP__CODECS": '["G722", "PCMU"]',
        "DTMF__METHOD": "info",
        "BARGE_IN__POLICY": "speech",
        "RTP__START_TIMEOUT_S": str(TIMEOUT_S),
        "RTP__STOP_TIMEOUT_S": str(TIMEOUT_S),
        "CALLS__GREETING": " ".join(f"This is sentence number {number} of the greeting." for number in range(1, 6)),
    }
    with MeasuredServer(log, settings) as server:
        yield server
        check_end(server)
