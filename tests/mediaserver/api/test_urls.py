from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.api import urls
from mediaserver.api.urls import Address, UrlNotAllowedError, UrlPolicy, endpoint_of, policy_of, shown
from mediaserver.config import Config

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
WS = ("ws", "wss")
HTTP = ("http", "https")


def resolver(*texts: str):
    async def resolve(_host: str, _port: int) -> list[Address]:
        return [ipaddress.ip_address(text) for text in texts]

    return resolve


class TestCheck:
    policy = UrlPolicy(["wss://agent.example.com/live/", "http://files.example.com:8000/"], [], ["ws://10.0.0.1:9/a"])

    @pytest.mark.parametrize(
        "url",
        [
            "wss://agent.example.com/live/",
            "wss://agent.example.com:443/live/a?b=c",
            "WSS://AGENT.example.COM/live/a",
            "ws://10.0.0.1:9/a",
        ],
    )
    def test_passes_what_is_below_a_prefix_or_configured(self, url: str):
        self.policy.check(url, WS)

    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("wss://agent.example.com/other", "allow_urls"),
            ("wss://agent.example.com", "allow_urls"),
            ("wss://agent.example.com:444/live/", "allow_urls"),
            ("ws://agent.example.com/live/", "allow_urls"),
            ("wss://agent.example.com.evil.net/live/", "allow_urls"),
            ("ws://10.0.0.1:9/b", "allow_urls"),
            ("ws://10.0.0.1:9/a?x=1", "allow_urls"),
            ("https://agent.example.com/live/", "must begin with ws:// or wss://"),
            ("file:///etc/passwd", "must begin with"),
            ("data:audio/wav;base64,AAAA", "must begin with"),
            ("", "must begin with"),
            ("wss://agent.example.com@evil.net/live/", "credentials"),
            ("wss://user:password@agent.example.com/live/", "credentials"),
            ("wss://agent.example.com/live/../admin", "segments"),
            ("wss://agent.example.com/live/%2e%2E/admin", "segments"),
            ("wss://agent.example.com/live/..%2fadmin", "segments"),
            ("wss://agent.example.com/live/.", "segments"),
            ("wss://agent.example.com/live/#x", "fragment"),
            ("wss://agent.example.com/live/#", "fragment"),
            ("wss://agent.example.com\\@evil.net/live/", "character"),
            ("wss://agent.example.com/live/\r\nHost: x", "character"),
            ("wss://agent.example.com/live/ä", "character"),
            (" wss://agent.example.com/live/", "must begin with"),
            ("wss://agent.example.com/live/" + "a" * 3000, "longer"),
            ("wss://agent.example.com:99999/live/", "malformed"),
            ("wss://[::1/live/", "malformed"),
            ("wss:///live/", "no host"),
            ("wss://0x7f.1/", "notation"),
            ("wss://2130706433/", "notation"),
            ("wss://127.1/", "notation"),
            ("wss://017700000001/", "notation"),
            ("wss://[fe80::1%25eth0]/", "notation"),
            ("wss://a..example.com/", "notation"),
            ("wss://example.com./", "notation"),
        ],
    )
    def test_refuses_all_else_and_says_why(self, url: str, why: str):
        with pytest.raises(UrlNotAllowedError, match=why.replace("/", ".")):
            self.policy.check(url, WS)

    def test_without_a_list_nothing_is_allowed(self):
        with pytest.raises(UrlNotAllowedError, match="allow_urls"):
            UrlPolicy([], [], []).check("https://example.com/", HTTP)

    def test_a_configured_url_may_hold_credentials_and_passes_as_http_clients_write_it(self):
        policy = UrlPolicy([], [], ["http://user:secret@10.0.0.1/hook", "http://HOOK.example.com:80"])
        policy.check("http://user:secret@10.0.0.1/hook", HTTP)
        policy.check("http://hook.example.com/", HTTP)

    def test_errors_hold_no_credentials(self):
        with pytest.raises(UrlNotAllowedError) as caught:
            self.policy.check("wss://user:hunter2@agent.example.com/", WS)
        assert "hunter2" not in str(caught.value)

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.sampled_from(
                [
                    *("wss://", "agent.example.com", "evil.net", "127.0.0.1", "0x7f", "::1", "443", "a", "ä"),
                    *("/live/", "/", "..", ".", "%2e", "%", "\\", "@", ":", "?", "#", "[", "]", "\t", "\n", " "),
                ]
            ),
            max_size=10,
        ).map("".join)
        | st.text(max_size=60).map("wss://agent.example.com/live/{}".format)
    )
    def test_what_passes_leads_where_a_prefix_says_by_another_parser_too(self, url: str):
        try:
            self.policy.check(url, WS)
        except UrlNotAllowedError:
            return
        other = httpx.URL(url)
        assert (other.host, other.port or 443, other.userinfo) == ("agent.example.com", 443, b"")
        assert other.path.startswith("/live/")
        assert "/../" not in f"{other.path}/"


