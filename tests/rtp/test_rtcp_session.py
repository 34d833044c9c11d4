import math
import random

import aiortc.rtp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.emodel import mos, r_factor
from mediaserver.rtp.far_end import ntp_stamp
from mediaserver.rtp.rtcp import (
    Bye,
    ReceiverReport,
    ReportBlock,
    SdesChunk,
    SenderReport,
    SourceDescription,
    parse_compound,
)
from mediaserver.rtp.rtcp_session import RtcpSession
from mediaserver.rtp.rtcp_xr import ExtendedReport, VoipMetricsBlock
from mediaserver.rtp.stats import ReceiverStats

OURS, THEIRS, STRANGER = 0x0A0A0A0A, 0x0B0B0B0B, 0x0C0C0C0C
WALL = 1_700_000_000.25  # when the monotonic clock shows 0


class Leg:
    """A session with its statistics, on a clock of its own."""

    def __init__(self, ssrc: int = OURS, *, xr: bool = False, cname: str = "ours") -> None:
        self.stats = ReceiverStats()
        self.rtcp = RtcpSession(ssrc, cname, self.stats, xr=xr, rng=random.Random(1))
        self.packets = 0
        self.heard = 0

    def hear(self, count: int, *, lost: range = range(0), ssrc: int = THEIRS, base: int = 0) -> None:
        """Packets 20 ms apart; `lost` are indices of this stream that do not come."""
        for index in range(self.heard, self.heard + count):
            if index not in lost:
                self.stats.update(ssrc, (base + index) % 65536, index * 160, index * 0.02)
        self.heard += count

    def report(self, now: float, *, sent: int = 250, sending: bool | None = None) -> bytes:
        self.packets += sent
        if sending is None:
            sending = sent > 0
        return self.rtcp.report(now, WALL + now, int(now * 8000), self.packets, self.packets * 160, sending)

    def receive(self, *packets: object, now: float = 1.0) -> None:
        self.rtcp.receive(b"".join(map(bytes, packets)), now, WALL + now)


def block_for(ssrc: int = OURS, *, fraction: int = 0, jitter: int = 0) -> ReportBlock:
    return ReportBlock(ssrc, fraction, 0, 500, jitter, 0, 0)


def test_nothing_is_due_before_the_start() -> None:
    leg = Leg()
    assert leg.rtcp.next_due == math.inf
    leg.rtcp.start(100.0)
    assert 101 < leg.rtcp.next_due < 103.1, "half of 5 s, randomised"


def test_report_sets_the_next() -> None:
    leg = Leg()
    leg.rtcp.start(100.0)
    leg.report(102.5)
    assert 102.5 + 2.05 <= leg.rtcp.next_due <= 102.5 + 6.16


def test_sender_report_as_aiortc_reads_it() -> None:
    leg = Leg()
    leg.hear(100, lost=range(50, 60))
    report, description = aiortc.rtp.RtcpPacket.parse(leg.report(2.0, sent=101))
    assert isinstance(report, aiortc.rtp.RtcpSrPacket)
    assert report.ssrc == OURS
    info = report.sender_info
    assert info.ntp_timestamp == ntp_stamp(WALL + 2)
    assert (info.rtp_timestamp, info.packet_count, info.octet_count) == (16000, 101, 16160)
    (block,) = report.reports
    # Packet 0 only proves the source.
    assert (block.ssrc, block.packets_lost, block.highest_sequence) == (THEIRS, 10, 99)
    assert block.fraction_lost == 10 * 256 // 99
    assert (block.lsr, block.dlsr) == (0, 0)
    assert description.chunks == [aiortc.rtp.RtcpSourceInfo(OURS, [(1, b"ours")])]


def test_counters_wrap() -> None:
    leg = Leg()
    data = leg.rtcp.report(1.0, WALL, 2**32 + 5, 2**32 + 6, 2**32 + 7, True)
    report = parse_compound(data)[0]
    assert isinstance(report, SenderReport)
    assert (report.rtp_timestamp, report.packets, report.octets) == (5, 6, 7)


def test_jitter_is_in_units_of_the_clock() -> None:
    leg = Leg()
    leg.hear(10)
    leg.stats.jitter = 161.9
    assert parse_compound(leg.report(1.0))[0].reports[0].jitter == 161


def test_receiver_report_while_nothing_is_sent() -> None:
    leg = Leg()
    leg.hear(10)
    report = parse_compound(leg.report(1.0, sent=0))[0]
    assert isinstance(report, ReceiverReport)
    assert [block.ssrc for block in report.reports] == [THEIRS]


