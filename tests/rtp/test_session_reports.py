"""What a session says and learns by RTCP, and what it does when somebody has its SSRC."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from mediaserver.rtp.latch import LatchPolicy
from mediaserver.rtp.reader import pack_source
from mediaserver.rtp.rtcp import (
    Bye,
    ReceiverReport,
    ReportBlock,
    SdesChunk,
    SenderReport,
    SourceDescription,
    parse_compound,
)
from mediaserver.rtp.rtcp_xr import ExtendedReport
from mediaserver.rtp.session import RtpSession
from tests.rtp.memory_endpoint import REMOTE, MemoryEndpoint, incoming, make_session

PEER_SSRC = 77


@dataclass
class Clock:
    """Stands for the module `time`."""

    now: float = 1000.0
    wall: float = 1_700_000_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.wall + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("mediaserver.rtp.session.time", clock)
    return clock


@pytest.fixture
def wire() -> MemoryEndpoint:
    return MemoryEndpoint()


@pytest.fixture
def session(wire: MemoryEndpoint, clock: Clock) -> RtpSession:
    return make_session(wire)


def run(session: RtpSession, clock: Clock, seconds: float, put: Callable[[int], None] | None = None) -> None:
    """Ticks of 20 ms, each at its time."""
    for n in range(round(seconds * 50)):
        if put is not None:
            put(n)
        session.tick(round(clock.now * 1000))
        clock.now += 0.02


class TestReports:
    def reports(self, wire: MemoryEndpoint) -> list[list[object]]:
        return [list(parse_compound(data)) for data, _ in wire.rtcp_sent]

    def test_a_sender_report_says_what_was_sent(self, session: RtpSession, wire: MemoryEndpoint, clock: Clock) -> None:
        run(session, clock, 30)
        reports = self.reports(wire)
        assert 3 <= len(reports) <= 20
        for report in reports:
            first, description = report[:2]
            assert isinstance(first, SenderReport)
            assert isinstance(description, SourceDescription)
            assert first.ssrc == session.ssrc
            assert first.reports == [], "nothing was heard"
            # Both stamps are of one moment: how long after the first packet, on either clock?
            since = first.ntp / 2**32 - 2_208_988_800 - clock.wall - 1000
            assert (first.rtp_timestamp - wire.packets[0].timestamp) % 2**32 == pytest.approx(since * 8000, abs=2)
            assert first.packets == pytest.approx(since * 50, abs=1.01)
            assert first.octets == 160 * first.packets
            assert description.chunks[0].cname

    def test_it_reports_what_was_heard(self, session: RtpSession, wire: MemoryEndpoint, clock: Clock) -> None:
        def put(n: int) -> None:
            if n % 10:
                wire.put(incoming(n), arrival=clock.now)

        run(session, clock, 30, put)
        last = self.reports(wire)[-1][0]
        assert isinstance(last, SenderReport)
        (block,) = last.reports
        assert block.ssrc == PEER_SSRC
        assert block.fraction_lost == pytest.approx(25.6, abs=2)
        assert block.jitter == 0

    def test_a_leg_on_hold_reports_as_a_receiver(self, session: RtpSession, wire: MemoryEndpoint, clock: Clock) -> None:
        session.sending.paused = True
        run(session, clock, 20, lambda n: wire.put(incoming(n), arrival=clock.now))
        assert wire.sent == []
        assert all(isinstance(report[0], ReceiverReport) for report in self.reports(wire))
        assert wire.rtcp_sent

    @pytest.mark.parametrize(
        ("remote", "expected"), [(None, (REMOTE[0], REMOTE[1] + 1)), (("192.0.2.10", 5999), ("192.0.2.10", 5999))]
    )
    def test_they_go_one_port_above_or_where_the_sdp_says(
        self, session: RtpSession, wire: MemoryEndpoint, clock: Clock, remote, expected
    ) -> None:
        session.set_rtcp(remote, muxed=False, xr=False)
        run(session, clock, 20)
        assert {address for _, address in wire.rtcp_sent} == {expected}

    def test_muxed_they_go_with_the_audio(self, session: RtpSession, wire: MemoryEndpoint, clock: Clock) -> None:
        session.set_rtcp(None, muxed=True, xr=False)
        run(session, clock, 20)
        assert wire.rtcp_sent == []
        muxed = [data for data in wire.sent if 192 <= data[1] <= 223]
        assert len(muxed) == len(wire.sent) - 1000
        assert muxed
        assert set(wire.addresses) == {REMOTE}

    def test_they_follow_the_peers_own(self, session: RtpSession, wire: MemoryEndpoint, clock: Clock) -> None:
        """Behind a NAT its port of RTCP is another than the SDP says."""
        report = bytes(ReceiverReport(PEER_SSRC, []))
        run(session, clock, 1)
        wire.put_rtcp(report, pack_source(("203.0.113.9", 7)))
        wire.put_rtcp(report, pack_source((REMOTE[0], 45678)))
        wire.put_rtcp(report, pack_source(("203.0.113.9", 7)))
        run(session, clock, 20)
        assert {address for _, address in wire.rtcp_sent} == {(REMOTE[0], 45678)}
        assert session.receiving.counters.strangers == 2

    def test_unless_the_policy_is_off(self, wire: MemoryEndpoint, clock: Clock) -> None:
        session = make_session(wire, policy=LatchPolicy.OFF)
        wire.put_rtcp(bytes(ReceiverReport(PEER_SSRC, [])), pack_source((REMOTE[0], 45678)))
        run(session, clock, 20)
        assert {address for _, address in wire.rtcp_sent} == {(REMOTE[0], REMOTE[1] + 1)}

    def test_with_voip_metrics_if_the_peer_asks(self, session: RtpSession, wire: MemoryEndpoint, clock: Clock) -> None:
        session.set_rtcp(None, muxed=False, xr=True)
        run(session, clock, 20, lambda n: wire.put(incoming(n), arrival=clock.now))
        assert any(isinstance(packet, ExtendedReport) for packet in self.reports(wire)[-1])

    def test_nowhere_to_send_to_is_no_report(self, session: RtpSession, wire: MemoryEndpoint, clock: Clock) -> None:
        session.set_remote(None)
        run(session, clock, 20)
        session.say_goodbye()
        assert wire.rtcp_sent == wire.sent == []

    def test_the_peers_reports_give_loss_and_round_trip(
        self, session: RtpSession, wire: MemoryEndpoint, clock: Clock
    ) -> None:
        run(session, clock, 10)
        sent = self.reports(wire)[-1][0]
        assert isinstance(sent, SenderReport)
        assert session.rtcp is not None
        # Sent at `since` after the start, answered at once, heard 80 ms after it was sent.
        since = sent.ntp / 2**32 - 2_208_988_800 - clock.wall
        block = ReportBlock(session.ssrc, 64, 5, 400, 80, sent.ntp >> 16 & 0xFFFFFFFF, 0)
        wire.put(bytes(ReceiverReport(PEER_SSRC, [block])), arrival=since + 0.080)
        run(session, clock, 0.02)
        assert session.rtcp.round_trip == pytest.approx(0.080, abs=0.002)
        assert session.rtcp.far is not None
        assert session.rtcp.far.fraction_lost == 0.25
        assert session.rtcp.quality(clock.now).outbound.loss == 0.25

    def test_bye_ends_it(self, session: RtpSession, wire: MemoryEndpoint, clock: Clock) -> None:
        run(session, clock, 1)
        session.say_goodbye()
        (last,) = self.reports(wire)[-1:]
        assert isinstance(last[-1], Bye)
        assert last[-1].sources == [session.ssrc]

    def test_who_sent_nothing_takes_no_leave(self, session: RtpSession, wire: MemoryEndpoint, clock: Clock) -> None:
        """RFC 3550 section 6.3.7; and no empty datagram instead."""
        session.say_goodbye()
        session.sending.paused = True
        run(session, clock, 0.1)
        session.say_goodbye()
        assert wire.sent == wire.rtcp_sent == []

    def test_late_packets_count_as_discarded(self, session: RtpSession, wire: MemoryEndpoint, clock: Clock) -> None:
        """They are not lost to RFC 3550, but they are to the listener."""
        session.inbound.listen(lambda *_: None)
        late: list[bytes] = []

        def put(n: int) -> None:
            if n % 10 == 5:
                late.append(incoming(n))
            else:
                wire.put(incoming(n), arrival=clock.now)
            if n % 10 == 0 and n > 40 and late:
                wire.put(late.pop(0), arrival=clock.now)

        run(session, clock, 15, put)
        assert session.rtcp is not None
        assert session.inbound.buffer.late > 20
        assert 0 < session.rtcp.voip.discarded <= session.inbound.buffer.late
        assert session.rtcp.jitter_buffer_ms > 60, "the buffer's depth when it was told last"


class TestCollision:
    def echo(self, wire: MemoryEndpoint) -> None:
        """The peer sends back what it got."""
        for data in wire.sent[-10:]:
            wire.put(data)
        del wire.sent[:]

    def test_a_peer_with_our_ssrc_gives_us_another(
        self, session: RtpSession, wire: MemoryEndpoint, clock: Clock
    ) -> None:
        old = session.ssrc
        run(session, clock, 1, lambda n: wire.put(incoming(n, ssrc=old), arrival=clock.now))
        assert session.ssrc != old
        assert session.receiving.counters.collisions == 1
        assert session.rtcp is not None
        assert session.rtcp.ssrc == session.ssrc
        (bye,) = (parse_compound(data)[-1] for data, _ in wire.rtcp_sent)
        assert isinstance(bye, Bye)
        assert bye.sources == [old]
        ssrcs = [packet.ssrc for packet in wire.packets]
        assert ssrcs == [old] * ssrcs.index(session.ssrc) + [session.ssrc] * ssrcs.count(session.ssrc)
        assert session.receiving.counters.packets == 50, "what the peer says is heard all the same"

    def test_a_peer_that_echoes_collides_once(self, session: RtpSession, wire: MemoryEndpoint, clock: Clock) -> None:
        ssrcs = set()
        for _ in range(100):
            run(session, clock, 0.2)
            ssrcs.add(session.ssrc)
            self.echo(wire)
        assert len(ssrcs) == 2
        assert session.receiving.counters.collisions == 1
        assert session.receiving.counters.packets > 900

    def test_an_echo_of_our_reports_is_no_collision(
        self, session: RtpSession, wire: MemoryEndpoint, clock: Clock
    ) -> None:
        run(session, clock, 10)
        assert session.rtcp is not None
        for data, _ in wire.rtcp_sent:
            wire.put_rtcp(data)
        run(session, clock, 1)
        assert session.rtcp.loops > 0
        assert session.receiving.counters.collisions == 0

    def test_reports_alone_tell_of_one_too(self, session: RtpSession, wire: MemoryEndpoint, clock: Clock) -> None:
        """A peer that only listens sends no RTP by which it would be seen."""
        old = session.ssrc
        description = bytes(SourceDescription([SdesChunk(old, [(1, b"somebody else")])]))
        wire.put_rtcp(bytes(ReceiverReport(old, [])) + description)
        run(session, clock, 1)
        assert session.ssrc != old
        assert session.receiving.counters.collisions == 1
        new = session.ssrc
        for _ in range(5):  # whoever chases us in this way does so once
            wire.put_rtcp(bytes(ReceiverReport(session.ssrc, [])) + description)
            run(session, clock, 1)
        assert session.ssrc == new
