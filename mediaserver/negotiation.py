"""Offer and answer (RFC 3264) for one audio stream of telephone speech."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mediaserver.rtcp_attributes import RtcpAgreement, RtcpPolicy
from mediaserver.rtp.codec import CODECS, Codec
from sip.sdp import Attribute, MediaDescription, SdpError, SessionDescription, connection
from sip.transport import is_unspecified

PTIMES_MS = (10, 20, 30, 40, 60)
EVENTS = "0-15"  # RFC 4733 section 2.5.1.1: the DTMF digits
EVENT, _COMFORT_NOISE = "TELEPHONE-EVENT", "CN"
_OTHER_PAYLOAD_TYPES = {_COMFORT_NOISE: 13, EVENT: 101}
"That we offer, beside the codecs' own; 13 is static (RFC 3551 section 6)."
PLAIN_RTP = ("RTP/AVP", "RTP/AVPF")
DO_RTCP = RtcpPolicy()
_MIRRORED = {"sendrecv": "sendrecv", "sendonly": "recvonly", "recvonly": "sendonly", "inactive": "inactive"}
_HELD = {"sendrecv": "sendonly", "recvonly": "inactive"}


class NotAcceptableError(Exception):
    """There is nothing in the offer, or in the answer, that both sides can do: 488."""


@dataclass(frozen=True, slots=True)
class MediaFormat:
    """What both sides agreed on."""

    codec: Codec
    payload_type: int
    ptime_ms: int
    "Of the packets that we send. The peer's may be of any length."
    event_payload_type: int | None
    "telephone-event, RFC 4733; None if the peer has none."
    remote: tuple[str, int] | None
    "Where the peer wants its packets, as the SDP says; None if it gives a name: then to where its own come from."
    sending: bool
    "Whether the peer wants to hear us now; False while it holds."
    receiving: bool = True
    "Whether the peer may send to us: it may while it holds us with sendonly (its music), not when it only listens."
    comfort_noise_payload_type: int | None = None
    "CN, RFC 3389; None if the peer has none."
    rtcp: RtcpAgreement | None = None
    "None if we do no RTCP."
    offered: Mapping[str, int] = field(default_factory=dict)
    """If the offer was ours: its payload types by encoding name. The peer sends by those numbers, whatever its answer
    calls them, and may use any of the codecs (RFC 3264 sections 5.1 and 7)."""

    @property
    def owed(self) -> bool:
        """Whether the peer's RTP would be missed: not in a hold, with music or without, nor if it only listens."""
        return self.sending and self.receiving

    @property
    def payload_types(self) -> dict[str, int]:
        """By encoding name, in upper case: the codec's, then what goes with it."""
        numbers = {
            self.codec.name: self.payload_type,
            _COMFORT_NOISE: self.comfort_noise_payload_type,
            EVENT: self.event_payload_type,
        }
        return {name: number for name, number in numbers.items() if number is not None}

    @property
    def rtcp_mux(self) -> bool:
        """RTCP goes over the port of RTP (RFC 5761)."""
        return self.rtcp is not None and self.rtcp.mux

    @property
    def rtcp_remote(self) -> tuple[str, int] | None:
        """Where the peer wants its RTCP; with rtcp_mux where it wants its RTP. None as for `remote`."""
        return self.rtcp.remote if self.rtcp is not None else None

    @property
    def rtcp_xr(self) -> bool:
        """The peer asks for VoIP metrics (RFC 3611 section 5.1)."""
        return self.rtcp is not None and self.rtcp.xr


