"""The RTP packet (RFC 3550 section 5.1): read on receipt, packed straight into a datagram on sending."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

RTP_VERSION = 2
RTP_HEADER_LENGTH = 12
"Bytes of the header without CSRCs or extension."

_FIXED_HEADER = struct.Struct("!BBHII")
_EXTENSION_HEADER = struct.Struct("!HH")
FIRST_OCTET = RTP_VERSION << 6
"First octet of every packet we send: version 2, no padding, no extension, no CSRC."

pack_header = _FIXED_HEADER.pack
"""The twelve bytes of `pack_header(FIRST_OCTET, marker << 7 | payload_type, sequence, timestamp, ssrc)`, unchecked
but for field widths (struct.error). The fast path of sending: no object per packet."""


def is_rtcp(data: bytes) -> bool:
    """Whether a datagram on an RTP port is RTCP (RFC 5761 section 4).

    RTCP types 192-223 look like RTP payload types 64-95 with the marker bit set; no RTP stream that may share a
    port with RTCP uses those types.
    """
    return len(data) >= 2 and data[0] >> 6 == RTP_VERSION and 192 <= data[1] <= 223


class RtpFields(NamedTuple):
    """The header's fields that each received packet needs, and where in the datagram its payload lies."""

    marker: bool
    payload_type: int
    sequence: int
    timestamp: int
    "In units of the payload format's clock."
    ssrc: int
    payload_start: int
    payload_end: int


def parse_fields(data: bytes) -> RtpFields:
    """Validate a datagram's RTP header without building a packet.

    Raises ValueError naming the field that is wrong.
    """
    length = len(data)
    if length < RTP_HEADER_LENGTH:
        raise ValueError(f"RTP packet length is less than {RTP_HEADER_LENGTH} bytes")
    first, second, sequence, timestamp, ssrc = _FIXED_HEADER.unpack_from(data)
    if first == FIRST_OCTET:  # what nearly every telephone sends
        return RtpFields(second > 127, second & 0x7F, sequence, timestamp, ssrc, RTP_HEADER_LENGTH, length)

    if first >> 6 != RTP_VERSION:
        raise ValueError("RTP packet has invalid version")
    start = RTP_HEADER_LENGTH + 4 * (first & 0x0F)
    if start > length:
        raise ValueError("RTP packet has truncated CSRC")
    if first & 0x10:
        start = _extension_end(data, start)
    end = length
    if first & 0x20:
        padding = data[-1]  # the last octet counts itself
        if padding == 0 or padding > length - start:
            raise ValueError("RTP packet has invalid padding length")
        end -= padding
    return RtpFields(second > 127, second & 0x7F, sequence, timestamp, ssrc, start, end)


def _extension_end(data: bytes, start: int) -> int:
    """Where the header extension (RFC 3550 section 5.3.1) that begins at `start` ends."""
    if start + _EXTENSION_HEADER.size > len(data):
        raise ValueError("RTP packet has truncated extension profile / length")
    _, words = _EXTENSION_HEADER.unpack_from(data, start)
    end: int = start + _EXTENSION_HEADER.size + 4 * words
    if end > len(data):
        raise ValueError("RTP packet has truncated extension value")
    return end


@dataclass(slots=True)
class RtpPacket:
    """One RTP packet."""

    payload_type: int
    sequence: int
    "16 bits."
    timestamp: int
    "32 bits, in units of the payload format's clock."
    ssrc: int
    payload: bytes
    marker: bool = False
    csrc: tuple[int, ...] = ()
    extension_profile: int | None = None
    "The 16 bits `defined by profile`; None if there is no header extension."
    extension_value: bytes = b""
    padding: int = 0
    "Bytes of padding after the payload, its count octet included."

    @classmethod
    def parse(cls, data: bytes) -> RtpPacket:
        """Read one datagram. Raises ValueError naming the field that is wrong."""
        return cls.from_fields(data, parse_fields(data))

    @classmethod
    def from_fields(cls, data: bytes, fields: RtpFields) -> RtpPacket:
        """The packet of a datagram that parse_fields has validated."""
        csrc_end = RTP_HEADER_LENGTH + 4 * (data[0] & 0x0F)
        csrc: tuple[int, ...] = ()
        if csrc_end > RTP_HEADER_LENGTH:
            csrc = struct.unpack_from(f"!{data[0] & 0x0F}I", data, RTP_HEADER_LENGTH)
        profile, value = None, b""
        if data[0] & 0x10:
            profile = int.from_bytes(data[csrc_end : csrc_end + 2], "big")
            value = data[csrc_end + _EXTENSION_HEADER.size : fields.payload_start]
        return cls(
            payload_type=fields.payload_type,
            sequence=fields.sequence,
            timestamp=fields.timestamp,
            ssrc=fields.ssrc,
            payload=data[fields.payload_start : fields.payload_end],
            marker=fields.marker,
            csrc=csrc,
            extension_profile=profile,
            extension_value=value,
            padding=len(data) - fields.payload_end,
        )
