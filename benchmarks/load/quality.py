"""How a listener would rate what a caller received: the E-model on measured loss and jitter."""

from __future__ import annotations

from collections.abc import Iterable

from mediaserver.rtp.emodel import mos, r_factor

FRAME_MS = 20.0
LEAST_BUFFER_MS = 40.0
JITTERS = 4.0
"An adaptive jitter buffer holds about so many times the mean deviation."
SILENT = 1.0
NOTE = (
    "MOS: by the E-model, of packets that did not come and of jitter alone; how the speech itself sounds is not in it."
)


def listening_mos(received: int, lost: int, jitter_ms: float) -> float | None:
    """MOS (ITU-T G.107) of G.711 with concealment; delay: a frame and the buffer. SILENT if all was lost, None if
    there was nothing to receive.
    """
    if not received:
        return SILENT if lost > 0 else None
    delay = FRAME_MS + max(LEAST_BUFFER_MS, JITTERS * jitter_ms)
    return mos(r_factor(delay, max(0, lost) / (received + max(0, lost))))


def spread(scores: Iterable[float | None]) -> dict[str, float | None]:
    """The median and the worst call's."""
    known = sorted(score for score in scores if score is not None)
    if not known:
        return {"median": None, "worst": None}
    return {"median": round(known[len(known) // 2], 2), "worst": round(known[0], 2)}
