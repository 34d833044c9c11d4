"""The bad network: what it does to packets, and that callers and server hear through it."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import socket
import statistics
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import impair
from benchmarks.load import namespaces
from benchmarks.load.impaired_calls import Heard, Network, Talk, talk_all
from benchmarks.load.impairment import CLEAN, IMPAIRED, Impairment, Profile, Proxy
from benchmarks.load.namespaces import Namespaces, inside
from tests.mediaserver.fake_engine import FakeEngine, pcm_of

PACKETS = 20_000
FRAME = 0.020


def departures(profile: Profile, count: int = PACKETS, seed: int = 1) -> tuple[Impairment, list[float | None]]:
    """A stream of a packet every 20 ms."""
    impairment = Impairment(profile, random.Random(seed))
    return impairment, [impairment.departure(n * FRAME) for n in range(count)]


def delays_ms(found: list[float | None]) -> list[float]:
    return [1000 * (when - n * FRAME) for n, when in enumerate(found) if when is not None]


def test_a_clean_network_does_nothing() -> None:
    impairment, found = departures(CLEAN, 100)
    assert found == [n * FRAME for n in range(100)]
    counters = impairment.counters
    assert (counters.packets, counters.dropped, counters.hurried, counters.overtaking) == (100, 0, 0, 0)


def test_losses_are_as_many_as_asked_for_and_one_by_one() -> None:
    impairment, found = departures(Profile(loss=0.02))
    lost = [n for n, when in enumerate(found) if when is None]
    assert impairment.counters.dropped == len(lost)
    assert impairment.counters.packets == PACKETS
    # Four standard deviations of a binomial count.
    assert abs(len(lost) - 0.02 * PACKETS) < 4 * math.sqrt(PACKETS * 0.02 * 0.98)
    after_a_loss = sum(later - one == 1 for one, later in itertools.pairwise(lost)) / len(lost)
    assert after_a_loss == pytest.approx(0.02, abs=0.03)


def test_delays_are_normal() -> None:
    _, found = departures(Profile(delay_ms=200, jitter_ms=20))
    delays = delays_ms(found)
    assert statistics.fmean(delays) == pytest.approx(200, abs=0.6)
    assert statistics.stdev(delays) == pytest.approx(20, rel=0.03)
    within = sum(abs(delay - 200) < 20 for delay in delays) / len(delays)
    assert within == pytest.approx(0.683, abs=0.015)


def test_a_delay_without_jitter_keeps_the_order() -> None:
    impairment, found = departures(Profile(delay_ms=40), 1000)
    assert delays_ms(found) == pytest.approx([40] * 1000)
    assert impairment.counters.overtaking == 0


def test_what_is_reordered_is_sent_at_once_past_what_waits() -> None:
    impairment, found = departures(Profile(delay_ms=50, reorder=0.01))
    at_once = sum(delay < 1 for delay in delays_ms(found))
    counters = impairment.counters
    assert counters.hurried == at_once
    assert abs(at_once - 0.01 * PACKETS) < 4 * math.sqrt(PACKETS * 0.01 * 0.99)
    # Nearly every one: but those that follow another which was sent at once, with nothing else on its way.
    assert 0.9 * at_once <= counters.overtaking <= at_once


def test_nothing_can_be_overtaken_where_nothing_waits() -> None:
    impairment, _ = departures(Profile(delay_ms=15, reorder=0.5), 1000)
    assert impairment.counters.hurried > 400
    assert impairment.counters.overtaking == 0


def test_jitter_of_a_packet_interval_reorders_by_itself_as_netem_does() -> None:
    impairment, found = departures(Profile(delay_ms=200, jitter_ms=20))
    # Two neighbours change places if their delays differ by more than 20 ms: sigma of the difference is 28.3 ms.
    times = [when for when in found if when is not None]
    swapped = sum(later < one for one, later in itertools.pairwise(times)) / len(times)
    assert swapped == pytest.approx(0.24, abs=0.015)
    assert impairment.counters.overtaking / PACKETS >= swapped


def test_the_same_seed_gives_the_same_network() -> None:
    assert departures(IMPAIRED, 500, seed=7)[1] == departures(IMPAIRED, 500, seed=7)[1]
    assert departures(IMPAIRED, 500, seed=7)[1] != departures(IMPAIRED, 500, seed=8)[1]


@given(
    delay=st.floats(0, 500),
    jitter=st.floats(0, 500),
    loss=st.floats(0, 1),
    reorder=st.floats(0, 1),
    seed=st.integers(0, 1 << 32),
)
def test_no_packet_leaves_before_it_came_and_all_are_counted(
    delay: float, jitter: float, loss: float, reorder: float, seed: int
) -> None:
    impairment, found = departures(Profile(delay, jitter, loss, reorder), 50, seed)
    assert all(when >= n * FRAME for n, when in enumerate(found) if when is not None)
    counters = impairment.counters
    assert counters.packets == 50
    assert counters.dropped == found.count(None)
    assert counters.hurried + counters.dropped <= 50
    passed = [when for when in found if when is not None]
    overtaking = sum(when < max(passed[:n], default=0.0) for n, when in enumerate(passed))
    assert counters.overtaking == overtaking


def test_all_is_lost_with_a_loss_of_one() -> None:
    _, found = departures(Profile(loss=1.0), 100)
    assert found == [None] * 100


def test_netem_is_told_the_same() -> None:
    told = "delay 40ms 20ms distribution normal loss 2% reorder 1%"
    assert " ".join(IMPAIRED.netem()) == told
    # A distribution without a jitter is refused by tc.
    assert "distribution" not in Profile(delay_ms=5).netem()


class Peer(asyncio.DatagramProtocol):
    """Notes what it gets, and from where."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[tuple[bytes, tuple[str, int]]] = asyncio.Queue()
        self.transport: asyncio.DatagramTransport | None = None
        self.address = ("", 0)

    @classmethod
    async def open(cls) -> Peer:
        loop = asyncio.get_running_loop()
        transport, peer = await loop.create_datagram_endpoint(cls, local_addr=("127.0.0.1", 0), family=socket.AF_INET)
        peer.transport, peer.address = transport, transport.get_extra_info("sockname")
        return peer

    def send(self, data: bytes, target: tuple[str, int]) -> None:
        assert self.transport is not None
        self.transport.sendto(data, target)

    def close(self) -> None:
        assert self.transport is not None
        self.transport.close()

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        self.got.put_nowait((data, source))

    async def next(self) -> tuple[bytes, tuple[str, int]]:
        async with asyncio.timeout(5):
            return await self.got.get()


