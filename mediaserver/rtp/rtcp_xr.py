"""RTCP extended reports on the wire: the VoIP metrics block (RFC 3611 sections 2, 3 and 4.7)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

RTCP_XR = 207
MAX_BLOCKS = 31
"VoIP metrics blocks that are read from one packet."
UNAVAILABLE = 127
"A level, R factor or MOS that is not known (RFC 3611 sections 4.7.4 and 4.7.5)."

_SSRC = struct.Struct("!I")
_XR_BLOCK_HEADER = struct.Struct("!BBH")
_XR_VOIP_METRICS = 7
_XR_VOIP_METRICS_WORDS = 8
_VOIP_METRICS = struct.Struct("!I4B4H8BBxHHH")


@dataclass(slots=True)
class VoipMetricsBlock:
    """RFC 3611 section 4.7, in the units of the wire.

    Rates and densities are 256ths, times milliseconds, MOS tenths; UNAVAILABLE where levels, R or MOS are not known.
    """

    ssrc: int
    "The source that is reported on."
    loss_rate: int
    discard_rate: int
    burst_density: int
    gap_density: int
    burst_duration: int
    gap_duration: int
    round_trip_delay: int = 0
    end_system_delay: int = 0
    signal_level: int = UNAVAILABLE
    noise_level: int = UNAVAILABLE
    rerl: int = UNAVAILABLE
    gmin: int = 16
    r_factor: int = UNAVAILABLE
    external_r_factor: int = UNAVAILABLE
    mos_lq: int = UNAVAILABLE
    mos_cq: int = UNAVAILABLE
    rx_config: int = 0
    "Concealment (2 bits), jitter buffer adaptive or not (2), its rate of adaptation (4)."
    jb_nominal: int = 0
    jb_maximum: int = 0
    jb_absolute_maximum: int = 0

    @property
    def conceals_loss(self) -> bool:
        """Whether packet loss concealment is said to be in use: "standard" or "enhanced"."""
        return self.rx_config >> 7 == 1

    @classmethod
    def parse(cls, data: bytes, offset: int = 0) -> VoipMetricsBlock:
        """Read the 32 octets at `offset`, after the block's header, which the caller has made sure of."""
        return cls(*_VOIP_METRICS.unpack_from(data, offset))

    def __bytes__(self) -> bytes:
        return _XR_BLOCK_HEADER.pack(_XR_VOIP_METRICS, 0, _XR_VOIP_METRICS_WORDS) + _VOIP_METRICS.pack(
            self.ssrc,
            self.loss_rate,
            self.discard_rate,
            self.burst_density,
            self.gap_density,
            self.burst_duration,
            self.gap_duration,
            self.round_trip_delay,
            self.end_system_delay,
            self.signal_level,
            self.noise_level,
            self.rerl,
            self.gmin,
            self.r_factor,
            self.external_r_factor,
            self.mos_lq,
            self.mos_cq,
            self.rx_config,
            self.jb_nominal,
            self.jb_maximum,
            self.jb_absolute_maximum,
        )


@dataclass(slots=True)
class ExtendedReport:
    """XR, RFC 3611 section 2; of its blocks the VoIP metrics are kept, the others skipped."""

    ssrc: int
    blocks: list[VoipMetricsBlock] = field(default_factory=list)

    @classmethod
    def parse(cls, body: bytes, count: int) -> ExtendedReport:
        """Read what follows the header, whose count bits are reserved.

        Raises ValueError for blocks that run over the end.
        """
        length = len(body)
        if length < 4:
            raise ValueError("RTCP XR is truncated")
        blocks: list[VoipMetricsBlock] = []
        position = 4
        while position < length:
            kind, _, words = _XR_BLOCK_HEADER.unpack_from(body, position)  # whole words: 4 octets are left
            position += 4
            if position + 4 * words > length:
                raise ValueError("RTCP XR has a truncated block")
            if kind == _XR_VOIP_METRICS:
                if words != _XR_VOIP_METRICS_WORDS:
                    raise ValueError("RTCP XR has a VoIP metrics block of invalid length")
                if len(blocks) == MAX_BLOCKS:
                    raise ValueError(f"RTCP XR has more than {MAX_BLOCKS} VoIP metrics blocks")
                blocks.append(VoipMetricsBlock.parse(body, position))
            position += 4 * words
        return cls(_SSRC.unpack_from(body)[0], blocks)

    def __bytes__(self) -> bytes:
        body = _SSRC.pack(self.ssrc) + b"".join(map(bytes, self.blocks))
        return struct.pack("!BBH", 2 << 6, RTCP_XR, len(body) // 4) + body
