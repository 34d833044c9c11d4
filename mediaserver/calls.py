"""All calls of this node: which are taken, placed and refused, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from mediaserver.admission import Admission
from mediaserver.call.control import CallControl, PlaceOrder
from mediaserver.call.counts import leg_counts
from mediaserver.call.end import EndReason
from mediaserver.call.engines import CallEngines
from mediaserver.call.events import EventHub
from mediaserver.call.incoming_leg import IncomingLeg
from mediaserver.call.leg import CallLeg, CallServices
from mediaserver.call.media import MediaServices
from mediaserver.call.order import BODY_TYPES, parse_order
from mediaserver.call.outgoing_leg import Dialling, OutgoingLeg, SendInvite
from mediaserver.call.plan import CallPlans
from mediaserver.call.quality import QualityMeasures
from mediaserver.call.register import CallRegister
from mediaserver.call.view import CallView
from mediaserver.config import Config
from mediaserver.refusal import RefusedError
from mediaserver.rtp.endpoint import RtpEndpoint
from mediaserver.rtp.pacer import PacedLeg
from mediaserver.rtp.pacer_thread import PacerThread
from mediaserver.rtp.ports import NoPortsLeftError, PortAllocator
from mediaserver.rtp.reader import DatagramReader
from sip.errors import Fault
from sip.invite_session import InviteSession
from sip.message import SocketAddress
from sip.transport import is_unspecified

_log = structlog.get_logger("calls")

Leg = TypeVar("Leg", bound=CallLeg)


@dataclass(slots=True)
class CallTotals:
    """Totals of the calls that have ended; those of running calls are added by whoever exports them."""

    offered: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    "By status code: calls that came in, and orders to place one."
    ended: Counter[str] = field(default_factory=Counter)
    "By EndReason."
    placed: int = 0
    placed_answered: int = 0
    placed_failed: Counter[int] = field(default_factory=Counter)
    "By the status code of the final response."
    sums: Counter[str] = field(default_factory=Counter)
    "What leg_counts() gives, summed up."


class Calls:
    """The application behind the user agent: it makes a call leg of each INVITE that can be served, and places calls.

    What control interfaces see of it is a CallsControl.
    """

    def __init__(self, config: Config, engines: CallEngines, local_host: Callable[[SocketAddress], str]) -> None:
        """local_host: our address as the given peer sees it. Raises ValueError for a port range without a port."""
        self.totals = CallTotals()
        self.hub = EventHub()
        self.on_call: list[Callable[[CallControl], None]] = []
        self.pacer = PacerThread(self._leg_failed)
        self.engines = engines
        self.quality = QualityMeasures()
        self._config = config
        self._local_host = local_host
        self._loop = asyncio.get_running_loop()
        self._register = CallRegister(self._loop.time)
        self._admission = Admission(config.calls, engines, self.pacer, lambda: len(self._register))
        self._plans = CallPlans(config)
        self._ports = PortAllocator(config.rtp_host, config.rtp.port_min, config.rtp.port_max)
        media = MediaServices(self.pacer, config.rtp, config.dtmf, config.barge_in)
        self._services = CallServices(media, config.calls, self.hub, self._leg_ended)
        self._reader = DatagramReader(self._ports.family)
        self._send_invite: SendInvite | None = None
        self._own_address: Callable[[], SocketAddress] = lambda: (config.sip.host, config.sip.port)
        self._empty = asyncio.Event()
        self._empty.set()

    def connect(self, send_invite: SendInvite, own_address: Callable[[], SocketAddress]) -> None:
        """Give it what calls are placed with; own_address: where this server listens."""
        self._send_invite = send_invite
        self._own_address = own_address

    # What is seen:

    @property
    def legs(self) -> tuple[CallLeg, ...]:
        """The calls that run, oldest first. For any thread."""
        return self._register.legs

    def running(self) -> Sequence[CallControl]:
        """Oldest first."""
        return self._register.running

    def find(self, call_id: str) -> CallControl | None:
        """By our id, or by SIP's Call-ID: a running call, or one that ended a moment ago."""
        return self._register.find(call_id)

    def ended(self) -> Sequence[CallView]:
        """The last calls that have ended, newest first."""
        return self._register.ended()

    # Calls that come in:

    def available(self) -> Fault | None:
        """Why no call would be taken now."""
        try:
            self._admission.admit()
        except RefusedError as error:
            return error.fault
        return None

    def invited(self, session: InviteSession) -> None:
        """Take a call, or refuse it with the reason."""
        self.totals.offered += 1
        try:
            leg = self._make_incoming(session)
        except RefusedError as error:
            fault = error.fault
            self.totals.refused[fault.code] += 1
            _log.info("call_refused", call_id=session.call_id, code=fault.code, reason=fault.reason)
            session.reject(fault.code, fault.reason, fault.headers)
            return
        session.handler = leg
        leg.log.info("call_offered", source=session.peer_host, target=leg.profile.to_uri)
        self._begin(leg)
        leg.begin()
        self._loop.call_soon(self._answer, leg)  # behind the synthesis, which has its start now

    def _make_incoming(self, session: InviteSession) -> IncomingLeg:
        """Raises RefusedError."""
        engine = self._admission.admit()
        order = parse_order(session.request, BODY_TYPES)
        profile, greeting = self._plans.incoming(session)
        media_host = self._media_host(self._local_host(session.request.source))

        def make(endpoint: RtpEndpoint) -> IncomingLeg:
            address = media_host, endpoint.address[1]
            return IncomingLeg(self._services, engine, profile, session, order, endpoint, address, greeting)

        return self._with_ports(make)

    def _answer(self, leg: IncomingLeg) -> None:
        try:
            leg.answer()
        except Exception:  # whatever it is, the call must not stay half made
            leg.log.exception("answer_failed")
            leg.end(EndReason.FAILED)

    # Calls that we place:

    def place(self, order: PlaceOrder) -> CallControl:
        """Place a call; what becomes of it is told by its events. Raises RefusedError: it was not placed."""
        try:
            leg = self._make_outgoing(order)
        except RefusedError as error:
            self.totals.refused[error.fault.code] += 1
            _log.info("order_refused", trunk=order.trunk[:80], code=error.fault.code, reason=error.fault.reason)
            raise
        self.totals.placed += 1
        handle = self._begin(leg)
        try:
            leg.begin()
        except Exception:
            leg.log.exception("place_failed")
            leg.end(EndReason.FAILED)
            raise
        return handle

    def _make_outgoing(self, order: PlaceOrder) -> OutgoingLeg:
        """Raises RefusedError."""
        send = self._send_invite
        if send is None:
            raise RefusedError(503, "Server Is Starting", self._admission.retry_after())
        plan = self._plans.outgoing(order, self._own_address())
        engine = self._admission.admit()
        limit = plan.trunk.max_calls
        if limit and sum(self._is_placed(leg, order.trunk) for leg in self.legs) >= limit:
            raise RefusedError(503, "Trunk's Call Limit Reached", self._admission.retry_after())
        dialling = Dialling(
            order, plan.trunk, plan.target, plan.from_name, plan.headers, send, self._hosts, self._outcome
        )
        return self._with_ports(lambda endpoint: OutgoingLeg(self._services, engine, plan.profile, endpoint, dialling))

    @staticmethod
    def _is_placed(leg: CallLeg, trunk: str) -> bool:
        return leg.profile.trunk == trunk and leg.profile.direction == "outbound"

    def _hosts(self, peer: SocketAddress) -> tuple[str, str]:
        """Our addresses as that peer sees them: for signalling, and for media."""
        host = self._local_host(peer)
        return host, self._media_host(host)

    def _outcome(self, code: int) -> None:
        if code < 300:
            self.totals.placed_answered += 1
        else:
            self.totals.placed_failed[code] += 1

    # Both:

    def _begin(self, leg: CallLeg) -> CallControl:
        """One more call: whoever attaches to calls is told before anything happens to it."""
        handle = self._register.add(leg)
        self._empty.clear()
        self.engines.count(leg.engine)
        if leg.engine.overflow is not None:
            leg.log.warning("call_overflowed", engine=leg.engine.engine.name, reason=str(leg.engine.overflow))
        for tell in tuple(self.on_call):
            try:
                tell(handle)
            except Exception:  # whatever attaches to calls, the call goes on
                leg.log.exception("call_listener_failed")
        return handle

    def _with_ports(self, make: Callable[[RtpEndpoint], Leg]) -> Leg:
        """Raises RefusedError, and what `make` raises: then the ports are free again."""
        try:
            endpoint = self._open_ports()
        except (NoPortsLeftError, OSError) as error:
            _log.error("no_rtp_port", error=str(error))
            raise RefusedError(503, "No RTP Port Is Left", self._admission.retry_after()) from None
        try:
            return make(endpoint)
        except BaseException:
            endpoint.close()
            raise

    def _open_ports(self) -> RtpEndpoint:
        """Raises NoPortsLeftError or OSError."""
        if self._config.rtp.rtcp:
            rtp, rtcp = self._ports.allocate_pair()
            return RtpEndpoint(rtp, self._reader, rtcp)
        return RtpEndpoint(self._ports.allocate(), self._reader)

    def _media_host(self, seen: str) -> str:
        """The address that a peer is told to send its media to; seen: ours, as it sees that."""
        advertised = self._config.rtp.advertised_host or self._config.sip.advertised_host
        if advertised is not None:
            return advertised
        return seen if is_unspecified(self._config.rtp_host) else self._config.rtp_host

    # Ends:

    @property
    def draining(self) -> bool:
        return self._admission.draining

    def begin_drain(self) -> None:
        """Take no more calls; those that run go on."""
        self._admission.draining = True

    def end_drain(self) -> None:
        """Take calls again."""
        self._admission.draining = False

    async def drain(self, limit_s: float) -> None:
        """Take no more calls, and wait for the running ones to finish, up to the limit."""
        self.begin_drain()
        _log.info("draining", calls=len(self._register), limit_s=limit_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._empty.wait()

    def end_all(self) -> None:
        """End the calls that are left."""
        for leg in self.legs:
            leg.end(EndReason.DRAINED)

    def _leg_ended(self, leg: CallLeg) -> None:
        if not self._register.end(leg):
            return
        if leg.end_reason is not None:
            self.totals.ended[leg.end_reason.value] += 1
        self.totals.sums.update(leg_counts(leg))
        self.quality.count(leg.media.quality())
        if not len(self._register):
            self._empty.set()

    def _leg_failed(self, rtp: PacedLeg, error: Exception) -> None:
        """In the pacer's thread: sending for a leg has raised."""
        self._loop.call_soon_threadsafe(self._end_failed, rtp, error)

    def _end_failed(self, rtp: PacedLeg, error: Exception) -> None:
        for leg in self.legs:
            if leg.rtp is rtp:
                leg.log.error("media_failed", exc_info=error)
                leg.end(EndReason.FAILED)
