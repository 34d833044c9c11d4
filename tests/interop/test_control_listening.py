"""The control interfaces where they may listen beside the loopback interface: with TLS, and on a Unix socket."""

from __future__ import annotations

import asyncio
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect, unix_connect
from websockets.typing import Subprotocol

from mediaserver.phone import place_call
from mediaserver.phone.local_server import HOST
from tests.interop.control_agent import Line
from tests.interop.control_server import ControlledServer, watching
from tests.interop.server import check_end

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 13), reason="pjsua2-python has no wheel for 3.13")


def certified(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    files = ["-addext", f"subjectAltName=IP:{HOST}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return certificate, key


@dataclass(frozen=True)
class Pair:
    """Two servers, which are started at once."""

    tls: ControlledServer
    certificate: Path
    unix: ControlledServer
    path: Path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directories = [tmp_path_factory.mktemp(name) for name in ("tls", "unix")]
    certificate, key = certified(directories[0])
    path = directories[1] / "api.sock"
    tls = {"API__TLS_CERTIFICATE": str(certificate), "API__TLS_KEY": str(key), "CALLS__GREETING": "Welcome."}
    servers = (
        ControlledServer(directories[0], tls),
        ControlledServer(directories[1], {"API__SOCKET": str(path), "CALLS__GREETING": "Welcome."}),
    )
    with ThreadPoolExecutor(2) as threads, ExitStack() as running:
        starting = [threads.submit(running.enter_context, server) for server in servers]
        for start in starting:
            start.result()
        yield Pair(servers[0], certificate, servers[1], path)
        for server in servers:
            check_end(server)
            assert server.token not in server.log
        assert not path.exists()


async def controlled_call(server: ControlledServer, client: httpx.AsyncClient) -> str:
    """A phone calls, is spoken to and hung up on, all through `client`; the call's id."""
    async with watching(client) as events:
        phone = asyncio.create_task(asyncio.to_thread(place_call, server.uri, max_seconds=20))
        call = (await events.until("call.answered"))["call_id"]
        said = await client.post(f"/v1/calls/{call}/say", json={"text": "Good morning.", "mode": "replace"})
        assert said.status_code == 202, said.text
        await events.until("speech.finished", call, utterance=said.json()["utterance"])
        assert (await client.delete(f"/v1/calls/{call}")).status_code == 204
        report = await phone
    assert report.ended_by == "server"
    assert report.audible_s > 0.2
    return str(call)


async def test_tls(pair: Pair) -> None:
    """Who does not trust the certificate, or speaks without TLS, gets nothing."""
    server = pair.tls
    url = server.url.replace("http", "https")
    trusting = ssl.create_default_context(cafile=str(pair.certificate))
    async with httpx.AsyncClient(
        base_url=url, headers=server.headers, verify=trusting, timeout=20, trust_env=False
    ) as client:
        ended = await controlled_call(server, client)
        assert (await client.get(f"/v1/calls/{ended}")).json()["state"] == "ended"
    protocols = [Subprotocol("chatterline"), Subprotocol(f"chatterline.bearer.{server.token}")]
    levels = f"{url.replace('https', 'wss')}/v1/levels"
    async with connect(levels, ssl=trusting, subprotocols=protocols, proxy=None) as socket:
        assert socket.subprotocol == "chatterline"
    async with server.client() as plain:
        with pytest.raises(httpx.TransportError):
            await plain.get("/healthz")
    async with httpx.AsyncClient(base_url=url, trust_env=False) as suspicious:
        with pytest.raises(httpx.ConnectError):
            await suspicious.get("/healthz")


async def test_a_unix_socket(pair: Pair) -> None:
    """For requests, and for an agent that connects to a call."""
    server = pair.unix
    assert stat.S_IMODE(pair.path.stat().st_mode) == 0o660
    transport = httpx.AsyncHTTPTransport(uds=str(pair.path))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://node", headers=server.headers, timeout=20
    ) as client:
        await controlled_call(server, client)
        async with watching(client) as events:
            calling = asyncio.create_task(asyncio.to_thread(place_call, server.uri, max_seconds=20))
            call = (await events.until("call.started"))["call_id"]
            uri = f"ws://node/v1/calls/{call}/agent"
            async with unix_connect(str(pair.path), uri, additional_headers=server.headers) as socket:
                line = Line(socket)
                assert (await line.next("setup"))["callSid"] == call
                await line.send(type="end")
                await line.rest()
            assert (await calling).ended_by == "server"
