"""SIP messages as received, checked once, and responses made for them.

The framing is sipmessage's, addresses are scanned by sip.address. This module adds what a server facing a network
needs: bounds, line folding, one error type, and responses that copy headers verbatim, because re-serialising a Via or
a From may escape it differently and a peer compares octets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sipmessage import URI, CSeq, Message, Request, Response

from .address import Via, parse_name_addr, parse_uri, parse_via, split_values
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
_PLACEHOLDER = b" sip:invalid.invalid SIP/2.0"
_SPACE_BEFORE_COLON = re.compile(rb"^([A-Za-z0-9\-.!%*_+`'~]{1,64})[ \t]+:", re.MULTILINE)
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
    489: "Bad Event",
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
        uri = parse_uri(text)
        return cls(scheme=uri.scheme, host=uri.host, port=uri.port, text=text)

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
        return header_values(self.message, name)


def header_values(message: Request | Response, name: str) -> list[str]:
    """All values of a header that may be listed with commas or repeated, each as it was written."""
    return [value for line in message.headers.getlist(name) for value in split_values(line)]


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
    head = _SPACE_BEFORE_COLON.sub(rb"\1:", _FOLD.sub(b" ", head))
    if _CONTROL.search(head.replace(b"\r\n", b"")):
        raise MalformedMessageError("control character in a header")
    fault = None
    try:
        head.decode()
    except UnicodeDecodeError:
        fault = Fault(400, "Headers Are Not UTF-8")
        head = head.decode(errors="replace").encode()
    start, _, rest = head.partition(b"\r\n")
    if start.startswith(b"SIP/"):
        message = _parse(head, body)
    else:
        method, uri, fault_in_start = _check_start_line(start)
        message = _parse(method + _PLACEHOLDER + (b"\r\n" + rest if rest else b""), body)
        if isinstance(message, Request) and uri is not None:
            message.uri = uri
        fault = fault_in_start or fault
    try:
        _fit_body(message)
    except ValueError as error:
        fault = fault or Fault(400, str(error))
    return message, fault


def _parse(head: bytes, body: bytes) -> Request | Response:
    try:
        return Message.parse(head + b"\r\n\r\n" + body)
    except ValueError as error:
        raise MalformedMessageError(f"not a SIP message: {error}") from None


def _check_start_line(start: bytes) -> tuple[bytes, VerbatimURI | None, Fault | None]:
    """Method and Request-URI, or what is wrong with them. The URI is ours to parse: see sip.address."""
    match = _START_LINE.match(start)
    if match is None:
        raise MalformedMessageError("the first line is neither a request line nor a status line")
    method, uri, version = match.groups()
    if version.upper() != b"SIP/2.0":
        return method, None, Fault(505, REASONS[505])
    try:
        return method, VerbatimURI.of(uri.decode()), None
    except ValueError:
        known = uri.partition(b":")[0].lower() in (b"sip", b"sips", b"tel")
        return method, None, Fault(400, "Request-URI Is Not Valid") if known else Fault(416, REASONS[416])


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
        via = parse_via(next(iter(split_values(headers["Via"])), ""))
        name = "From"
        from_tag = parse_name_addr(headers["From"]).parameters.get("tag")
        name = "To"
        to_tag = parse_name_addr(headers["To"]).parameters.get("tag") or None
        name = "CSeq"
        cseq = CSeq.parse(headers["CSeq"])
    except ValueError:
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
        branch=via.branch,
    )


def _check_max_forwards(value: str | None) -> Fault | None:
    if value is None:
        return Fault(400, "Missing Max-Forwards")
    if not (value.isascii() and value.isdigit() and len(value) <= 3):
        return Fault(400, "Max-Forwards Is Not Valid")
    return None


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
        if parse_name_addr(to).parameters.get("tag"):
            return to
    except ValueError:
        return to  # echoed as it came, in the 400 that says so
    if "<" not in to:  # an addr-spec alone: brackets keep the tag out of the URI
        uri, _, parameters = to.partition(";")
        to = f"<{uri.strip()}>" + (f";{parameters}" if parameters else "")
    return f"{to};tag={tag}"


def clean_reason(reason: str) -> str:
    """A reason phrase may quote what a caller sent: no line breaks, no control characters, bounded."""
    return "".join(char if char.isprintable() else " " for char in reason)[:MAX_REASON_CHARS]
