"""The quality of calls, as RTCP tells it: for the log at a call's end, and for the metrics."""

from __future__ import annotations

from mediaserver.rtp.call_quality import CallQuality, DirectionQuality
from tts_engine.measures import Histogram, Measure

MOS_BOUNDS = (1.5, 2.0, 2.5, 3.0, 3.2, 3.4, 3.6, 3.8, 4.0, 4.1, 4.2, 4.3, 4.4)
_TEXT = "Mean opinion score of ended calls, by the E-model"


def quality_fields(quality: CallQuality | None) -> dict[str, float]:
    """What the log says of it; nothing of what is not known."""
    if quality is None:
        return {}
    fields = {
        **_direction_fields("in", quality.inbound),
        **_direction_fields("out", quality.outbound),
        "round_trip_ms": quality.round_trip_ms,
    }
    return {name: round(value, 4) for name, value in fields.items() if value is not None}


def _direction_fields(name: str, direction: DirectionQuality) -> dict[str, float | None]:
    return {f"loss_{name}": direction.loss, f"jitter_{name}_ms": direction.jitter_ms, f"mos_{name}": direction.mos}


class QualityMeasures:
    """Over all calls that have ended."""

    def __init__(self) -> None:
        self._mos = {
            direction: Histogram("call_mos", _TEXT, MOS_BOUNDS, labels={"direction": direction})
            for direction in ("inbound", "outbound")
        }

    @property
    def measures(self) -> tuple[Measure, ...]:
        return tuple(self._mos.values())

    def count(self, quality: CallQuality | None) -> None:
        """A call that has ended."""
        if quality is None:
            return
        for direction, found in (("inbound", quality.inbound), ("outbound", quality.outbound)):
            if found.mos is not None:
                self._mos[direction].observe(found.mos)
