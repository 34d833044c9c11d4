"""RTCP in SDP: a=rtcp-mux (RFC 5761), a=rtcp (RFC 3605), a=rtcp-xr (RFC 3611)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from sip.sdp import Attribute, MediaDescription, SessionDescription
from sip.transport import is_unspecified

_CONFLICTING = range(64, 96)
"Payload types that look like RTCP on a shared port (RFC 5761 section 4)."
_VOIP_METRICS = "voip-metrics"
_WE_ASK: Attribute = ("rtcp-xr", _VOIP_METRICS)
"Each side asks for itself (RFC 3611 section 5.2); who does not know it passes it over."


@dataclass(frozen=True, slots=True)
class RtcpAgreement:
    """How RTCP goes between us and the peer."""

    mux: bool
    "Over the port of RTP."
    remote: tuple[str, int] | None
    "Where the peer wants it; None if that cannot be known, or there is no such place (hold by address)."
    xr: bool
    "The peer asks for VoIP metrics blocks."

    def answered(self) -> list[Attribute]:
        """What our answer says. Our own port needs no a=rtcp: it is the one above that of RTP."""
        return [*([("rtcp-mux", None)] if self.mux else []), _WE_ASK]


@dataclass(frozen=True, slots=True)
class RtcpPolicy:
    """What we do."""

    enabled: bool = True
    mux: bool = True
    "Offer one port for both, and accept it where it is offered."

    def offered(self, payload_types: Iterable[int]) -> list[Attribute]:
        """What our offer says. A peer that knows no rtcp-mux answers without: then the port above counts."""
        if not self.enabled:
            return []
        return [*([("rtcp-mux", None)] if self.mux and _can_share(payload_types) else []), _WE_ASK]

    def agree(
        self,
        description: SessionDescription,
        media: MediaDescription,
        remote: tuple[str, int] | None,
        payload_types: Iterable[int],
    ) -> RtcpAgreement | None:
        """What the peer's description makes of it, an offer or an answer; None if we do no RTCP.

        remote: where its RTP goes, None if it gave a name. payload_types: those that may be used.
        """
        if not self.enabled:
            return None
        # RFC 5761 section 5.1.1: in an answer only where the offer had it, which `self.mux` says of ours.
        mux = self.mux and media.attribute("rtcp-mux") is not None and _can_share(payload_types)
        return RtcpAgreement(
            mux=mux,
            remote=_usable(remote if mux else _remote(media, remote)),
            xr=_asks_for_voip_metrics(description, media),
        )


def _can_share(payload_types: Iterable[int]) -> bool:
    return not any(number in _CONFLICTING for number in payload_types)


def _remote(media: MediaDescription, remote: tuple[str, int] | None) -> tuple[str, int] | None:
    """The port, and perhaps the host, of a=rtcp (RFC 3605); else the port above that of RTP (RFC 3550 section 11).

    An a=rtcp that is not valid counts for nothing: the call is worth more than its reports.
    """
    if remote is None:
        return None
    host, rtp_port = remote
    port, *where = (media.attribute("rtcp") or "").split() or [""]
    named = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    if not 0 < named < 65536 or len(where) not in (0, 3):
        return (host, rtp_port + 1) if rtp_port < 65535 else None
    if where and (":" in where[2]) != (":" in host):
        return None  # our socket is of the other IP version
    return (where[2] if where else host, named)


def _usable(remote: tuple[str, int] | None) -> tuple[str, int] | None:
    """None for a name, which would need a DNS query, for an unspecified address and for a multicast one."""
    if remote is None:
        return None
    try:
        address = ipaddress.ip_address(remote[0])
    except ValueError:
        return None
    return None if is_unspecified(remote[0]) or address.is_multicast else remote


def _asks_for_voip_metrics(description: SessionDescription, media: MediaDescription) -> bool:
    """RFC 3611 section 5.1: what the stream says goes before what the session says."""
    for attributes in (media.attributes, description.attributes):
        said = [value or "" for name, value in attributes if name == "rtcp-xr"]
        if said:
            return any(_VOIP_METRICS in value.split() for value in said)
    return False