class Negotiator:
    """The session descriptions of one leg: what was last said, and what comes next."""

    def __init__(
        self,
        codecs: Sequence[str],
        ptime_ms: int,
        local: tuple[str, int],
        rtcp: RtcpPolicy = DO_RTCP,
    ) -> None:
        """local: the address that the peer is to send to. codecs: names of CODECS."""
        self._codecs = [CODECS[name] for name in codecs]
        self._ptime_ms = ptime_ms
        self._local = local
        self._rtcp = rtcp
        self._session_id = secrets.randbits(62)
        self._version = 0
        self.held = False
        "The peer is to hold: it is not to send, so we describe our direction without receiving (section 8.4)."
        self._last: bytes | None = None
        self._streams: list[MediaDescription] = []
        "The m= lines of the session, as last described: their number and order stay (section 8)."
        self._audio_index = 0
        self._agreed: dict[str, int] = {}
        "The payload types of the session by encoding name: they go on meaning what they mean (section 8.3.2)."

    def move(self, host: str) -> None:
        """Tell the peer another address of ours, from the next description on."""
        self._local = (host, self._local[1])

    @property
    def host(self) -> str:
        """The address that the peer is told."""
        return self._local[0]

    @property
    def preferred(self) -> Codec:
        """The codec that we offer first."""
        return self._codecs[0]

    def answer(self, offer: bytes) -> tuple[bytes, MediaFormat]:
        """Answer an offer (section 6): its first audio stream that we can do is taken, the others are refused.

        Raises SdpError or NotAcceptableError.
        """
        description = SessionDescription.parse(offer)
        chosen: MediaFormat | None = None
        answers = []
        for index, media in enumerate(description.media):
            agreed = self._agree(description, media) if chosen is None else None
            if agreed is not None:
                chosen, self._audio_index = agreed, index
            answers.append(_refusal(media) if agreed is None else self._accept(description, media, agreed))
        if chosen is None:
            raise NotAcceptableError("no audio stream of the offer is one that we can do")
        self._agreed = chosen.payload_types
        return self._describe(answers), chosen

    def offer(self) -> bytes:
        """Offer all that we can do (section 5), in the audio stream that there is, if there is one (section 8)."""
        numbers = self._offered_payload_types()
        attributes: list[Attribute] = []
        for name, number in numbers.items():
            attributes += _mapping(name, number)
        attributes += [("ptime", str(self._ptime_ms)), (self._direction("sendrecv"), None)]
        attributes += self._rtcp.offered(numbers.values())
        media = MediaDescription("audio", self._local[1], "RTP/AVP", list(map(str, numbers.values())), None, attributes)
        streams = [_refusal(stream) for stream in self._streams] or [media]
        streams[self._audio_index] = media
        return self._describe(streams)

    def _offered_payload_types(self) -> dict[str, int]:
        """By encoding name, best first; those that the session has given another meaning are left out.

        Comfort noise is among them for what that says: that we take it (RFC 3389 section 5). Without it a peer that
        suppresses silence does so all the same, and leaves us a dead line.
        """
        taken = set(self._agreed.values())
        static = {codec.name: codec.payload_type for codec in self._codecs} | _OTHER_PAYLOAD_TYPES
        return {
            name: self._agreed.get(name, number)
            for name, number in static.items()
            if name in self._agreed or number not in taken
        }

    def accept_answer(self, answer: bytes) -> MediaFormat:
        """Take the answer to our offer (section 7). Raises SdpError or NotAcceptableError."""
        description = SessionDescription.parse(answer)
        if len(description.media) <= self._audio_index:
            raise NotAcceptableError("the answer has no audio stream")
        agreed = self._agree(description, description.media[self._audio_index])
        if agreed is None:
            raise NotAcceptableError("the answer takes nothing that was offered")
        return replace(agreed, offered=self._offered_payload_types())

    def _agree(self, description: SessionDescription, media: MediaDescription) -> MediaFormat | None:
        """What we would do with a stream; None if we cannot."""
        if media.kind != "audio" or media.port == 0 or media.protocol not in PLAIN_RTP:
            return None
        host = description.host_of(media)
        if host is not None and (":" in host) != (":" in self._local[0]):
            return None  # our socket is of the other IP version
        maps = _payload_maps(media)
        ours = {codec.name: codec for codec in self._codecs}
        payload_type = _first(maps, *ours)
        if payload_type is None:
            return None
        direction = description.direction_of(media)
        remote = (host, media.port) if host is not None else None
        return MediaFormat(
            codec=ours[maps[payload_type]],
            payload_type=payload_type,
            ptime_ms=self._ptime(media),
            event_payload_type=_first(maps, EVENT),
            remote=remote,
            # Section 8.4: the address 0.0.0.0 is the hold of RFC 2543.
            sending=direction in ("sendrecv", "recvonly") and not (host is not None and is_unspecified(host)),
            receiving=direction in ("sendrecv", "sendonly"),
            comfort_noise_payload_type=_first(maps, _COMFORT_NOISE),
            rtcp=self._rtcp.agree(description, media, remote, maps),
        )

    def _ptime(self, media: MediaDescription) -> int:
        """Of what we send: the peer's ptime is how it would have our packets (RFC 8866 section 6.4), no longer than its
        maxptime. Wishes between those that we can do are met by the next shorter one.
        """
        wanted = _milliseconds(media.attribute("ptime")) or self._ptime_ms
        longest = _milliseconds(media.attribute("maxptime")) or max(PTIMES_MS)
        return max((value for value in PTIMES_MS if value <= min(wanted, longest)), default=min(PTIMES_MS))

    def _accept(
        self, description: SessionDescription, media: MediaDescription, agreed: MediaFormat
    ) -> MediaDescription:
        numbers = agreed.payload_types
        attributes: list[Attribute] = []
        for name, number in numbers.items():
            attributes += _mapping(name, number)
        # What we would receive is free (section 6.1). We ask for what the peer asks for: PBXs run one ptime both ways,
        # and some change theirs in mid-call when it is not so.
        direction = self._direction(_MIRRORED[description.direction_of(media)])
        attributes += [("ptime", str(agreed.ptime_ms)), (direction, None)]
        if agreed.rtcp is not None:
            attributes += agreed.rtcp.answered()
        formats = [str(number) for number in numbers.values()]
        return MediaDescription(media.kind, self._local[1], media.protocol, formats, attributes=attributes)

    def _direction(self, free: str) -> str:
        """Ours, where it would be `free` if the peer were not on hold."""
        return _HELD.get(free, free) if self.held else free

    def _describe(self, media: list[MediaDescription]) -> bytes:
        """Section 8: the version counts up when something changed."""
        host = self._local[0]
        self._streams = media
        description = SessionDescription(connection(host), media, host, self._session_id, self._version)
        if self._last is not None and bytes(description) != self._last:
            self._version += 1
            description = replace(description, version=self._version)
        self._last = bytes(description)
        return self._last


