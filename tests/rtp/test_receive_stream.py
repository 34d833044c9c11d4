import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.codec import G722, PCMA, PCMU
from mediaserver.rtp.dtmf_event import DtmfEvent, EventPayload
from mediaserver.rtp.inbound import InboundAudio
from mediaserver.rtp.latch import Latch, LatchPolicy
from mediaserver.rtp.packet import FIRST_OCTET, pack_header
from mediaserver.rtp.reader import SLOT_BYTES, pack_source, unpack_source
from mediaserver.rtp.receive_stream import ReceiveCounters, ReceiveFormat, ReceiveStream
from mediaserver.rtp.stats import ReceiverStats
from tests.rtp.memory_endpoint import PEER, REMOTE, STRANGER, Recorder, incoming

AUDIO, EVENT, NOISE = 0, 101, 13
EVERYTHING = ReceiveFormat(PCMU, AUDIO, EVENT, NOISE)
OTHER_PORT = pack_source((REMOTE[0], 9002))
RTCP = bytes.fromhex("80c90001 00000007")
"The smallest receiver report."


def make(form: ReceiveFormat = EVERYTHING, inbound: InboundAudio | None = None) -> ReceiveStream:
    return ReceiveStream(form, Latch(LatchPolicy.HOST, REMOTE), inbound or InboundAudio(), ReceiverStats())


@pytest.fixture
def stream() -> ReceiveStream:
    return make()


def event(sequence: int, timestamp: int, code: int, duration: int, *, end: bool = False) -> bytes:
    payload = bytes(EventPayload(code, end, 10, duration))
    return pack_header(0x80, EVENT, sequence, timestamp, 77) + payload


def counted(counters: ReceiveCounters) -> int:
    """Datagrams: each is under exactly one of these."""
    return (
        counters.packets
        + counters.rtcp
        + counters.malformed
        + counters.oversized
        + counters.wrong_type
        + counters.strangers
    )


def test_audio_is_counted_and_timed(stream: ReceiveStream) -> None:
    for sequence in range(1, 6):
        stream.take(incoming(sequence), PEER, sequence * 0.02)
    assert (stream.counters.packets, stream.counters.octets) == (5, 800)
    assert stream.last_received == pytest.approx(0.1)
    assert stream.stats.received == 4, "the first only proves the source"
    assert stream.stats.jitter == pytest.approx(0, abs=1e-6)


def test_each_refusal_has_its_counter(stream: ReceiveStream) -> None:
    stream.take(b"\r\n\r\n", PEER, 0)  # a NAT keep-alive
    stream.take(b"", PEER, 0)
    stream.take(RTCP, PEER, 0)
    stream.take(incoming(payload_type=8), PEER, 0)
    stream.take(incoming(), STRANGER, 0)
    stream.take(RTCP, STRANGER, 0)
    stream.take(incoming(size=SLOT_BYTES), PEER, 0)
    counters = stream.counters
    assert (counters.malformed, counters.rtcp, counters.wrong_type) == (2, 1, 1)
    assert (counters.strangers, counters.oversized) == (2, 1)
    assert counters.packets == 0
    assert stream.latch.source is None
    assert stream.stats.ssrc is None


def test_what_means_nothing_to_us_is_a_sign_of_life(stream: ReceiveStream) -> None:
    """A keep-alive (RFC 6263), or comfort noise that the SDP does not name; not of a stranger."""
    stream.take(b"\r\n\r\n", PEER, 1)
    stream.take(incoming(payload_type=99), STRANGER, 2)
    assert stream.last_received is None
    stream.take(incoming(payload_type=99), PEER, 3)
    assert (stream.last_received, stream.noise_last, stream.latch.source) == (3, False, None)
    bare = make(ReceiveFormat(PCMU, 0))
    bare.take(incoming(payload_type=13), PEER, 4)
    assert (bare.last_received, bare.noise_last) == (4, True)
    assert bare.counters.wrong_type == 1


