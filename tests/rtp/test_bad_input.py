"""What strangers and broken peers may send to a leg, over real sockets: nothing is raised, all is counted."""

import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from mediaserver.rtp.codec import PCMU
from mediaserver.rtp.endpoint import RtpEndpoint
from mediaserver.rtp.pacer import PacedLeg
from mediaserver.rtp.pacer_thread import PacerThread
from mediaserver.rtp.packet import RtpPacket
from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.rtp.ports import PortAllocator
from mediaserver.rtp.reader import SLOT_BYTES, DatagramReader
from mediaserver.rtp.receive_stream import ReceiveFormat
from mediaserver.rtp.rtcp import ReceiverReport, ReportBlock
from mediaserver.rtp.send_stream import SendFormat
from mediaserver.rtp.session import HOUSEKEEPING_MS, RtpSession, RtpSettings
from tests.rtp.memory_endpoint import Recorder, incoming

HOST, STRANGERS_HOST = "127.0.0.1", "127.0.0.2"
TIMEOUT = 10
READER = DatagramReader(socket.AF_INET)
REPORT = bytes(ReceiverReport(77, [ReportBlock(1, 0, 0, 0, 0, 0, 0)]))


class Leg:
    """A session on real sockets, its peer, and the time of its next tick."""

    def __init__(self, stack: ExitStack, inbound: Recorder | None = None, *, muxed: bool = False) -> None:
        rtp, rtcp = PortAllocator(HOST).allocate_pair()
        self.sock, self.rtcp_sock = rtp, rtcp
        self.endpoint = RtpEndpoint(rtp, READER, rtcp)
        stack.callback(self.endpoint.close)
        self.address = self.endpoint.address
        self.above = (HOST, self.address[1] + 1)
        self.peer = stack.enter_context(client(HOST))
        self.session = RtpSession(
            self.endpoint,
            PlayoutBuffer(max_seconds=60),
            SendFormat(PCMU, 0),
            ReceiveFormat(PCMU, 0, 101, 13),
            RtpSettings(),
            inbound,
        )
        self.session.set_remote(self.peer.getsockname())
        self.session.set_rtcp(None, muxed=muxed, xr=False)
        self.session.prompt = True
        self.due = 1_000_000

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.session.tick(self.due)
            self.due += 20

    def keep_house(self) -> None:
        """As many ticks as pass until reports and drops have been looked at."""
        self.tick(HOUSEKEEPING_MS // 20 + 1)

    @property
    def counted(self) -> int:
        """Datagrams that were sorted."""
        counters = self.session.receiving.counters
        return (
            counters.packets
            + counters.rtcp
            + counters.malformed
            + counters.oversized
            + counters.wrong_type
            + counters.strangers
        )


def client(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(TIMEOUT)
    sock.bind((host, 0))
    return sock


@pytest.fixture
def make() -> Iterator[Callable[..., Leg]]:
    with ExitStack() as stack:
        yield lambda *args, **options: Leg(stack, *args, **options)


@pytest.fixture
def leg(make: Callable[..., Leg]) -> Leg:
    return make()


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    with client(STRANGERS_HOST) as sock:
        yield sock


PLAIN = incoming()
RTP: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "malformed"),
    "one byte": (b"\x80", "malformed"),
    "truncated": (PLAIN[:11], "malformed"),
    "a header alone": (PLAIN[:12], "packets"),
    "a keep-alive of a NAT": (b"\0\0\0\0", "malformed"),
    "STUN": (bytes.fromhex("000100002112a442") + bytes(12), "malformed"),
    "version 1": (b"\x40" + PLAIN[1:], "malformed"),
    "version 3": (b"\xc0" + PLAIN[1:], "malformed"),
    "no padding where it says so": (b"\xa0" + PLAIN[1:], "malformed"),
    "more padding than packet": (b"\xa0" + PLAIN[1:-1] + b"\xff", "malformed"),
    "padding only": (b"\xa0" + PLAIN[1:12] + b"\0\0\0\4", "packets"),
    "an extension of 256 KiB": (b"\x90" + PLAIN[1:12] + b"\xbe\xde\xff\xff" + bytes(160), "malformed"),
    "half an extension's header": (b"\x90" + PLAIN[1:14], "malformed"),
    "15 CSRCs that are not there": (b"\x8f" + PLAIN[1:70], "malformed"),
    "15 CSRCs": (b"\x8f" + PLAIN[1:12] + bytes(60) + bytes(160), "packets"),
    "another payload type": (incoming(payload_type=8), "wrong_type"),
    "an event too short": (incoming(payload_type=101, size=3), "packets"),
    "comfort noise without content": (incoming(payload_type=13, size=0), "packets"),
    "as long as a slot": (incoming(size=SLOT_BYTES - 12), "oversized"),
    "as long as UDP can be": (incoming(size=65000), "oversized"),
    "a report": (REPORT, "rtcp"),
}


