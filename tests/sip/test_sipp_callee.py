"""Calls of ours that SIPp answers: another implementation of SIP, over real sockets."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from sipmessage import Headers

from sip.access import AccessList
from sip.digest import Credentials
from sip.outgoing_invite import OutgoingInvite
from sip.outgoing_session import OutgoingSession
from sip.session_handler import EndCause
from sip.timers import TimerValues
from sip.transport import UdpTransport
from sip.user_agent import UserAgent, UserAgentConfig
from tests.sip.doubles import RecordingApplication, RecordingOutgoingHandler

HOST = "127.0.0.1"
SCENARIOS = Path(__file__).parents[1] / "interop" / "sipp_scenarios"
TIMEOUT_S = 20
OFFER = (
    f"v=0\r\no=- 1 1 IN IP4 {HOST}\r\ns=-\r\nc=IN IP4 {HOST}\r\nt=0 0\r\n"
    "m=audio 40000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
).encode()

pytestmark = pytest.mark.skipif(
    shutil.which("sipp") is None, reason="SIPp is not installed: apt-get install sip-tester"
)


class AwaitedHandler(RecordingOutgoingHandler):
    """One whose news can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.news = asyncio.Event()

    def ringing(self, code: int, body: bytes) -> None:
        super().ringing(code, body)
        self.news.set()

    def answered(self, body: bytes, headers: Headers) -> None:
        super().answered(body, headers)
        self.news.set()

    def failed(self, code: int, reason: str) -> None:
        super().failed(code, reason)
        self.news.set()

    def ended(self, cause: EndCause) -> None:
        super().ended(cause)
        self.news.set()

    async def hears(self, what: str) -> None:
        """Wait until it has been told this, or of the end."""
        async with asyncio.timeout(TIMEOUT_S):
            while not any(told[0] == what for told in self.told) and not (what == "ended" and self.causes):
                self.news.clear()
                await self.news.wait()


@pytest.fixture
async def agent() -> AsyncIterator[UserAgent]:
    """Nobody may call it: what comes within its own calls is taken all the same."""
    transport = UdpTransport()
    config = UserAgentConfig("Test/1", AccessList([ip_network("192.0.2.0/24")]), TimerValues(t1=0.1))
    agent = UserAgent(RecordingApplication(), config, transport)
    await transport.listen(HOST, 0)
    yield agent
    agent.close()


class Callee:
    """SIPp, answering one call as a scenario says."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((HOST, 0))
            self.port: int = sock.getsockname()[1]

    async def start(self, scenario: str) -> None:
        """INVITEs that come before it listens are lost, and sent again."""
        self._process = await asyncio.create_subprocess_exec(
            "sipp", "-sf", str(SCENARIOS / f"{scenario}.xml"), "-i", HOST, "-mi", HOST, "-p", str(self.port),
            "-m", "1", "-timeout", f"{TIMEOUT_S}s", "-timeout_error", "-nostdin", "-default_behaviors", "all,-bye",
            "-trace_err", "-error_file", "errors", "-trace_msg", "-message_file", "messages",
            cwd=self._directory, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip

    async def is_content(self) -> None:
        """Fails the test, with all messages, unless the call went as the scenario says."""
        code = await asyncio.wait_for(self._process.wait(), TIMEOUT_S + 5)
        logs = [self._directory / name for name in ("errors", "messages")]
        assert code == 0, "\n".join(log.read_text(errors="replace") for log in logs if log.exists())


@pytest.fixture
async def callee(tmp_path: Path) -> Callee:
    return Callee(tmp_path)


async def place(
    agent: UserAgent, callee: Callee, scenario: str, credentials: Credentials | None = None
) -> tuple[OutgoingSession, AwaitedHandler]:
    await callee.start(scenario)
    handler = AwaitedHandler()
    target = f"sip:callee@{HOST}:{callee.port}"
    invite = OutgoingInvite(target, "sip:tts@example.com", "Chatterline", body=OFFER, credentials=credentials)
    return agent.invite(invite, handler), handler


async def idle(agent: UserAgent) -> None:
    await asyncio.wait_for(agent.wait_idle(), TIMEOUT_S)


async def test_answered_and_hung_up(agent: UserAgent, callee: Callee) -> None:
    session, handler = await place(agent, callee, "uas_answer")
    await handler.hears("answered")
    assert [told[0] for told in handler.told] == ["ringing", "answered"]
    assert b"m=audio" in bytes(str(handler.told[-1][1]), "utf-8")
    session.hang_up()
    await idle(agent)
    await callee.is_content()
    assert handler.causes == [EndCause.HUNG_UP]


async def test_the_callee_hangs_up(agent: UserAgent, callee: Callee) -> None:
    _, handler = await place(agent, callee, "uas_hangs_up")
    await handler.hears("ended")
    await callee.is_content()
    assert handler.causes == [EndCause.BYE_RECEIVED]


async def test_cancelled_while_ringing(agent: UserAgent, callee: Callee) -> None:
    session, handler = await place(agent, callee, "uas_cancelled")
    await handler.hears("ringing")
    session.hang_up()
    await idle(agent)
    await callee.is_content()
    assert handler.told[1:] == [("failed", 487)]


async def test_busy(agent: UserAgent, callee: Callee) -> None:
    _, handler = await place(agent, callee, "uas_busy")
    await handler.hears("failed")
    await callee.is_content()
    assert handler.told == [("failed", 486)]


async def test_challenged(agent: UserAgent, callee: Callee) -> None:
    """SIPp works out by itself whether the response is right."""
    session, handler = await place(agent, callee, "uas_challenge", Credentials("tts", "secret"))
    await handler.hears("answered")
    session.hang_up()
    await idle(agent)
    await callee.is_content()


async def test_held_and_transferred(agent: UserAgent, callee: Callee) -> None:
    session, handler = await place(agent, callee, "uas_hold_and_transfer")
    await handler.hears("answered")
    held: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
    session.reinvite(lambda: OFFER + b"a=sendonly\r\n", "application/sdp", lambda *result: held.set_result(result))
    code, answer = await asyncio.wait_for(held, TIMEOUT_S)
    assert code == 200
    assert b"a=recvonly" in answer
    progress: list[int] = []
    done = asyncio.Event()

    def told(code: int) -> None:
        progress.append(code)
        if code >= 200:
            done.set()

    session.refer("sip:carol@example.com", told)
    await asyncio.wait_for(done.wait(), TIMEOUT_S)
    assert progress == [100, 200]
    session.hang_up()
    await idle(agent)
    await callee.is_content()
