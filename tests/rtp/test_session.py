import errno
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.codec import PCMA, PCMU
from mediaserver.rtp.latch import Latch, LatchPolicy
from mediaserver.rtp.packet import FIRST_OCTET, RtpPacket, pack_header
from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.rtp.session import RtpSession, SendFormat

REMOTE = ("192.0.2.10", 4000)
SPEECH = (1000).to_bytes(2, "little") * 160
"One frame of 20 ms."


class Wire:
    """What a leg sent, as packets."""

    def __init__(self) -> None:
        self.packets: list[RtpPacket] = []
        self.addresses: list[tuple[str, int]] = []
        self.error: OSError | None = None

    def __call__(self, datagram: bytes, address: tuple[str, int]) -> int:
        if self.error is not None:
            raise self.error
        self.packets.append(RtpPacket.parse(datagram))
        self.addresses.append(address)
        return len(datagram)


def make(wire: Wire, form: SendFormat | None = None, remote=REMOTE) -> RtpSession:
    return RtpSession(
        wire,
        PlayoutBuffer(max_seconds=10),
        form or SendFormat(PCMU, 0),
        Latch(LatchPolicy.HOST, remote),
    )


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def session(wire: Wire) -> RtpSession:
    return make(wire)


def speak(session: RtpSession, frames: int, tag: str = "a") -> None:
    session.playout.begin(tag)
    session.playout.write(SPEECH * frames)
    session.playout.end()


def incoming(sequence: int = 1, payload_type: int = 0, size: int = 160, timestamp: int | None = None) -> bytes:
    stamp = sequence * 160 if timestamp is None else timestamp
    return pack_header(FIRST_OCTET, payload_type, sequence, stamp, 77) + bytes(size)


def steps(values: list[int], modulus: int) -> list[int]:
    return [(b - a) % modulus for a, b in itertools.pairwise(values)]


def test_a_packet_is_what_the_format_says(session: RtpSession, wire: Wire) -> None:
    speak(session, 1)
    session.send_due(20)
    (packet,) = wire.packets
    assert packet.payload == PCMU.encode(SPEECH)
    assert (packet.payload_type, packet.marker, packet.ssrc) == (0, True, session.ssrc)
    assert wire.addresses == [REMOTE]
    assert (session.sent.packets, session.sent.octets) == (1, 160)


def test_sequence_and_timestamp_follow_the_clock(session: RtpSession, wire: Wire) -> None:
    speak(session, 3)
    for due in range(5, 200, 20):
        session.send_due(due)
    assert set(steps([packet.sequence for packet in wire.packets], 2**16)) == {1}
    assert set(steps([packet.timestamp for packet in wire.packets], 2**32)) == {160}


def test_numbers_wrap(session: RtpSession, wire: Wire) -> None:
    session._sequence = 0xFFFE
    session._timestamp_base = 2**32 - 160
    for due in (0, 20, 40):
        session.send_due(due)
    assert [packet.sequence for packet in wire.packets] == [0xFFFF, 0, 1]
    assert [packet.timestamp for packet in wire.packets] == [2**32 - 160, 0, 160]


def test_legs_start_at_random_numbers() -> None:
    legs = [make(Wire()) for _ in range(20)]
    assert len({leg.ssrc for leg in legs}) == 20
    assert len({leg._timestamp_base for leg in legs}) == 20
    assert len({leg._sequence for leg in legs}) > 15
    assert all(leg._sequence < 2**15 for leg in legs)


def test_marker_on_the_first_packet_of_a_talkspurt_only(session: RtpSession, wire: Wire) -> None:
    session.send_due(0)
    speak(session, 2, "a")
    speak(session, 1, "b")
    for due in range(20, 120, 20):
        session.send_due(due)
    speak(session, 1, "c")
    session.send_due(120)
    assert [packet.marker for packet in wire.packets] == [False, True, False, False, False, False, True]


def test_an_underrun_ends_the_talkspurt(session: RtpSession, wire: Wire) -> None:
    session.playout.begin("a")
    session.playout.write(SPEECH)
    session.send_due(0)
    session.send_due(20)
    session.playout.write(SPEECH)
    session.send_due(40)
    assert [packet.marker for packet in wire.packets] == [True, False, True]
    assert wire.packets[1].payload == b"\xff" * 160
    assert session.playout.underruns == 1


@pytest.mark.parametrize(("codec", "silence"), [(PCMU, b"\xff"), (PCMA, b"\xd5")], ids=["PCMU", "PCMA"])
def test_silence_between_utterances(wire: Wire, codec, silence: bytes) -> None:
    session = make(wire, SendFormat(codec, codec.payload_type))
    session.send_due(0)
    assert wire.packets[0].payload == silence * 160


