"""Offer and answer (RFC 3264) for one audio stream of telephone speech."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mediaserver.rtp.codec import CODECS, Codec
from sip.sdp import MediaDescription, SdpError, SessionDescription, connection
from sip.transport import is_unspecified

PTIMES_MS = (10, 20, 30, 40, 60)
OFFERED_EVENT_PAYLOAD_TYPE = 101
EVENTS = "0-15"  # RFC 4733 section 2.5.1.1: the DTMF digits
PLAIN_RTP = ("RTP/AVP", "RTP/AVPF")
_MIRRORED = {"sendrecv": "sendrecv", "sendonly": "recvonly", "recvonly": "sendonly", "inactive": "inactive"}


class NotAcceptableError(Exception):
    """There is nothing in the offer, or in the answer, that both sides can do: 488."""


@dataclass(frozen=True, slots=True)
class MediaFormat:
    """What both sides agreed on."""

    codec: Codec
    payload_type: int
    ptime_ms: int
    "Of the packets that we send."
    event_payload_type: int | None
    "telephone-event, RFC 4733; None if the peer has none."
    remote: tuple[str, int] | None
    "Where the peer wants its packets, as the SDP says; None if it gives a name: then to where its own come from."
    sending: bool
    "Whether the peer wants to hear us now; False while it holds."


class Negotiator:
    """The session descriptions of one leg: what was last said, and what comes next."""

    def __init__(self, codecs: Sequence[str], ptime_ms: int, local: tuple[str, int]) -> None:
        """local: the address that the peer is to send to. codecs: names of CODECS."""
        self._codecs = [CODECS[name] for name in codecs]
        self._ptime_ms = ptime_ms
        self._local = local
        self._session_id = secrets.randbits(62)
        self._version = 0
        self._last: bytes | None = None
        self._streams: list[MediaDescription] = []
        "The m= lines of the session, as last described: their number and order stay (section 8)."
        self._audio_index = 0
        self._event_payload_type = OFFERED_EVENT_PAYLOAD_TYPE

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
        self._event_payload_type = chosen.event_payload_type or OFFERED_EVENT_PAYLOAD_TYPE
        return self._describe(answers), chosen

    def offer(self) -> bytes:
        """Offer all that we can do (section 5), in the audio stream that there is, if there is one (section 8)."""
        event = self._event_payload_type
        media = MediaDescription(
            kind="audio",
            port=self._local[1],
            protocol="RTP/AVP",
            formats=[str(codec.payload_type) for codec in self._codecs] + [str(event)],
            attributes=[
                *((("rtpmap", f"{codec.payload_type} {codec.name}/{codec.clock_rate}")) for codec in self._codecs),
                *_event_attributes(event),
                ("ptime", str(self._ptime_ms)),
                ("sendrecv", None),
            ],
        )
        streams = [_refusal(stream) for stream in self._streams] or [media]
        streams[self._audio_index] = media
        return self._describe(streams)

    def accept_answer(self, answer: bytes) -> MediaFormat:
        """Take the answer to our offer (section 7). Raises SdpError or NotAcceptableError."""
        description = SessionDescription.parse(answer)
        if len(description.media) <= self._audio_index:
            raise NotAcceptableError("the answer has no audio stream")
        agreed = self._agree(description, description.media[self._audio_index])
        if agreed is None:
            raise NotAcceptableError("the answer takes nothing that was offered")
        return agreed

    def _agree(self, description: SessionDescription, media: MediaDescription) -> MediaFormat | None:
        """What we would do with a stream; None if we cannot."""
        if media.kind != "audio" or media.port == 0 or media.protocol not in PLAIN_RTP:
            return None
        host = description.host_of(media)
        if host is not None and (":" in host) != (":" in self._local[0]):
            return None  # our socket is of the other IP version
        maps = _payload_maps(media)
        ours = {codec.name: codec for codec in self._codecs}
        payload_type = next((number for number, name in maps.items() if name in ours), None)
        if payload_type is None:
            return None
        direction = description.direction_of(media)
        return MediaFormat(
            codec=ours[maps[payload_type]],
            payload_type=payload_type,
            ptime_ms=self._ptime(media),
            event_payload_type=next((number for number, name in maps.items() if name == "TELEPHONE-EVENT"), None),
            remote=(host, media.port) if host is not None else None,
            sending=direction in ("sendrecv", "recvonly") and not (host is not None and is_unspecified(host)),
        )

    def _ptime(self, media: MediaDescription) -> int:
        """The peer's ptime is how it would have our packets (RFC 8866 section 6.4); maxptime bounds it."""
        wanted = _number(media.attribute("ptime"))
        longest = _number(media.attribute("maxptime")) or max(PTIMES_MS)
        ptime = wanted if wanted in PTIMES_MS else self._ptime_ms
        if ptime > longest:
            ptime = max((value for value in PTIMES_MS if value <= longest), default=min(PTIMES_MS))
        return ptime

    def _accept(
        self, description: SessionDescription, media: MediaDescription, agreed: MediaFormat
    ) -> MediaDescription:
        codec = agreed.codec
        formats = [str(agreed.payload_type)]
        attributes: list[tuple[str, str | None]] = [
            ("rtpmap", f"{agreed.payload_type} {codec.name}/{codec.clock_rate}")
        ]
        if agreed.event_payload_type is not None:
            formats.append(str(agreed.event_payload_type))
            attributes += _event_attributes(agreed.event_payload_type)
        attributes += [("ptime", str(agreed.ptime_ms)), (_MIRRORED[description.direction_of(media)], None)]
        return MediaDescription(media.kind, self._local[1], media.protocol, formats, attributes=attributes)

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


def _event_attributes(payload_type: int) -> list[tuple[str, str | None]]:
    return [("rtpmap", f"{payload_type} telephone-event/8000"), ("fmtp", f"{payload_type} {EVENTS}")]


def _payload_maps(media: MediaDescription) -> dict[int, str]:
    """Payload type to upper-case encoding name, in the order of preference; clock rates other than 8 kHz left out.

    Raises SdpError.
    """
    names = {codec.payload_type: codec.name for codec in CODECS.values()}  # static, unless mapped
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
