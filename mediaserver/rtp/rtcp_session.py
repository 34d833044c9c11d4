"""RTCP of one call leg: what we report, what the peer reports, and the quality of both directions (RFC 3550)."""

from __future__ import annotations

import math
import random

from mediaserver.rtp import emodel
from mediaserver.rtp.call_quality import CallQuality, DirectionQuality
from mediaserver.rtp.far_end import FarEnd, FarReport, ntp_stamp
from mediaserver.rtp.rtcp import (
    SDES_CNAME,
    Bye,
    ReceiverReport,
    ReportBlock,
    RtcpPacket,
    SdesChunk,
    SenderReport,
    SourceDescription,
    parse_compound,
)
from mediaserver.rtp.rtcp_interval import RtcpTimer
from mediaserver.rtp.rtcp_xr import ExtendedReport, VoipMetricsBlock
from mediaserver.rtp.stats import ReceiverStats
from mediaserver.rtp.voip_metrics import VoipMetrics

_BANDWIDTH = 500.0  # octets a second: 5% of G.711 at ptime=20ms with its headers, 80 kbit/s (section 6.2)
_FIRST_SIZE = 100  # octets: SR with one block, SDES with a CNAME
_ADAPTIVE_BUFFER_ENHANCED_PLC = 0b10_11_0000  # rx config of RFC 3611 section 4.7.6, rate of adaptation not given
_FAR_BUFFER_MS = 60.0  # jitter buffer of a peer that does not say
_MASK = 0xFFFFFFFF