def test_sender_report_until_two_reports_after_the_last_packet() -> None:
    leg = Leg()
    kinds = [type(parse_compound(leg.report(5.0 * n, sent=sent))[0]) for n, sent in enumerate([250, 250, 0, 0, 0, 9])]
    assert kinds == [SenderReport, SenderReport, SenderReport, ReceiverReport, ReceiverReport, SenderReport]


def test_no_block_for_a_stream_that_is_silent_since_the_last_report() -> None:
    leg = Leg()
    leg.hear(10)
    assert parse_compound(leg.report(1.0))[0].reports
    assert not parse_compound(leg.report(6.0))[0].reports
    leg.hear(5)
    assert parse_compound(leg.report(11.0))[0].reports


def test_no_block_during_probation() -> None:
    leg = Leg()
    leg.hear(1)
    assert not parse_compound(leg.report(1.0))[0].reports


def test_fraction_lost_is_of_the_interval() -> None:
    leg = Leg()
    leg.hear(101, lost=range(50, 60))
    assert parse_compound(leg.report(1.0))[0].reports[0].fraction_lost == 25
    leg.hear(100)
    block = parse_compound(leg.report(6.0))[0].reports[0]
    assert (block.fraction_lost, block.lost) == (0, 10)


def test_extended_highest_across_the_wrap() -> None:
    leg = Leg()
    leg.hear(20, base=65530)
    assert parse_compound(leg.report(1.0))[0].reports[0].highest == 65536 + 13


def test_last_sr_and_the_delay_since() -> None:
    leg = Leg()
    leg.hear(10)
    leg.receive(SenderReport(THEIRS, 0x1122334455667788, 0, 0, 0), now=1.0)
    block = parse_compound(leg.report(3.5))[0].reports[0]
    assert (block.lsr, block.dlsr) == (0x33445566, int(2.5 * 65536))


def test_last_sr_of_a_stranger_is_not_the_streams() -> None:
    leg = Leg()
    leg.hear(10)
    leg.receive(SenderReport(STRANGER, 0x1122334455667788, 0, 0, 0))
    assert parse_compound(leg.report(2.0))[0].reports[0].lsr == 0
    leg.hear(10)
    leg.receive(SenderReport(THEIRS, 0x1122334455667788, 0, 0, 0))
    leg.receive(SenderReport(STRANGER, 0x99, 0, 0, 0))
    assert parse_compound(leg.report(3.0))[0].reports[0].lsr == 0x33445566


def test_sr_ahead_of_its_stream_is_kept() -> None:
    leg = Leg()
    leg.receive(SenderReport(THEIRS, 0x1122334455667788, 0, 0, 0))
    leg.hear(10)
    assert parse_compound(leg.report(2.0))[0].reports[0].lsr == 0x33445566


def test_delay_since_last_sr_fits_its_field() -> None:
    leg = Leg()
    leg.hear(10)
    leg.receive(SenderReport(THEIRS, 0x1122334455667788, 0, 0, 0), now=0.0)
    assert parse_compound(leg.report(100_000.0))[0].reports[0].dlsr == 0xFFFFFFFF


def test_two_sessions_measure_their_round_trip() -> None:
    """60 ms one way, 20 ms the other."""
    here, there = Leg(OURS), Leg(THEIRS, cname="theirs")
    here.hear(100)
    there.hear(100, ssrc=OURS, lost=range(10, 20))
    there.rtcp.receive(here.report(5.0), 5.06, WALL + 5.06)
    answer = there.report(7.0)
    here.rtcp.receive(answer, 7.02, WALL + 7.02)
    assert here.rtcp.round_trip == pytest.approx(0.08, abs=0.001)
    assert here.rtcp.round_trip_last == here.rtcp.round_trip
    assert here.rtcp.far is not None
    assert (here.rtcp.far.lost, here.rtcp.far.highest, here.rtcp.far.when) == (10, 99, 7.02)
    assert here.rtcp.last_received == 7.02
    assert there.rtcp.round_trip is None, "nobody has answered its report yet"


def test_round_trip_does_not_depend_on_the_peers_wall_clock() -> None:
    here = Leg()
    here.hear(10)
    sr = parse_compound(here.report(5.0))[0]
    assert isinstance(sr, SenderReport)
    block = ReportBlock(OURS, 0, 0, 1, 0, sr.ntp >> 16 & 0xFFFFFFFF, 65536)
    here.receive(SenderReport(THEIRS, 12345, 0, 0, 0, [block]), now=6.03)
    assert here.rtcp.round_trip == pytest.approx(0.03, abs=0.001)


