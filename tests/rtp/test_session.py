import itertools
import random
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.codec import PCMA, PCMU
from mediaserver.rtp.dtmf_event import DtmfEvent, EventPayload
from mediaserver.rtp.inbound import InboundAudio
from mediaserver.rtp.latch import LatchPolicy
from mediaserver.rtp.packet import FIRST_OCTET, pack_header
from mediaserver.rtp.reader import SLOT_BYTES, SLOTS, pack_source
from mediaserver.rtp.rtcp import (
    ReceiverReport,
    ReportBlock,
)
from mediaserver.rtp.send_stream import SendFormat
from mediaserver.rtp.session import HOUSEKEEPING_MS, READS, RESTART_MS, RtpSession
from tests.rtp.memory_endpoint import PEER, REMOTE, SPEECH, STRANGER, MemoryEndpoint, Recorder, incoming, make_session

SILENCE = b"\xff" * 160
PEER_SSRC = 77


@pytest.fixture
def wire() -> MemoryEndpoint:
    return MemoryEndpoint()


@pytest.fixture
def session(wire: MemoryEndpoint) -> RtpSession:
    return make_session(wire)


def speak(session: RtpSession, frames: int, tag: str = "a") -> None:
    session.playout.begin(tag)
    session.playout.write(SPEECH * frames)
    session.playout.end()


class TestTick:
    def test_it_receives_before_it_sends(self, session: RtpSession, wire: MemoryEndpoint) -> None:
        """The first packet that comes says where the first one goes."""
        session.set_remote((REMOTE[0], 0))
        speak(session, 1)
        session.tick(0)
        assert wire.sent == []
        wire.put(incoming(), pack_source((REMOTE[0], 9000)))
        session.tick(20)
        assert wire.packets[0].payload == PCMU.encode(SPEECH)
        assert wire.addresses == [(REMOTE[0], 9000)]

    def test_one_packet_each_way(self, session: RtpSession, wire: MemoryEndpoint) -> None:
        for n in range(10):
            wire.put(incoming(n))
            session.tick(n * 20)
        assert len(wire.packets) == 10
        assert session.receiving.counters.packets == 10
        assert wire.reads == 10, "one system call a tick"
        assert session.now_ms == 180

    def test_while_nobody_listens_several_packets_are_read_at_once(
        self, session: RtpSession, wire: MemoryEndpoint
    ) -> None:
        session.prompt = False
        for n in range(31):
            wire.put(incoming(n), arrival=n * 0.02)
            session.tick(n * 20)
        assert session.receiving.counters.packets == 31
        assert wire.reads == 11, "every 60 ms"
        assert session.stats.jitter == pytest.approx(0, abs=1e-6), "arrival is the kernel's"
        assert len(wire.packets) == 31, "what is sent does not wait"

    def test_who_begins_to_listen_is_served_within_a_packet_time(
        self, session: RtpSession, wire: MemoryEndpoint
    ) -> None:
        session.prompt = False
        for n in range(10):
            wire.put(incoming(n))
            session.tick(n * 20)
        reads = wire.reads
        session.inbound.listen(lambda _pcm, _at: None)
        for n in range(10, 14):
            wire.put(incoming(n))
            session.tick(n * 20)
        assert wire.reads - reads >= 2
        session.prompt = True

    def test_before_the_first_packet_and_in_a_flood_every_tick_reads(
        self, session: RtpSession, wire: MemoryEndpoint
    ) -> None:
        session.prompt = False
        for n in range(5):
            session.tick(n * 20)
        assert wire.reads == 5
        for n in range(5, 8):
            for number in range(SLOTS + 1):
                wire.put(incoming(n * 40 + number))
            session.tick(n * 20)
        assert wire.reads == 5 + 3 * 2

    def test_a_digit_under_way_is_read_at_once(self, session: RtpSession, wire: MemoryEndpoint) -> None:
        session.prompt = False
        for n in range(3):
            wire.put(incoming(n))
            session.tick(n * 20)
        wire.put(pack_header(FIRST_OCTET, 101, 3, 480, 77) + bytes((5, 10, 0, 160)))
        session.tick(60)
        reads = wire.reads
        for n in range(4, 9):
            session.tick(n * 20)
        assert wire.reads == reads + 5

    def test_a_flood_is_read_until_it_ends(self, wire: MemoryEndpoint, session: RtpSession) -> None:
        for n in range(100):
            wire.put(incoming(n))
        session.tick(0)
        assert session.receiving.counters.packets == 100
        assert wire.reads == 4
        wire.put(incoming(100))
        session.tick(20)
        assert wire.reads == 5

    def test_a_flood_is_not_read_for_ever(self, wire: MemoryEndpoint, session: RtpSession) -> None:
        """Others are due as well."""
        for n in range(SLOTS * READS + 10):
            wire.put(incoming(n))
        session.tick(0)
        assert session.receiving.counters.packets == SLOTS * READS
        assert len(wire.sent) == 1
        session.tick(20)
        assert session.receiving.counters.packets == SLOTS * READS + 10

    def test_a_barge_in_silences_the_packet_of_its_own_tick(self, wire: MemoryEndpoint, session: RtpSession) -> None:
        speak(session, 50)
        session.tick(0)
        heard: list[int] = []

        def decide(pcm: bytes, at_ms: int) -> None:
            heard.append(at_ms)
            if at_ms == 100:
                assert session.playout.halt()

        session.inbound.listen(decide)
        for n in range(1, 10):
            wire.put(incoming(n))
            session.tick(n * 20)
        speech = [packet.payload != SILENCE for packet in wire.packets]
        assert speech == [True] * 5 + [False] * 5, "the frame after the decision is silence"
        assert heard == list(range(20, 200, 20))

    def test_a_digit_does_so_too(self, wire: MemoryEndpoint, session: RtpSession) -> None:
        speak(session, 50)
        session.receiving.on_digit = lambda _: session.playout.halt()
        session.tick(0)
        wire.put(pack_header(0x80, 101, 1, 0, PEER_SSRC) + bytes(EventPayload(5, False, 10, 160)))
        session.tick(20)
        assert [packet.payload != SILENCE for packet in wire.packets] == [True, False]

    def test_a_digit_without_an_end_is_ended(self, wire: MemoryEndpoint, session: RtpSession) -> None:
        told: list[DtmfEvent] = []
        session.receiving.on_digit = told.append
        wire.put(pack_header(0x80, 101, 1, 0, PEER_SSRC) + bytes(EventPayload(9, False, 10, 160)), arrival=1.0)
        for due in range(1000, 1600, 20):
            session.tick(due)
        assert [(event.kind, event.digit) for event in told] == [("started", "9"), ("ended", "9")]

    def test_nothing_is_pulled_when_nobody_listens(self, wire: MemoryEndpoint) -> None:
        class Watched(InboundAudio):
            __slots__ = ()

            def pull(self, due_ms: int) -> None:
                raise AssertionError("nobody listens")

        session = make_session(wire, inbound=Watched())
        wire.put(incoming())
        session.tick(0)

    def test_the_interval_is_the_packet_time(self, wire: MemoryEndpoint) -> None:
        session = make_session(wire, SendFormat(PCMA, 8, 30))
        assert session.interval_ms == 30
        session.sending.set_form(SendFormat(PCMA, 8, 60))
        assert session.interval_ms == 60