async def through(up: Profile, down: Profile) -> tuple[Proxy, Peer, Peer]:
    caller, server = await Peer.open(), await Peer.open()
    proxy = Proxy(caller.address, Impairment(up, random.Random(1)), Impairment(down, random.Random(2)))
    await proxy.open("127.0.0.1")
    proxy.connect(server.address)
    return proxy, caller, server


async def test_the_proxy_passes_on_both_ways_from_the_address_that_each_end_knows() -> None:
    proxy, caller, server = await through(CLEAN, CLEAN)
    caller.send(b"up", proxy.for_caller)
    assert await server.next() == (b"up", proxy.for_server)
    server.send(b"down", proxy.for_server)
    assert await caller.next() == (b"down", proxy.for_caller)
    assert (proxy.to_server.counters.packets, proxy.to_caller.counters.packets) == (1, 1)
    for each in (proxy, caller, server):
        each.close()
    proxy.close()


async def test_the_proxy_delays_and_loses_each_way_by_its_own_profile() -> None:
    proxy, caller, server = await through(Profile(loss=1.0), Profile(delay_ms=30))
    loop = asyncio.get_running_loop()
    caller.send(b"lost", proxy.for_caller)
    began = loop.time()
    server.send(b"late", proxy.for_server)
    assert (await caller.next())[0] == b"late"
    assert loop.time() - began >= 0.029
    assert server.got.empty()
    assert proxy.to_server.counters.dropped == 1
    for each in (proxy, caller, server):
        each.close()


async def test_what_is_under_way_when_the_proxy_closes_is_lost() -> None:
    proxy, caller, server = await through(Profile(delay_ms=20), CLEAN)
    caller.send(b"up", proxy.for_caller)
    while not proxy.to_server.counters.packets:
        await asyncio.sleep(0)
    proxy.close()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await server.got.get()
    for each in (caller, server):
        each.close()


