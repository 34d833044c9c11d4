"""The control interfaces on real sockets: TCP, TLS, Unix; their bounds; their end."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import websockets
from prometheus_client import CollectorRegistry, generate_latest

from mediaserver.api import http_protocol, middleware
from mediaserver.api.server import STALL_S, ApiServer, open_listener
from mediaserver.api.webhooks.sender import WebhookSender
from mediaserver.call.engines import CallEngines
from mediaserver.config import ApiConfig, Config
from tests.mediaserver.api.conftest import bearer, bound_socket, token_of
from tests.mediaserver.api.fake_calls import FakeCalls
from tests.mediaserver.fake_engine import FakeEngine


def configured(tmp_path: Path, **settings: object) -> Config:
    return Config(api={"tokens_file": str(tmp_path / "tokens.jsonl"), **settings})


def certified(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    certificate, key = directory / "c.pem", directory / "k.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return certificate, key


def free_port() -> int:
    with bound_socket() as free:
        return int(free.getsockname()[1])


def make_server(config: Config, calls: FakeCalls, *, listener: socket.socket | None = None) -> ApiServer:
    return ApiServer(config, calls, CallEngines(FakeEngine()), listener=listener)


async def raw(server: ApiServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection without a client."""
    assert server.address is not None
    host, _, port = server.address.rpartition("://")[2].rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def test_it_serves_over_tcp(server: ApiServer) -> None:
    assert server.address is not None
    async with httpx.AsyncClient(base_url=server.address) as client:
        response = await client.get("/healthz")
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
        assert response.headers.get_list("server") == [middleware.SERVER_HEADERS["Server"]]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "access-control-allow-origin" not in response.headers
        response = await client.options(
            "/v1/calls", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        )
        assert response.status_code == 405
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_unix_socket(tmp_path: Path, loop: str) -> None:
    """For its owner and group; what a server that died has left is replaced, what another serves is not."""
    import uvloop

    path = tmp_path / "api.sock"
    config = configured(tmp_path, socket=str(path))

    async def check() -> None:
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(path))
        left.close()
        server = make_server(config, FakeCalls())
        await server.start()
        try:
            assert server.address == f"unix:{path}"
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            secret = token_of(server.state, "calls:read")
            transport = httpx.AsyncHTTPTransport(uds=str(path))
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost", headers=bearer(secret)
            ) as client:
                assert (await client.get("/v1/calls")).json() == {"calls": [], "total": 0}
            second = make_server(config, FakeCalls())
            with pytest.raises(OSError, match="in use"):
                await second.start()
            assert path.exists()
        finally:
            await server.close()
        assert not path.exists()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        runner.run(check())


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError):
        open_listener(ApiConfig(socket=str(path)))
    assert path.read_text() == "data"


async def test_tls(tmp_path: Path, calls: FakeCalls) -> None:
    certificate, key = certified(tmp_path)
    config = configured(tmp_path, tls_certificate=str(certificate), tls_key=str(key))
    server = make_server(config, calls, listener=bound_socket())
    await server.start()
    try:
        assert server.address is not None
        assert server.address.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate))
        async with httpx.AsyncClient(base_url=server.address, verify=context) as client:
            assert (await client.get("/healthz")).status_code == 200
        reader, writer = await raw(server)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200 OK" not in await reader.read()
        writer.close()
    finally:
        await server.close()


async def test_a_certificate_that_is_none(tmp_path: Path, calls: FakeCalls) -> None:
    (tmp_path / "c.pem").write_text("nothing")
    for name in ("c.pem", "missing.pem"):
        config = configured(tmp_path, tls_certificate=str(tmp_path / name), tls_key=str(tmp_path / name))
        listener = bound_socket()
        server = make_server(config, calls, listener=listener)
        with pytest.raises(OSError, match="tls_certificate"):
            await server.start()
        assert listener.fileno() == -1
        assert calls.on_call == []


