"""The server and its engines, in this process: fake engines behind a real SIP socket and a real notification socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sipmessage import Message, Response
from structlog.testing import capture_logs

from mediaserver import server as server_module
from mediaserver.config import Config
from mediaserver.engines import Choice
from mediaserver.phone.local_server import free_udp_port
from mediaserver.server import Server, StartError
from tests.mediaserver.fake_engine import FakeEngine
from tests.sip.doubles import make_request
from tts_engine.errors import EngineError


class Node:
    """A server over two fake engines, a SIP peer, and systemd's end."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, overflow: str) -> None:
        self.primary, self.plain = FakeEngine("chatterbox"), FakeEngine("embedded")
        self.primary.ready = self.plain.ready = False
        monkeypatch.setattr(server_module, "choose", lambda config: Choice("chatterbox", "for a test"))
        monkeypatch.setattr(server_module, "make_engine", lambda *arguments: self.primary)
        monkeypatch.setattr(
            server_module,
            "make_overflow_engine",
            lambda config, kind, chars: None if config.overflow == "refuse" else self.plain,
        )
        monkeypatch.setattr(server_module, "LOOK_S", 0.02)
        monkeypatch.setattr(server_module, "FAREWELL_S", 0.1)
        self.notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.notifications.bind(str(directory / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(directory / "notify"))
        self.sip = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        port = free_udp_port()
        self.address = f"127.0.0.1:{port}"
        self.sip.connect(("127.0.0.1", port))
        self.server = Server(
            Config(
                sip={"port": port},  # type: ignore[arg-type]
                api={"port": 0},  # type: ignore[arg-type]
                tts={"overflow": overflow},  # type: ignore[arg-type]
                calls={"retry_after_s": 7},  # type: ignore[arg-type]
            )
        )
        self.running: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        self.running = asyncio.ensure_future(self.server.run())
        return self.running

    async def notified(self) -> str:
        """The next notification but those of the watchdog."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(5):
            while True:
                text = (await loop.sock_recv(self.notifications, 500)).decode()
                if text != "WATCHDOG=1":
                    return text

    async def invite(self, call_id: str) -> Response:
        """The final response to an INVITE."""
        loop = asyncio.get_running_loop()
        offer = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n"
        headers: dict[str, str | None] = {"Content-Type": "application/sdp", "X-TTS-Text": "one"}
        await loop.sock_sendall(self.sip, make_request("INVITE", headers=headers, body=offer, call_id=call_id))
        async with asyncio.timeout(5):
            while True:
                message = Message.parse(await loop.sock_recv(self.sip, 4000))
                if isinstance(message, Response) and message.call_id == call_id and message.code >= 200:
                    return message

    async def stop(self) -> None:
        assert self.running is not None
        self.server.stop()
        self.server.stop()
        await asyncio.wait_for(self.running, 10)


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    made = Node(tmp_path, monkeypatch, getattr(request, "param", "refuse"))
    yield made
    if made.running is not None:
        made.running.cancel()
        await asyncio.wait([made.running])
    made.notifications.close()
    made.sip.close()


async def test_systemd_is_told_when_the_engine_is_down_and_up_again(node: Node) -> None:
    serving = f"Serving SIP on {node.address}"
    node.start()
    assert await node.notified() == f"READY=1\nSTATUS={serving}"
    with capture_logs() as logs:
        node.primary.ready = False
        response = await node.invite("first")
        assert (response.code, response.phrase) == (503, "Speech Engine: the chatterbox engine is starting again")
        assert response.headers["Retry-After"] == "7"
        told = "the chatterbox engine is down: the chatterbox engine is starting again"
        assert await node.notified() == f"STATUS={serving}; {told}"
        node.primary.ready = True
        assert await node.notified() == f"STATUS={serving}"
    assert [entry["event"] for entry in logs if entry["event"].startswith("engine_")] == ["engine_down", "engine_up"]
    assert (await node.invite("second")).code == 200
    node.primary.busy = True
    node.primary.retry_after = 0.4
    response = await node.invite("third")
    assert (response.code, response.headers["Retry-After"]) == (503, "1")
    await node.stop()
    assert (await node.notified()).startswith("STOPPING=1"), "a busy engine is not down"
    assert not node.primary.ready, "stopped"


@pytest.mark.parametrize("node", ["embedded"], indirect=True)
async def test_the_overflow_engine_runs_with_the_server(node: Node) -> None:
    node.start()
    assert (await node.notified()).startswith("READY=1")
    assert node.plain.ready
    node.primary.ready = False
    assert (await node.invite("first")).code == 200
    assert "one" in [stream.request.text for stream in node.plain.streams], (
        "and the greeting, which is kept for callers"
    )
    assert "the chatterbox engine is down" in await node.notified()
    await node.stop()
    assert not node.plain.ready


async def test_without_overflow_no_second_engine_is_started(node: Node) -> None:
    node.start()
    assert (await node.notified()).startswith("READY=1")
    assert not node.plain.ready
    await node.stop()


@pytest.mark.parametrize("node", ["embedded"], indirect=True)
async def test_an_overflow_engine_that_cannot_start_stops_the_server(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not found out by the first caller who would have needed it."""

    async def fail() -> None:
        raise EngineError("no model")

    monkeypatch.setattr(node.plain, "start", fail)
    with pytest.raises(StartError, match="speech engine: no model"):
        await asyncio.wait_for(node.start(), 5)
    assert not node.primary.ready, "what had started is stopped"
