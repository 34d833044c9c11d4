"""The RTP session of one call leg (RFC 3550): what it sends at each packet interval, what it makes of what comes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mediaserver.rtp.codec import Codec
from mediaserver.rtp.latch import Address, Latch, LatchPolicy
from mediaserver.rtp.packet import FIRST_OCTET, RtpFields, RtpPacket, is_rtcp, pack_header, parse_fields
from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.rtp.stats import ReceiverStats

_MARKER = 0x80


@dataclass(frozen=True, slots=True)
class SendFormat:
    """How audio is sent: swapped as a whole, so that no packet mixes two formats."""

    codec: Codec
    payload_type: int
    "As negotiated; the codec's static one or one of 96-127."
    ptime_ms: int = 20
    samples: int = field(init=False)
    "Samples, and so bytes of payload, in one packet."
    silence: bytes = field(init=False)
    "The payload of one packet of silence."

    def __post_init__(self) -> None:
        if not 0 <= self.payload_type <= 127:
            raise ValueError(f"payload type {self.payload_type} is not within 0-127")
        samples = self.codec.clock_rate * self.ptime_ms // 1000
        object.__setattr__(self, "samples", samples)
        object.__setattr__(self, "silence", self.codec.silence * samples)


@dataclass(slots=True)
class SendCounters:
    """Written by the pacer's thread only."""

    packets: int = 0
    octets: int = 0
    "Of payload, as RFC 3550's sender reports count."
    errors: int = 0
    "Packets that the socket refused: lost, as on the network."


@dataclass(slots=True)
class ReceiveCounters:
    """Datagrams by what became of them. Written by the event loop's thread only."""

    packets: int = 0
    "RTP taken."
    octets: int = 0
    "Of payload."
    events: int = 0
    "RTP taken that was telephone-event."
    rtcp: int = 0
    malformed: int = 0
    wrong_type: int = 0
    "RTP of a payload type that was not negotiated."
    strangers: int = 0
    "RTP from an address that the latch refused."


class RtpSession:
    """One leg's RTP, both ways.

    send_due belongs to the pacer's thread; all else to the event loop's, which may at any time change `paused`,
    `send_silence`, the format and the remote address: each is one reference that the next packet sees whole.
    """

    def __init__(
        self,
        send: Callable[[bytes, Address], object],
        playout: PlayoutBuffer,
        send_format: SendFormat,
        latch: Latch | None = None,
    ) -> None:
        """send(datagram, address) may raise OSError, which is counted; it is called by the pacer's thread."""
        self.playout = playout
        self.paused = False
        "On hold (a direction without sending): nothing is sent and no audio consumed."
        self.send_silence = True
        "Whether silence is sent between utterances, or nothing."
        self.on_packet: Callable[[RtpPacket, float], None] | None = None
        "Called with each packet taken and its arrival time, if set."
        self.ssrc = secrets.randbits(32)
        self.sent = SendCounters()
        self.received = ReceiveCounters()
        self.last_received: float | None = None
        "When a packet was last taken, in the clock of receive()."
        self._send = send
        self._latch = latch or Latch(LatchPolicy.HOST)
        self._destination = self._latch.destination
        self._format = send_format
        playout.set_frame_samples(send_format.samples)
        # 15 bits: a number near its wrap would make packet loss at the start ambiguous to SRTP (RFC 3711 3.3.1).
        self._sequence = secrets.randbits(15)
        self._timestamp_base = secrets.randbits(32)
        self._next_due_ms = 0
        self._talking = False
        self.stats = ReceiverStats(send_format.codec.clock_rate)
        self._accepted: frozenset[int] = frozenset({send_format.payload_type})
        self._event_type: int | None = None

    @property
    def send_format(self) -> SendFormat:
        return self._format

    @property
    def interval_ms(self) -> int:
        """The packet interval at which the pacer should ask."""
        return self._format.ptime_ms

    @property
    def destination(self) -> Address | None:
        """Where packets go; None if nowhere is known yet."""
        return self._destination

    def set_send_format(self, send_format: SendFormat) -> None:
        """Change codec, payload type or ptime. For another ptime, first take the leg off the pacer, then add it."""
        if send_format.samples != self._format.samples:
            self.playout.set_frame_samples(send_format.samples)
        self._format = send_format

    def set_receive_types(self, payload_types: Iterable[int], telephone_event: int | None = None) -> None:
        """The payload types to take: audio, and telephone-event (RFC 4733) if negotiated."""
        self._event_type = telephone_event
        accepted = frozenset(payload_types)
        self._accepted = accepted if telephone_event is None else accepted | {telephone_event}

    def set_remote(self, address: Address | None, hosts: Iterable[str] = ()) -> None:
        """Follow a new SDP: see Latch.set_remote."""
        self._latch.set_remote(address, hosts)
        self._destination = self._latch.destination

    def send_due(self, due_ms: int) -> None:
        """Send the packet due at `due_ms`, a time in whole milliseconds on a clock that never jumps.

        The timestamp is that time in samples, so it advances alike through speech, silence, holds and missed
        intervals (RFC 3550 section 5.1). A call within the interval of the packet before sends nothing.
        """
        destination = self._destination
        gap = due_ms - self._next_due_ms
        if gap < 0 or self.paused or destination is None:
            return
        form = self._format
        self._next_due_ms = due_ms + form.ptime_ms
        frame = self.playout.read()
        second = form.payload_type
        if frame is not None:
            payload = form.codec.encode(frame)
            if gap or not self._talking:
                self._talking = True
                second |= _MARKER  # the first packet of a talkspurt (RFC 3551 section 4.1)
        else:
            self._talking = False
            if not self.send_silence:
                return
            payload = form.silence
        self._sequence = sequence = (self._sequence + 1) & 0xFFFF
        timestamp = (self._timestamp_base + due_ms * form.codec.clock_rate // 1000) & 0xFFFFFFFF
        header = pack_header(FIRST_OCTET, second, sequence, timestamp, self.ssrc)
        sent = self.sent
        try:
            self._send(header + payload, destination)
        except OSError:
            sent.errors += 1
            return
        sent.packets += 1
        sent.octets += len(payload)

    def receive(self, data: bytes, source: Address, now: float) -> None:
        """Take one datagram that came from `source` at `now`, monotonic seconds. Never raises for its content."""
        counters = self.received
        if is_rtcp(data):
            counters.rtcp += 1
            return
        try:
            fields = parse_fields(data)
        except ValueError:
            counters.malformed += 1
            return
        if fields.payload_type not in self._accepted:
            counters.wrong_type += 1
            return
        if not self._latch.accept(source, now):
            counters.strangers += 1
            return
        self._destination = self._latch.destination
        self._take(data, fields, now)

    def _take(self, data: bytes, fields: RtpFields, now: float) -> None:
        counters = self.received
        counters.packets += 1
        counters.octets += fields.payload_end - fields.payload_start
        self.last_received = now
        is_event = fields.payload_type == self._event_type
        if is_event:
            counters.events += 1
        self.stats.update(fields.ssrc, fields.sequence, fields.timestamp, now, timed=not is_event)
        if self.on_packet is not None:
            self.on_packet(RtpPacket.from_fields(data, fields), now)