async def test_a_port_that_is_taken(tmp_path: Path, calls: FakeCalls) -> None:
    with bound_socket() as taken:
        taken.listen()
        server = make_server(configured(tmp_path, port=taken.getsockname()[1]), calls)
        with pytest.raises(OSError, match="in use"):
            await server.start()


async def test_port_0_is_off_and_agents_are_still_attached(tmp_path: Path, calls: FakeCalls) -> None:
    server = make_server(configured(tmp_path, port=0), calls)
    await server.start()
    assert server.address is None
    assert calls.on_call
    assert isinstance(server.state.webhooks, WebhookSender)
    assert server.state.agents is not None
    assert server.state.streams is not None
    await server.close()
    assert calls.on_call == []
    await server.close()


async def test_it_stops_while_somebody_watches(server: ApiServer, calls: FakeCalls) -> None:
    secret = token_of(server.state, "events")
    assert server.address is not None
    async with (
        httpx.AsyncClient(base_url=server.address, headers=bearer(secret)) as client,
        client.stream("GET", "/v1/events") as response,
    ):
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith(":")
        calls.arrive()
        async with asyncio.timeout(3):
            await server.close()
        rest = [line async for line in lines]
        assert "event: call.started" in rest
    assert server.state.watchers == 0


async def test_connections_are_bounded(tmp_path: Path, calls: FakeCalls) -> None:
    registry = CollectorRegistry()
    config = configured(tmp_path, max_connections=2)
    server = ApiServer(config, calls, CallEngines(FakeEngine()), registry, listener=bound_socket())
    await server.start()
    try:
        held = [await raw(server) for _ in range(2)]
        for _, writer in held:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        for reader, _ in held:
            assert b"200 OK" in await reader.readline()
        reader, writer = await raw(server)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"application/problem+json" in answer
        assert b"Retry-After: 5" in answer
        writer.close()
        assert server.open_connections == 2
        text = generate_latest(registry).decode()
        assert 'chatterline_api_occurrences_total{kind="connections_refused"} 1.0' in text
        assert "chatterline_api_connections 2.0" in text
        for _, writer in held:
            writer.close()
    finally:
        await server.close()


@pytest.mark.parametrize("said", [b"", b"GET /healthz HT"])
@pytest.mark.parametrize("before", ["first", "second"])
async def test_who_says_nothing_is_cut_off(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch, said: bytes, before: str
) -> None:
    """A connection that has begun a request has to end it, the first one and each further one."""
    monkeypatch.setattr(http_protocol, "REQUEST_TIMEOUT_S", 0.05)
    reader, writer = await raw(server)
    if before == "second":
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"}")
        said = said or b"\r"
    writer.write(said)
    async with asyncio.timeout(5):
        await reader.read()
    writer.close()


