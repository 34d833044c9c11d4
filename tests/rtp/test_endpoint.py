import asyncio
import errno
import itertools
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop

from mediaserver.rtp.codec import PCMU
from mediaserver.rtp.endpoint import RtpEndpoint, deliver_to
from mediaserver.rtp.pacer_thread import PacerThread
from mediaserver.rtp.packet import RtpPacket
from mediaserver.rtp.playout import PlayoutBuffer, PlayoutEvent
from mediaserver.rtp.ports import PortAllocator
from mediaserver.rtp.reader import SLOTS, DatagramReader, unpack_source
from mediaserver.rtp.receive_stream import ReceiveFormat
from mediaserver.rtp.send_stream import SendFormat
from mediaserver.rtp.session import RtpSession, RtpSettings
from tests.rtp.memory_endpoint import incoming

Scenario = Callable[[], Coroutine[Any, Any, None]]
TIMEOUT = 10


@pytest.fixture(params=["127.0.0.1", "::1"])
def host(request: pytest.FixtureRequest) -> str:
    try:
        PortAllocator(request.param).allocate().close()
    except OSError:
        pytest.skip(f"no {request.param} on this machine")
    return str(request.param)


@pytest.fixture
def make() -> Iterator[Callable[..., RtpEndpoint]]:
    """Makes endpoints of one reader, and closes them."""
    readers: dict[str, DatagramReader] = {}
    made: list[RtpEndpoint] = []

    def make(host: str = "127.0.0.1", *, rtcp: bool = False) -> RtpEndpoint:
        allocator = PortAllocator(host)
        reader = readers.setdefault(host, DatagramReader(allocator.family))
        sockets = allocator.allocate_pair() if rtcp else (allocator.allocate(), None)
        endpoint = RtpEndpoint(sockets[0], reader, sockets[1])
        made.append(endpoint)
        return endpoint

    yield make
    for endpoint in made:
        endpoint.close()


@pytest.fixture
def pacer() -> Iterator[PacerThread]:
    thread = PacerThread()
    thread.start()
    yield thread
    thread.stop()


def received(endpoint: RtpEndpoint, count: int) -> list[tuple[bytes, tuple[str, int]]]:
    """That many datagrams; on loopback they are there as soon as they are sent."""
    got: list[tuple[bytes, tuple[str, int]]] = []
    with selectors.DefaultSelector() as selector:
        selector.register(endpoint._descriptor, selectors.EVENT_READ)
        while len(got) < count:
            assert selector.select(TIMEOUT)
            got += [(data, unpack_source(source)) for data, source, _ in endpoint.read()]
    return got


def test_datagrams_go_both_ways(make, host: str) -> None:
    here, there = make(host), make(host)
    before = time.monotonic()
    there.send(b"hello", here.address)
    ((data, source, arrival),) = here.read()
    assert (data, unpack_source(source)) == (b"hello", there.address)
    assert arrival == pytest.approx(before, abs=1), "the clock is time.monotonic"
    here.send(b"back", unpack_source(source))
    assert received(there, 1) == [(b"back", here.address)]
    assert here.read() == []


def test_rtcp_has_its_own_socket_on_the_port_above(make, host: str) -> None:
    here, there = make(host, rtcp=True), make(host, rtcp=True)
    above = (there.address[0], there.address[1] + 1)
    here.send_rtcp(b"report", above)
    here.send(b"audio", there.address)
    ((data, source, _),) = there.read_rtcp()
    assert (data, unpack_source(source)) == (b"report", (here.address[0], here.address[1] + 1))
    assert received(there, 1) == [(b"audio", here.address)]
    assert there.read_rtcp() == []


def test_without_a_socket_of_its_own_rtcp_leaves_from_the_port_of_rtp(make) -> None:
    here, there = make(), make()
    here.send_rtcp(b"report", there.address)
    assert received(there, 1) == [(b"report", here.address)]
    assert there.read_rtcp() == []


def test_errors_of_the_socket_are_oserrors(make) -> None:
    endpoint = make()
    with pytest.raises(OSError, match="Message too long"):
        endpoint.send(bytes(70000), endpoint.address)
    with pytest.raises(OSError, match="no numeric address"):
        endpoint.send(b"x", ("::1", 9))


def test_what_need_not_arrive_is_sent_quietly(make) -> None:
    endpoint = make(rtcp=True)
    endpoint.send_quietly(bytes(70000), endpoint.address)
    endpoint.send_rtcp(bytes(70000), endpoint.address)
    endpoint.send_rtcp(b"x", ("::1", 9))
    endpoint.send_quietly(b"fine", endpoint.address)
    assert received(endpoint, 1) == [(b"fine", endpoint.address)]


@pytest.mark.parametrize("rtcp", [False, True])
def test_close_frees_the_ports_and_refuses_to_send(make, rtcp: bool) -> None:
    endpoint = make(rtcp=rtcp)
    endpoint.close()
    endpoint.close()
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        endpoint.send(b"late", ("127.0.0.1", 9))
    assert caught.value.errno == errno.EBADF
    assert endpoint.read() == endpoint.read_rtcp() == []
    endpoint.send_quietly(b"late", ("127.0.0.1", 9))
    endpoint.send_rtcp(b"late", ("127.0.0.1", 9))
    for port in range(endpoint.address[1], endpoint.address[1] + 1 + rtcp):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(("127.0.0.1", port))