class TestEndpoint:
    @pytest.mark.parametrize(
        ("url", "endpoint"),
        [
            ("wss://A.example.com/x", ("a.example.com", 443)),
            ("http://[2001:DB8::1]:81/", ("2001:db8::1", 81)),
            ("ws://x", ("x", 80)),
        ],
    )
    def test_default_ports(self, url: str, endpoint: tuple[str, int]):
        assert endpoint_of(url) == endpoint


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("wss://user:pw@a.example.com:444/x/y?token=secret#z", "wss://a.example.com:444/x/y"),
        ("https://[::1]/", "https://[::1]/"),
        ("http://[", ""),
        ("", ""),
    ],
)
def test_what_is_shown_of_a_url_holds_no_secrets(url: str, expected: str):
    assert shown(url) == expected


class TestAddresses:
    @pytest.mark.parametrize(
        "text",
        [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::1",
            "::",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
            "fe80::1",
            "fe80::1%1",
            "fd00:ec2::254",
            "ff02::1",
            "2001:db8::1",
        ],
    )
    async def test_what_is_not_public_is_not_reached(self, text: str):
        policy = UrlPolicy([], [], [], resolve=resolver(text))
        with pytest.raises(UrlNotAllowedError, match="no public address"):
            await policy.addresses("name.example.com", 80)

    @pytest.mark.parametrize("text", ["93.184.215.14", "2606:4700::1111", "64:ff9b::5db8:d822"])
    async def test_public_ones_are(self, text: str):
        policy = UrlPolicy([], [], [], resolve=resolver(text))
        assert await policy.addresses("name.example.com", 80) == [ipaddress.ip_address(text)]

    async def test_only_those_that_may_be_reached_are_given_and_not_too_many(self):
        texts = ["10.0.0.1", *(f"93.184.215.{n}" for n in range(10))]
        found = await UrlPolicy([], [], [], resolve=resolver(*texts)).addresses("name.example.com", 80)
        assert found == [ipaddress.ip_address(text) for text in texts[1 : 1 + urls.MAX_ADDRESSES]]

    async def test_an_allowed_network(self):
        policy = UrlPolicy([], [ipaddress.ip_network("10.0.0.0/8")], [], resolve=resolver("10.9.9.9", "192.168.0.1"))
        assert await policy.addresses("name.example.com", 80) == [ipaddress.ip_address("10.9.9.9")]

    async def test_what_is_configured_may_be_anywhere_but_only_at_its_port(self):
        policy = UrlPolicy([], [], ["ws://pbx.lan:9000/x"], resolve=resolver("192.168.0.1"))
        assert await policy.addresses("PBX.lan", 9000) == [ipaddress.ip_address("192.168.0.1")]
        with pytest.raises(UrlNotAllowedError):
            await policy.addresses("pbx.lan", 9001)

    async def test_this_hosts_own_public_address_is_not_reached(self, monkeypatch: pytest.MonkeyPatch):
        policy = UrlPolicy([], [], [], resolve=resolver("93.184.215.14"))
        monkeypatch.setattr(urls, "_is_public", lambda _address: True)
        policy_of_own = UrlPolicy([], [], [], resolve=resolver("127.0.0.1"))
        assert await policy.addresses("other.example.com", 80)
        with pytest.raises(UrlNotAllowedError):
            await policy_of_own.addresses("me.example.com", 80)

    async def test_the_systems_resolver_is_the_default(self):
        assert await UrlPolicy([], [LOOPBACK], []).addresses("127.0.0.1", 80) == [ipaddress.ip_address("127.0.0.1")]