async def test_a_websocket_is_not_cut_off(server: ApiServer, calls: FakeCalls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its silence is no slow request."""
    monkeypatch.setattr(http_protocol, "REQUEST_TIMEOUT_S", 0.01)
    call = calls.arrive()
    assert server.address is not None
    url = server.address.replace("http", "ws") + f"/v1/calls/{call.id}/media"
    headers = bearer(token_of(server.state, "agent", "calls:read"))
    async with websockets.connect(url, additional_headers=headers) as socket_:
        assert "connected" in str(await socket_.recv())
        await asyncio.sleep(0.1)
        await (await socket_.ping())


async def test_a_client_that_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    """By the system; a connection has the option from the socket that it came in by."""
    with open_listener(configured(tmp_path, port=free_port()).api) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()):
            connection, _ = listener.accept()
            with connection:
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == STALL_S * 1000


async def test_what_is_no_http_is_told_so(server: ApiServer) -> None:
    reader, writer = await raw(server)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 400
    writer.close()


async def test_headers_are_bounded(server: ApiServer) -> None:
    reader, writer = await raw(server)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000)
    answer = await reader.read()
    assert b" 200 " not in answer
    writer.close()


class TestBodies:
    async def send(self, server: ApiServer, head: str, *parts: bytes) -> bytes:
        """The response to a POST, read to the end of the connection."""
        secret = token_of(server.state, "admin")
        reader, writer = await raw(server)
        writer.write(
            f"POST /v1/calls HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\n"
            f"Content-Type: application/json\r\n{head}\r\n\r\n".encode()
        )
        for part in parts:
            writer.write(part)
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        return answer

    async def test_a_length_that_is_too_long(self, server: ApiServer) -> None:
        answer = await self.send(server, "Content-Length: 10000000")
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"urn:chatterline:problem:body-too-long" in answer

    async def test_a_length_that_is_not_told(self, server: ApiServer) -> None:
        chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
        answer = await self.send(server, "Transfer-Encoding: chunked", *[chunk] * 17)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"urn:chatterline:problem:body-too-long" in answer

    @pytest.mark.parametrize(
        "head",
        ["Content-Length: 500000", "Transfer-Encoding: chunked", "Content-Type: multipart/form-data; boundary=x"],
    )
    async def test_that_of_nobody_is_not_waited_for(self, server: ApiServer, head: str) -> None:
        """Nor looked at: who has no token does not learn that it is no JSON."""
        reader, writer = await raw(server)
        path = "/v1/voices" if "multipart" in head else "/v1/calls"
        head += "\r\nContent-Length: 9" if "multipart" in head else "\r\nContent-Type: application/json"
        writer.write(f"POST {path} HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n".encode() + b"{")
        async with asyncio.timeout(5):
            answer = await reader.readuntil(b'"status":401')
        assert answer.startswith(b"HTTP/1.1 401 ")
        writer.close()

    async def test_one_that_is_broken_off_is_no_fault_of_ours(
        self, server: ApiServer, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        secret = token_of(server.state, "admin")
        _, writer = await raw(server)
        writer.write(
            f"POST /v1/drain HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\n"
            "Idempotency-Key: k\r\nContent-Length: 100\r\n\r\n{".encode()
        )
        while not server.open_connections:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        writer.close()
        while server.open_connections:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        assert "request_failed" not in capsys.readouterr().out
        assert not caplog.records
        assert len(server.state.idempotency) == 0

    async def test_a_body_that_never_ends(self, server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(middleware, "BODY_TIMEOUT_S", 0.05)
        answer = await self.send(server, "Content-Length: 100", b'{"to":')
        assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.fixture
async def limited(tmp_path: Path, calls: FakeCalls) -> AsyncIterator[ApiServer]:
    server = make_server(configured(tmp_path, requests_per_s=2), calls, listener=bound_socket())
    await server.start()
    yield server
    await server.close()


async def test_the_rate_of_a_token(limited: ApiServer) -> None:
    """What it may at once is that of two seconds; others are not concerned."""
    assert limited.address is not None
    mine, other = token_of(limited.state, "calls:read"), token_of(limited.state, "calls:read")
    async with httpx.AsyncClient(base_url=limited.address) as client:
        responses = [await client.get("/v1/calls", headers=bearer(mine)) for _ in range(6)]
        assert [response.status_code for response in responses[:4]] == [200] * 4
        assert responses[-1].status_code == 429
        assert int(responses[-1].headers["retry-after"]) == 1
        assert (await client.get("/v1/calls", headers=bearer(other))).status_code == 200
    assert limited.state.counts["rate_limited"] >= 1


async def test_the_rate_of_who_guesses(limited: ApiServer) -> None:
    assert limited.address is not None
    async with httpx.AsyncClient(base_url=limited.address) as client:
        guesses = [await client.get("/v1/calls", headers=bearer(f"ctl_{n}")) for n in range(6)]
    assert [guess.status_code for guess in guesses[:4]] == [401] * 4
    assert guesses[-1].status_code == 429
