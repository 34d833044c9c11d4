"""The media of one call: what was negotiated, its ports, its RTP session, and what that reports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import structlog

from mediaserver.call.hearing import CallHearing
from mediaserver.config import BargeInConfig, DtmfConfig, RtpConfig
from mediaserver.negotiation import EVENT, MediaFormat, Negotiator, NotAcceptableError
from mediaserver.refusal import RefusedError
from mediaserver.rtcp_attributes import RtcpPolicy
from mediaserver.rtp.barge_in import Interruption
from mediaserver.rtp.call_quality import CallQuality
from mediaserver.rtp.codec import BYTES_PER_SAMPLE, CODECS, Codec
from mediaserver.rtp.dtmf import DtmfEvent
from mediaserver.rtp.dtmf_tones import digits_pcm
from mediaserver.rtp.endpoint import RtpEndpoint, deliver_to
from mediaserver.rtp.health import HealthLimits, LegHealth, MediaFailure
from mediaserver.rtp.inbound import InboundAudio
from mediaserver.rtp.latch import LatchPolicy
from mediaserver.rtp.look_budget import LookBudget
from mediaserver.rtp.pacer_thread import PacerThread
from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.rtp.receive_stream import ReceiveFormat
from mediaserver.rtp.send_stream import SendFormat
from mediaserver.rtp.session import RtpSession, RtpSettings
from mediaserver.speech.queue import MAX_BUFFERED_S
from sip.sdp import SdpError

NARROWBAND_HZ = 8000
"Sample rate of what those who listen to the inbound audio get."

TONE_TAIL_MS = 150
"Silence after the last tone: a BYE right behind it would drop the tone from the peer's jitter buffer."

DigitMethod = Literal["rfc4733", "info", "inband"]


@dataclass(frozen=True, slots=True)
class DigitsSent:
    """All digits that were queued have been sent."""


MediaEvent = DtmfEvent | Interruption | MediaFailure | DigitsSent
"What the media thread reports to the call."


@dataclass(frozen=True, slots=True)
class MediaServices:
    """What the media of all calls share."""

    pacer: PacerThread
    rtp: RtpConfig
    dtmf: DtmfConfig
    barge_in: BargeInConfig
    look_budget: LookBudget = field(default_factory=LookBudget)
    "Of the media thread: a close look at who may be interrupting takes milliseconds."


class CallMedia:
    """All methods belong to the event loop, but for those that say otherwise."""

    def __init__(
        self,
        services: MediaServices,
        endpoint: RtpEndpoint,
        advertised: tuple[str, int],
        peer_host: str,
        sdp: bytes | None,
        on_event: Callable[[MediaEvent], None],
        log: structlog.typing.FilteringBoundLogger,
        *,
        unanswered: bool = False,
    ) -> None:
        """Negotiates. sdp: the offer, None if the peer wants ours. peer_host: where its signalling comes from.

        unanswered: the call is ours, and offer() comes when it is known where it goes. on_event is called in the event
        loop. Raises RefusedError.
        """
        self._services = services
        self._endpoint = endpoint
        self._peer_host = peer_host
        self._log = log
        self._report = deliver_to(asyncio.get_running_loop(), on_event)
        rtp = services.rtp
        self._negotiator = Negotiator(rtp.codecs, rtp.ptime_ms, advertised, RtcpPolicy(rtp.rtcp, rtp.rtcp_mux))
        self.answer_pending = sdp is None
        "Our offer awaits the peer's answer."
        self.format: MediaFormat | None = None
        "What was agreed last."
        self.local_sdp, self.format = (b"", None) if unanswered else self._negotiate(sdp)
        codec = self.format.codec if self.format is not None else self._negotiator.preferred
        self.playout_rate = codec.sample_rate
        "Hz of the speech: that of the codec that the call begins with."
        self.playout = PlayoutBuffer(max_seconds=MAX_BUFFERED_S, sample_rate=self.playout_rate)
        self.inbound = InboundAudio(max_depth_ms=rtp.jitter_buffer_max_ms)
        self.rtp = self._make_session(codec)
        self.hearing = CallHearing(self.rtp, self.playout_rate, services.barge_in, services.look_budget, self._report)
        self.paced = False
        "Whether the peer is being sent to, and heard."
        self._health = LegHealth(HealthLimits(rtp.start_timeout_s, rtp.stop_timeout_s, rtp.silence_timeout_s))
        self._failed = False
        self._seen_report = 0.0
        if self.format is not None:
            self._apply(self.format, moved=True)

    # Negotiation:

    def offer(self, host: str, peer_host: str) -> bytes:
        """The offer of a call of ours. host: our address as the peer sees it; peer_host: as in the constructor."""
        self._negotiator.move(host)
        self._peer_host = peer_host
        self.local_sdp = self._negotiator.offer()
        return self.local_sdp

    def hold(self, held: bool) -> bytes:
        """The offer that puts the peer on hold, or takes it back; take_answer() reads its answer."""
        self._negotiator.held = held
        return self._negotiator.offer()

    def hold_failed(self, held: bool) -> None:
        """The peer has refused the offer: what was agreed stays. held: what is so still."""
        self._negotiator.held = held

    @property
    def held(self) -> bool:
        """Whether speech is paused because the peer is on hold by our wish."""
        return self.rtp.sending.held

    @held.setter
    def held(self, held: bool) -> None:
        self.rtp.sending.held = held

    def renegotiate(self, sdp: bytes | None) -> tuple[bytes, MediaFormat | None]:
        """A re-INVITE: our SDP for its answer, and what is agreed, which change() makes so. Raises RefusedError."""
        answer, media = self._negotiate(sdp)
        self.answer_pending = sdp is None
        return answer, media

    def take_answer(self, sdp: bytes) -> MediaFormat:
        """The answer to our offer. Raises RefusedError."""
        self.answer_pending = False
        try:
            return self._negotiator.accept_answer(sdp)
        except (SdpError, NotAcceptableError) as error:
            raise RefusedError(488, str(error)) from None

    def _negotiate(self, sdp: bytes | None) -> tuple[bytes, MediaFormat | None]:
        if sdp is None:
            return self._negotiator.offer(), None
        try:
            return self._negotiator.answer(sdp)
        except SdpError as error:
            raise RefusedError(400, f"Bad SDP: {error}") from None
        except NotAcceptableError as error:
            warning = ("Warning", f'305 {self._negotiator.host} "{error}"')  # RFC 3261 section 20.43
            raise RefusedError(488, None, (warning,)) from None

    # Pace:

    def pace(self) -> None:
        """Begin to send and to hear, if a format is agreed."""
        if not self.paced and self.format is not None:
            self.paced = True
            self._services.pacer.add(self.rtp)

    def unpace(self) -> None:
        if self.paced:
            self.paced = False
            self._services.pacer.remove(self.rtp)

    def change(self, media: MediaFormat) -> bool:
        """Make an agreement so; whether it differs from the one before.

        A mere session refresh disturbs nothing: not the pace, nor what was latched.
        """
        before, self.format = self.format, media
        if media == before:
            return False
        paced = self.paced
        if media.ptime_ms != self.rtp.interval_ms:
            self.unpace()
        self._apply(media, moved=before is None or media.remote != before.remote)
        if paced:
            self.pace()
        self._log.info("media_changed", codec=media.codec.name, ptime_ms=media.ptime_ms, sending=media.sending)
        return True

    def quality(self) -> CallQuality | None:
        """Of both directions so far; None without RTCP, or before anything was sent."""
        rtcp = self.rtp.rtcp
        return rtcp.quality(time.monotonic()) if rtcp is not None and self.rtp.began is not None else None

    def close(self) -> None:
        """The call is over: say so by RTCP, free the ports."""
        self.unpace()
        try:
            self.rtp.close()
        finally:
            self._endpoint.close()
        self._report = _unheard
        self.hearing.close()

    def _make_session(self, codec: Codec) -> RtpSession:
        rtp = self._services.rtp
        session = RtpSession(
            self._endpoint,
            self.playout,
            SendFormat(codec, codec.payload_type),  # until an answer comes in the ACK nothing is sent
            ReceiveFormat(codec, codec.payload_type),
            RtpSettings(LatchPolicy(rtp.symmetric), rtp.rtcp, self.playout_rate),
            self.inbound,
        )
        session.sending.send_silence = rtp.send_silence
        session.sending.dtmf.on_done = lambda: self._report(DigitsSent())
        session.on_housekeeping = self._keep_house
        return session

    def _apply(self, media: MediaFormat, *, moved: bool) -> None:
        rtp, event_type = self.rtp, media.event_payload_type
        rtp.sending.set_form(SendFormat(media.codec, media.payload_type, media.ptime_ms, event_type))
        rtp.sending.paused = not media.sending
        noise_type = media.comfort_noise_payload_type
        also = {number: _kind(name) for name, number in media.offered.items()}
        rtp.receiving.set_form(ReceiveFormat(media.codec, media.payload_type, event_type, noise_type, also))
        rtp.set_rtcp(media.rtcp_remote, muxed=media.rtcp_mux, xr=media.rtcp_xr)
        self.hearing.detect_tones(self._services.dtmf.detect_inband and event_type is None)
        if moved:
            rtp.set_remote(media.remote, [self._peer_host])

    # What the media thread sees:

    def _keep_house(self, now: float) -> None:
        """On the media thread, a few times a second."""
        media, rtcp = self.format, self.rtp.rtcp
        far = rtcp.far if rtcp is not None else None
        if far is not None and far.when != self._seen_report:
            self._seen_report = far.when
            self.playout.far_end(far.jitter_seconds, far.fraction_lost)
        failure = self._health.check(
            now,
            self.rtp.receiving.last_received,
            rtcp.last_received if rtcp is not None else None,
            owed=media is not None and media.owed and not self.held,
            comfort_noise=self.rtp.receiving.noise_last,
        )
        if failure is not None and not self._failed:
            self._failed = True
            self._report(failure)

    # Digits to send:

    @property
    def digit_method(self) -> DigitMethod:
        """How digits go to this peer, by configuration and by what it takes."""
        method = self._services.dtmf.method
        takes_events = self.format is not None and self.format.event_payload_type is not None
        if method == "info":
            return "info"
        return "rfc4733" if method != "inband" and takes_events else "inband"

    def send_digits(self, digits: str) -> None:
        """Send digits as telephone-events or tones; DigitsSent is reported at their end.

        Raises ValueError for what are none, DtmfQueueFullError.
        """
        duration = self._services.dtmf.duration_ms
        if self.digit_method == "rfc4733":
            self.rtp.sending.dtmf.send(digits, duration_ms=duration)
        else:
            tones = digits_pcm(digits, duration_ms=duration, sample_rate=self.playout_rate)
            tail = bytes(self.playout_rate * TONE_TAIL_MS // 1000 * BYTES_PER_SAMPLE)
            self.rtp.sending.play_tones(tones + tail)

    @property
    def sending_digits(self) -> bool:
        """Whether telephone-events or tones are being sent, or wait."""
        return self.rtp.sending.sending_digits

    def clear_digits(self) -> None:
        """Forget the digits that wait."""
        self.rtp.sending.clear_digits()


def _kind(name: str) -> Codec | Literal["event", "noise"]:
    """What is sent by the payload type of an encoding name of ours."""
    return CODECS.get(name, "event" if name == EVENT else "noise")


def _unheard(_event: MediaEvent) -> None:
    """The call is over."""
