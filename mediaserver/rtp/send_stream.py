"""The sending half of one leg's RTP (RFC 3550): a packet at each interval, of speech, of a digit, or of silence."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mediaserver.rtp.codec import BYTES_PER_SAMPLE, Codec, audioop
from mediaserver.rtp.dtmf import DtmfSender
from mediaserver.rtp.latch import Address
from mediaserver.rtp.packet import FIRST_OCTET, pack_header
from mediaserver.rtp.playout import PlayoutBuffer

_MARKER = 0x80

Send = Callable[[bytes, Address], object]
"(datagram, where to); may raise OSError"


@dataclass(frozen=True, slots=True)
class SendFormat:
    """How audio is sent: swapped as a whole, so that no packet mixes two formats."""

    codec: Codec
    payload_type: int
    "As negotiated; the codec's static one or one of 96-127."
    ptime_ms: int = 20
    event_type: int | None = None
    "Payload type of telephone-event (RFC 4733), if the peer takes it."
    samples: int = field(init=False)
    "Units of the RTP clock, and so bytes of payload, in one packet."

    def __post_init__(self) -> None:
        for payload_type in (self.payload_type, self.event_type):
            if payload_type is not None and not 0 <= payload_type <= 127:
                raise ValueError(f"payload type {payload_type} is not within 0-127")
        object.__setattr__(self, "samples", self.codec.clock_rate * self.ptime_ms // 1000)


@dataclass(slots=True)
class SendCounters:
    """Written by the media thread only."""

    packets: int = 0
    octets: int = 0
    "Of payload, as RFC 3550's sender reports count."
    errors: int = 0
    "Packets that the socket refused: lost, as on the network."
    events: int = 0
    "Packets that were telephone-event."


class _Encoder:
    """From frames of the playout buffer to payloads, for one format."""

    __slots__ = ("_converted", "_rates", "_zeros", "direct", "silence")

    def __init__(self, form: SendFormat, playout_rate: int) -> None:
        codec = form.codec
        self.direct = codec.new_encoder()
        "For frames of the codec's own sample rate."
        self._rates = (playout_rate, codec.sample_rate)
        # audioop's state: primed with a sample, or the first frame would come out one short.
        _, self._converted = audioop.ratecv(bytes(BYTES_PER_SAMPLE), BYTES_PER_SAMPLE, 1, *self._rates, None)
        self._zeros = bytes(playout_rate * form.ptime_ms // 1000 * BYTES_PER_SAMPLE)
        self.silence = None if codec.silence is None else codec.silence * form.samples

    @property
    def is_direct(self) -> bool:
        """Whether frames are of the codec's own sample rate."""
        return self._rates[0] == self._rates[1]

    def converted(self, frame: bytes) -> bytes:
        """A frame of another sample rate. ratecv interpolates without a filter: for a codec that has changed in
        mid-call; a call that begins with a codec has its speech made at that codec's rate.
        """
        pcm, self._converted = audioop.ratecv(frame, BYTES_PER_SAMPLE, 1, *self._rates, self._converted)
        return self.direct(pcm)

    def encoded_silence(self) -> bytes:
        if self.silence is not None:
            return self.silence
        return self.direct(self._zeros) if self.is_direct else self.converted(self._zeros)