@contextlib.asynccontextmanager
async def http_server(*answers: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Its port, and the heads of the requests that came; each connection gets the next answer."""
    heads: list[bytes] = []
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(left.pop(0))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heads


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


class TestOpenSocket:
    async def test_connects_by_the_address_that_was_vetted(self):
        asked: list[str] = []

        async def rebinding(host: str, _port: int) -> list[Address]:
            asked.append(host)
            return [ipaddress.ip_address("127.0.0.1" if len(asked) == 1 else "10.0.0.1")]

        async with http_server(OK) as (port, _):
            policy = UrlPolicy([f"ws://agent.example.com:{port}/"], [LOOPBACK], [], resolve=rebinding)
            connection = await policy.open_socket(f"ws://agent.example.com:{port}/x", 5)
            with connection:
                assert connection.getpeername() == ("127.0.0.1", port)
                assert connection.getblocking() is False
        assert asked == ["agent.example.com"]

    async def test_a_url_outside_the_list_is_not_resolved(self):
        async def never(_host: str, _port: int) -> list[Address]:
            raise AssertionError("resolved")

        with pytest.raises(UrlNotAllowedError):
            await UrlPolicy([], [], [], resolve=never).open_socket("ws://agent.example.com/x", 5)

    async def test_the_next_address_is_tried(self):
        async with http_server(OK) as (port, _):
            policy = UrlPolicy(
                [f"ws://a.example.com:{port}/"], [LOOPBACK], [], resolve=resolver("127.0.0.2", "127.0.0.1")
            )
            with await policy.open_socket(f"ws://a.example.com:{port}/", 5) as connection:
                assert connection.getpeername()[0] == "127.0.0.1"

    async def test_nobody_listens(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"ws://127.0.0.1:{unused.getsockname()[1]}/"
            with pytest.raises(ConnectionRefusedError):
                await UrlPolicy([], [], [url]).open_socket(url, 5)

    async def test_a_configured_host_that_is_no_name(self):
        url = f"ws://{'a' * 70}.example.com/"
        with pytest.raises(OSError, match="no valid name"):
            await UrlPolicy([], [], [url]).open_socket(url, 5)

    async def test_an_address_that_hangs_leaves_time_for_the_next(self, monkeypatch: pytest.MonkeyPatch):
        connect = urls._connect

        async def hangs_at_first(address: Address, port: int) -> socket.socket:
            if str(address) == "127.0.0.2":
                await asyncio.Event().wait()
            return await connect(address, port)

        monkeypatch.setattr(urls, "_connect", hangs_at_first)
        async with http_server(OK) as (port, _):
            url = f"ws://a.example.com:{port}/"
            policy = UrlPolicy([url], [LOOPBACK], [], resolve=resolver("127.0.0.2", "127.0.0.1"))
            with await policy.open_socket(url, 0.4) as connection:
                assert connection.getpeername()[0] == "127.0.0.1"

    async def test_a_resolver_that_hangs_is_given_up(self):
        async def hangs(_host: str, _port: int) -> list[Address]:
            await asyncio.Event().wait()
            return []

        policy = UrlPolicy(["ws://a.example.com/"], [], [], resolve=hangs)
        with pytest.raises(TimeoutError):
            await policy.open_socket("ws://a.example.com/", 0.01)


class TestHttpClient:
    async def test_gets_what_is_allowed(self):
        async with http_server(OK) as (port, heads):
            policy = UrlPolicy(
                [f"http://a.example.com:{port}/"], [LOOPBACK], [], resolve=resolver("127.0.0.3", "127.0.0.1")
            )
            async with policy.http_client(5) as client:
                response = await client.get(f"http://a.example.com:{port}/x?y=1")
        assert (response.status_code, response.text) == (200, "hello")
        assert heads[0].startswith(b"GET /x?y=1 HTTP/1.1\r\n")
        assert f"host: a.example.com:{port}".encode() in heads[0].lower()

    async def test_posts_to_what_is_configured(self):
        async with http_server(OK) as (port, _):
            url = f"http://127.0.0.1:{port}/hook"
            async with UrlPolicy([], [], [url]).http_client(5) as client:
                assert (await client.post(url, content=b"x")).status_code == 200

    async def test_refuses_what_is_not(self):
        async with UrlPolicy(["http://localhost:1/"], [], []).http_client(5) as client:
            with pytest.raises(UrlNotAllowedError, match="allow_urls"):
                await client.get("http://169.254.169.254/latest/meta-data/")
            with pytest.raises(UrlNotAllowedError, match="no public address"):
                await client.get("http://localhost:1/")

    async def test_redirects_and_proxies_are_not_followed(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1/")
        answer = b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
        async with http_server(answer) as (port, heads):
            url = f"http://127.0.0.1:{port}/"
            async with UrlPolicy([], [], [url]).http_client(5) as client:
                assert (await client.get(url)).status_code == 302
        assert len(heads) == 1

    async def test_errors_are_those_of_httpx(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
            async with UrlPolicy([], [], [url]).http_client(5) as client:
                with pytest.raises(httpx.ConnectError):
                    await client.get(url)
        async with http_server(b"rubbish\r\n\r\n") as (port, _):
            url = f"http://127.0.0.1:{port}/"
            async with UrlPolicy([], [], [url]).http_client(5) as client:
                with pytest.raises(httpx.RemoteProtocolError):
                    await client.get(url)

    async def test_a_body_that_breaks_off_and_one_that_does_not_come(self):
        short = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"
        async with http_server(short) as (port, _):
            url = f"http://127.0.0.1:{port}/"
            async with UrlPolicy([], [], [url]).http_client(5) as client:
                with pytest.raises(httpx.RemoteProtocolError):
                    await client.get(url)
        silent = await asyncio.start_server(lambda _reader, _writer: asyncio.Event().wait(), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/"
        async with UrlPolicy([], [], [url]).http_client(0.05) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get(url)
        silent.close()

    async def test_a_name_that_does_not_resolve(self):
        async def unknown(_host: str, _port: int) -> list[Address]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        policy = UrlPolicy(["http://a.example.com/"], [], [], resolve=unknown)
        async with policy.http_client(5) as client:
            with pytest.raises(httpx.ConnectError, match="Name or service"):
                await client.get("http://a.example.com/")


def test_policy_of_the_configuration():
    config = Config.model_validate(
        {
            "api": {"allow_urls": ["https://sounds.example.com/"], "allow_networks": ["10.0.0.0/8"]},
            "agent": {"url": "ws://127.0.0.1:9001/agent"},
            "webhooks": {"url": "http://127.0.0.1:9002/hook", "secret": "s"},
            "trunks": {"t": {"host": "h", "agent_url": "ws://127.0.0.1:9003/a", "stream_url": "ws://127.0.0.1:9004/s"}},
        }
    )
    policy = policy_of(config)
    for url in (
        "ws://127.0.0.1:9001/agent",
        "http://127.0.0.1:9002/hook",
        "ws://127.0.0.1:9003/a",
        "ws://127.0.0.1:9004/s",
        "https://sounds.example.com/a.wav",
    ):
        policy.check(url, (*WS, *HTTP))
    with pytest.raises(UrlNotAllowedError):
        policy.check("ws://127.0.0.1:9001/other", WS)
