"""What a leg stands between, without sockets: what is to be read is put in, what was sent is looked at."""

from __future__ import annotations

from mediaserver.rtp.codec import PCMU
from mediaserver.rtp.inbound import InboundAudio
from mediaserver.rtp.latch import Address, LatchPolicy
from mediaserver.rtp.packet import FIRST_OCTET, RtpPacket, pack_header
from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.rtp.reader import SLOTS, Datagram, pack_source
from mediaserver.rtp.receive_stream import ReceiveFormat
from mediaserver.rtp.send_stream import SendFormat
from mediaserver.rtp.session import RtpSession, RtpSettings

REMOTE = ("192.0.2.10", 4000)
PEER = pack_source(REMOTE)
STRANGER = pack_source(("203.0.113.9", 4000))
SPEECH = (1000).to_bytes(2, "little") * 160
"One frame of 20 ms."


class MemoryEndpoint:
    """Behaves as RtpEndpoint does."""

    def __init__(self) -> None:
        self.dropped = 0
        self.inbox: list[Datagram] = []
        self.rtcp_inbox: list[Datagram] = []
        self.reads = 0
        self.sent: list[bytes] = []
        self.addresses: list[Address] = []
        self.rtcp_sent: list[tuple[bytes, Address]] = []
        self.error: OSError | None = None

    def put(self, data: bytes, source: bytes = PEER, arrival: float = 1.0) -> None:
        self.inbox.append((data, source, arrival))

    def put_rtcp(self, data: bytes, source: bytes = PEER, arrival: float = 1.0) -> None:
        self.rtcp_inbox.append((data, source, arrival))

    def read(self) -> list[Datagram]:
        self.reads += 1
        taken, self.inbox = self.inbox[:SLOTS], self.inbox[SLOTS:]
        return taken

    def read_rtcp(self) -> list[Datagram]:
        taken, self.rtcp_inbox = self.rtcp_inbox, []
        return taken

    def synchronise(self) -> None:
        pass

    def send(self, datagram: bytes, address: Address) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append(datagram)
        self.addresses.append(address)

    def send_quietly(self, datagram: bytes, address: Address) -> None:
        if self.error is None:
            self.send(datagram, address)

    def send_rtcp(self, datagram: bytes, address: Address) -> None:
        self.rtcp_sent.append((datagram, address))

    @property
    def packets(self) -> list[RtpPacket]:
        """The RTP that was sent; it is checked to be such."""
        return [RtpPacket.parse(datagram) for datagram in self.sent]


class Recorder(InboundAudio):
    """Inbound audio that notes what it is given, and plays nothing."""

    __slots__ = ("log",)

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[object, ...]] = []

    def put(self, sequence: int, timestamp: int, payload: bytes, arrival: float) -> None:
        self.log.append(("audio", sequence, timestamp, payload, arrival))

    def put_noise(self, sequence: int, timestamp: int, payload: bytes, arrival: float) -> None:
        self.log.append(("noise", sequence, timestamp, payload, arrival))

    def reset(self) -> None:
        self.log.append(("reset",))


def incoming(
    sequence: int = 1, payload_type: int = 0, size: int = 160, timestamp: int | None = None, ssrc: int = 77
) -> bytes:
    """An RTP packet of the peer."""
    stamp = sequence * 160 if timestamp is None else timestamp
    return pack_header(FIRST_OCTET, payload_type, sequence, stamp, ssrc) + bytes(size)


def make_session(
    wire: MemoryEndpoint,
    form: SendFormat | None = None,
    *,
    remote: tuple[str, int] | None = REMOTE,
    policy: LatchPolicy = LatchPolicy.HOST,
    rtcp: bool = True,
    inbound: InboundAudio | None = None,
) -> RtpSession:
    """A leg of that wire, which reads at each tick, with a peer of PCMU, telephone-event as 101 and comfort noise."""
    session = RtpSession(
        wire,
        PlayoutBuffer(max_seconds=10),
        form or SendFormat(PCMU, 0, event_type=101),
        ReceiveFormat(PCMU, 0, 101, 13),
        RtpSettings(policy, rtcp),
        inbound,
    )
    session.set_remote(remote)
    session.prompt = True
    return session