def test_nothing_between_utterances_if_so_chosen(session: RtpSession, wire: Wire) -> None:
    session.send_silence = False
    speak(session, 1, "a")
    for due in range(0, 100, 20):
        session.send_due(due)
    speak(session, 1, "b")
    session.send_due(100)
    first, second = wire.packets
    assert (second.sequence - first.sequence) % 2**16 == 1
    assert (second.timestamp - first.timestamp) % 2**32 == 800
    assert (first.marker, second.marker) == (True, True)


def test_hold_sends_nothing_and_keeps_the_audio(session: RtpSession, wire: Wire) -> None:
    speak(session, 2)
    session.send_due(0)
    session.paused = True
    session.send_due(20)
    session.send_due(40)
    assert len(wire.packets) == 1
    session.paused = False
    session.send_due(60)
    first, second = wire.packets
    assert second.payload == PCMU.encode(SPEECH)
    assert second.marker
    assert (second.sequence - first.sequence) % 2**16 == 1
    assert (second.timestamp - first.timestamp) % 2**32 == 480
    assert session.playout.underruns == 0


def test_skipped_intervals_move_the_timestamp_not_the_audio(session: RtpSession, wire: Wire) -> None:
    speak(session, 2)
    session.send_due(0)
    session.send_due(200)
    first, second = wire.packets
    assert (second.timestamp - first.timestamp) % 2**32 == 1600
    assert second.payload == PCMU.encode(SPEECH)
    assert second.marker, "a gap in time but not in sequence is how a talkspurt begins"


def test_audio_waits_until_there_is_somewhere_to_send(wire: Wire) -> None:
    session = make(wire, remote=("192.0.2.10", 0))
    speak(session, 1)
    session.send_due(0)
    assert wire.packets == []
    session.receive(incoming(), ("192.0.2.10", 9000), 1.0)
    session.send_due(20)
    assert wire.packets[0].payload == PCMU.encode(SPEECH)
    assert wire.addresses == [("192.0.2.10", 9000)]


def test_codec_changes_between_packets(session: RtpSession, wire: Wire) -> None:
    speak(session, 2)
    session.send_due(0)
    session.set_send_format(SendFormat(PCMA, 101))
    session.send_due(20)
    assert [packet.payload_type for packet in wire.packets] == [0, 101]
    assert wire.packets[1].payload == PCMA.encode(SPEECH)
    assert not wire.packets[1].marker


def test_ptime_changes_without_losing_a_sample(session: RtpSession, wire: Wire) -> None:
    speak(session, 4)
    session.send_due(0)
    session.set_send_format(SendFormat(PCMU, 0, ptime_ms=30))
    assert session.interval_ms == 30
    for due in (20, 50, 80):
        session.send_due(due)
    assert [len(packet.payload) for packet in wire.packets] == [160, 240, 240, 240]
    assert b"".join(packet.payload for packet in wire.packets[:3]) == PCMU.encode(SPEECH * 4)
    assert steps([packet.timestamp for packet in wire.packets], 2**32) == [160, 240, 240]


def test_a_call_within_the_packet_before_sends_nothing(session: RtpSession, wire: Wire) -> None:
    """The leg was put back on the pacer at another phase."""
    speak(session, 3)
    for due in (0, 12, 32):
        session.send_due(due)
    assert steps([packet.timestamp for packet in wire.packets], 2**32) == [256]


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENETUNREACH, errno.ECONNREFUSED, errno.EBADF])
def test_socket_errors_are_losses(session: RtpSession, wire: Wire, code: int) -> None:
    speak(session, 3)
    session.send_due(0)
    wire.error = OSError(code, "refused")
    session.send_due(20)
    wire.error = None
    session.send_due(40)
    assert session.sent.errors == 1
    assert session.sent.packets == 2
    assert steps([packet.sequence for packet in wire.packets], 2**16) == [2]


@pytest.mark.parametrize("payload_type", [-1, 128])
def test_payload_type_has_seven_bits(payload_type: int) -> None:
    with pytest.raises(ValueError, match="0-127"):
        SendFormat(PCMU, payload_type)


