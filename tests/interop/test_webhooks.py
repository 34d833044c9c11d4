"""A real server tells an application of a real call by webhooks."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from mediaserver.api.tokens import TokenStore
from tests.interop.server import StartServer, free_tcp_port, wait_for

SECRET = "whsec-interop"


class Application(ThreadingHTTPServer):
    """Takes webhooks that are signed as docs/webhooks.md says; keeps them by arrival."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events: list[dict[str, Any]] = []
        self.forged = 0
        self.away = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/events"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Application

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fields = dict(part.split("=", 1) for part in self.headers["X-Chatterline-Signature"].split(","))
        signed = fields["t"].encode() + b"." + body
        expected = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        self.server.forged += not hmac.compare_digest(expected, fields["v1"])
        if not self.server.away:
            self.server.events.append(json.loads(body))
        self.send_response(503 if self.server.away else 204)
        if self.server.away:
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not on the tests' standard error."""


@pytest.fixture
def application() -> Iterator[Application]:
    with Application() as application:
        thread = threading.Thread(target=application.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield application
        application.shutdown()
        thread.join()


def test_a_call_is_told_in_order_to_an_application_that_was_away(
    application: Application, chatterline_server: StartServer, tmp_path: Path
) -> None:
    port = free_tcp_port()
    secret = TokenStore(tmp_path / "tokens").add("test", ("calls:write",), time.time())[1]
    server = chatterline_server(
        API__PORT=str(port),
        API__TOKENS_FILE=str(tmp_path / "tokens"),
        WEBHOOKS__URL=application.url,
        WEBHOOKS__SECRET=SECRET,
        WEBHOOKS__SPOOL_DIR=str(tmp_path / "spool"),
    )
    order = {"to": "test", "trunk": "self", "text": "One, two.", "hang_up_after": True}
    placed = httpx.post(
        f"http://127.0.0.1:{port}/v1/calls", json=order, headers={"Authorization": f"Bearer {secret}"}, timeout=10
    )
    assert placed.status_code == 201, placed.text
    wait_for(lambda: server.log.count("call_ended") == 2, "both ends of the call are over", 20)
    assert application.events == []
    application.away = False
    wait_for(lambda: [e["type"] for e in application.events].count("call.ended") == 2, "both are told of", 20)

    told = [event for event in application.events if event["call_id"] == placed.json()["id"]]
    types = [event["type"] for event in told]
    assert types[0] == "call.started"
    assert types[-1] == "call.ended"
    assert types.index("call.answered") < types.index("speech.started") < types.index("speech.finished")
    assert [event["number"] for event in told] == sorted(event["number"] for event in told)
    assert len({event["id"] for event in told}) == len(told)
    assert told[0]["data"]["direction"] == "outbound"
    assert told[-1]["data"]["seconds"] > 0
    assert application.forged == 0
    assert SECRET not in server.log
