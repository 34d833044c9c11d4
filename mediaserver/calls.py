"""All calls of this node: which are taken, which are refused, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from mediaserver.call_engines import CallEngine, CallEngines
from mediaserver.call_leg import CallLeg, CallServices, EndReason
from mediaserver.call_media import MediaServices
from mediaserver.call_quality import QualityMeasures
from mediaserver.config import Config
from mediaserver.refusal import RefusedError
from mediaserver.rtp.endpoint import RtpEndpoint
from mediaserver.rtp.pacer import PacedLeg
from mediaserver.rtp.pacer_thread import PacerThread
from mediaserver.rtp.ports import NoPortsLeftError, PortAllocator
from mediaserver.rtp.reader import DatagramReader
from mediaserver.speech_order import BODY_TYPES, parse_order
from sip.errors import Fault
from sip.invite_session import InviteSession
from sip.message import SocketAddress
from sip.transport import is_unspecified
from tts_engine.errors import EngineBusyError, EngineError

_log = structlog.get_logger("calls")

MAX_LOAD = 0.9
"Of the media thread: one more call would have the packets of all others come late."


@dataclass(slots=True)
class CallTotals:
    """Totals of the calls that have ended; those of running calls are added by whoever exports them."""

    offered: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    "By status code."
    ended: Counter[str] = field(default_factory=Counter)
    "By EndReason."
    sums: Counter[str] = field(default_factory=Counter)
    "What leg_counts() gives, summed up."


def leg_counts(leg: CallLeg) -> dict[str, int]:
    """What one call has counted so far."""
    sent, received, rtcp, dtmf = (
        leg.rtp.sending.counters,
        leg.rtp.receiving.counters,
        leg.rtp.rtcp,
        leg.rtp.receiving.dtmf,
    )
    inbound = leg.media.inbound
    speech, digits = leg.speech.counters, leg.digits.counters
    return {
        "rtp_packets_sent": sent.packets,
        "rtp_send_errors": sent.errors,
        "rtp_packets_received": received.packets,
        "rtp_packets_lost": max(0, leg.rtp.stats.lost),
        "rtp_strangers": received.strangers,
        "rtp_malformed": received.malformed,
        "rtp_oversized": received.oversized,
        "rtp_wrong_type": received.wrong_type,
        "rtp_overflowed": received.overflowed,
        "rtp_ssrc_collisions": received.collisions,
        "rtp_underruns": leg.playout.underruns,
        "rtp_underrun_frames": leg.playout.underrun_frames,
        "rtp_inbound_late": inbound.buffer.late,
        "rtp_inbound_concealed": inbound.concealed,
        "rtcp_received": received.rtcp,
        "rtcp_malformed": rtcp.malformed if rtcp is not None else 0,
        "rtcp_strangers": rtcp.strangers if rtcp is not None else 0,
        "rtcp_refused": received.rtcp_refused,
        "dtmf_malformed": dtmf.malformed + dtmf.unknown,
        "dtmf_too_fast": dtmf.too_fast,
        "dtmf_received": digits.received,
        "dtmf_sent": digits.sent,
        "dtmf_failed": digits.failed,
        "interruptions_speech": leg.interruptions.speech,
        "interruptions_digit": leg.interruptions.digit,
        "speech_utterances": speech.utterances,
        "speech_played": speech.played,
        "speech_cleared": speech.cleared,
        "speech_failed": speech.failed,
        "speech_unspeakable": speech.unspeakable,
        "speech_waited": speech.waited,
        "underruns_engine": speech.underruns_engine,
        "underruns_engine_busy": speech.underruns_engine_busy,
        "underruns_event_loop": speech.underruns_event_loop,
    }


class Calls:
    """The application behind the user agent: it makes a call leg of each INVITE that can be served."""

    def __init__(self, config: Config, engines: CallEngines, local_host: Callable[[SocketAddress], str]) -> None:
        """local_host: our address as the given caller sees it. Raises ValueError for a port range without a port."""
        self.totals = CallTotals()
        self.pacer = PacerThread(self._leg_failed)
        self.engines = engines
        self.draining = False
        self.legs: set[CallLeg] = set()
        self._config = config
        self._local_host = local_host
        self._loop = asyncio.get_running_loop()
        self._ports = PortAllocator(config.rtp_host, config.rtp.port_min, config.rtp.port_max)
        media = MediaServices(self.pacer, config.rtp, config.dtmf, config.barge_in)
        self._services = CallServices(media, config.calls, self._leg_ended)
        self._reader = DatagramReader(self._ports.family)
        self.quality = QualityMeasures()
        self._empty = asyncio.Event()
        self._empty.set()

    def available(self) -> Fault | None:
        """Why no call would be taken now."""
        try:
            self._admit()
        except RefusedError as error:
            return error.fault
        return None

    def invited(self, session: InviteSession) -> None:
        """Take a call, or refuse it with the reason."""
        self.totals.offered += 1
        try:
            leg = self._make_leg(session)
        except RefusedError as error:
            self._refuse(session, error.fault)
            return
        session.handler = leg
        self.legs.add(leg)
        self._empty.clear()
        leg.log.info("call_offered", source=session.request.source[0], target=str(session.request.message.uri))
        if leg.engine.overflow is not None:
            leg.log.warning("call_overflowed", engine=leg.engine.engine.name, reason=str(leg.engine.overflow))
        self._loop.call_soon(self._answer, leg)  # behind the synthesis, which has its start now

    async def drain(self, limit_s: float) -> None:
        """Take no more calls, and wait for the running ones to finish, up to the limit."""
        self.draining = True
        _log.info("draining", calls=len(self.legs), limit_s=limit_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._empty.wait()

    def end_all(self) -> None:
        """End the calls that are left."""
        for leg in list(self.legs):
            leg.end(EndReason.DRAINED)

    def _admit(self) -> CallEngine:
        """The engine for a further call. Raises RefusedError: none can be taken now."""
        if self.draining:
            raise RefusedError(503, "Server Is Shutting Down", self._retry_after())
        if len(self.legs) >= self._config.calls.max_calls:
            raise RefusedError(503, "Call Limit Reached", self._retry_after())
        if self.legs and self.pacer.load > MAX_LOAD:
            raise RefusedError(503, "Media Load Limit Reached", self._retry_after())
        try:
            return self.engines.choose()
        except EngineError as error:
            wait = error.retry_after if isinstance(error, EngineBusyError) else None
            raise RefusedError(503, f"Speech Engine: {error}", self._retry_after(wait)) from None

    def _make_leg(self, session: InviteSession) -> CallLeg:
        """Raises RefusedError."""
        engine = self._admit()
        order = parse_order(session.request, BODY_TYPES)
        try:
            endpoint = self._open_ports()
        except (NoPortsLeftError, OSError) as error:
            _log.error("no_rtp_port", error=str(error))
            raise RefusedError(503, "No RTP Port Is Left", self._retry_after()) from None
        try:
            address = self._advertised(session), endpoint.address[1]
            leg = CallLeg(self._services, engine, session, order, endpoint, address)
        except BaseException:
            endpoint.close()
            raise
        self.engines.count(engine)
        return leg

    def _open_ports(self) -> RtpEndpoint:
        """Raises NoPortsLeftError or OSError."""
        if self._config.rtp.rtcp:
            rtp, rtcp = self._ports.allocate_pair()
            return RtpEndpoint(rtp, self._reader, rtcp)
        return RtpEndpoint(self._ports.allocate(), self._reader)

    def _advertised(self, session: InviteSession) -> str:
        """The address that this caller is told to send its media to."""
        advertised = self._config.rtp.advertised_host or self._config.sip.advertised_host
        if advertised is not None:
            return advertised
        bound = self._config.rtp_host
        return self._local_host(session.request.source) if is_unspecified(bound) else bound

    def _retry_after(self, seconds: float | None = None) -> tuple[tuple[str, str], ...]:
        """The header, rounded up to whole seconds; as configured where nothing better is known."""
        if seconds is None or not math.isfinite(seconds):
            seconds = self._config.calls.retry_after_s
        return (("Retry-After", str(max(1, math.ceil(seconds)))),)

    def _refuse(self, session: InviteSession, fault: Fault) -> None:
        self.totals.refused[fault.code] += 1
        _log.info("call_refused", call_id=session.request.call_id, code=fault.code, reason=fault.reason)
        session.reject(fault.code, fault.reason, fault.headers)

    def _answer(self, leg: CallLeg) -> None:
        try:
            leg.answer()
        except Exception:  # whatever it is, the call must not stay half made
            leg.log.exception("answer_failed")
            leg.end(EndReason.FAILED)

    def _leg_ended(self, leg: CallLeg) -> None:
        self.legs.discard(leg)
        if leg.end_reason is not None:
            self.totals.ended[leg.end_reason.value] += 1
        self.totals.sums.update(leg_counts(leg))
        self.quality.count(leg.media.quality())
        if not self.legs:
            self._empty.set()

    def _leg_failed(self, rtp: PacedLeg, error: Exception) -> None:
        """In the pacer's thread: sending for a leg has raised."""
        self._loop.call_soon_threadsafe(self._end_failed, rtp, error)

    def _end_failed(self, rtp: PacedLeg, error: Exception) -> None:
        for leg in list(self.legs):
            if leg.rtp is rtp:
                leg.log.error("media_failed", exc_info=error)
                leg.end(EndReason.FAILED)
