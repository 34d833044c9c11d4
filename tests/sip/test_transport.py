"""The UDP transport, over loopback."""

from __future__ import annotations

import asyncio
import socket

import pytest

from sip.message import SocketAddress
from sip.transport import UdpTransport, host_port, is_unspecified, resolve

Received = asyncio.Queue[tuple[bytes, SocketAddress]]


async def listening(host: str = "127.0.0.1", advertised: str | None = None) -> tuple[UdpTransport, Received]:
    queue: Received = asyncio.Queue()
    transport = UdpTransport(advertised)
    transport.receiver = lambda data, source: queue.put_nowait((data, source))
    await transport.listen(host, 0)
    return transport, queue


async def test_datagrams_both_ways() -> None:
    one, at_one = await listening()
    two, at_two = await listening()
    one.send(b"hello", two.local_address)
    data, source = await asyncio.wait_for(at_two.get(), 5)
    assert (data, source) == (b"hello", one.local_address)
    two.send(b"back", source)
    assert (await asyncio.wait_for(at_one.get(), 5))[0] == b"back"
    one.close()
    two.close()
    two.close()


async def test_a_datagram_that_cannot_be_sent_is_counted() -> None:
    transport, _ = await listening()
    transport.send(b"x" * 70_000, transport.local_address)
    assert transport.stats.send_errors == 1
    transport.close()
    transport.send(b"x", ("127.0.0.1", 9))


async def test_an_address_in_use_is_an_error() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="in use"):
            await UdpTransport().listen("127.0.0.1", taken.getsockname()[1])


async def test_advertised_address() -> None:
    transport, _ = await listening()
    assert transport.advertised(("192.0.2.1", 5060)) == ("127.0.0.1", transport.local_address[1])
    transport.close()
    transport, _ = await listening(advertised="203.0.113.5")
    assert transport.advertised(("192.0.2.1", 5060))[0] == "203.0.113.5"
    transport.close()


async def test_a_peer_is_told_the_address_that_it_is_reached_from() -> None:
    """Bound to all addresses, 0.0.0.0 must never be told to anyone."""
    transport, _ = await listening("0.0.0.0")
    assert transport.advertised(("127.0.0.9", 5060))[0] == "127.0.0.1"
    transport.close()


def test_host_port() -> None:
    assert host_port(("192.0.2.1", 5060)) == "192.0.2.1:5060"
    assert host_port(("2001:db8::1", 5060)) == "[2001:db8::1]:5060"


def test_is_unspecified() -> None:
    assert is_unspecified("0.0.0.0")
    assert is_unspecified("::")
    assert not is_unspecified("127.0.0.1")


async def test_resolve() -> None:
    assert await resolve(("192.0.2.1", 5060)) == ("192.0.2.1", 5060)
    assert (await resolve(("localhost", 5060)))[0] in ("127.0.0.1", "::1")
    with pytest.raises(OSError):
        await resolve(("no-such-host.invalid", 5060))