async def test_both_ends_of_a_call_hear_through_the_bad_network() -> None:
    spoken = pcm_of("word") * 5
    network = Network(Profile(delay_ms=5, loss=0.1), seed=3)
    (call,) = await talk_all(FakeEngine(), [Talk("word word word word word", spoken)], network, 0.0)
    assert set(call) == {"down", "up"}
    for way, one in call.items():
        proxy, figures = network.impairments[way][0].counters, one.figures
        assert proxy.dropped > 0
        # RTCP and what came before the receiver knew the stream are the proxy's only.
        assert 0 < figures["lost"] <= proxy.dropped
        assert figures["sent"] >= figures["expected"] > 50
        assert figures["concealed"] >= figures["lost"] - 2
        samples = np.frombuffer(one.pcm, "<i2")
        level = int.from_bytes(spoken[:2], "little", signed=True)
        # One second of it was said; a tenth was made up, and what comes after is silence.
        assert np.count_nonzero(np.abs(samples - level) < 0.05 * level) > 0.7 * len(spoken) / 2
        assert np.abs(samples[-160:]).max() < 0.05 * level


async def test_a_clean_network_loses_nothing() -> None:
    network = Network(CLEAN)
    (call,) = await talk_all(FakeEngine(), [Talk("word", pcm_of("word"))], network, 0.0)
    for way, one in call.items():
        assert one.figures["lost"] == network.impairments[way][0].counters.dropped == 0
        assert one.figures["reordered"] == 0


def test_a_namespace_is_entered_and_left() -> None:
    try:
        pair = Namespaces().__enter__()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no network namespaces: takes root and iproute2")
    before = Path("/proc/thread-self/ns/net").readlink()
    try:
        with inside(pair.server):
            assert Path("/proc/thread-self/ns/net").readlink() != before
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.bind((namespaces.SERVER_HOST, 0))
        with inside(pair.caller):
            caller = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            caller.bind((namespaces.CALLER_HOST, 0))
        assert Path("/proc/thread-self/ns/net").readlink() == before
        with server, caller:
            server.settimeout(5)
            caller.sendto(b"over the veth pair", server.getsockname())
            assert server.recv(100) == b"over the veth pair"
    finally:
        pair.__exit__(None, None, None)
    assert not Path("/run/netns", pair.server).exists()


def heard(**figures: float | None) -> Heard:
    base = dict.fromkeys(("sent", "expected", "lost", "reordered", "late", "frames", "concealed"), 0)
    rest = dict.fromkeys(("jitter_ms", "buffer_ms", "round_trip_ms", "mos", "told_mos"))
    return Heard(b"", {**base, **rest, **figures})


def test_shares_are_of_all_packets_and_scores_are_means_of_calls() -> None:
    figures = impair.summarise(
        [
            heard(sent=100, expected=100, lost=10, late=5, frames=50, concealed=5, mos=4.0, jitter_ms=2.0),
            heard(sent=300, expected=300, lost=10, reordered=4, frames=150, concealed=5, mos=3.0, jitter_ms=4.0),
        ]
    )
    assert figures["sent"] == 400
    assert figures["lost_percent"] == 5.0
    assert figures["reordered_percent"] == 1.0
    assert figures["late_percent"] == 1.25
    assert figures["concealed_percent"] == 5.0
    assert (figures["mos"], figures["mos_worst"], figures["jitter_ms"]) == (3.5, 3.0, 3.0)
    assert figures["told_mos"] is None


def test_calls_of_which_nothing_is_known_break_no_summary() -> None:
    figures = impair.summarise([heard()])
    assert figures["lost_percent"] == 0
    assert figures["mos_worst"] is None


def test_nobody_says_what_the_other_says() -> None:
    for down, up in impair.texts(25):
        assert down.isprintable()
        assert not set(down.split(". ")) & set(up.split(". "))


@pytest.mark.parametrize("wrong", [["--calls", "0"], ["--loss", "101"], ["--jitter-ms", "-1"]])
def test_senseless_arguments_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        impair.arguments(wrong)
