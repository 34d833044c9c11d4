"""What of the phone's media can be chosen, and how its SDP says so."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class MediaOptions:
    """Choices for one call.

    `ptime_ms` is what the SDP asks for; None leaves it out. Without `telephone_events` none are offered, as by
    a phone that sends digits as tones only. With `echo_db` the phone returns what it hears, that much louder
    (below 0: more quietly), as one without an echo canceller. `rtcp_mux` offers RTCP on the port of RTP (RFC 5761).
    """

    ptime_ms: int | None = None
    telephone_events: bool = True
    echo_db: float | None = None
    rtcp_mux: bool = False


ORDINARY_MEDIA = MediaOptions()


def shape_sdp(sdp: str, options: MediaOptions) -> str:
    """PJSIP's SDP with what it has no settings for: the packet time, and leaving out the telephone-events."""
    lines = sdp.splitlines()
    if not options.telephone_events:
        for payload_type in re.findall(r"(?m)^a=rtpmap:(\d+) telephone-event/", sdp):
            lines = _without_format(lines, payload_type)
    if options.ptime_ms is not None:
        lines = [line for line in lines if not re.match(r"a=(max)?ptime:", line)]
        lines.append(f"a=ptime:{options.ptime_ms}")  # of the last media, the only one
    return "".join(f"{line}\r\n" for line in lines)


def _without_format(lines: list[str], payload_type: str) -> list[str]:
    kept = []
    for line in lines:
        if line.startswith("m="):
            kind, port, transport, *formats = line.split()
            kept.append(" ".join([kind, port, transport, *(one for one in formats if one != payload_type)]))
        elif not re.match(rf"a=(rtpmap|fmtp):{payload_type} ", line):
            kept.append(line)
    return kept
