"""RTCP on the wire: compounds of SR, RR, SDES, BYE (RFC 3550 section 6) and XR (RFC 3611).

Parsing is bounded whatever comes: in packets, in blocks and in octets, without recursion.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from mediaserver.rtp.rtcp_xr import RTCP_XR, ExtendedReport

RTCP_SR = 200
RTCP_RR = 201
RTCP_SDES = 202
RTCP_BYE = 203

SDES_CNAME = 1
MAX_COUNT = 31
"Report blocks, chunks or sources in one packet: the count has 5 bits."
MAX_COMPOUND_LENGTH = 2048
"Octets of a compound that are read at all: more than any network carries unfragmented."
MAX_COMPOUND_PACKETS = 32
MAX_SDES_ITEMS = 16
"Items of one source; eight types are defined."

_VERSION_BITS = 2 << 6
_HEADER = struct.Struct("!BBH")
_SSRC = struct.Struct("!I")
_SENDER_INFO = struct.Struct("!QIII")
_REPORT_BLOCK = struct.Struct("!IIIIII")


@dataclass(slots=True)
class ReportBlock:
    """What a receiver says of one source (RFC 3550 section 6.4.1)."""

    ssrc: int
    fraction_lost: int
    "256ths, of the packets since the report before."
    lost: int
    "Cumulative, signed, 24 bits."
    highest: int
    "Extended highest sequence number, 32 bits."
    jitter: int
    "Units of the stream's clock."
    lsr: int
    "The middle 32 bits of the NTP stamp of the last SR heard; 0: none was."
    dlsr: int
    "Time since that SR in units of 1/65536 s."

    @classmethod
    def parse(cls, data: bytes, offset: int = 0) -> ReportBlock:
        """Read the 24 octets at `offset`, which the caller has made sure of."""
        ssrc, loss, highest, jitter, lsr, dlsr = _REPORT_BLOCK.unpack_from(data, offset)
        lost = (loss & 0xFFFFFF ^ 0x800000) - 0x800000  # sign of 24 bits
        return cls(ssrc, loss >> 24, lost, highest, jitter, lsr, dlsr)

    def __bytes__(self) -> bytes:
        loss = self.fraction_lost << 24 | self.lost & 0xFFFFFF
        return _REPORT_BLOCK.pack(self.ssrc, loss, self.highest, self.jitter, self.lsr, self.dlsr)


@dataclass(slots=True)
class SenderReport:
    """SR, RFC 3550 section 6.4.1. Profile-specific extensions are not kept."""

    ssrc: int
    ntp: int
    "64 bits: seconds since 1900 and their fraction."
    rtp_timestamp: int
    "The same instant on the stream's clock."
    packets: int
    octets: int
    "Of payload, modulo 2**32 like `packets`."
    reports: list[ReportBlock] = field(default_factory=list)

    @classmethod
    def parse(cls, body: bytes, count: int) -> SenderReport:
        """Read what follows the header. Raises ValueError if it is shorter than its count of blocks."""
        if len(body) < 24 + _REPORT_BLOCK.size * count:
            raise ValueError("RTCP sender report is truncated")
        (ssrc,) = _SSRC.unpack_from(body)
        ntp, rtp_timestamp, packets, octets = _SENDER_INFO.unpack_from(body, 4)
        return cls(ssrc, ntp, rtp_timestamp, packets, octets, _parse_reports(body, 24, count))

    def __bytes__(self) -> bytes:
        info = _SENDER_INFO.pack(self.ntp, self.rtp_timestamp, self.packets, self.octets)
        return _pack(RTCP_SR, len(self.reports), _SSRC.pack(self.ssrc) + info + b"".join(map(bytes, self.reports)))


@dataclass(slots=True)
class ReceiverReport:
    """RR, RFC 3550 section 6.4.2. Profile-specific extensions are not kept."""

    ssrc: int
    reports: list[ReportBlock] = field(default_factory=list)

    @classmethod
    def parse(cls, body: bytes, count: int) -> ReceiverReport:
        """Read what follows the header. Raises ValueError if it is shorter than its count of blocks."""
        if len(body) < 4 + _REPORT_BLOCK.size * count:
            raise ValueError("RTCP receiver report is truncated")
        (ssrc,) = _SSRC.unpack_from(body)
        return cls(ssrc, _parse_reports(body, 4, count))

    def __bytes__(self) -> bytes:
        return _pack(RTCP_RR, len(self.reports), _SSRC.pack(self.ssrc) + b"".join(map(bytes, self.reports)))


@dataclass(slots=True)
class SdesChunk:
    """The items of one source (RFC 3550 section 6.5): (type, value) in their order."""

    ssrc: int
    items: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def cname(self) -> bytes | None:
        return next((value for kind, value in self.items if kind == SDES_CNAME), None)

    def __bytes__(self) -> bytes:
        data = _SSRC.pack(self.ssrc) + b"".join(bytes((kind, len(value))) + value for kind, value in self.items)
        return data + bytes(4 - len(data) % 4)  # one null at least ends the list


@dataclass(slots=True)
class SourceDescription:
    """SDES, RFC 3550 section 6.5."""

    chunks: list[SdesChunk] = field(default_factory=list)

    @classmethod
    def parse(cls, body: bytes, count: int) -> SourceDescription:
        """Read what follows the header. Raises ValueError for items that run over its end."""
        chunks = []
        position = 0
        for _ in range(count):
            chunk, position = _parse_chunk(body, position)
            chunks.append(chunk)
        return cls(chunks)

    def __bytes__(self) -> bytes:
        return _pack(RTCP_SDES, len(self.chunks), b"".join(map(bytes, self.chunks)))


@dataclass(slots=True)
class Bye:
    """BYE, RFC 3550 section 6.6."""

    sources: list[int] = field(default_factory=list)
    reason: bytes = b""
    "At most 255 octets of UTF-8; the peer's is not checked to be that."

    @classmethod
    def parse(cls, body: bytes, count: int) -> Bye:
        """Read what follows the header. Raises ValueError if sources or reason run over its end."""
        end = 4 * count
        if len(body) < end:
            raise ValueError("RTCP BYE has truncated sources")
        sources = list(struct.unpack_from(f"!{count}I", body))
        if len(body) == end:
            return cls(sources)
        length = body[end]
        if end + 1 + length > len(body):
            raise ValueError("RTCP BYE has a truncated reason")
        return cls(sources, bytes(body[end + 1 : end + 1 + length]))

    def __bytes__(self) -> bytes:
        data = struct.pack(f"!{len(self.sources)}I", *self.sources)
        if self.reason:
            data += bytes((len(self.reason),)) + self.reason
            data += bytes(-len(data) % 4)
        return _pack(RTCP_BYE, len(self.sources), data)


RtcpPacket: TypeAlias = SenderReport | ReceiverReport | SourceDescription | Bye | ExtendedReport

_PARSERS: dict[int, Callable[[bytes, int], RtcpPacket]] = {
    RTCP_SR: SenderReport.parse,
    RTCP_RR: ReceiverReport.parse,
    RTCP_SDES: SourceDescription.parse,
    RTCP_BYE: Bye.parse,
    RTCP_XR: ExtendedReport.parse,
}


def parse_compound(data: bytes) -> list[RtcpPacket]:
    """The packets of one datagram, checked as RFC 3550 appendix A.2 says; those of unknown types are skipped.

    Reduced-size RTCP (RFC 5506), which begins with something else than SR or RR, is refused: we never negotiate it.
    Raises ValueError naming the field that is wrong.
    """
    length = len(data)
    if length < 8:
        raise ValueError("RTCP compound is shorter than a receiver report")
    if length > MAX_COMPOUND_LENGTH:
        raise ValueError(f"RTCP compound is longer than {MAX_COMPOUND_LENGTH} bytes")
    if data[1] not in (RTCP_SR, RTCP_RR):
        raise ValueError("RTCP compound does not begin with a sender or receiver report")
    packets: list[RtcpPacket] = []
    position = 0
    for _ in range(MAX_COMPOUND_PACKETS):
        if position + 4 > length:
            raise ValueError("RTCP packet has a truncated header")
        first, packet_type, words = _HEADER.unpack_from(data, position)
        if first >> 6 != 2:
            raise ValueError("RTCP packet has invalid version")
        start = position + 4
        position = end = start + 4 * words
        if end > length:
            raise ValueError("RTCP packet has invalid length")
        if first & 0x20:
            end = _padding_start(data, start, end)
        parse = _PARSERS.get(packet_type)
        if parse is not None:
            packets.append(parse(data[start:end], first & 0x1F))
        if position == length:
            return packets
    raise ValueError(f"RTCP compound has more than {MAX_COMPOUND_PACKETS} packets")


def _padding_start(data: bytes, start: int, end: int) -> int:
    """Where the padding of the packet whose body is `start` to `end` begins."""
    if end != len(data):
        raise ValueError("RTCP compound has padding before its last packet")
    padding = data[end - 1]
    if padding == 0 or padding % 4 or padding > end - start:
        raise ValueError("RTCP packet has invalid padding length")
    return end - padding


def _parse_reports(body: bytes, offset: int, count: int) -> list[ReportBlock]:
    return [ReportBlock.parse(body, offset + _REPORT_BLOCK.size * index) for index in range(count)]


def _parse_chunk(body: bytes, position: int) -> tuple[SdesChunk, int]:
    """The chunk at `position`, and where the next one begins."""
    length = len(body)
    if position + 4 > length:
        raise ValueError("RTCP SDES has a truncated source")
    chunk = SdesChunk(_SSRC.unpack_from(body, position)[0])
    position += 4
    while position < length and body[position] != 0:
        if position + 2 > length or position + 2 + body[position + 1] > length:
            raise ValueError("RTCP SDES has a truncated item")
        if len(chunk.items) == MAX_SDES_ITEMS:
            raise ValueError(f"RTCP SDES has more than {MAX_SDES_ITEMS} items for a source")
        end = position + 2 + body[position + 1]
        chunk.items.append((body[position], bytes(body[position + 2 : end])))
        position = end
    if position >= length:
        raise ValueError("RTCP SDES has an item list without end")
    return chunk, position + 4 - position % 4  # the null that ends it, and those up to the next word


def _pack(packet_type: int, count: int, body: bytes) -> bytes:
    return _HEADER.pack(_VERSION_BITS | count, packet_type, len(body) // 4) + body