class TestDestination:
    def test_it_is_the_sdps_until_somebody_is_heard(self, session: RtpSession, wire: MemoryEndpoint) -> None:
        assert session.destination == REMOTE
        wire.put(incoming(), STRANGER)
        session.tick(0)
        assert session.destination == REMOTE
        assert session.receiving.counters.strangers == 1

    def test_a_reoffer_moves_it_at_once(self, session: RtpSession, wire: MemoryEndpoint) -> None:
        wire.put(incoming(), pack_source((REMOTE[0], 9000)))
        session.tick(0)
        session.set_remote(("198.51.100.1", 7000))
        session.tick(20)
        assert wire.addresses == [(REMOTE[0], 9000), ("198.51.100.1", 7000)]
        session.set_remote(None)
        session.tick(40)
        assert len(wire.sent) == 2

    def test_hosts_of_the_signalling_are_allowed(self, session: RtpSession, wire: MemoryEndpoint) -> None:
        session.set_remote(("10.0.0.5", 4000), [REMOTE[0]])
        wire.put(incoming())
        session.tick(0)
        assert session.destination == REMOTE

    @pytest.mark.parametrize("policy", LatchPolicy)
    def test_the_policy_is_obeyed(self, wire: MemoryEndpoint, policy: LatchPolicy) -> None:
        session = make_session(wire, policy=policy)
        wire.put(incoming(1), STRANGER, 1.0)
        wire.put(incoming(2), PEER, 3.0)
        session.tick(0)
        expected = {LatchPolicy.OFF: (1, 1), LatchPolicy.HOST: (1, 1), LatchPolicy.ANY: (0, 2)}
        counters = session.receiving.counters
        assert (counters.strangers, counters.packets) == expected[policy]


