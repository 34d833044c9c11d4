"""The SDP (RFC 8866) of a caller: its offer, and what of an answer it needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Media:
    """Where an answer wants audio and reports."""

    rtp: tuple[str, int]
    rtcp: tuple[str, int]
    "a=rtcp (RFC 3605), else the port above; with rtcp-mux (RFC 5761) that of RTP."


def offer(host: str, port: int, *, rtcp_mux: bool = False) -> str:
    """PCMU at 20 ms, and DTMF as RFC 4733 events; RTCP on the port above, or with rtcp-mux on the same."""
    shared = "a=rtcp-mux\r\n" if rtcp_mux else ""
    return (
        f"v=0\r\no=load 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
        f"m=audio {port} RTP/AVP 0 101\r\n"
        "a=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n"
        f"a=ptime:20\r\n{shared}a=sendrecv\r\n"
    )


def media(sdp: str, *, rtcp_mux: bool = False) -> Media:
    """Of an answer; rtcp_mux: it was offered. Raises ValueError if the answer takes no audio."""
    host, port = "", 0
    rtcp_host, rtcp_port = "", 0
    shared = False
    for line in sdp.splitlines():
        if line.startswith("m="):
            if port:
                break
            if line.startswith("m=audio "):
                port = int(line.split()[1])
        elif line.startswith("c=IN IP4 "):
            host = line[9:].split("/")[0].strip()
        elif port and line.startswith("a=rtcp:"):
            fields = line[7:].split()
            rtcp_port = int(fields[0])
            rtcp_host = fields[3] if len(fields) > 3 else ""
        elif port and line.strip() == "a=rtcp-mux":
            shared = rtcp_mux
    if not port or not host:
        raise ValueError("SDP answer takes no audio")
    rtcp = (host, port) if shared else (rtcp_host or host, rtcp_port or port + 1)
    return Media((host, port), rtcp)