def test_absurd_round_trips_are_counted() -> None:
    leg = Leg()
    leg.receive(ReceiverReport(THEIRS, [ReportBlock(OURS, 0, 0, 1, 0, 1, 0xFFFFFFFF)]))
    assert (leg.rtcp.round_trip, leg.rtcp.round_trips_dropped) == (None, 1)


def test_own_block_is_found_among_thirty_one() -> None:
    leg = Leg()
    blocks = [block_for(n) for n in range(30)]
    leg.receive(ReceiverReport(THEIRS, [*blocks, block_for(jitter=80)]))
    assert leg.rtcp.far is not None
    assert leg.rtcp.far.jitter_seconds == 0.01


def test_reports_about_others_say_nothing_of_us() -> None:
    leg = Leg()
    leg.receive(ReceiverReport(THEIRS, [block_for(STRANGER)]), ExtendedReport(THEIRS, [voip_block(STRANGER)]))
    assert (leg.rtcp.received, leg.rtcp.far, leg.rtcp.far_voip) == (1, None, None)


def test_bye_of_the_stream() -> None:
    leg = Leg()
    leg.hear(10)
    leg.receive(ReceiverReport(THEIRS), Bye([STRANGER], b"not me"))
    assert (leg.rtcp.byes, leg.rtcp.left) == (1, False)
    leg.receive(ReceiverReport(THEIRS), Bye([STRANGER, THEIRS]))
    assert (leg.rtcp.byes, leg.rtcp.left) == (2, True)
    leg.hear(10, ssrc=STRANGER)
    assert not leg.rtcp.left, "a new stream"


def test_reports_of_somebody_who_is_not_of_the_call_are_counted_only() -> None:
    """As of another call behind the same border controller."""
    leg = Leg()
    leg.receive(ReceiverReport(STRANGER))
    assert leg.rtcp.received == 1, "nothing is known yet"
    leg.hear(10)
    leg.receive(ReceiverReport(STRANGER), Bye([THEIRS]))
    assert (leg.rtcp.strangers, leg.rtcp.received, leg.rtcp.left) == (1, 1, False)
    block = ReportBlock(leg.rtcp.ssrc, 0, 0, 5, 0, 0, 0)
    leg.receive(ReceiverReport(STRANGER, [block]))
    assert (leg.rtcp.received, leg.rtcp.far is not None) == (2, True), "it hears us"


def test_our_bye_as_aiortc_reads_it() -> None:
    leg = Leg()
    leg.hear(10)
    leg.report(5.0)
    data = leg.rtcp.bye(6.0, WALL + 6, 48000, 300, 48000)
    report, description, bye = aiortc.rtp.RtcpPacket.parse(data)
    assert isinstance(report, aiortc.rtp.RtcpSrPacket)
    assert report.sender_info.packet_count == 300
    assert isinstance(description, aiortc.rtp.RtcpSdesPacket)
    assert bye == aiortc.rtp.RtcpByePacket([OURS])


def test_who_never_sent_anything_leaves_silently() -> None:
    leg = Leg()
    assert leg.rtcp.bye(1.0, WALL, 0, 0, 0) == b""
    leg.report(5.0, sent=0)
    assert leg.rtcp.bye(6.0, WALL, 0, 0, 0) != b"", "the report was heard"


def test_collision() -> None:
    leg = Leg()
    leg.receive(ReceiverReport(OURS, [block_for()]), SourceDescription([SdesChunk(OURS, [(1, b"somebody")])]))
    assert (leg.rtcp.collision, leg.rtcp.collisions, leg.rtcp.received) == (True, 1, 0)
    assert leg.rtcp.far is None, "what a rival says of its own stream is not about us"
    leg.rtcp.set_ssrc(STRANGER)
    assert not leg.rtcp.collision
    assert parse_compound(leg.report(1.0))[0].ssrc == STRANGER
    leg.receive(ReceiverReport(OURS))
    assert not leg.rtcp.collision


def test_collision_in_a_description_only() -> None:
    leg = Leg()
    leg.receive(ReceiverReport(THEIRS), SourceDescription([SdesChunk(OURS, [(1, b"somebody")])]))
    assert leg.rtcp.collision


def test_our_own_reports_that_come_back_are_a_loop() -> None:
    leg = Leg()
    leg.rtcp.receive(leg.report(1.0), 1.1, WALL + 1.1)
    assert (leg.rtcp.loops, leg.rtcp.collisions, leg.rtcp.last_received) == (1, 0, None)


def test_mixer_that_describes_us_to_ourselves() -> None:
    leg = Leg()
    leg.receive(ReceiverReport(THEIRS, [block_for()]), SourceDescription([SdesChunk(OURS, [(1, b"ours")])]))
    assert (leg.rtcp.loops, leg.rtcp.collisions, leg.rtcp.received) == (0, 0, 1)
    assert leg.rtcp.far is not None