@given(st.lists(st.sampled_from(["tick", "late", "hold", "resume", "speak", "clear", "quiet", "loud"]), max_size=60))
def test_whatever_happens_the_stream_is_well_formed(actions: list[str]) -> None:
    wire = Wire()
    session = make(wire)
    base, silence = session._timestamp_base, PCMU.silence * 160
    due, sent_at = 0, []
    for number, action in enumerate(actions):
        if action in ("tick", "late"):
            due += 20 if action == "tick" else 120
            before = len(wire.packets)
            session.send_due(due)
            sent_at += [due] * (len(wire.packets) - before)
        elif action in ("hold", "resume"):
            session.paused = action == "hold"
        elif action == "speak":
            speak(session, 2, str(number))
        elif action == "clear":
            session.playout.clear()
        else:
            session.send_silence = action == "loud"
    assert [packet.timestamp for packet in wire.packets] == [(base + 8 * at) % 2**32 for at in sent_at]
    assert set(steps([packet.sequence for packet in wire.packets], 2**16)) <= {1}
    talking, previous = False, None
    for packet, at in zip(wire.packets, sent_at, strict=True):
        speech = packet.payload != silence
        assert packet.marker == (speech and not (talking and at == previous + 20))
        talking, previous = speech, at


def test_receive_counts_and_times(session: RtpSession) -> None:
    for sequence in range(1, 6):
        session.receive(incoming(sequence), REMOTE, sequence * 0.02)
    assert (session.received.packets, session.received.octets) == (5, 800)
    assert session.last_received == pytest.approx(0.1)
    assert session.stats.received == 4
    assert session.stats.jitter == pytest.approx(0, abs=1e-6)


def test_receive_sorts_what_it_refuses(session: RtpSession) -> None:
    session.receive(b"\r\n\r\n", REMOTE, 0)  # a NAT keep-alive
    session.receive(bytes.fromhex("81c90007") + bytes(28), REMOTE, 0)
    session.receive(incoming(payload_type=8), REMOTE, 0)
    session.receive(incoming(), ("203.0.113.9", 4000), 0)
    counters = session.received
    assert (counters.malformed, counters.rtcp, counters.wrong_type, counters.strangers) == (1, 1, 1, 1)
    assert counters.packets == 0
    assert session.last_received is None
    assert session.destination == REMOTE


def test_refused_packets_do_not_latch(session: RtpSession) -> None:
    session.receive(incoming(payload_type=8), (REMOTE[0], 9000), 0)
    session.receive(b"x", (REMOTE[0], 9001), 0)
    assert session.destination == REMOTE
    session.receive(incoming(), (REMOTE[0], 9002), 0)
    assert session.destination == (REMOTE[0], 9002)


def test_telephone_event_is_taken_once_negotiated(session: RtpSession) -> None:
    session.receive(incoming(1, 101, 4), REMOTE, 0.0)
    assert session.received.wrong_type == 1
    session.set_receive_types([0, 8], telephone_event=101)
    for sequence in range(1, 4):
        session.receive(incoming(sequence, 101, 4, timestamp=160), REMOTE, sequence * 0.02)
    session.receive(incoming(4, 8), REMOTE, 0.08)
    assert (session.received.packets, session.received.events) == (4, 3)
    assert session.stats.jitter == 0
    session.set_receive_types([0])
    session.receive(incoming(5, 101, 4), REMOTE, 0.1)
    assert session.received.wrong_type == 2


def test_hook_gets_every_packet_taken(session: RtpSession) -> None:
    got = []
    session.on_packet = lambda packet, now: got.append((packet.sequence, len(packet.payload), now))
    session.receive(incoming(1), REMOTE, 0.5)
    session.receive(incoming(2, size=80), REMOTE, 0.6)
    session.receive(incoming(3, payload_type=8), REMOTE, 0.7)
    assert got == [(1, 160, 0.5), (2, 80, 0.6)]


def test_a_reoffer_moves_the_destination_at_once(session: RtpSession, wire: Wire) -> None:
    session.receive(incoming(), (REMOTE[0], 9000), 0)
    session.set_remote(("198.51.100.1", 7000))
    session.send_due(0)
    assert wire.addresses == [("198.51.100.1", 7000)]
    session.set_remote(None)
    session.send_due(20)
    assert len(wire.packets) == 1


@given(st.binary(max_size=200), st.randoms())
def test_receive_never_raises(data: bytes, rng: random.Random) -> None:
    session = make(Wire())
    head = bytes([rng.choice([0x80, 0x90, 0xA0, 0x8F]), rng.randrange(256)])
    for datagram in (data, head + data):
        session.receive(datagram, REMOTE, 1.0)
    counters = session.received
    assert counters.packets + counters.rtcp + counters.malformed + counters.wrong_type == 2
