"""What a SIP request asks to have said: headers and bodies of an INVITE or an INFO.

X-TTS-Text     text to speak, UTF-8
X-TTS-Voice    the voice: in an INVITE that of the whole call, in an INFO that of its text
X-TTS-Hangup   yes: send BYE when all has been played
X-TTS-Action   clear: stop speaking, forget what is queued (before anything new in the same request)
X-TTS-Barge-In none, speech, digit, either: what interrupts the speech, in an INVITE of the whole call, in an INFO from
               now on
X-TTS-Digits   digits to send when what the same request brings to say has been said; may be a PIN, so never logged

The body may be text/plain, or a multipart/mixed with text/plain parts; an INVITE's SDP is in one or the other way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesParser
from typing import TypeVar

from mediaserver.config import BargeInPolicy
from mediaserver.refusal import RefusedError
from sip.message import IncomingRequest
from sip.sdp import CONTENT_TYPE as SDP_TYPE

TEXT_TYPE = "text/plain"
MULTIPART_TYPE = "multipart/mixed"
BODY_TYPES = (SDP_TYPE, MULTIPART_TYPE, TEXT_TYPE)
"Of an INVITE."
MAX_PARTS = 8
CHARSETS = ("utf-8", "us-ascii", "iso-8859-1", "iso-8859-15", "windows-1252")
"Of text. Not all that Python has: some take long over hostile input."
MAX_DIGITS = 64
"What a sender's queue holds."
_DIGITS = re.compile(r"[0-9*#A-DwW]+")
_NESTED = re.compile(rb"^content-type\s*:\s*(multipart|message)/", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SpeechOrder:
    """What a request asks for."""

    text: str | None
    "None if it brings no text at all; it may be blank."
    voice: str | None
    hang_up: bool
    clear: bool
    sdp: bytes | None
    barge_in: BargeInPolicy | None = None
    "None if the request does not say: then the call's stays."
    digits: str | None = field(default=None, repr=False)
    "0-9, *, #, A-D, and the pauses w (0.5 s) and W (1 s); never empty."


_BARGE_IN: dict[str, BargeInPolicy] = {"none": "none", "speech": "speech", "digit": "digit", "either": "either"}
T = TypeVar("T")


def parse_order(request: IncomingRequest, accepted: tuple[str, ...]) -> SpeechOrder:
    """Read a request; `accepted` are the content types that it may have. Raises RefusedError."""
    parts = _bodies(request, accepted)
    sdp = [body for kind, body in parts if kind == SDP_TYPE]
    if len(sdp) > 1:
        raise RefusedError(400, "More Than One Session Description")
    texts = [
        *request.message.headers.getlist("X-TTS-Text"),
        *(body.decode() for kind, body in parts if kind == TEXT_TYPE),
    ]
    return SpeechOrder(
        text=" ".join(text.strip() for text in texts) if texts else None,
        voice=(request.header("X-TTS-Voice") or "").strip() or None,
        hang_up=_one_of(request, "X-TTS-Hangup", {"yes": True, "no": False}) or False,
        clear=_one_of(request, "X-TTS-Action", {"clear": True}) or False,
        sdp=sdp[0] if sdp else None,
        barge_in=_one_of(request, "X-TTS-Barge-In", _BARGE_IN),
        digits=_digits(request),
    )


def _digits(request: IncomingRequest) -> str | None:
    """The refusal does not repeat them: reasons are logged."""
    value = (request.header("X-TTS-Digits") or "").strip()
    if not value:
        return None
    if len(value) > MAX_DIGITS:
        raise RefusedError(400, f"X-TTS-Digits Are More Than {MAX_DIGITS}")
    if not _DIGITS.fullmatch(value):
        raise RefusedError(400, "X-TTS-Digits Are Not All Of 0-9 * # A-D w W")
    return value


def _one_of(request: IncomingRequest, name: str, values: dict[str, T]) -> T | None:
    """What the header's value means; None for no header. Raises RefusedError for any other value."""
    value = (request.header(name) or "").strip()
    if not value:
        return None
    if value.lower() not in values:
        raise RefusedError(400, f"{name} Is Not One Of {', '.join(values)}: {value}")
    return values[value.lower()]


def _bodies(request: IncomingRequest, accepted: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """The parts of the body as (content type, content); text is in UTF-8 whatever it came in."""
    if not request.body:
        return []
    if request.header("Content-Encoding") not in (None, "", "identity"):
        raise RefusedError(415, "Unsupported Content-Encoding", (("Accept-Encoding", "identity"),))
    if _NESTED.search(request.body):  # refused before parsing, which takes long over deep nesting
        raise RefusedError(400, "Multipart Body Is Nested")
    head = f"Content-Type: {request.header('Content-Type') or ''}\r\n\r\n".encode()
    whole = BytesParser().parsebytes(head + request.body)
    if _type_of(whole) != MULTIPART_TYPE or MULTIPART_TYPE not in accepted:
        return [_body(whole, request.body, accepted)]
    parts = whole.get_payload()
    if not whole.is_multipart() or not isinstance(parts, list) or len(parts) > MAX_PARTS:
        raise RefusedError(400, "Multipart Body Is Not Valid")
    return [
        _body(part, _decoded(part), accepted)
        for part in parts
        if isinstance(part, Message) and not (_type_of(part) not in accepted and _is_optional(part))
    ]


def _type_of(part: Message) -> str:
    # Without a valid Content-Type, get_content_type() would call it text/plain, and it would be spoken.
    return part.get_content_type() if "/" in str(part.get("Content-Type", "")) else ""


def _is_optional(part: Message) -> bool:
    """RFC 3204 section 6, RFC 5621: such as the ISUP that a carrier's gateway sends along."""
    return str(part.get_param("handling", "required", "Content-Disposition")).lower() == "optional"


def _decoded(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _body(part: Message, content: bytes, accepted: tuple[str, ...]) -> tuple[str, bytes]:
    kind = _type_of(part)
    if kind not in accepted or kind == MULTIPART_TYPE:
        raise RefusedError(415, f"Unsupported Media Type {kind}".rstrip(), (("Accept", ", ".join(accepted)),))
    if kind == TEXT_TYPE:
        charset = part.get_content_charset("utf-8")
        if charset not in CHARSETS:
            raise RefusedError(415, f"Unsupported Charset {charset}", (("Accept", f"{TEXT_TYPE};charset=utf-8"),))
        try:
            content = content.decode(charset).encode()
        except UnicodeError:
            raise RefusedError(400, f"Text Is Not {charset.upper()}") from None
    return kind, content
