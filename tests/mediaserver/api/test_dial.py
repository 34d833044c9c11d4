from __future__ import annotations

import asyncio

import pytest

from mediaserver.api.dial import DialError, dial
from mediaserver.api.signature import twilio_signature
from mediaserver.api.sockets import SocketClosedError
from mediaserver.api.urls import UrlPolicy
from mediaserver.api_config import AgentConfig
from tests.mediaserver.api.agent.far_agent import FarAgent, redirecting


def trusting(*urls: str) -> UrlPolicy:
    return UrlPolicy((), (), urls)


async def test_the_handshake_is_signed() -> None:
    async with FarAgent() as far:
        config = AgentConfig(secret="shared")  # type: ignore[arg-type]
        socket = await dial(far.url, "CA1", config, trusting(far.url))
        headers = far.requests[0].headers
        assert headers["X-Twilio-Signature"] == twilio_signature("shared", far.url)
        assert headers["X-Chatterline-Call"] == "CA1"
        assert headers["X-Chatterline-Signature"].startswith("t=")
        assert headers["User-Agent"].startswith("Chatterline/")
        assert "Sec-WebSocket-Extensions" not in headers
        await socket.close(1000, "done")


async def test_messages_and_the_end() -> None:
    async with FarAgent() as far:
        socket = await dial(far.url, "CA1", AgentConfig(), trusting(far.url))
        connection = await far.connection()
        await socket.send('{"type": "setup"}')
        assert await connection.next() == {"type": "setup"}
        await connection.socket.send(b"\x01")
        assert await socket.receive() == b"\x01"
        await connection.socket.close(1011, "no")
        with pytest.raises(SocketClosedError) as closed:
            await socket.receive()
        assert closed.value.code == 1011
        with pytest.raises(SocketClosedError):
            await socket.send("late")
        await socket.close(1000, "again")


async def test_an_end_without_a_closing_handshake_is_1006() -> None:
    async with FarAgent() as far:
        socket = await dial(far.url, "CA1", AgentConfig(), trusting(far.url))
        (await far.connection()).socket.transport.abort()
        with pytest.raises(SocketClosedError) as closed:
            await socket.receive()
        assert closed.value.code == 1006


async def test_a_message_of_many_megabytes_closes_the_connection() -> None:
    async with FarAgent() as far:
        socket = await dial(far.url, "CA1", AgentConfig(), trusting(far.url))
        connection = await far.connection()
        sending = asyncio.create_task(connection.socket.send("x" * 3_000_000))
        with pytest.raises(SocketClosedError):
            await socket.receive()
        await asyncio.gather(sending, return_exceptions=True)
        await connection.until_closed()
        assert connection.socket.close_code == 1009


async def test_a_url_that_is_not_allowed_is_final() -> None:
    async with FarAgent() as far:
        with pytest.raises(DialError) as error:
            await dial(far.url, "CA1", AgentConfig(), trusting())
        assert error.value.final
        assert far.requests == []


async def test_an_address_that_is_not_allowed_is_final() -> None:
    async with FarAgent() as far:
        with pytest.raises(DialError) as error:
            await dial(far.url, "CA1", AgentConfig(), UrlPolicy(["ws://127.0.0.1"], (), ()))
        assert error.value.final
        assert far.requests == []


async def test_a_handshake_that_is_refused_may_be_tried_again() -> None:
    async with FarAgent() as far:
        far.refuses = 1
        with pytest.raises(DialError) as error:
            await dial(far.url, "CA1", AgentConfig(), trusting(far.url))
        assert not error.value.final
        assert "503" in str(error.value)


async def test_nobody_there() -> None:
    async with FarAgent() as far:
        url = far.url
    with pytest.raises(DialError) as error:
        await dial(url, "CA1", AgentConfig(), trusting(url))
    assert not error.value.final


async def test_a_redirect_is_not_followed() -> None:
    async with FarAgent() as far, redirecting(far.url) as url:
        with pytest.raises(DialError):
            await dial(url, "CA1", AgentConfig(), trusting(url, far.url))
        assert far.requests == []


async def test_a_server_that_does_not_answer_takes_no_longer_than_it_may() -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.sleep(5)
        finally:
            writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(DialError):
        await dial(url, "CA1", AgentConfig(connect_timeout_s=0.1), trusting(url))
    assert loop.time() - began < 2
    server.close()


async def test_no_web_server_at_all() -> None:
    async def rubbish(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(rubbish, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    with pytest.raises(DialError):
        await dial(url, "CA1", AgentConfig(), trusting(url))
    server.close()