def test_the_numbers_of_our_own_offer_count_too() -> None:
    """RFC 3264 section 5.1: the answer may call telephone-event 96 and the peer yet send it as we offered it."""
    inbound = Recorder()
    stream = make(ReceiveFormat(PCMU, 0, 96, None, {0: PCMU, 8: PCMA, 13: "noise", 101: "event"}), inbound)
    told = []
    stream.on_digit = told.append
    stream.take(incoming(1), PEER, 0.02)
    stream.take(incoming(2), PEER, 0.04)
    stream.take(pack_header(FIRST_OCTET, 101, 3, 480, 77) + bytes((7, 0x8A, 1, 0)), PEER, 0.06)
    assert [digit.digit for digit in told] == ["7"]
    stream.take(incoming(4, payload_type=13), PEER, 0.08)
    assert stream.noise_last
    stream.take(incoming(5, payload_type=8), PEER, 0.1)
    assert stream.form.codec is PCMA
    stream.take(incoming(6, payload_type=8), PEER, 0.12)
    stream.take(incoming(7), PEER, 0.14)
    assert stream.form.codec is PCMU
    assert stream.counters.wrong_type == 0


def test_refused_packets_do_not_latch(stream: ReceiveStream) -> None:
    stream.take(incoming(payload_type=8), pack_source((REMOTE[0], 9000)), 0)
    stream.take(b"x", pack_source((REMOTE[0], 9001)), 0)
    stream.take(RTCP, pack_source((REMOTE[0], 9003)), 0)
    assert stream.latch.destination == REMOTE
    stream.take(incoming(), OTHER_PORT, 0)
    assert stream.latch.destination == unpack_source(OTHER_PORT)


def test_the_latched_source_is_known_by_its_bytes(stream: ReceiveStream) -> None:
    stream.take(incoming(1), OTHER_PORT, 0.0)
    assert stream.latch.source_key == OTHER_PORT
    stream.take(incoming(2), OTHER_PORT, 0.5)
    assert stream.latch.last_heard == 0.5, "what takes the short way keeps the source alive"
    stream.take(incoming(3), PEER, 1.4)
    assert stream.counters.strangers == 1
    stream.take(incoming(4), PEER, 1.5)
    assert stream.latch.destination == REMOTE
    stream.take(incoming(5), OTHER_PORT, 1.6)
    assert (stream.counters.strangers, stream.counters.packets) == (2, 3)


def test_a_new_latch_is_obeyed_at_once(stream: ReceiveStream) -> None:
    stream.take(incoming(1), PEER, 0.0)
    stream.latch = Latch(LatchPolicy.HOST, ("198.51.100.1", 7000))
    stream.take(incoming(2), PEER, 0.02)
    assert stream.counters.strangers == 1
    stream.take(incoming(3), pack_source(("198.51.100.1", 7000)), 0.04)
    assert stream.counters.packets == 2


