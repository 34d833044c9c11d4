"""What a call is to have from its beginning, by configuration and by what its INVITE or its order says."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from mediaserver.call.control import PlaceOrder, StreamOrder, Track
from mediaserver.call.leg import CallProfile
from mediaserver.call.parameters import check_headers, check_parameters, header_parameters
from mediaserver.config import Config
from mediaserver.refusal import RefusedError
from mediaserver.trunk_config import TrunkConfig
from mediaserver.trunks import SELF, Trunks, display_name, domain_of, from_uri, target_uri
from sip.address import parse_uri
from sip.invite_session import InviteSession
from sip.message import SocketAddress
from sip.transport import is_unspecified

_log = structlog.get_logger("calls")

_TRACKS: dict[str, tuple[Track, ...]] = {
    "inbound": ("inbound",),
    "outbound": ("outbound",),
    "both": ("inbound", "outbound"),
}


@dataclass(frozen=True, slots=True)
class OutgoingPlan:
    """A call to be placed, checked."""

    profile: CallProfile
    trunk: TrunkConfig
    target: str
    from_name: str
    headers: tuple[tuple[str, str], ...]


class CallPlans:
    """By one configuration."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._trunks = Trunks(config.trunks)

    def incoming(self, session: InviteSession) -> tuple[CallProfile, str | None]:
        """What an INVITE gets, and what greets its caller if it brings no text; None for nothing."""
        name = self._trunks.of_source(session.request.source[0])
        trunk = self._trunks.config(name)
        agent_url = (trunk.agent_url if trunk is not None else "") or self._config.agent.url or None
        headers = session.request.message.headers
        parameters, left_out = header_parameters((name, headers[name]) for name in headers.keys())  # noqa: SIM118
        if left_out:
            _log.warning("parameters_left_out", call_id=session.call_id, count=left_out)
        profile = CallProfile(
            direction="inbound",
            from_uri=session.from_uri,
            to_uri=session.to_uri,
            sip_call_id=session.call_id,
            trunk=name,
            agent_url=agent_url,
            streams=_streams(trunk),
            parameters={**(trunk.parameters if trunk is not None else {}), **parameters},
        )
        if trunk is not None and trunk.greeting is not None:
            return profile, trunk.greeting or None
        return profile, None if agent_url else self._config.calls.greeting

    def outgoing(self, order: PlaceOrder, own: SocketAddress) -> OutgoingPlan:
        """own: where this server listens. Raises RefusedError."""
        host, port = own
        if is_unspecified(host):
            host = "::1" if ":" in host else "127.0.0.1"
        trunk = self._trunks.to_place(order.trunk, (host, port))
        target = target_uri(order.to, domain_of(trunk))
        if parse_uri(target).parameters.get("transport", "udp").lower() != "udp":
            raise RefusedError(400, "Target Asks For Another Transport Than UDP")
        profile = CallProfile(
            direction="outbound",
            from_uri=from_uri(order.from_user, trunk, host),
            to_uri=target,
            trunk=order.trunk,
            agent_url=self._agent_of(order, trunk),
            streams=order.streams or _streams(trunk),
            parameters={**trunk.parameters, **check_parameters(order.parameters)},
        )
        if order.answer_timeout_s is not None and not 1 <= order.answer_timeout_s <= 600:
            raise RefusedError(400, "Answer Timeout Is Not 1 To 600 Seconds")
        return OutgoingPlan(profile, trunk, target, display_name(order.from_name, trunk), check_headers(order.headers))

    def _agent_of(self, order: PlaceOrder, trunk: TrunkConfig) -> str | None:
        """A call to ourselves has none by configuration: its other leg is the one that is tried."""
        if order.agent_url is not None:
            return order.agent_url or None
        if order.trunk == SELF:
            return None
        return trunk.agent_url or self._config.agent.url or None


def _streams(trunk: TrunkConfig | None) -> tuple[StreamOrder, ...]:
    if trunk is None or not trunk.stream_url:
        return ()
    return (StreamOrder(trunk.stream_url, _TRACKS[trunk.stream_tracks], parameters=trunk.parameters),)
