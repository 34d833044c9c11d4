"""The receiving half of one leg's RTP: what comes is sorted, counted, and handed on to who wants it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from mediaserver.rtp.codec import Codec
from mediaserver.rtp.dtmf import DtmfEvent, DtmfReceiver
from mediaserver.rtp.inbound import InboundAudio
from mediaserver.rtp.latch import Latch
from mediaserver.rtp.packet import FIRST_OCTET, RTP_HEADER_LENGTH, RtpFields, is_rtcp, parse_fields
from mediaserver.rtp.reader import SLOT_BYTES, unpack_source
from mediaserver.rtp.stats import ReceiverStats

_STATIC_NOISE = 13  # RFC 3551 section 6
_unpack_header = struct.Struct("!BBHII").unpack_from


@dataclass(frozen=True, slots=True)
class ReceiveFormat:
    """What the peer may send: swapped as a whole."""

    codec: Codec
    payload_type: int
    event_type: int | None = None
    "Payload type of telephone-event (RFC 4733)."
    noise_type: int | None = None
    "Payload type of comfort noise (RFC 3389)."
    also: Mapping[int, Codec | Literal["event", "noise"]] = field(default_factory=dict)
    """Further payload types that the peer may use: those of our own offer, which an answer need not repeat (RFC 3264
    sections 5.1 and 7)."""

    def kind(self, payload_type: int) -> Codec | Literal["event", "noise"] | None:
        """What a payload type means; None if nothing that was agreed on."""
        if payload_type == self.payload_type:
            return self.codec
        if payload_type == self.event_type:
            return "event"
        if payload_type == self.noise_type:
            return "noise"
        return self.also.get(payload_type)


@dataclass(slots=True)
class ReceiveCounters:
    """Datagrams by what became of them. Written by the media thread only."""

    packets: int = 0
    "RTP taken."
    octets: int = 0
    "Of payload."
    events: int = 0
    "RTP taken that was telephone-event."
    noise: int = 0
    "RTP taken that was comfort noise."
    rtcp: int = 0
    rtcp_refused: int = 0
    "Of it, what came more often than any peer reports."
    malformed: int = 0
    oversized: int = 0
    wrong_type: int = 0
    "RTP of a payload type that was not negotiated."
    strangers: int = 0
    "RTP and RTCP from an address that the latch refused."
    overflowed: int = 0
    "Datagrams for which the kernel had no room in the socket: they came faster than they were read."
    collisions: int = 0
    "Streams that came with our own SSRC (RFC 3550 section 8.2)."


class ReceiveStream:
    """What one leg receives.

    take() belongs to the media thread. The event loop may at any time set `latch`, for a new remote address, and call
    set_form().
    """

    def __init__(self, form: ReceiveFormat, latch: Latch, inbound: InboundAudio, stats: ReceiverStats) -> None:
        self.form = form
        self.latch = latch
        self.inbound = inbound
        self.stats = stats
        self.dtmf = DtmfReceiver()
        self.counters = ReceiveCounters()
        self.last_received: float | None = None
        "When RTP was last taken, in monotonic seconds."
        self.on_digit: Callable[[DtmfEvent], None] | None = None
        self.on_rtcp: Callable[[bytes, float], None] | None = None
        "RTCP that came on this port (RFC 5761), and its arrival."
        self.digit_down = False
        "Whether poll() has anything to do."
        self.noise_last = False
        "Whether what came last was comfort noise: the peer may now send nothing for a long time."
        inbound.set_codec(form.codec)

    def take(self, data: bytes, source: bytes, arrival: float) -> None:
        """One datagram that came from `source` (see reader.pack_source). Never raises for its content."""
        latch = self.latch
        if source == latch.source_key and len(data) >= RTP_HEADER_LENGTH:
            first, second, sequence, timestamp, ssrc = _unpack_header(data)
            if first == FIRST_OCTET and second & 0x7F == self.form.payload_type and len(data) < SLOT_BYTES:
                # What nearly every packet is: audio, from where it has always come.
                latch.last_heard = self.last_received = arrival
                self.noise_last = False
                counters = self.counters
                counters.packets += 1
                counters.octets += len(data) - RTP_HEADER_LENGTH
                self.stats.update(ssrc, sequence, timestamp, arrival)
                if self.inbound.listening and ssrc == self.stats.ssrc:
                    self.inbound.put(sequence, timestamp, data[RTP_HEADER_LENGTH:], arrival)
                return
        self._take_other(data, source, arrival)

    def _take_other(self, data: bytes, source: bytes, arrival: float) -> None:
        counters = self.counters
        if len(data) >= SLOT_BYTES:
            counters.oversized += 1
            return
        if is_rtcp(data):
            self.take_rtcp(data, source, arrival)
            return
        try:
            fields = parse_fields(data)
        except ValueError:
            counters.malformed += 1
            return
        latch = self.latch
        kind = self.form.kind(fields.payload_type)
        if kind is None:
            self._take_unknown(fields, source, arrival)
            return
        if not latch.accept(unpack_source(source), arrival):
            counters.strangers += 1
            return
        latch.source_key = source
        self._take_rtp(data, fields, kind, arrival)

    def _take_unknown(self, fields: RtpFields, source: bytes, arrival: float) -> None:
        """RTP that means nothing to us: yet the peer lives that sends it, as a keep-alive (RFC 6263 section 4.6), or as
        comfort noise without having said so.
        """
        if not self.latch.allows(unpack_source(source)):
            self.counters.strangers += 1
            return
        self.counters.wrong_type += 1
        self.last_received = arrival
        self.noise_last = fields.payload_type == _STATIC_NOISE

    def take_rtcp(self, data: bytes, source: bytes, arrival: float) -> bool:
        """One datagram of RTCP, from either port; False if its source has no business here.

        RTCP says nothing about where audio comes from: it does not latch.
        """
        if not self.latch.allows_report(unpack_source(source)):
            self.counters.strangers += 1
            return False
        self.counters.rtcp += 1
        if self.on_rtcp is not None:
            self.on_rtcp(data, arrival)
        return True

    def _take_rtp(
        self, data: bytes, fields: RtpFields, kind: Codec | Literal["event", "noise"], arrival: float
    ) -> None:
        counters = self.counters
        counters.packets += 1
        counters.octets += fields.payload_end - fields.payload_start
        self.last_received = arrival
        is_event = kind == "event"
        self.noise_last = kind == "noise"
        self.stats.update(fields.ssrc, fields.sequence, fields.timestamp, arrival, timed=not is_event)
        if fields.ssrc != self.stats.ssrc:
            return  # a lone packet of another stream, or its first
        if is_event:
            counters.events += 1
            self.digit_down = True
            self._report(self.dtmf.receive(data[fields.payload_start : fields.payload_end], fields.timestamp, arrival))
            return
        counters.noise += self.noise_last
        if isinstance(kind, Codec) and fields.payload_type != self.form.payload_type:
            self._follow_codec(kind, fields.payload_type)
        if self.inbound.listening:
            payload = data[fields.payload_start : fields.payload_end]
            if self.noise_last:
                self.inbound.put_noise(fields.sequence, fields.timestamp, payload, arrival)
            else:
                self.inbound.put(fields.sequence, fields.timestamp, payload, arrival)

    def _follow_codec(self, codec: Codec, payload_type: int) -> None:
        """The peer has gone over to another codec that was agreed on: from now on that is the usual one."""
        form = self.form
        also = {**form.also, form.payload_type: form.codec}
        self.set_form(replace(form, codec=codec, payload_type=payload_type, also=also))

    def set_form(self, form: ReceiveFormat) -> None:
        """What the peer may send from now on."""
        self.inbound.set_codec(form.codec)
        self.form = form

    def restart(self) -> None:
        """Another stream begins: nothing of the one before helps to understand it."""
        self.inbound.reset()
        self.dtmf.reset()

    def poll(self, now: float) -> None:
        """Digits whose end never came, and what is left to report. To be called once a tick while `digit_down`."""
        while self.dtmf.active:
            event = self.dtmf.poll(now)
            if event is None:
                return
            self._report(event)
        self.digit_down = False

    def _report(self, event: DtmfEvent | None) -> None:
        if event is not None and self.on_digit is not None:
            self.on_digit(event)