HEADERS = {
    "plain": (b"\x80", b"", b""),
    "marker": (b"\x80", b"", b""),
    "CSRC": (b"\x82", bytes(8), b""),
    "extension": (b"\x90", bytes.fromhex("bede 0001 00000000"), b""),
    "padding": (b"\xa0", b"", b"\0\0\3"),
    "all": (b"\xb1", bytes(4) + bytes.fromhex("bede 0000"), b"\1"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_the_payload_is_found_behind_any_header(kind: str) -> None:
    first, between, after = HEADERS[kind]
    recorder = Recorder()
    recorder.listen(lambda *_: None)
    stream = make(inbound=recorder)
    second = b"\x80" if kind == "marker" else b"\0"
    data = first + second + struct.pack("!HII", 65535, 2**32 - 1, 9) + between + b"speech" + after
    for _ in range(2):  # once before it is latched, once after
        stream.take(data, PEER, 2.0)
    assert recorder.log == [("audio", 65535, 2**32 - 1, b"speech", 2.0)] * 2
    assert stream.counters.octets == 12


def test_nobody_listening_costs_nothing() -> None:
    recorder = Recorder()
    stream = make(inbound=recorder)
    stream.take(incoming(1), PEER, 0.0)
    stream.take(incoming(2, NOISE, 1), PEER, 0.02)
    stop = recorder.listen(lambda *_: None)
    stream.take(incoming(3), PEER, 0.04)
    stop()
    stream.take(incoming(4), PEER, 0.06)
    assert [entry[:2] for entry in recorder.log] == [("audio", 3)]
    assert stream.counters.packets == 4


def test_comfort_noise_is_told_from_audio() -> None:
    recorder = Recorder()
    recorder.listen(lambda *_: None)
    stream = make(inbound=recorder)
    seen = []
    for sequence, kind in ((1, AUDIO), (2, NOISE), (3, AUDIO), (4, NOISE)):
        stream.take(incoming(sequence, kind, 5), PEER, sequence * 0.02)
        seen.append(stream.noise_last)
    assert [entry[0] for entry in recorder.log] == ["audio", "noise", "audio", "noise"]
    assert seen == [False, True, False, True]
    assert (stream.counters.packets, stream.counters.noise) == (4, 2)
    assert stream.stats.received == 3, "one sequence for both"


def test_types_are_taken_once_negotiated() -> None:
    stream = make(ReceiveFormat(PCMU, 0))
    for kind in (EVENT, NOISE, 8):
        stream.take(incoming(1, kind, 4), PEER, 0.0)
    assert stream.counters.wrong_type == 3
    stream.set_form(ReceiveFormat(PCMA, 8, EVENT, NOISE))
    for sequence, kind in enumerate((8, EVENT, NOISE), 1):
        stream.take(incoming(sequence, kind, 4), PEER, sequence * 0.02)
    assert stream.counters.packets == 3
    stream.take(incoming(4, 0), PEER, 0.1)
    assert stream.counters.wrong_type == 4, "the old codec's is no more"


def test_the_codec_is_told_to_who_listens() -> None:
    inbound = InboundAudio()
    got: list[int] = []
    inbound.listen(lambda pcm, _: got.append(len(pcm)))
    stream = make(ReceiveFormat(G722, 9), inbound)
    encode = G722.new_encoder()
    for n in range(10):
        header = pack_header(0x80, 9, n, n * 160, 77)
        stream.take(header + encode(bytes(640)), PEER, n * 0.02)
        inbound.pull(n * 20)
    assert got == [320] * 10, "at 8 kHz whatever the codec"


class TestDigits:
    @pytest.fixture
    def told(self, stream: ReceiveStream) -> list[DtmfEvent]:
        told: list[DtmfEvent] = []
        stream.on_digit = told.append
        return told

    def test_events_are_told_and_not_heard(self, stream: ReceiveStream, told: list[DtmfEvent]) -> None:
        recorder = Recorder()
        recorder.listen(lambda *_: None)
        stream.inbound = recorder
        for sequence, (duration, end) in enumerate([(160, False), (320, False), (480, True), (480, True), (480, True)]):
            stream.take(event(sequence, 8000, 5, duration, end=end), PEER, sequence * 0.02)
            stream.poll(sequence * 0.02)
        stream.poll(10.0)
        assert [(digit.kind, digit.digit, digit.duration_ms) for digit in told] == [
            ("started", "5", 20),
            ("ended", "5", 60),
        ]
        assert recorder.log == []
        assert (stream.counters.events, stream.counters.packets) == (5, 5)
        assert stream.stats.jitter == 0, "their timestamps stand still"
        assert stream.stats.lost == 0

    def test_a_digit_without_end_ends_in_time(self, stream: ReceiveStream, told: list[DtmfEvent]) -> None:
        stream.take(event(1, 8000, 11, 160), PEER, 1.0)
        stream.poll(1.02)
        assert stream.digit_down, "asked at each tick"
        assert [digit.kind for digit in told] == ["started"]
        stream.poll(2.0)
        assert [(digit.kind, digit.digit) for digit in told] == [("started", "#"), ("ended", "#")]
        assert not stream.digit_down

    @pytest.mark.parametrize("payload", [b"", b"\5", b"\5\x0a\0", bytes([99, 10, 0, 160]), bytes(200)])
    def test_bad_events_are_counted_as_taken(
        self, stream: ReceiveStream, told: list[DtmfEvent], payload: bytes
    ) -> None:
        stream.take(pack_header(0x80, EVENT, 1, 0, 77) + payload, PEER, 0.0)
        stream.poll(0.0)
        assert stream.counters.events == 1
        assert len(told) <= 1

    def test_nobody_need_hear_of_digits(self) -> None:
        stream = make()
        stream.take(event(1, 0, 1, 160), PEER, 0.0)
        stream.poll(9.0)
        assert not stream.digit_down


class TestReports:
    def test_rtcp_on_the_port_of_rtp_is_handed_on(self, stream: ReceiveStream) -> None:
        got: list[tuple[bytes, float]] = []
        stream.on_rtcp = lambda data, arrival: got.append((data, arrival))
        stream.take(RTCP, PEER, 0.5)
        stream.take(RTCP, OTHER_PORT, 0.6)
        stream.take(RTCP, STRANGER, 0.7)
        assert got == [(RTCP, 0.5), (RTCP, 0.6)]
        assert (stream.counters.rtcp, stream.counters.strangers) == (2, 1)

    def test_so_is_that_of_its_own_port(self, stream: ReceiveStream) -> None:
        got: list[bytes] = []
        stream.on_rtcp = lambda data, _: got.append(data)
        assert stream.take_rtcp(b"anything", PEER, 0.0)
        assert not stream.take_rtcp(RTCP, STRANGER, 0.0)
        assert got == [b"anything"]

    def test_it_is_counted_if_nobody_reads_it(self, stream: ReceiveStream) -> None:
        stream.take(RTCP, PEER, 0.0)
        assert stream.counters.rtcp == 1
        assert stream.last_received is None, "it is no RTP"


def test_a_restart_forgets_audio_and_digits() -> None:
    recorder = Recorder()
    stream = make(inbound=recorder)
    told: list[DtmfEvent] = []
    stream.on_digit = told.append
    stream.take(event(1, 8000, 5, 160), PEER, 0.0)
    stream.restart()
    assert ("reset",) in recorder.log
    stream.take(event(1, 8000, 5, 160), PEER, 0.02)
    stream.poll(0.02)
    assert [digit.kind for digit in told].count("started") == 2, "the same timestamp, of another stream"


sources = st.sampled_from([PEER, OTHER_PORT, STRANGER])
datagrams = st.one_of(
    st.binary(max_size=64),
    st.builds(
        lambda first, second, rest: bytes([first, second]) + rest,
        st.sampled_from([0x80, 0x90, 0xA0, 0x8F, 0xBF, 0x40]),
        st.sampled_from([0, 8, 13, 101, 128, 200, 201, 229]),
        st.binary(min_size=10, max_size=60),
    ),
    st.builds(incoming, st.integers(0, 65535), st.sampled_from([0, 8, 13, 101]), st.integers(0, 300)),
    st.builds(
        event,
        st.integers(0, 65535),
        st.integers(0, 2**32 - 1),
        st.integers(0, 255),
        st.integers(0, 65535),
        end=st.booleans(),
    ),
    st.just(bytes(SLOT_BYTES)),
)


@given(st.lists(st.tuples(datagrams, sources, st.floats(0, 0.6)), max_size=30), st.booleans())
def test_whatever_comes_is_counted_once_and_never_raises(packets, listened: bool) -> None:
    stream = make()
    if listened:
        stream.inbound.listen(lambda *_: None)
    stream.on_digit = lambda _: None
    now = 0.0
    for data, source, wait in packets:
        now += wait
        before = counted(stream.counters)
        taken = stream.counters.packets
        stream.take(data, source, now)
        assert stream.digit_down or not stream.dtmf.active
        if stream.digit_down:
            stream.poll(now)
        stream.inbound.pull(int(now * 1000))
        assert counted(stream.counters) == before + 1
        if stream.counters.packets > taken:
            assert stream.last_received == now
            assert stream.latch.source_key == source != STRANGER


@given(
    st.lists(st.tuples(st.integers(0, 65535), st.sampled_from([0, 1]), st.integers(1, 2)), max_size=40), st.randoms()
)
def test_the_short_way_does_what_the_long_one_does(packets, rng: random.Random) -> None:
    """A header extension without content says nothing, but takes the long way."""
    short, long = Recorder(), Recorder()
    streams = make(inbound=short), make(inbound=long)
    for recorder in (short, long):
        recorder.listen(lambda *_: None)
    now, sequence = 0.0, rng.randrange(65536)
    for jump, far, ssrc in packets:
        now += rng.random() * 0.04
        sequence = (sequence + (jump if far else 1)) % 65536
        plain = incoming(sequence, 0, rng.randrange(200), ssrc=ssrc)
        for stream, data in zip(streams, (plain, b"\x90" + plain[1:12] + bytes(4) + plain[12:]), strict=True):
            stream.take(data, PEER, now)
    assert streams[0].counters == streams[1].counters
    assert short.log == long.log
    assert streams[0].last_received == streams[1].last_received
    assert streams[0].latch.last_heard == streams[1].latch.last_heard
    one, other = (vars(stream.stats) for stream in streams)
    assert one == other
