"""The callers' RTCP (RFC 3550 6): what they report, and what the server reports to them. Pure: no sockets, no clock.

An implementation of its own, so that the server's is not tested against itself.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

SENDER_REPORT, RECEIVER_REPORT, SOURCE_DESCRIPTION, BYE = 200, 201, 202, 203
NTP_EPOCH = 2_208_988_800
"Seconds from 1900 to 1970."
_BLOCK = struct.Struct(">IIIIII")


@dataclass(frozen=True, slots=True)
class Block:
    """A report block: how a stream is received (6.4.1)."""

    ssrc: int
    fraction_lost: int
    "In 1/256."
    lost: int
    highest: int
    jitter: int
    "Clock units."
    last_report: int
    "Middle 32 bits of the NTP time of the last SR heard, 0 for none."
    delay: int
    "Since then, in 1/65536 s."

    def pack(self) -> bytes:
        lost = max(-(1 << 23), min(self.lost, (1 << 23) - 1)) & 0xFFFFFF
        first = self.fraction_lost << 24 | lost
        values = (self.ssrc, first, self.highest & 0xFFFFFFFF, self.jitter, self.last_report, self.delay & 0xFFFFFFFF)
        return _BLOCK.pack(*values)


@dataclass(frozen=True, slots=True)
class Report:
    """A compound packet that was heard."""

    sender: bool
    "It began with an SR."
    ssrc: int
    middle_ntp: int
    "Of the SR; 0 without one."
    blocks: tuple[Block, ...]
    bye: bool


def ntp_time(wall: float) -> int:
    """64-bit NTP time of Unix seconds."""
    return int((wall + NTP_EPOCH) * (1 << 32)) & 0xFFFFFFFFFFFFFFFF


def middle(ntp: int) -> int:
    return (ntp >> 16) & 0xFFFFFFFF


def compound(
    ssrc: int, wall: float, timestamp: int, packets: int, block: Block | None, cname: str, bye: bool = False
) -> bytes:
    """SR (RR of a caller who has sent nothing), SDES with CNAME, and BYE where wanted. 160 octets a packet."""
    count = 0x80 | (block is not None)
    if packets:
        info = struct.pack(">QIII", ntp_time(wall), timestamp, packets, packets * 160)
        report = _packet(count, SENDER_REPORT, struct.pack(">I", ssrc) + info, block)
    else:
        report = _packet(count, RECEIVER_REPORT, struct.pack(">I", ssrc), block)
    name = cname.encode()
    chunk = struct.pack(">IBB", ssrc, 1, len(name)) + name
    chunk += bytes(4 - len(chunk) % 4)  # one to four: the list's end, then up to a whole word
    last = _packet(0x81, BYE, struct.pack(">I", ssrc), None) if bye else b""
    return report + _packet(0x81, SOURCE_DESCRIPTION, chunk, None) + last


def _packet(first: int, kind: int, body: bytes, block: Block | None) -> bytes:
    body += block.pack() if block else b""
    return struct.pack(">BBH", first, kind, len(body) // 4) + body


def parse(datagram: bytes) -> Report:
    """Raises ValueError for what is no valid compound packet (RFC 3550 A.2)."""
    sender = bye = False
    ssrc = middle_ntp = 0
    blocks: list[Block] = []
    offset = 0
    while offset < len(datagram):
        if len(datagram) - offset < 4:
            raise ValueError("RTCP packet is truncated")
        first, kind, words = struct.unpack_from(">BBH", datagram, offset)
        end = offset + 4 + 4 * words
        if first >> 6 != 2 or end > len(datagram):
            raise ValueError("RTCP version or length is wrong")
        if not offset and kind not in (SENDER_REPORT, RECEIVER_REPORT):
            raise ValueError("RTCP does not begin with a report")
        if kind in (SENDER_REPORT, RECEIVER_REPORT):
            body = datagram[offset + 4 : end]
            head = 24 if kind == SENDER_REPORT else 4
            if len(body) < head + _BLOCK.size * (first & 31):
                raise ValueError("RTCP report is shorter than its blocks")
            if not offset:
                ssrc = int.from_bytes(body[:4], "big")
                sender = kind == SENDER_REPORT
                middle_ntp = middle(int.from_bytes(body[4:12], "big")) if sender else 0
            blocks += (_block(body, head + _BLOCK.size * n) for n in range(first & 31))
        bye = bye or kind == BYE
        offset = end
    if not offset:
        raise ValueError("RTCP packet is empty")
    return Report(sender, ssrc, middle_ntp, tuple(blocks), bye)


def _block(body: bytes, offset: int) -> Block:
    ssrc, first, highest, jitter, last, delay = _BLOCK.unpack_from(body, offset)
    lost = first & 0xFFFFFF
    return Block(ssrc, first >> 24, lost - (lost >> 23 << 24), highest, jitter, last, delay)


def round_trip(block: Block, wall: float) -> float | None:
    """Seconds, from a block about our own stream that came at `wall` (6.4.1); None if it has heard no SR of ours."""
    if not block.last_report:
        return None
    units = (middle(ntp_time(wall)) - block.last_report - block.delay + (1 << 31)) & 0xFFFFFFFF
    return (units - (1 << 31)) / 65536
