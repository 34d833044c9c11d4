"""A SIP phone for tests, demonstrations and `chatterline call`.

The signalling and media are PJSIP's (package `pjsua2-python`, GPL, extra `phone`), an implementation
independent of the server's own. It is imported when a call is placed, never by the server.
"""

from mediaserver.phone.actions import Action, Dtmf, HangUp, Hold, Play, Resume, SendInfo
from mediaserver.phone.call import PhoneError, PhoneUnavailableError, place_call
from mediaserver.phone.media import MediaOptions
from mediaserver.phone.report import CallReport, FarReport, PressedDigit, Reply, StreamCounts

__all__ = [
    "Action",
    "CallReport",
    "Dtmf",
    "FarReport",
    "HangUp",
    "Hold",
    "MediaOptions",
    "PhoneError",
    "PhoneUnavailableError",
    "Play",
    "PressedDigit",
    "Reply",
    "Resume",
    "SendInfo",
    "StreamCounts",
    "place_call",
]
