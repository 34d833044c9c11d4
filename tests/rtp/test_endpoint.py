import asyncio
import errno
import itertools
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from mediaserver.rtp.codec import PCMU
from mediaserver.rtp.endpoint import RtpEndpoint, deliver_to
from mediaserver.rtp.latch import Latch, LatchPolicy
from mediaserver.rtp.pacer_thread import PacerThread
from mediaserver.rtp.packet import RtpPacket
from mediaserver.rtp.playout import PlayoutBuffer, PlayoutEvent
from mediaserver.rtp.ports import PortAllocator
from mediaserver.rtp.session import RtpSession, SendFormat

Scenario = Callable[[], Coroutine[Any, Any, None]]
TIMEOUT = 10


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    def run(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(scenario(), TIMEOUT))

    return run


def bound(host: str = "127.0.0.1") -> socket.socket:
    return PortAllocator(host).allocate()


async def closed(endpoints: list[RtpEndpoint]) -> None:
    """Both loops close the socket in a later iteration, and tell nobody."""
    while any(endpoint._sock.fileno() != -1 for endpoint in endpoints):
        await asyncio.sleep(0)


class Inbox:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[bytes, tuple[str, int], float]] = asyncio.Queue()

    def __call__(self, data: bytes, source: tuple[str, int], now: float) -> None:
        self.queue.put_nowait((data, source, now))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagrams_go_both_ways(run, host: str) -> None:
    async def scenario() -> None:
        try:
            here, there = RtpEndpoint(bound(host)), RtpEndpoint(bound(host))
        except OSError:
            pytest.skip(f"no {host} on this machine")
        inbox, other = Inbox(), Inbox()
        await here.start(inbox)
        await there.start(other)
        before = asyncio.get_running_loop().time()
        there.send(b"hello", here.address)
        data, source, now = await inbox.queue.get()
        assert (data, source) == (b"hello", there.address)
        assert now == pytest.approx(before, abs=1), "the clock is time.monotonic"
        here.send(b"back", source)
        assert (await other.queue.get())[:2] == (b"back", here.address)
        here.close()
        there.close()

    run(scenario)


def test_close_frees_the_port_and_refuses_to_send(run) -> None:
    async def scenario() -> None:
        endpoint = RtpEndpoint(bound())
        await endpoint.start(Inbox())
        endpoint.close()
        endpoint.close()
        with pytest.raises(OSError, match="closed") as caught:
            endpoint.send(b"late", ("127.0.0.1", 9))
        assert caught.value.errno == errno.EBADF
        with pytest.raises(OSError, match="closed"):
            await endpoint.start(Inbox())
        await closed([endpoint])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(endpoint.address)

    run(scenario)


def test_close_without_start() -> None:
    sock = bound()
    RtpEndpoint(sock).close()
    assert sock.fileno() == -1


def test_descriptors_do_not_pile_up(run) -> None:
    async def scenario() -> None:
        def open_files() -> int:
            return sum(1 for _ in Path("/proc/self/fd").iterdir())

        before = None
        for _ in range(5):
            endpoints = [RtpEndpoint(bound()) for _ in range(10)]
            for endpoint in endpoints:
                await endpoint.start(Inbox())
            for endpoint in endpoints:
                endpoint.close()
            await closed(endpoints)
            before = before or open_files()
        assert open_files() <= before

    run(scenario)


def test_events_of_the_pacer_come_to_the_loop_in_order(run) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        got: list[PlayoutEvent] = []
        done = asyncio.Event()

        def handle(event: PlayoutEvent) -> None:
            got.append(event)
            if len(got) == 100:
                done.set()

        deliver = deliver_to(loop, handle)
        events = [PlayoutEvent("started", tag) for tag in range(100)]
        await asyncio.to_thread(lambda: [deliver(event) for event in events])
        await done.wait()
        assert got == events

    run(scenario)


def test_events_after_the_loops_end_are_nobodys() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    deliver_to(loop, lambda _: None)(PlayoutEvent("started", 1))


def test_a_leg_from_playout_to_wire_and_back(run) -> None:
    """Everything together over loopback: the caller hears exactly the audio, is latched, and hangs up."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        pacer = PacerThread()
        pacer.start()
        caller, inbox = RtpEndpoint(bound()), Inbox()
        await caller.start(inbox)
        endpoint = RtpEndpoint(bound())
        finished = asyncio.Event()
        events: list[PlayoutEvent] = []

        def on_event(event: PlayoutEvent) -> None:
            events.append(event)
            if event.kind == "finished":
                finished.set()

        playout = PlayoutBuffer(max_seconds=5, on_event=deliver_to(loop, on_event))
        latch = Latch(LatchPolicy.HOST, ("127.0.0.1", 0))
        session = RtpSession(endpoint.send, playout, SendFormat(PCMU, 0), latch)
        await endpoint.start(session.receive)
        speech = b"".join((n * 37 % 20000 + 500).to_bytes(2, "little") for n in range(1600))
        playout.begin("hello")
        playout.write(speech)
        playout.end()
        pacer.add(session)
        hello = bytes.fromhex("800000010000000000000001") + b"\xff" * 160
        caller.send(hello, endpoint.address)
        await finished.wait()
        pacer.remove(session)
        endpoint.close()
        packets = []
        while not inbox.queue.empty():
            data, source, _ = inbox.queue.get_nowait()
            assert source == endpoint.address
            packets.append(RtpPacket.parse(data))
        heard = b"".join(packet.payload for packet in packets[:10])
        assert heard == PCMU.encode(speech), "no clipped first syllable: the audio waited for the latch"
        # On a machine too busy to keep time an interval may be skipped: that too begins a talkspurt.
        steps = [(b.timestamp - a.timestamp) % 2**32 for a, b in itertools.pairwise(packets[:10])]
        assert [packet.marker for packet in packets[:10]] == [True] + [step != 160 for step in steps]
        numbers = [packet.sequence for packet in packets]
        assert {(b - a) % 65536 for a, b in itertools.pairwise(numbers)} == {1}
        assert events == [("started", "hello"), ("finished", "hello")]
        assert session.destination == caller.address
        assert session.received.packets == 1
        caller.close()
        pacer.stop()

    run(scenario)


def test_closing_legs_under_a_running_pacer_never_sends_on_a_dead_socket(run) -> None:
    async def scenario() -> None:
        pacer = PacerThread()
        pacer.start()
        caller = RtpEndpoint(bound())
        heard = asyncio.Event()
        await caller.start(lambda *_: heard.set())
        for _ in range(20):
            endpoint = RtpEndpoint(bound())
            session = RtpSession(
                endpoint.send,
                PlayoutBuffer(max_seconds=1),
                SendFormat(PCMU, 0, ptime_ms=10),
                Latch(LatchPolicy.HOST, caller.address),
            )
            await endpoint.start(session.receive)
            heard.clear()
            pacer.add(session)
            await heard.wait()
            pacer.remove(session)
            endpoint.close()
            assert session.sent.errors == 0
        pacer.stop()
        caller.close()

    run(scenario)
