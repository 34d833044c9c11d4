"""Why a call ended."""

from __future__ import annotations

from enum import StrEnum


class EndReason(StrEnum):
    """For the log, the metrics and the events."""

    CALLER_HUNG_UP = "caller_hung_up"
    CALLEE_HUNG_UP = "callee_hung_up"
    "Whom we called."
    HUNG_UP = "hung_up"
    "By whoever controls the call."
    TRANSFERRED = "transferred"
    "Its peer has been connected to another."
    PLAYED = "played"
    "X-TTS-Hangup and the like: all has been said."
    CANCELLED = "cancelled"
    NO_ACK = "no_ack"
    BAD_ANSWER = "bad_answer"
    "The SDP answer was missing, or none that we can use."
    NO_ANSWER = "no_answer"
    BUSY = "busy"
    REJECTED = "rejected"
    "A call of ours was refused; so are the three reasons around this one. The status code says more."
    UNREACHABLE = "unreachable"
    TOO_LONG = "max_duration"
    NO_MEDIA = "rtp_never_started"
    "Nothing came from the peer, neither RTP nor RTCP."
    MEDIA_STOPPED = "rtp_stopped"
    LOST = "lost"
    "The peer answered no request of ours, or knew nothing of the call."
    DRAINED = "drained"
    FAILED = "failed"
    "An error of our own."


_BY_CODE = {
    404: EndReason.UNREACHABLE,
    408: EndReason.NO_ANSWER,
    410: EndReason.UNREACHABLE,
    480: EndReason.NO_ANSWER,
    484: EndReason.UNREACHABLE,
    485: EndReason.UNREACHABLE,
    486: EndReason.BUSY,
    487: EndReason.CANCELLED,
    600: EndReason.BUSY,
    604: EndReason.UNREACHABLE,
}


def reason_of_failure(code: int) -> EndReason:
    """What a final response to an INVITE of ours means (RFC 3261 section 21), 300 to 699."""
    if code in _BY_CODE:
        return _BY_CODE[code]
    return EndReason.UNREACHABLE if 500 <= code <= 599 else EndReason.REJECTED