class TestHousekeeping:
    def test_it_is_done_now_and_then(self, session: RtpSession, wire: MemoryEndpoint) -> None:
        times: list[float] = []
        session.on_housekeeping = times.append
        for due in range(5000, 6000, 20):
            session.tick(due)
        assert times[0] == 5.0, "at the first tick, for what the call begins with"
        assert {round(b - a, 3) for a, b in itertools.pairwise(times)} == {HOUSEKEEPING_MS / 1000}
        assert session.began == 5.0

    def test_what_the_kernel_dropped_is_counted(self, session: RtpSession, wire: MemoryEndpoint) -> None:
        wire.dropped = 17
        session.tick(0)
        assert session.receiving.counters.overflowed == 17

    def test_without_rtcp_it_goes_on(self, wire: MemoryEndpoint) -> None:
        session = make_session(wire, rtcp=False)
        assert session.rtcp is None
        wire.put(bytes.fromhex("80c9000100000007"))
        for due in range(0, 30000, 20):
            session.tick(due)
        assert session.receiving.counters.rtcp == 1
        session.set_rtcp(None, muxed=True, xr=True)
        session.say_goodbye()
        assert wire.rtcp_sent == []
        assert len(wire.packets) == 1500


class TestStreams:
    def test_a_new_stream_starts_audio_digits_and_metrics_anew(self, wire: MemoryEndpoint) -> None:
        recorder = Recorder()
        session = make_session(wire, inbound=recorder)
        assert session.rtcp is not None
        session.rtcp.left = True
        session.rtcp.voip.note_discard(3)
        for due, first, ssrc in ((0, 0, 1), (RESTART_MS, 30000, 2), (2 * RESTART_MS, 100, 2)):
            for n in range(5):
                wire.put(incoming(first + n, ssrc=ssrc))
            session.tick(due)
        assert recorder.log == [("reset",)] * 3, "two sources, and one that started anew"
        assert session.rtcp.voip.discarded == 0
        assert not session.rtcp.left
        assert session.stats.streams == 2

    def test_streams_that_change_all_the_time_cost_no_decoder_each(self, wire: MemoryEndpoint) -> None:
        recorder = Recorder()
        session = make_session(wire, inbound=recorder)
        for tick in range(20):
            for n in range(30):
                wire.put(incoming(tick * 30 + n, ssrc=n // 2 % 3 + 1))
            session.tick(tick * 20)
        assert recorder.log.count(("reset",)) <= 1 + 400 // RESTART_MS

    def test_jumping_timestamps_do_no_harm(self, session: RtpSession, wire: MemoryEndpoint) -> None:
        heard: list[int] = []
        session.inbound.listen(lambda pcm, at_ms: heard.append(len(pcm)))
        rng = random.Random(5)
        for n in range(200):
            wire.put(incoming(n, timestamp=rng.randrange(2**32)), arrival=n * 0.02)
            session.tick(n * 20)
        assert heard == [320] * 200
        assert session.receiving.counters.packets == 200
        assert session.stats.received == 199
        assert 0 < session.stats.jitter < 2**31


def malformed() -> dict[str, bytes]:
    plain = incoming()
    return {
        "empty": b"",
        "truncated": plain[:11],
        "version 0": b"\0" + plain[1:],
        "version 1": b"\x40" + plain[1:],
        "version 3": b"\xc0" + plain[1:],
        "padding of nought": b"\xa0" + plain[1:],
        "padding longer than the packet": b"\xa0" + plain[1:-1] + b"\xff",
        "padding into the header": b"\xa0" + plain[1:12] + b"\1\2\3\5",
        "an extension beyond the end": b"\x90" + plain[1:12] + bytes.fromhex("bedeffff") + bytes(100),
        "an extension cut off": b"\x90" + plain[1:14],
        "CSRCs beyond the end": b"\x8f" + plain[1:12] + bytes(59),
        "all lies at once": b"\xbf" + plain[1:12] + bytes(60),
    }


@pytest.mark.parametrize("kind", malformed())
def test_a_malformed_packet_is_counted_and_nothing_more(session: RtpSession, wire: MemoryEndpoint, kind: str) -> None:
    for data in (malformed()[kind], incoming(1), malformed()[kind], incoming(2)):
        wire.put(data)  # before and after the source is latched
    session.tick(0)
    assert session.receiving.counters.malformed == 2
    assert session.receiving.counters.packets == 2
    assert len(wire.sent) == 1


def test_floods_of_csrcs_and_extensions_are_audio_if_they_add_up(wire: MemoryEndpoint) -> None:
    recorder = Recorder()
    recorder.listen(lambda *_: None)
    session = make_session(wire, inbound=recorder)
    header = incoming(1)[1:12]
    wire.put(b"\x8f" + header + bytes(60) + b"v" * 160)
    wire.put(b"\x9f" + header + bytes(60) + bytes.fromhex("bede0100") + bytes(1024) + b"w" * 160)
    session.tick(0)
    assert [entry[3] for entry in recorder.log if entry[0] == "audio"] == [b"v" * 160, b"w" * 160]


def test_an_oversized_packet_is_counted(session: RtpSession, wire: MemoryEndpoint) -> None:
    wire.put(incoming(1))
    wire.put(incoming(2, size=SLOT_BYTES))
    wire.put(incoming(3, size=SLOT_BYTES - 12))
    wire.put(incoming(4, size=SLOT_BYTES - 13))
    session.tick(0)
    assert (session.receiving.counters.oversized, session.receiving.counters.packets) == (2, 2)


def lying_compounds() -> dict[str, bytes]:
    good = bytes(ReceiverReport(PEER_SSRC, [ReportBlock(1, 0, 0, 0, 0, 0, 0)]))
    return {
        "a length beyond the end": good[:2] + b"\xff\xff" + good[4:],
        "a length short of it": good[:2] + b"\0\1" + good[4:],
        "no length at all": good[:2] + b"\0\0" + good[4:],
        "more blocks than there are": b"\x9f" + good[1:],
        "padding that lies": b"\xa1" + good[1:-1] + b"\xff",
        "cut off": good[:9],
        "a second packet that lies": good + bytes.fromhex("81cb0040") + bytes(4),
        "reduced size": bytes.fromhex("81cb0001") + bytes(4),
        "an SDES without end": good + bytes.fromhex("81ca0002 00000001 01ff6161"),
        "too long": good + bytes.fromhex("80c90001 00000001") * 400,
    }


@pytest.mark.parametrize("muxed", [True, False])
@pytest.mark.parametrize("kind", lying_compounds())
def test_a_compound_that_lies_is_counted(session: RtpSession, wire: MemoryEndpoint, kind: str, muxed: bool) -> None:
    session.set_rtcp(None, muxed=muxed, xr=False)
    data = lying_compounds()[kind]
    (wire.put if muxed else wire.put_rtcp)(data)
    session.tick(0)
    counters, rtcp = session.receiving.counters, session.rtcp
    assert rtcp is not None
    if len(data) >= SLOT_BYTES and muxed:
        assert (counters.oversized, rtcp.malformed) == (1, 0)
    else:
        assert (counters.rtcp, rtcp.malformed) == (1, 1)
    assert rtcp.far is None
    assert rtcp.last_received is None
    assert len(wire.sent) == 1


actions = st.one_of(
    st.tuples(st.just("tick"), st.sampled_from([20, 20, 20, 120, 1000, 6000])),
    st.tuples(st.just("rtp"), st.binary(max_size=80)),
    st.tuples(
        st.just("rtp"),
        st.builds(
            lambda first, second, rest: bytes([first, second]) + rest,
            st.sampled_from([0x80, 0x90, 0xA0, 0x8F, 0xBF]),
            st.sampled_from([0, 13, 101, 128, 200, 201, 207]),
            st.binary(min_size=10, max_size=80),
        ),
    ),
    st.tuples(
        st.just("rtp"), st.builds(incoming, st.integers(0, 65535), st.sampled_from([0, 13, 101]), st.integers(0, 9))
    ),
    st.tuples(st.just("rtcp"), st.binary(max_size=80).map(lambda data: b"\x81\xc9" + data)),
    st.tuples(st.just("rtcp"), st.sampled_from(sorted(lying_compounds().values()))),
    st.tuples(
        st.sampled_from(["speak", "clear", "hold", "resume", "digit", "move", "echo", "muxed", "listen"]), st.none()
    ),
)


@given(st.lists(actions, max_size=40), st.sampled_from(LatchPolicy))
def test_whatever_happens_nothing_is_raised_and_all_is_counted(steps, policy: LatchPolicy) -> None:
    wire = MemoryEndpoint()
    session = make_session(wire, policy=policy)
    due, put = 10_000, 0
    for number, (action, value) in enumerate(steps):
        if action == "tick":
            due += value
            session.tick(due)
        elif action == "rtp":
            put += 1
            wire.put(value, arrival=due / 1000)
        elif action == "rtcp":
            put += 1
            wire.put_rtcp(value, arrival=due / 1000)
        elif action == "speak":
            speak(session, 2, str(number))
        elif action == "clear":
            session.playout.clear()
        elif action in ("hold", "resume"):
            session.sending.paused = action == "hold"
        elif action == "digit":
            session.sending.dtmf.send("1", duration_ms=40)
        elif action == "move":
            session.set_remote((REMOTE[0], 6000 + number))
        elif action == "echo":
            put += len(wire.sent[-2:])
            for data in wire.sent[-2:]:
                wire.put(data, arrival=due / 1000)
        elif action == "muxed":
            session.set_rtcp(None, muxed=True, xr=True)
        else:
            session.inbound.listen(lambda *_: None)
    if session.rtcp is not None:
        session.rtcp.next_due = inf
    for _ in range(READS):
        due += HOUSEKEEPING_MS
        session.tick(due)
    counters = session.receiving.counters
    assert put == (
        counters.packets
        + counters.rtcp
        + counters.malformed
        + counters.oversized
        + counters.wrong_type
        + counters.strangers
    )
    session.say_goodbye()