def test_what_was_said_of_the_old_ssrc_is_forgotten() -> None:
    leg = Leg()
    leg.receive(ReceiverReport(THEIRS, [block_for()]), ExtendedReport(THEIRS, [voip_block()]))
    leg.rtcp.set_ssrc(STRANGER)
    assert (leg.rtcp.far, leg.rtcp.far_voip) == (None, None)


@pytest.mark.parametrize("cname", ["", "x" * 256, "é" * 128])
def test_cname_that_does_not_fit(cname: str) -> None:
    with pytest.raises(ValueError, match="CNAME"):
        Leg(cname=cname)


def voip_block(ssrc: int = OURS, *, rx_config: int = 0, jb_nominal: int = 0) -> VoipMetricsBlock:
    return VoipMetricsBlock(ssrc, 1, 2, 3, 4, 5, 6, rx_config=rx_config, jb_nominal=jb_nominal)


def test_no_extended_report_unless_asked_for() -> None:
    leg = Leg()
    leg.hear(100)
    assert not [packet for packet in parse_compound(leg.report(1.0)) if isinstance(packet, ExtendedReport)]
    silent = Leg(xr=True)
    assert len(parse_compound(silent.report(1.0))) == 2, "nothing heard: nothing to say"


def test_extended_report() -> None:
    leg = Leg(xr=True)
    leg.rtcp.jitter_buffer_ms = 80
    leg.hear(301, lost=range(101, 104))
    leg.rtcp.voip.note_discard(3)
    (report,) = [packet for packet in parse_compound(leg.report(6.0)) if isinstance(packet, ExtendedReport)]
    assert report.ssrc == OURS
    (block,) = report.blocks
    assert (block.ssrc, block.loss_rate, block.discard_rate) == (THEIRS, 3 * 256 // 300, 3 * 256 // 300)
    assert (block.burst_density, block.burst_duration) == (255, 60)
    assert (block.jb_nominal, block.jb_maximum, block.end_system_delay) == (80, 200, 100)
    assert block.conceals_loss
    quality = leg.rtcp.quality(6.0, jitter_buffer_ms=80).inbound
    assert quality.r_factor is not None
    assert quality.loss == 6 / 300
    assert block.r_factor == round(quality.r_factor)
    assert block.mos_cq == round(10 * mos(quality.r_factor))
    assert block.mos_lq >= block.mos_cq, "listening does not mind the delay"
    assert block.round_trip_delay == 0


def test_extended_report_goes_with_the_bye() -> None:
    leg = Leg(xr=True)
    leg.hear(100)
    kinds = [type(packet) for packet in parse_compound(leg.rtcp.bye(2.0, WALL, 0, 100, 16000))]
    assert kinds == [SenderReport, SourceDescription, ExtendedReport, Bye]


def test_peer_reads_our_metrics() -> None:
    here, there = Leg(OURS, xr=True), Leg(THEIRS, cname="theirs", xr=True)
    there.hear(100, ssrc=OURS, lost=range(40, 50))
    here.rtcp.receive(there.report(5.0), 5.0, WALL + 5)
    assert here.rtcp.far_voip is not None
    assert here.rtcp.far_voip.loss_rate == 10 * 256 // 99
    assert here.rtcp.far_voip.burst_duration == 200


def test_new_stream_starts_its_metrics_anew() -> None:
    leg = Leg()
    leg.hear(100, lost=range(40, 50))
    assert leg.rtcp.voip.lost == 10
    leg.hear(100, ssrc=STRANGER)
    assert leg.rtcp.voip.lost == 0
    assert leg.rtcp.quality(9.0).inbound.loss == 0


def test_sender_that_restarts_with_its_ssrc_is_reported() -> None:
    leg = Leg()
    leg.hear(10)
    leg.report(1.0)
    leg.hear(11, base=30000)
    (block,) = parse_compound(leg.report(6.0))[0].reports
    assert (block.lost, block.highest) == (0, 30020)


def test_new_stream_of_as_many_packets_is_reported() -> None:
    leg = Leg()
    leg.hear(10)
    leg.report(1.0)
    leg.hear(10, ssrc=STRANGER)
    assert [block.ssrc for block in parse_compound(leg.report(6.0))[0].reports] == [STRANGER]


def test_quality_before_anything_is_known() -> None:
    quality = Leg().rtcp.quality(1.0)
    assert quality.round_trip_ms is None
    for direction in (quality.inbound, quality.outbound):
        assert (direction.loss, direction.jitter_ms, direction.mos, direction.r_factor) == (None, None, None, None)


def test_quality_of_both_directions() -> None:
    here, there = Leg(OURS), Leg(THEIRS, cname="theirs")
    here.hear(101)
    there.hear(100, ssrc=OURS)
    there.rtcp.receive(here.report(5.0), 5.1, WALL + 5.1)
    here.rtcp.receive(there.report(6.0), 6.1, WALL + 6.1)
    there.hear(100, ssrc=OURS, lost=range(150, 155))
    there.stats.jitter = 80
    here.rtcp.receive(there.report(11.0), 11.1, WALL + 11.1)
    quality = here.rtcp.quality(12.0, jitter_buffer_ms=40)
    assert quality.round_trip_ms == pytest.approx(200, abs=1)
    assert quality.inbound.r_factor == pytest.approx(r_factor(100 + 40 + 20, 0), abs=0.1)
    assert quality.inbound.mos == pytest.approx(mos(quality.inbound.r_factor))
    assert quality.outbound.loss == pytest.approx(0.05)
    assert quality.outbound.jitter_ms == pytest.approx(10)
    assert quality.outbound.mos < quality.inbound.mos - 1, "5% lost, and the peer speaks of no concealment"


def test_peers_metrics_say_what_it_makes_of_loss() -> None:
    leg = Leg()
    leg.receive(ReceiverReport(THEIRS, [block_for(fraction=13)]))
    without = leg.rtcp.quality(1.0).outbound
    leg.receive(ReceiverReport(THEIRS), ExtendedReport(THEIRS, [voip_block(rx_config=0x80, jb_nominal=300)]))
    concealed = leg.rtcp.quality(1.0).outbound
    assert without.r_factor == pytest.approx(r_factor(80, 13 / 256, bpl=4.3))
    assert concealed.r_factor == pytest.approx(r_factor(320, 13 / 256, bpl=25.1))


def test_late_packets_weigh_like_lost_ones() -> None:
    leg = Leg()
    leg.hear(101)
    clean = leg.rtcp.quality(1.0).inbound
    leg.rtcp.voip.note_discard(5)
    late = leg.rtcp.quality(1.0).inbound
    assert late.loss == 0.05
    assert late.mos < clean.mos


def test_malformed_compounds_are_counted_and_change_nothing() -> None:
    leg = Leg()
    for data in (b"", b"\x80", b"\x81\xc9\x00\x01aaaa", bytes(Bye([THEIRS])), b"\xff" * 3000):
        leg.rtcp.receive(data, 1.0, WALL)
    assert (leg.rtcp.malformed, leg.rtcp.received, leg.rtcp.byes, leg.rtcp.last_received) == (5, 0, 0, None)


uint32 = st.integers(0, 0xFFFFFFFF)
ssrcs = st.sampled_from([OURS, THEIRS, STRANGER]) | uint32
hostile_blocks = st.lists(
    st.builds(ReportBlock, ssrcs, st.integers(0, 255), st.integers(-0x800000, 0x7FFFFF), *[uint32] * 4), max_size=31
)
hostile_packets = (
    st.builds(SenderReport, ssrcs, st.integers(0, 2**64 - 1), uint32, uint32, uint32, hostile_blocks)
    | st.builds(ReceiverReport, ssrcs, hostile_blocks)
    | st.builds(SourceDescription, st.lists(st.builds(SdesChunk, ssrcs, st.just([(1, b"ours")])), max_size=3))
    | st.builds(Bye, st.lists(ssrcs, max_size=31), st.binary(max_size=20))
    | st.builds(
        ExtendedReport,
        ssrcs,
        st.lists(
            st.builds(voip_block, ssrcs, rx_config=st.integers(0, 255), jb_nominal=st.integers(0, 65535)), max_size=3
        ),
    )
)


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.binary(max_size=100) | st.lists(hostile_packets, max_size=4)), max_size=8),
    st.integers(0, 300),
)
def test_nothing_from_the_network_raises(received, heard) -> None:
    leg = Leg(xr=True)
    leg.hear(heard, lost=range(100, 120))
    for now, compound in received:
        data = compound if isinstance(compound, bytes) else b"".join(map(bytes, compound))
        leg.rtcp.receive(data, now, WALL + now)
        answer = leg.report(now)
        assert parse_compound(answer)
        assert aiortc.rtp.RtcpPacket.parse(answer)
        quality = leg.rtcp.quality(now)
        assert quality.outbound.mos is None or 1 <= quality.outbound.mos <= 4.5
    rtcp = leg.rtcp
    assert rtcp.received + rtcp.malformed + rtcp.loops + rtcp.collisions + rtcp.strangers == len(received)