def test_a_closed_endpoint_never_touches_a_descriptor_used_anew(make) -> None:
    endpoint = make(rtcp=True)
    descriptors = endpoint._sock.fileno(), endpoint._rtcp.fileno()
    endpoint.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as another, ExitStack() as stack:
        another.bind(("127.0.0.1", 0))
        another.setblocking(False)
        for descriptor in set(descriptors) - {another.fileno()}:  # the lowest that is free: it may be one of them
            os.dup2(another.fileno(), descriptor)
            stack.callback(os.close, descriptor)
        another.sendto(b"not yours", another.getsockname())
        assert endpoint.read() == endpoint.read_rtcp() == []
        endpoint.send_quietly(b"nor mine", another.getsockname())
        endpoint.send_rtcp(b"nor mine", another.getsockname())
        assert another.recv(100) == b"not yours"
        with pytest.raises(BlockingIOError):
            another.recv(100)


def test_descriptors_do_not_pile_up(make) -> None:
    def open_files() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    before = open_files()
    for _ in range(50):
        make(rtcp=True).close()
    assert open_files() <= before


class TestOverflow:
    def overflow(self, sender: RtpEndpoint, address: tuple[str, int], sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for _ in range(SLOTS):
            sender.send(bytes(400), address)

    def test_it_is_counted_by_what_comes_after(self, make) -> None:
        here, there = make(), make()
        self.overflow(there, here.address, here._sock)
        kept = len(here.read())
        assert here.dropped == 0
        there.send(b"after", here.address)
        assert len(here.read()) == 1
        assert here.dropped == SLOTS - kept > 0

    def test_each_counts_its_own(self, make) -> None:
        """One reader reads them all."""
        flooded, quiet, sender = make(rtcp=True), make(rtcp=True), make()
        above = (flooded.address[0], flooded.address[1] + 1)
        self.overflow(sender, above, flooded._rtcp)
        kept = len(flooded.read_rtcp())
        sender.send(b"after", above)
        sender.send(b"x", quiet.address)
        assert len(flooded.read_rtcp()) == 1
        assert len(quiet.read()) == 1
        assert (flooded.dropped, quiet.dropped) == (SLOTS - kept, 0)
        self.overflow(sender, flooded.address, flooded._sock)
        kept += len(flooded.read())
        sender.send(b"after", flooded.address)
        flooded.read()
        assert flooded.dropped == 2 * SLOTS - kept, "of both its ports"


class TestDelivery:
    @pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    def run(self, request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
        def run(scenario: Scenario) -> None:
            with asyncio.Runner(loop_factory=request.param) as runner:
                runner.run(asyncio.wait_for(scenario(), TIMEOUT))

        return run

    def test_events_of_the_media_thread_come_to_the_loop_in_order(self, run) -> None:
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

    def test_events_after_the_loops_end_are_nobodys(self) -> None:
        loop = asyncio.new_event_loop()
        loop.close()
        deliver_to(loop, lambda _: None)(PlayoutEvent("started", 1))


def session_of(endpoint: RtpEndpoint, playout: PlayoutBuffer, ptime_ms: int = 20) -> RtpSession:
    return RtpSession(endpoint, playout, SendFormat(PCMU, 0, ptime_ms), ReceiveFormat(PCMU, 0), RtpSettings(rtcp=False))


def test_a_leg_from_playout_to_wire_and_back(make, pacer: PacerThread) -> None:
    """Everything together over loopback: the caller hears exactly the audio, is latched, and hangs up."""
    finished = threading.Event()
    events: list[tuple[str, Any]] = []

    def on_event(event: PlayoutEvent) -> None:
        events.append((event.kind, event.tag))
        if event.kind == "finished":
            finished.set()

    caller, endpoint = make(), make()
    playout = PlayoutBuffer(max_seconds=5, on_event=on_event)
    session = session_of(endpoint, playout)
    session.set_remote(("127.0.0.1", 0))
    speech = b"".join((n * 37 % 20000 + 500).to_bytes(2, "little") for n in range(1600))
    playout.begin("hello")
    playout.write(speech)
    playout.end()
    pacer.add(session)
    caller.send(incoming(), endpoint.address)
    assert finished.wait(TIMEOUT)
    pacer.remove(session)
    got = received(caller, 10)
    assert {source for _, source in got} == {endpoint.address}
    packets = [RtpPacket.parse(data) for data, _ in got]
    heard = b"".join(packet.payload for packet in packets[:10])
    assert heard == PCMU.encode(speech), "no clipped first syllable: the audio waited for the latch"
    # On a machine too busy to keep time an interval may be skipped: that too begins a talkspurt.
    steps = [(b.timestamp - a.timestamp) % 2**32 for a, b in itertools.pairwise(packets[:10])]
    assert [packet.marker for packet in packets[:10]] == [True] + [step != 160 for step in steps]
    assert {(b.sequence - a.sequence) % 65536 for a, b in itertools.pairwise(packets)} == {1}
    assert events == [("started", "hello"), ("finished", "hello")]
    assert session.destination == caller.address
    assert session.receiving.counters.packets == 1


def test_closing_legs_under_a_running_pacer_never_sends_on_a_dead_socket(make, pacer: PacerThread) -> None:
    caller = make()
    for _ in range(20):
        endpoint = make()
        session = session_of(endpoint, PlayoutBuffer(max_seconds=1), ptime_ms=10)
        session.set_remote(caller.address)
        pacer.add(session)
        received(caller, 1)
        assert pacer.remove(session)
        endpoint.close()
        assert session.sending.counters.errors == 0
    assert pacer.metrics.failures == 0
