"""Session descriptions (RFC 8866): parsed into what offer/answer needs, and written."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

CONTENT_TYPE = "application/sdp"
MAX_BYTES = 16_384
MAX_MEDIA = 16

DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")


class SdpError(ValueError):
    """A session description that cannot be used; the message names the line."""


Attribute = tuple[str, str | None]


@dataclass(slots=True)
class MediaDescription:
    """An m= section."""

    kind: str
    port: int
    protocol: str
    formats: list[str]
    connection: str | None = None
    "Its own c= line, as `connection()` makes it."
    attributes: list[Attribute] = field(default_factory=list)

    def attribute(self, name: str) -> str | None:
        """The value of the first attribute of that name; "" for one without a value, None for none."""
        return _find(self.attributes, name)

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name and value is not None]


@dataclass(slots=True)
class SessionDescription:
    """A session description."""

    connection: str | None
    "The session's c= line, as `connection()` makes it."
    media: list[MediaDescription]
    origin_host: str = "127.0.0.1"
    session_id: int = 0
    version: int = 0
    attributes: list[Attribute] = field(default_factory=list)

    @classmethod
    def parse(cls, data: bytes) -> SessionDescription:
        """Raises SdpError."""
        if len(data) > MAX_BYTES:
            raise SdpError(f"session description of {len(data)} bytes")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise SdpError("session description is not UTF-8") from None
        lines = [line.rstrip("\r") for line in text.split("\n")]
        lines = [line for line in lines if line]
        if not lines or lines[0] != "v=0":
            raise SdpError("session description does not begin with v=0")
        description = cls(connection=None, media=[])
        for line in lines[1:]:
            if len(line) < 2 or line[1] != "=":
                raise SdpError(f"line is not <type>=<value>: {line[:40]!r}")
            description._take(line[0], line[2:])
        return description

    def _take(self, kind: str, value: str) -> None:
        """One line; those that offer/answer does not need (s=, i=, u=, b=, t=, k= and others) are passed over."""
        media = self.media[-1] if self.media else None
        if kind == "m":
            if len(self.media) == MAX_MEDIA:
                raise SdpError("too many m= lines")
            self.media.append(_parse_media(value))
        elif kind == "c":
            if media is None:
                self.connection = value
            else:
                media.connection = media.connection or value
        elif kind == "a":
            name, colon, rest = value.partition(":")
            attributes = self.attributes if media is None else media.attributes
            attributes.append((name, rest.strip() if colon else None))
        elif kind == "o" and media is None:
            self._take_origin(value)

    def _take_origin(self, value: str) -> None:
        """We do not need it: one that is not valid, as with blanks in the user name, is passed over."""
        bits = value.split()
        if len(bits) == 6 and _is_number(bits[1], 20) and _is_number(bits[2], 20):
            self.session_id, self.version, self.origin_host = int(bits[1]), int(bits[2]), bits[5]

    def host_of(self, media: MediaDescription) -> str | None:
        """Where a medium's packets are to be sent (RFC 8866 section 5.7): an IP address, or None if a name is given.

        Raises SdpError. Only the media that one wants need to have a valid c= line.
        """
        connection = media.connection or self.connection
        if connection is None:
            raise SdpError(f"{media.kind} has no c= line")
        return _parse_connection(connection)

    def direction_of(self, media: MediaDescription) -> str:
        """RFC 8866 section 6.7: the medium's own, else the session's, else sendrecv."""
        for attributes in (media.attributes, self.attributes):
            for name, _ in attributes:
                if name in DIRECTIONS:
                    return name
        return "sendrecv"

    def __bytes__(self) -> bytes:
        lines = [
            "v=0",
            f"o=- {self.session_id} {self.version} IN {_address_type(self.origin_host)} {self.origin_host}",
            "s=-",
        ]
        if self.connection is not None:
            lines.append(f"c={self.connection}")
        lines.append("t=0 0")
        lines += [_attribute(attribute) for attribute in self.attributes]
        for media in self.media:
            lines.append(f"m={media.kind} {media.port} {media.protocol} {' '.join(media.formats)}")
            if media.connection is not None:
                lines.append(f"c={media.connection}")
            lines += [_attribute(attribute) for attribute in media.attributes]
        return "".join(f"{line}\r\n" for line in lines).encode()


def _find(attributes: list[Attribute], name: str) -> str | None:
    for key, value in attributes:
        if key == name:
            return value or ""
    return None


def _is_number(text: str, digits: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= digits


def _parse_media(value: str) -> MediaDescription:
    bits = value.split()
    if len(bits) < 4:
        raise SdpError("m= is not valid")
    port, _, count = bits[1].partition("/")  # "/2" asks for two port pairs; we take the first
    if not _is_number(port, 5) or int(port) > 65535 or (count and not _is_number(count, 5)):
        raise SdpError("m= has no valid port")
    return MediaDescription(kind=bits[0], port=int(port), protocol=bits[2], formats=bits[3:])


def _parse_connection(value: str) -> str | None:
    bits = value.split()
    if len(bits) != 3 or bits[0] != "IN" or bits[1] not in ("IP4", "IP6"):
        raise SdpError("c= is not valid")
    host = bits[2].partition("/")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None  # a name: it would need a DNS query in the middle of an answer
    if address.is_multicast:
        raise SdpError("c= is a multicast address")
    return host


def _address_type(host: str) -> str:
    return "IP6" if ":" in host else "IP4"


def connection(host: str) -> str:
    """The value of a c= line for an IP address."""
    return f"IN {_address_type(host)} {host}"


def _attribute(attribute: Attribute) -> str:
    name, value = attribute
    return f"a={name}" if value is None else f"a={name}:{value}"
