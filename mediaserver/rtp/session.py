"""The RTP session of one call leg (RFC 3550): its media work, done once a packet interval on the media thread."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mediaserver.rtp.endpoint import RtpEndpoint
from mediaserver.rtp.inbound import InboundAudio
from mediaserver.rtp.latch import Address, Latch, LatchPolicy
from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.rtp.reader import SLOTS, unpack_source
from mediaserver.rtp.receive_stream import ReceiveFormat, ReceiveStream
from mediaserver.rtp.rtcp_session import RtcpSession
from mediaserver.rtp.send_stream import SendFormat, SendStream
from mediaserver.rtp.stats import ReceiverStats

READS = 8
"Calls of the reader in one tick: with its 32 slots, 256 datagrams, as many as come in 20 ms at 12,800 a second."
LAZY_READ_MS = 60
"""How often the socket is read while nobody listens to the audio: three packets by one call. Their arrival is stamped
by the kernel, and the socket has room for seconds of a call. In a flood, and before the first packet, at every tick."""
REPORTS = 4
"RTCP compounds that one leg reads between two looks at what is not urgent; a hostile one takes half a millisecond."
RESTART_MS = 200
"No stream of a peer begins anew, with decoder and jitter buffer, sooner than this after the one before."
HOUSEKEEPING_MS = 500
"How often what is not urgent is looked at: reports, the RTCP port, the leg's health."


@dataclass(frozen=True, slots=True)
class RtpSettings:
    """What one session is made with."""

    policy: LatchPolicy = LatchPolicy.HOST
    rtcp: bool = True
    playout_rate: int = 8000
    "Hz of the PCM in the playout buffer."


class RtpSession:
    """One leg's RTP and RTCP, both ways.

    tick() belongs to the media thread, and so does all that it calls. The event loop makes the session and may at any
    time call the set_ methods, which assign one reference each.
    """

    def __init__(
        self,
        endpoint: RtpEndpoint,
        playout: PlayoutBuffer,
        send_form: SendFormat,
        receive_form: ReceiveFormat,
        settings: RtpSettings,
        inbound: InboundAudio | None = None,
    ) -> None:
        self.playout = playout
        self.inbound = inbound or InboundAudio()
        self.stats = ReceiverStats(receive_form.codec.clock_rate)
        self.sending = SendStream(endpoint.send, playout, send_form, settings.playout_rate)
        self.receiving = ReceiveStream(receive_form, Latch(settings.policy), self.inbound, self.stats)
        self.rtcp: RtcpSession | None = None
        self._rtcp_muxed = False
        self._rtcp_remote: Address | None = None
        self.prompt = False
        "Whether what comes is wanted at once though nobody listens: a digit is to interrupt."
        self.on_housekeeping: Callable[[float], None] | None = None
        "Called a few times a second with the time, if set."
        self.now_ms = 0
        "When the tick under way was due, or the last one."
        self.began: float | None = None
        "When the first tick was, in monotonic seconds."
        self._endpoint = endpoint
        self._policy = settings.policy
        self._next_housekeeping_ms = 0
        self._next_read_ms = 0
        self._collided_with: bytes | None = None
        self._reports = 0  # valid ones that have come
        self._reports_left = REPORTS
        self._restarted_ms = -RESTART_MS
        self._discards = 0  # of the jitter buffer, as told last
        # Taken once: a step of the wall clock would else look like a round trip.
        self._wall_offset = time.time() - time.monotonic()
        if settings.rtcp:
            self.rtcp = RtcpSession(
                self.sending.ssrc,
                # RFC 7022 section 4.2: short-term persistent, and says nothing about this host.
                secrets.token_urlsafe(12),
                self.stats,
                xr=False,
                rng=random.Random(secrets.randbits(64)),  # noqa: S311  no secret: it spreads reports
            )
            self.receiving.on_rtcp = self._take_rtcp
        self._note_stream = self.stats.on_stream  # for reports
        self.stats.on_stream = self._stream_began

    @property
    def ssrc(self) -> int:
        """Our own."""
        return self.sending.ssrc

    @property
    def interval_ms(self) -> int:
        """The packet interval at which the pacer should ask."""
        return self.sending.form.ptime_ms

    @property
    def destination(self) -> Address | None:
        """Where packets go; None if nowhere is known yet."""
        return self.receiving.latch.destination

    def set_remote(self, address: Address | None, hosts: Iterable[str] = ()) -> None:
        """Follow a new SDP: see Latch."""
        self.receiving.latch = Latch(self._policy, address, hosts)

    def set_rtcp(self, remote: Address | None, *, muxed: bool, xr: bool) -> None:
        """Where reports go if they are not muxed (None: one port above where RTP goes), and whether with VoIP metrics
        (RFC 3611). As for RTP, they go to where the peer's own come from, once those have come.
        """
        self._rtcp_muxed = muxed
        self._rtcp_remote = remote
        if self.rtcp is not None:
            self.rtcp.xr = xr

    def tick(self, due_ms: int) -> None:
        """Do what is due at that time, in whole milliseconds of the monotonic clock: receive, then send."""
        self.now_ms = due_ms
        receiving = self.receiving
        if due_ms >= self._next_read_ms:
            datagrams = self._endpoint.read()
            for data, source, arrival in datagrams:
                receiving.take(data, source, arrival)
            if len(datagrams) == SLOTS:
                self._read_on()
            elif not (self.inbound.listening or self.prompt or receiving.digit_down) and receiving.latch.source_key:
                self._next_read_ms = due_ms + LAZY_READ_MS
        if self.inbound.listening:
            self.inbound.pull(due_ms)
        if receiving.digit_down:
            receiving.poll(due_ms / 1000)
        self.sending.send(due_ms, receiving.latch.destination)
        if due_ms >= self._next_housekeeping_ms:
            self._next_housekeeping_ms = due_ms + HOUSEKEEPING_MS
            self._keep_house(due_ms)

    def _read_on(self) -> None:
        """More than one call of the reader takes has come, as in a flood."""
        for _ in range(READS - 1):
            datagrams = self._endpoint.read()
            for data, source, arrival in datagrams:
                self.receiving.take(data, source, arrival)
            if len(datagrams) < SLOTS:
                return

    def _keep_house(self, due_ms: int) -> None:
        now = due_ms / 1000
        if self.began is None:
            self.began = now
            if self.rtcp is not None:
                self.rtcp.start(now)
        self.receiving.counters.overflowed = self._endpoint.dropped
        self._endpoint.synchronise()
        self._watch_for_collision()
        if self.rtcp is not None:
            self._reports_left = REPORTS
            self._read_rtcp()
            if now >= self.rtcp.next_due:
                self._report(self.rtcp)
        if self.on_housekeeping is not None:
            self.on_housekeeping(now)

    # Reports:

    def _read_rtcp(self) -> None:
        """From the port of its own."""
        for _ in range(READS):
            datagrams = self._endpoint.read_rtcp()
            for data, source, arrival in datagrams:
                before = self._reports
                if self.receiving.take_rtcp(data, source, arrival) and self._reports > before:
                    self._follow_reports(source)
            if len(datagrams) < SLOTS:
                return

    def _follow_reports(self, source: bytes) -> None:
        """A valid report has come from there: ours go there too, under the policy that RTP follows."""
        if self._policy is LatchPolicy.HOST or (self._policy is LatchPolicy.ANY and self.receiving.latch.source):
            self._rtcp_remote = unpack_source(source)

    def _take_rtcp(self, data: bytes, arrival: float) -> None:
        """A peer sends one every five seconds or so: what comes by the hundred is not even looked at."""
        rtcp = self.rtcp
        if rtcp is not None:
            if not self._reports_left:
                self.receiving.counters.rtcp_refused += 1
                return
            self._reports_left -= 1
            malformed = rtcp.malformed
            rtcp.receive(data, arrival, arrival + self._wall_offset)
            self._reports += rtcp.malformed == malformed

    def _report(self, rtcp: RtcpSession) -> None:
        self._tell_buffer(rtcp)
        self._send_rtcp(rtcp.report(*self._sender_info(), sending=False))

    def _sender_info(self) -> tuple[float, float, int, int, int]:
        """The time by both clocks, its RTP timestamp, and what was sent until then: packets and octets."""
        now, counters = time.monotonic(), self.sending.counters
        return now, now + self._wall_offset, self.sending.timestamp(now * 1000), counters.packets, counters.octets

    def _tell_buffer(self, rtcp: RtcpSession) -> None:
        """What reports say of the jitter buffer; there is one while somebody listens."""
        rtcp.packet_ms = self.interval_ms
        if self.inbound.listening:
            buffer = self.inbound.buffer
            rtcp.jitter_buffer_ms = buffer.depth_ms
            discarded, self._discards = buffer.late - self._discards, buffer.late
            if discarded > 0:
                rtcp.voip.note_discard(discarded)

    def say_goodbye(self) -> None:
        """Send BYE (RFC 3550 section 6.6). For the end, once the leg has left the pacer."""
        if self.rtcp is not None and self.began is not None:
            self._send_rtcp(self.rtcp.bye(*self._sender_info()))

    def close(self) -> None:
        """The end: take leave, and let go of all that calls back, so that nothing has to wait for the cycle collector.

        For the event loop, once the leg has left the pacer.
        """
        self.say_goodbye()
        self.on_housekeeping = None
        self.stats.on_stream = self._note_stream = self.stats.on_loss = None
        self.receiving.on_digit = self.receiving.on_rtcp = None
        self.sending.on_frame = None
        self.sending.dtmf.on_done = _nothing

    def _send_rtcp(self, data: bytes) -> None:
        destination = self.destination
        if destination is None or not data:  # who has sent nothing takes no leave (RFC 3550 section 6.3.7)
            return
        if self._rtcp_muxed:
            self._endpoint.send_quietly(data, destination)
        else:
            host, port = destination
            self._endpoint.send_rtcp(data, self._rtcp_remote or (host, port + 1))

    # Streams of the peer:

    def _stream_began(self) -> None:
        if self._note_stream is not None:
            self._note_stream()
        if self.now_ms - self._restarted_ms >= RESTART_MS:  # else somebody plays with SSRCs
            self._restarted_ms = self.now_ms
            self.receiving.restart()

    def _watch_for_collision(self) -> None:
        """RFC 3550 section 8.2: who finds another with its own SSRC takes a new one; once for each such source, since
        a peer that sends back what it gets collides with every one.
        """
        receiving, rtcp = self.receiving, self.rtcp
        source = receiving.latch.source_key
        if self.stats.ssrc != self.sending.ssrc or source is None:
            if rtcp is None or not rtcp.collision:
                return
            source = source or b""  # told by reports alone
        if source == self._collided_with:
            return
        self._collided_with = source
        receiving.counters.collisions += 1
        self.say_goodbye()
        self.sending.ssrc = secrets.randbits(32)
        if rtcp is not None:
            rtcp.set_ssrc(self.sending.ssrc)


def _nothing() -> None:
    pass