@pytest.mark.parametrize("kind", RTP)
def test_a_packet_of_any_kind_has_its_counter(leg: Leg, stranger: socket.socket, kind: str) -> None:
    data, counter = RTP[kind]
    leg.peer.sendto(data, leg.address)
    leg.tick()
    counters = leg.session.receiving.counters
    assert getattr(counters, counter) == leg.counted == 1
    # The leg is none the worse for it: nor after a good packet, nor if a stranger sends the same.
    leg.peer.sendto(incoming(2), leg.address)
    leg.peer.sendto(data, leg.address)
    stranger.sendto(data, leg.address)
    leg.tick()
    assert leg.counted == 4
    assert counters.packets >= 1
    assert leg.session.destination == leg.peer.getsockname()
    assert leg.session.sending.counters.packets == 2


COMPOUNDS = {
    "a length beyond the end": REPORT[:2] + b"\xff\xff" + REPORT[4:],
    "a length short of it": REPORT[:2] + b"\0\1" + REPORT[4:],
    "blocks that are not there": b"\x9f" + REPORT[1:],
    "padding that lies": b"\xa1" + REPORT[1:-1] + b"\xff",
    "cut off": REPORT[:9],
    "a second packet that lies": REPORT + bytes.fromhex("81cb0040") + bytes(4),
    "BYE alone": bytes.fromhex("81cb0001") + bytes(4),
    "a thousand packets": REPORT + bytes.fromhex("80cc0000") * 300,
}


@pytest.mark.parametrize("muxed", [True, False], ids=["muxed", "above"])
@pytest.mark.parametrize("kind", COMPOUNDS)
def test_a_compound_that_lies_is_malformed(make, kind: str, muxed: bool) -> None:
    leg = make(muxed=muxed)
    leg.peer.sendto(COMPOUNDS[kind], leg.address if muxed else leg.above)
    leg.keep_house()
    rtcp = leg.session.rtcp
    assert (rtcp.malformed, rtcp.received, leg.session.receiving.counters.rtcp) == (1, 0, 1)
    leg.peer.sendto(REPORT, leg.address if muxed else leg.above)
    leg.keep_house()
    assert (rtcp.malformed, rtcp.received) == (1, 1)


def test_anything_may_come_to_the_port_of_rtcp(leg: Leg, stranger: socket.socket) -> None:
    for data in (b"", b"\r\n", PLAIN, bytes(60000)):
        leg.peer.sendto(data, leg.above)
    stranger.sendto(REPORT, leg.above)
    leg.keep_house()
    counters = leg.session.receiving.counters
    assert (counters.rtcp, counters.strangers, leg.session.rtcp.malformed) == (4, 1, 4)
    assert counters.packets == 0


