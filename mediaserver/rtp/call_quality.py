"""The quality of a call's two directions."""

from __future__ import annotations

from dataclasses import dataclass

from mediaserver.rtp import emodel


@dataclass(slots=True, frozen=True)
class DirectionQuality:
    """Quality of one direction of a call; None where nothing is known yet."""

    loss: float | None = None
    "Share of packets lost, or come too late to be played, 0 to 1."
    jitter_ms: float | None = None
    mos: float | None = None
    "Conversational, by the E-model: 1 to 4.5."
    r_factor: float | None = None

    @classmethod
    def rate(
        cls, loss: float, jitter_ms: float, delay_ms: float, *, burst_ratio: float = 1.0, conceals_loss: bool
    ) -> DirectionQuality:
        """A direction with these figures; `delay_ms` is one way, from mouth to ear."""
        bpl = emodel.G711_PLC_BPL if conceals_loss else emodel.G711_BPL
        r = emodel.r_factor(delay_ms, loss, burst_ratio=burst_ratio, bpl=bpl)
        return cls(loss, jitter_ms, emodel.mos(r), r)


@dataclass(slots=True, frozen=True)
class CallQuality:
    """`inbound` is what we hear, `outbound` what the peer hears."""

    inbound: DirectionQuality
    outbound: DirectionQuality
    round_trip_ms: float | None