def _refusal(media: MediaDescription) -> MediaDescription:
    """Section 6: port 0, and as many formats as the grammar needs."""
    return MediaDescription(media.kind, 0, media.protocol, media.formats[:1])


def _first(maps: dict[int, str], *names: str) -> int | None:
    """The payload type that the peer would rather have of those that mean one of the names."""
    return next((number for number, name in maps.items() if name in names), None)


def _mapping(name: str, payload_type: int) -> list[Attribute]:
    """The rtpmap, and for telephone-event which events, of a payload type. All that we do runs at 8 kHz in RTP."""
    if name == EVENT:
        return [("rtpmap", f"{payload_type} telephone-event/8000"), ("fmtp", f"{payload_type} {EVENTS}")]
    return [("rtpmap", f"{payload_type} {name}/8000")]


def _payload_maps(media: MediaDescription) -> dict[int, str]:
    """Payload type to upper-case encoding name, in the order of preference; clock rates other than 8 kHz left out.

    Raises SdpError.
    """
    names = {codec.payload_type: codec.name for codec in CODECS.values()}  # static, unless mapped
    names[_OTHER_PAYLOAD_TYPES[_COMFORT_NOISE]] = _COMFORT_NOISE
    for value in media.values("rtpmap"):
        number, _, encoding = value.partition(" ")
        bits = encoding.strip().split("/")
        payload_type = _payload_type(number)
        if len(bits) < 2:
            raise SdpError("a=rtpmap is not valid")
        mono = len(bits) < 3 or bits[2] == "1"
        names[payload_type] = bits[0].upper() if bits[1] == "8000" and mono else ""
    numbers = [_payload_type(number) for number in media.formats]
    return {number: names[number] for number in numbers if names.get(number)}


def _payload_type(text: str) -> int:
    number = _number(text)
    if number is None or number > 127:
        raise SdpError(f"{text[:20]!r} is not a payload type")
    return number


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else None


def _milliseconds(text: str | None) -> float | None:
    """Of ptime and maxptime, which may be fractions (RFC 8866 section 9); None for nothing, 0 and nonsense."""
    return float(text) if text and re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,5})?", text) else None