def test_random_bytes_behind_a_likely_start(leg: Leg, stranger: socket.socket) -> None:
    rng = random.Random(6)
    leg.session.inbound.listen(lambda *_: None)
    leg.session.receiving.on_digit = lambda _: None
    sent = 0
    for _ in range(60):
        for _ in range(20):
            head = struct.pack(
                "!BBH",
                rng.choice([0x80, 0x8F, 0x90, 0xA0, 0xBF, 0x40]),
                rng.choice([0, 13, 101, 200, 201]),
                rng.randrange(65536),
            )
            sender = leg.peer if rng.random() < 0.8 else stranger
            sender.sendto(head + rng.randbytes(rng.choice([0, 4, 8, 9, 60, 172, 1400])), leg.address)
            sent += 1
        leg.tick()
    assert leg.counted == sent
    assert leg.session.sending.counters.packets == 60
    assert leg.session.destination == leg.peer.getsockname()


def test_a_peer_that_echoes_all_we_send_collides_once(leg: Leg) -> None:
    first = leg.session.ssrc
    for _ in range(40):
        leg.tick()
        leg.peer.sendto(leg.peer.recv(2000), leg.address)
    leg.tick()
    counters = leg.session.receiving.counters
    assert (counters.collisions, counters.packets) == (1, 40)
    assert leg.session.ssrc != first
    assert leg.session.rtcp.ssrc == leg.session.ssrc


def test_what_the_kernel_has_no_room_for_is_counted(make) -> None:
    leg, other = make(), make()
    leg.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for n in range(100):
        leg.peer.sendto(incoming(n, size=1000), leg.address)
    leg.keep_house()
    leg.peer.sendto(incoming(100), leg.address)
    other.peer.sendto(incoming(1), other.address)
    leg.keep_house()
    other.keep_house()
    counters = leg.session.receiving.counters
    assert counters.overflowed > 50
    assert counters.overflowed + counters.packets == 101
    assert other.session.receiving.counters.overflowed == 0


TICKS = 50


def test_a_flood_of_10_000_a_second_on_one_leg_is_not_felt_by_another(make, stranger: socket.socket) -> None:
    failures: list[tuple[PacedLeg, Exception]] = []
    pacer = PacerThread(on_failure=lambda *failure: failures.append(failure))
    recorder = Recorder()
    recorder.listen(lambda *_: None)
    flooded, other = make(), make(recorder)
    speech = b"".join((n * 91 % 30000).to_bytes(2, "little") for n in range(160 * TICKS))
    other.session.playout.begin("a")
    other.session.playout.write(speech)
    other.session.playout.end()
    other.peer.sendto(incoming(0), other.address)
    pacer.add(flooded.session)
    pacer.add(other.session)
    pacer.start()
    heard = []
    flood = [incoming(n, ssrc=666) for n in range(200)]
    try:
        for n in range(1, TICKS + 1):  # the other's packets set the pace: one every 20 ms
            heard.append(RtpPacket.parse(other.peer.recv(2000)))
            other.peer.sendto(incoming(n), other.address)
            for datagram in flood:
                stranger.sendto(datagram, flooded.address)
        heard.append(RtpPacket.parse(other.peer.recv(2000)))
    finally:
        pacer.stop()
    flooded.due = other.due = flooded.session.now_ms + 1000
    flooded.keep_house()
    stranger.sendto(b"", flooded.address)  # tells what was dropped before it
    flooded.keep_house()
    other.keep_house()
    assert failures == []
    counters = flooded.session.receiving.counters
    assert counters.strangers + counters.overflowed == len(flood) * TICKS
    assert counters.packets == 0
    assert flooded.session.stats.ssrc is None
    assert flooded.session.sending.counters.packets > 0
    # The other's packets, both ways: all of them, in order.
    assert b"".join(packet.payload for packet in heard[:TICKS]) == PCMU.encode(speech)
    first = heard[0].sequence
    assert [(packet.sequence - first) % 65536 for packet in heard] == list(range(TICKS + 1))
    assert [entry[1] for entry in recorder.log if entry[0] == "audio"] == list(range(TICKS + 1))
    theirs = other.session.receiving.counters
    assert (theirs.packets, other.counted, theirs.overflowed) == (TICKS + 1, TICKS + 1, 0)
    assert other.session.stats.lost == 0