class SendStream:
    """What one leg sends.

    send() belongs to the media thread. The event loop may at any time change `paused`, `held`, `send_silence` and the
    format: each is one reference that the next packet sees whole.
    """

    def __init__(self, send: Send, playout: PlayoutBuffer, form: SendFormat, playout_rate: int = 8000) -> None:
        """playout_rate: of the PCM in the playout buffer, Hz."""
        self.playout = playout
        self.dtmf = DtmfSender()
        self.paused = False
        "On hold (a direction without sending): nothing is sent and no audio consumed."
        self.held = False
        "The peer is on hold by our wish: silence is sent, and no audio consumed."
        self.send_silence = True
        "Whether silence is sent between utterances, or nothing."
        self.on_frame: Callable[[bytes | None, int], None] | None = None
        "Called with the PCM of each packet sent (None: silence) and when it was due, if set."
        self.ssrc = secrets.randbits(32)
        self.counters = SendCounters()
        self._send = send
        # 15 bits: a number near its wrap would make packet loss at the start ambiguous to SRTP (RFC 3711 3.3.1).
        self._sequence = secrets.randbits(15)
        self._timestamp_base = secrets.randbits(32)
        self._next_due_ms = 0
        self._talking = False
        self._tones: deque[bytes] = deque()
        self._playout_rate = playout_rate
        self._frame_samples = 0
        self._form = form
        self._set_encoder(form)

    @property
    def form(self) -> SendFormat:
        return self._form

    def set_form(self, form: SendFormat) -> None:
        """Change codec, payload type or ptime. For another ptime, first take the leg off the pacer, then add it."""
        if form == self._form:
            return
        self._set_encoder(form)
        self._form = form

    def _set_encoder(self, form: SendFormat) -> None:
        samples = self._playout_rate * form.ptime_ms // 1000
        if samples != self._frame_samples:
            self._frame_samples = samples
            self.playout.set_frame_samples(samples)
        encoder = _Encoder(form, self._playout_rate)
        # One reference, since the media thread may be sending.
        self._encode = (form, encoder.direct if encoder.is_direct else encoder.converted, encoder)

    def timestamp(self, due_ms: float) -> int:
        """The RTP timestamp of that moment (RFC 3550 section 5.1), 32 bits."""
        return (self._timestamp_base + int(due_ms * self._form.codec.clock_rate / 1000)) & 0xFFFFFFFF

    def send(self, due_ms: int, destination: Address | None) -> bool:
        """Send the packet due at `due_ms`, a time in whole milliseconds on a clock that never jumps; False if none is.

        The timestamp is that time in units of the RTP clock, so it advances alike through speech, silence, holds and
        missed intervals (RFC 3550 section 5.1). A call within the interval of the packet before sends nothing.
        """
        gap = due_ms - self._next_due_ms
        if gap < 0 or destination is None or self.paused:
            return False
        form, encode, encoder = self._encode
        self._next_due_ms = due_ms + form.ptime_ms
        timestamp = (self._timestamp_base + due_ms * form.codec.clock_rate // 1000) & 0xFFFFFFFF
        if self.dtmf.active:
            if self._send_event(due_ms, timestamp, form, destination):
                return True
            frame = None  # between two digits: speech there would be heard in scraps
        else:
            frame = self._tone() if self._tones else None if self.held else self.playout.read()
        second = form.payload_type
        if frame is not None:
            payload = encode(frame)
            if gap or not self._talking:
                self._talking = True
                second |= _MARKER  # the first packet of a talkspurt (RFC 3551 section 4.1)
        else:
            self._talking = False
            if not self.send_silence:
                return False
            payload = encoder.silence or encoder.encoded_silence()
        if self.on_frame is not None:
            self.on_frame(frame, due_ms)
        self._sequence = sequence = self._sequence + 1 & 0xFFFF
        counters = self.counters
        try:
            self._send(pack_header(FIRST_OCTET, second, sequence, timestamp, self.ssrc) + payload, destination)
        except OSError:
            counters.errors += 1
        else:
            counters.packets += 1
            counters.octets += len(payload)
        return True

    def _send_event(self, due_ms: int, timestamp: int, form: SendFormat, destination: Address) -> bool:
        """A packet of the digit being sent; the speech waits meanwhile."""
        if form.event_type is None:  # a re-INVITE has taken it away
            self.dtmf.clear()
        packet = self.dtmf.next(due_ms, timestamp, form.ptime_ms, form.codec.clock_rate)
        if packet is None or form.event_type is None:
            return False
        self._talking = False
        self.counters.events += 1
        if self.on_frame is not None:
            self.on_frame(None, due_ms)
        self._sequence = sequence = self._sequence + 1 & 0xFFFF
        second = form.event_type | _MARKER if packet.marker else form.event_type
        try:
            header = pack_header(FIRST_OCTET, second, sequence, packet.timestamp, self.ssrc)
            self._send(header + packet.payload, destination)
        except OSError:
            self.counters.errors += 1
        else:
            self.counters.packets += 1
            self.counters.octets += len(packet.payload)
        return True

    def play_tones(self, pcm: bytes) -> None:
        """For the event loop: tones at the playout's sample rate, sent at once; the speech waits meanwhile."""
        self._tones.append(pcm)

    @property
    def sending_digits(self) -> bool:
        """Whether events or tones are being sent, or wait."""
        return self.dtmf.active or bool(self._tones)

    def clear_digits(self) -> None:
        """For the event loop: forget the digits that wait, and tones with the next frame."""
        self.dtmf.clear()
        self._tones = deque()  # not cleared: the media thread may be about to put back what is left of one

    def _tone(self) -> bytes | None:
        """The next frame of tones, filled up with silence at their end."""
        size = self._frame_samples * BYTES_PER_SAMPLE
        tones = self._tones
        if not tones:  # cleared meanwhile
            return None
        pcm = tones.popleft()
        if len(pcm) > size:
            tones.appendleft(pcm[size:])
        elif not tones:
            self.dtmf.on_done()
        return pcm[:size].ljust(size, b"\0")
