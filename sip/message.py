"""SIP messages as received, checked once, and responses made for them.

The grammar is sipmessage's. This module adds what a server facing a network needs: bounds, line folding, one error
type, and responses that copy headers verbatim, because re-serialising a Via or a From may escape it differently
and a peer compares octets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sipmessage import URI, Address, CSeq, Message, Request, Response, Via

from .errors import Fault, MalformedMessageError

SocketAddress = tuple[str, int]
"An IP address and a UDP port."

MAX_HEADER_LINES = 200
MAX_HEADER_BYTES = 32_768
MAX_CSEQ = 2**31 - 1  # RFC 3261 section 8.1.1.5
MAX_REASON_CHARS = 200
BRANCH_COOKIE = "z9hG4bK"  # RFC 3261 section 8.1.1.7

_FOLD = re.compile(rb"\r\n[ \t]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_START_LINE = re.compile(rb"([A-Za-z0-9\-.!%*_+`'~]{1,64}) (\S+) (SIP/\d+\.\d+)$", re.IGNORECASE)
_PLACEHOLDER_URI = b"sip:invalid.invalid"
_MANDATORY = ("Via", "From", "To", "Call-ID", "CSeq")
_SINGLE = ("From", "To", "Call-ID", "CSeq", "Max-Forwards", "Content-Length", "Content-Type")

REASONS = {
    100: "Trying",
    180: "Ringing",
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Request Entity Too Large",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    491: "Request Pending",
    500: "Server Internal Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "Version Not Supported",
}
"Default reason phrases, RFC 3261 section 21."


@dataclass(frozen=True)
class VerbatimURI(URI):
    """A URI that is written as it was read: a Request-URI has to equal the Contact that it came from."""

    text: str = ""

    @classmethod
    def of(cls, text: str) -> VerbatimURI:
        """Raises ValueError if the text is no URI."""
        uri = URI.parse(text)
        return cls(uri.scheme, uri.host, uri.user, uri.password, uri.port, uri.parameters, text)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class IncomingRequest:
    """A request that has all mandatory headers, each of them parsed once."""

    message: Request
    source: SocketAddress
    method: str
    call_id: str
    from_tag: str
    to_tag: str | None
    cseq: int
    via: Via
    branch: str

    @property
    def body(self) -> bytes:
        return self.message.body

    def header(self, name: str) -> str | None:
        """The first value of a header, in its long name; None if it is absent."""
        return self.message.headers.get(name)

    def values(self, name: str) -> list[str]:
        """All values of a header that may be listed with commas or repeated, each as it was written."""
        return [value for line in self.message.headers.getlist(name) for value in split_values(line)]


def is_keepalive(datagram: bytes) -> bool:
    """RFC 5626 section 4.4.1 and common practice: datagrams of line ends or NULs hold a NAT binding open."""
    return not datagram.strip(b"\r\n\0 ")


def parse_datagram(datagram: bytes) -> tuple[Request | Response, Fault | None]:
    """Parse one datagram.

    Returns the message, and for a request whose start line or encoding has a fault that can be told to the sender
    that fault as well. Raises MalformedMessageError for what cannot be answered.
    """
    head, separator, body = datagram.lstrip(b"\r\n").partition(b"\r\n\r\n")
    if not separator:
        raise MalformedMessageError("no empty line ends the headers")
    if len(head) > MAX_HEADER_BYTES or head.count(b"\r\n") > MAX_HEADER_LINES:
        raise MalformedMessageError("too many headers")
    head = _FOLD.sub(b" ", head)
    if _CONTROL.search(head.replace(b"\r\n", b"")):
        raise MalformedMessageError("control character in a header")
    fault = None
    try:
        head.decode()
    except UnicodeDecodeError:
        fault = Fault(400, "Headers Are Not UTF-8")
        head = head.decode(errors="replace").encode()
    start, _, rest = head.partition(b"\r\n")
    if not start.startswith(b"SIP/"):
        start, fault_in_start = _check_start_line(start)
        fault = fault_in_start or fault
    message = _parse(start + b"\r\n" + rest if rest else start, body)
    try:
        _fit_body(message)
    except ValueError as error:
        fault = fault or Fault(400, str(error))
    return message, fault


def _parse(head: bytes, body: bytes) -> Request | Response:
    try:
        return Message.parse(head + b"\r\n\r\n" + body)
    except (ValueError, TypeError) as error:  # TypeError: sipmessage on a parameter named "self"
        raise MalformedMessageError(f"not a SIP message: {error}") from None


def _check_start_line(start: bytes) -> tuple[bytes, Fault | None]:
    """A request line that can be parsed, and what was wrong with the one that came."""
    match = _START_LINE.match(start)
    if match is None:
        raise MalformedMessageError("the first line is neither a request line nor a status line")
    method, uri, version = match.groups()
    if version.upper() != b"SIP/2.0":
        return method + b" " + _PLACEHOLDER_URI + b" SIP/2.0", Fault(505, REASONS[505])
    try:
        URI.parse(uri.decode())
    except (ValueError, TypeError):
        scheme = uri.partition(b":")[0].lower()
        fault = (
            Fault(400, "Request-URI Is Not Valid") if scheme in (b"sip", b"sips", b"tel") else Fault(416, REASONS[416])
        )
        return method + b" " + _PLACEHOLDER_URI + b" SIP/2.0", fault
    return method + b" " + uri + b" SIP/2.0", None


def _fit_body(message: Request | Response) -> None:
    """RFC 3261 section 18.3: over UDP the body ends where Content-Length says; a shorter one is an error."""
    value = message.headers.get("Content-Length")
    if value is None:
        return
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise ValueError("Content-Length Is Not Valid")
    length = int(value)
    if length > len(message.body):
        raise ValueError("Body Is Shorter Than Content-Length")
    message.body = message.body[:length]


def check_request(message: Request, source: SocketAddress) -> IncomingRequest | Fault:
    """Check what every request must have (RFC 3261 section 8.1.1) and parse it once."""
    headers = message.headers
    for name in _MANDATORY:
        if not headers.get(name):
            return Fault(400, f"Missing {name}")
    for name in _SINGLE:
        if len(headers.getlist(name)) > 1:
            return Fault(400, f"More Than One {name}")
    name = "Via"
    try:
        via = Via.parse(split_values(headers["Via"])[0])
        name = "From"
        from_tag = Address.parse(headers["From"]).parameters.get("tag")
        name = "To"
        to_tag = Address.parse(headers["To"]).parameters.get("tag")
        name = "CSeq"
        cseq = CSeq.parse(headers["CSeq"])
    except (ValueError, TypeError):
        return Fault(400, f"{name} Is Not Valid")
    if not from_tag:
        return Fault(400, "From Has No Tag")
    if cseq.method != message.method:
        return Fault(400, "CSeq Does Not Match The Method")
    if cseq.sequence > MAX_CSEQ:
        return Fault(400, "CSeq Is Not Valid")
    if message.method != "ACK":  # nothing can be said to an ACK
        fault = _check_max_forwards(headers.get("Max-Forwards"))
        if fault is not None:
            return fault
    return IncomingRequest(
        message=message,
        source=source,
        method=message.method,
        call_id=headers["Call-ID"],
        from_tag=from_tag,
        to_tag=to_tag,
        cseq=cseq.sequence,
        via=via,
        branch=via.parameters.get("branch") or "",
    )


def _check_max_forwards(value: str | None) -> Fault | None:
    if value is None:
        return Fault(400, "Missing Max-Forwards")
    if not (value.isascii() and value.isdigit() and len(value) <= 3):
        return Fault(400, "Max-Forwards Is Not Valid")
    return None


def split_values(line: str) -> list[str]:
    """Split a header line at the commas that are neither quoted nor within angle brackets."""
    values: list[str] = []
    start = 0
    quoted = bracketed = escaped = False
    for index, char in enumerate(line):
        if escaped:
            escaped = False
        elif quoted:
            escaped = char == "\\"
            quoted = char != '"'
        elif char == '"':
            quoted = True
        elif char in "<>":
            bracketed = char == "<"
        elif char == "," and not bracketed:
            values.append(line[start:index].strip())
            start = index + 1
    values.append(line[start:].strip())
    return [value for value in values if value]


def build_response(
    request: Request,
    code: int,
    reason: str | None = None,
    *,
    to_tag: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    body: bytes = b"",
    content_type: str | None = None,
) -> Response:
    """Make a response as RFC 3261 section 8.2.6 says; `to_tag` is added to a To that has none.

    The Via headers are copied as they are: the transport has stamped them on receipt.
    """
    response = Response(code, clean_reason(reason or REASONS.get(code, "Unknown")), body)
    for value in request.headers.getlist("Via"):
        response.headers.add("Via", value)
    if 101 <= code <= 299:  # section 12.1.1: the dialog's route set
        for value in request.headers.getlist("Record-Route"):
            response.headers.add("Record-Route", value)
    for name in ("From", "To", "Call-ID", "CSeq"):
        field = request.headers.get(name)
        if field is not None:
            response.headers.set(name, with_tag(field, to_tag) if name == "To" and to_tag else field)
    for name, field in headers:
        response.headers.add(name, field)
    if content_type is not None:
        response.headers.set("Content-Type", content_type)
    response.headers.set("Content-Length", str(len(body)))
    return response


def with_tag(to: str, tag: str) -> str:
    """A To value with our tag, unless it has one."""
    try:
        if Address.parse(to).parameters.get("tag"):
            return to
    except (ValueError, TypeError):
        return to  # echoed as it came, in the 400 that says so
    if "<" not in to:  # an addr-spec alone: brackets keep the tag out of the URI
        uri, _, parameters = to.partition(";")
        to = f"<{uri.strip()}>" + (f";{parameters}" if parameters else "")
    return f"{to};tag={tag}"


def clean_reason(reason: str) -> str:
    """A reason phrase may quote what a caller sent: no line breaks, no control characters, bounded."""
    return "".join(char if char.isprintable() else " " for char in reason)[:MAX_REASON_CHARS]