class RtcpSession:
    """Builds and reads the compounds of one leg. Pure: times are arguments, nothing is sent from here.

    `now` is in monotonic seconds, `wall` in Unix seconds. Takes the callbacks on_loss and on_stream of `stats`.
    """

    __slots__ = (
        "_cname",
        "_far_end",
        "_packets_prior",
        "_received_prior",
        "_reported",
        "_sr_arrival",
        "_sr_lsr",
        "_sr_ssrc",
        "_stats",
        "_timer",
        "byes",
        "collision",
        "collisions",
        "jitter_buffer_max_ms",
        "jitter_buffer_ms",
        "last_received",
        "left",
        "loops",
        "malformed",
        "next_due",
        "packet_ms",
        "received",
        "ssrc",
        "strangers",
        "voip",
        "xr",
    )

    def __init__(self, ssrc: int, cname: str, stats: ReceiverStats, *, xr: bool, rng: random.Random) -> None:
        """`xr`: the peer's SDP asks for VoIP metrics. Raises ValueError for a CNAME that does not fit."""
        self.ssrc = ssrc
        self._cname = cname.encode()
        if not 0 < len(self._cname) <= 255:
            raise ValueError("CNAME must have 1 to 255 bytes of UTF-8")
        self._stats = stats
        self.xr = xr
        self._timer = RtcpTimer(rng, _BANDWIDTH, _FIRST_SIZE)
        self.voip = VoipMetrics()
        stats.on_loss = self.voip.note_loss
        stats.on_stream = self._start_stream

        self.next_due = math.inf
        "When to call `report`; infinite before `start`."
        self.packet_ms = 20
        "Packet time of the inbound stream."
        self.jitter_buffer_ms = 60.0
        "Depth of our jitter buffer, for what we report; whoever knows it may set it."
        self.jitter_buffer_max_ms = 200.0

        self.received = 0
        "Compounds read, malformed ones not included."
        self.malformed = 0
        self.strangers = 0
        "Compounds of somebody who neither is heard nor hears us."
        self.byes = 0
        self.collisions = 0
        "Compounds from somebody else with our SSRC."
        self.collision = False
        "Our SSRC is taken: say BYE and set another (RFC 3550 section 8.2)."
        self.loops = 0
        "Compounds of our own that came back."
        self.left = False
        "The source of the inbound stream has said BYE."
        self.last_received: float | None = None

        self._far_end = FarEnd()
        self._packets_prior = (0, 0)  # sent by the time of the last report, and of the one before it
        self._reported = False
        self._received_prior = 0
        self._sr_ssrc: int | None = None
        self._sr_lsr = 0
        self._sr_arrival = 0.0

    @property
    def far(self) -> FarReport | None:
        """The peer's latest report of our stream."""
        return self._far_end.report

    @property
    def far_voip(self) -> VoipMetricsBlock | None:
        """The peer's latest VoIP metrics of our stream."""
        return self._far_end.voip

    @property
    def round_trip(self) -> float | None:
        """Seconds, smoothed."""
        return self._far_end.round_trip

    @property
    def round_trip_last(self) -> float | None:
        """Seconds, as the latest report gave it."""
        return self._far_end.round_trip_last

    @property
    def round_trips_dropped(self) -> int:
        """Round trips that came out negative or absurd."""
        return self._far_end.round_trips_dropped

    def start(self, now: float) -> None:
        """The media begins: set the time of the first report."""
        self.next_due = self._timer.started(now)

    def set_ssrc(self, ssrc: int) -> None:
        """We send with another SSRC from now on; what was said of the old one counts no more."""
        self.ssrc = ssrc
        self.collision = False
        self._far_end.reset_reception()
        self._packets_prior = (0, 0)

    def report(self, now: float, wall: float, rtp_timestamp: int, packets: int, octets: int, sending: bool) -> bytes:
        """The compound to send now, and `next_due` for the one after it.

        `packets` and `octets` (of payload) are what was sent so far, `rtp_timestamp` is the instant `wall` on our
        stream's clock. An SR if `sending`, or if packets were sent since the report before the last (RFC 3550
        section 6.4), else an RR.
        """
        we_sent = sending or packets != self._packets_prior[1]
        data = self._compound(now, wall, rtp_timestamp, packets, octets, we_sent)
        self._packets_prior = (packets, self._packets_prior[0])
        self._reported = True
        senders = we_sent + (self._stats.ssrc is not None)
        self.next_due = self._timer.sent(now, len(data), senders=senders, we_sent=we_sent)
        return data

    def bye(self, now: float, wall: float, rtp_timestamp: int, packets: int, octets: int) -> bytes:
        """The compound with which our SSRC leaves; empty if we never sent anything, as then nobody waits for it.

        Arguments as in `report`; `next_due` stays as it is.
        """
        if packets == 0 and not self._reported:  # RFC 3550 section 6.3.7
            return b""
        we_sent = packets != self._packets_prior[1]
        return self._compound(now, wall, rtp_timestamp, packets, octets, we_sent) + bytes(Bye([self.ssrc]))

    def receive(self, data: bytes, now: float, wall: float) -> None:
        """Read a compound from the peer. Raises nothing: what cannot be read is counted."""
        try:
            packets = parse_compound(data)
        except ValueError:
            self.malformed += 1
            return
        if self._is_own(packets):
            return
        if not self._is_of_peer(packets[0]):
            self.strangers += 1
            return
        self.received += 1
        self.last_received = now
        self._timer.received(len(data))
        for packet in packets:
            match packet:
                case SenderReport():
                    self._note_sender_report(packet, now)
                    self._note_reports(packet.reports, now, wall)
                case ReceiverReport():
                    self._note_reports(packet.reports, now, wall)
                case Bye():
                    self.byes += 1
                    if self._stats.ssrc in packet.sources:
                        self.left = True
                case ExtendedReport():
                    for block in packet.blocks:
                        if block.ssrc == self.ssrc:
                            self._far_end.voip = block

    def _is_of_peer(self, first: RtcpPacket) -> bool:
        """Whether the stream that we hear reports, or somebody who hears ours: others may share the peer's address."""
        if not isinstance(first, SenderReport | ReceiverReport):
            return False
        known = self._stats.ssrc
        return known is None or first.ssrc == known or any(block.ssrc == self.ssrc for block in first.reports)

    def quality(self, now: float, *, jitter_buffer_ms: float | None = None) -> CallQuality:
        """Both directions at `now`, over the whole of their streams.

        `jitter_buffer_ms` is the depth of ours; the attribute's without it.
        """
        depth = self.jitter_buffer_ms if jitter_buffer_ms is None else jitter_buffer_ms
        round_trip_ms = None if self.round_trip is None else 1000 * self.round_trip
        return CallQuality(self._inbound(depth), self._outbound(), round_trip_ms)

    def _compound(self, now: float, wall: float, rtp_timestamp: int, packets: int, octets: int, we_sent: bool) -> bytes:
        reports = self._report_blocks(now)
        first: SenderReport | ReceiverReport
        if we_sent:
            first = SenderReport(
                self.ssrc, ntp_stamp(wall), rtp_timestamp & _MASK, packets & _MASK, octets & _MASK, reports
            )
        else:
            first = ReceiverReport(self.ssrc, reports)
        data = bytes(first) + bytes(SourceDescription([SdesChunk(self.ssrc, [(SDES_CNAME, self._cname)])]))
        if self.xr and self._stats.ssrc is not None and self._stats.expected > 0:
            data += bytes(ExtendedReport(self.ssrc, [self._voip_block(self._stats.ssrc)]))
        return data

    def _report_blocks(self, now: float) -> list[ReportBlock]:
        """One for the stream that we hear, if something of it has come since the last report (section 6.4)."""
        stats = self._stats
        if stats.ssrc is None or stats.expected == 0 or stats.received == self._received_prior:
            return []
        self._received_prior = stats.received
        lsr = dlsr = 0
        if self._sr_ssrc == stats.ssrc:
            lsr = self._sr_lsr
            dlsr = min(max(0, int((now - self._sr_arrival) * 65536)), _MASK)
        fraction = stats.fraction_lost()
        jitter = min(int(stats.jitter), _MASK)
        return [ReportBlock(stats.ssrc, fraction, stats.lost, stats.extended_highest, jitter, lsr, dlsr)]

    def _voip_block(self, ssrc: int) -> VoipMetricsBlock:
        """RFC 3611 section 4.7 for the stream that we hear."""
        stats = self._stats
        block = self.voip.block(ssrc, expected=stats.expected, lost=stats.lost, packet_ms=self.packet_ms)
        if self.round_trip_last is not None:
            block.round_trip_delay = min(round(1000 * self.round_trip_last), 0xFFFF)
        depth = min(round(self.jitter_buffer_ms), 0xFFFF)
        block.end_system_delay = min(depth + self.packet_ms, 0xFFFF)
        loss, burst_ratio = self._inbound_loss()
        r = emodel.r_factor(self._delay_ms(depth), loss, burst_ratio=burst_ratio)
        block.r_factor = round(r)
        block.mos_lq = round(10 * emodel.mos(emodel.r_factor(0, loss, burst_ratio=burst_ratio)))
        block.mos_cq = round(10 * emodel.mos(r))
        block.rx_config = _ADAPTIVE_BUFFER_ENHANCED_PLC
        block.jb_nominal = depth
        block.jb_maximum = block.jb_absolute_maximum = min(round(self.jitter_buffer_max_ms), 0xFFFF)
        return block

    def _start_stream(self) -> None:
        """ReceiverStats.on_stream."""
        self.voip.reset()
        self.left = False
        self._received_prior = 0

    def _is_own(self, packets: list[RtcpPacket]) -> bool:
        """Whether a compound comes from our own SSRC: a loop if the CNAME is ours too, else a collision (8.2)."""
        first = packets[0]
        own = isinstance(first, SenderReport | ReceiverReport) and first.ssrc == self.ssrc
        # A mixer passes on the SDES of its contributing sources, ours among them: only a strange CNAME collides.
        cnames = [
            chunk.cname
            for packet in packets
            if isinstance(packet, SourceDescription)
            for chunk in packet.chunks
            if chunk.ssrc == self.ssrc
        ]
        if own and self._cname in cnames:
            self.loops += 1
            return True
        if own or any(cname is not None and cname != self._cname for cname in cnames):
            self.collisions += 1
            self.collision = True
            return True
        return False

    def _note_sender_report(self, report: SenderReport, now: float) -> None:
        # One slot, whoever reports; the stream that we hear keeps it against others.
        if report.ssrc == self._stats.ssrc or self._sr_ssrc is None or self._sr_ssrc != self._stats.ssrc:
            self._sr_ssrc = report.ssrc
            self._sr_lsr = report.ntp >> 16 & _MASK
            self._sr_arrival = now

    def _note_reports(self, reports: list[ReportBlock], now: float, wall: float) -> None:
        for block in reports:
            if block.ssrc == self.ssrc:
                self._far_end.note_report(block, now, wall, self._stats.clock_rate)
                return

    def _delay_ms(self, buffer_ms: float) -> float:
        """One way, mouth to ear: half the round trip, the receiver's buffer, a packet that had to be filled."""
        return 500 * (self.round_trip or 0.0) + buffer_ms + self.packet_ms

    def _inbound_loss(self) -> tuple[float, float]:
        """Share of packets that could not be played, and its burst ratio."""
        expected = self._stats.expected
        if expected <= 0:
            return 0.0, 1.0
        # Packets that were late are no longer lost to A.3, but to the listener.
        loss = min(1.0, max(0, self._stats.lost + self.voip.discarded) / expected)
        return loss, self.voip.burst_ratio(expected)

    def _inbound(self, buffer_ms: float) -> DirectionQuality:
        if self._stats.expected <= 0:
            return DirectionQuality()
        loss, burst_ratio = self._inbound_loss()
        return DirectionQuality.rate(
            loss,
            1000 * self._stats.jitter_seconds,
            self._delay_ms(buffer_ms),
            burst_ratio=burst_ratio,
            conceals_loss=True,
        )

    def _outbound(self) -> DirectionQuality:
        far, loss, voip = self.far, self._far_end.loss, self.far_voip
        if far is None or loss is None:
            return DirectionQuality()
        # A peer that does not say is not credited with concealment.
        buffer_ms = voip.jb_nominal if voip is not None and voip.jb_nominal else _FAR_BUFFER_MS
        return DirectionQuality.rate(
            loss,
            1000 * far.jitter_seconds,
            self._delay_ms(buffer_ms),
            conceals_loss=voip is not None and voip.conceals_loss,
        )
