"""Addresses as SIP writes them: URIs, name-addrs, Via values (RFC 3261 sections 19.1, 20.10, 20.42).

Scanned here, in one pass and within bounds, not by sipmessage: its patterns take seconds over a long hostile tel URI,
with the interpreter lock held, and refuse what is common: hosts such as `pbx1`, `+sip.instance="<urn:...>"`, upper-case
schemes, an IPv6 address in `received`. We need few parts of an address, and repeat the rest as it came.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

DEFAULT_PORT = 5060
"Of SIP over UDP, where an address names none (RFC 3261 section 19.1.2)."
MAX_URI_CHARS = 1024
MAX_PARAMETERS = 64

# Every pattern is a sequence of disjoint character classes: linear in the length.
_HOST = r"[A-Za-z0-9_.\-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\]"  # `_` is no hostname's, but many a container's
_HOST_PORT = re.compile(rf"(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?")
_VIA = re.compile(
    rf"SIP ?/ ?2\.0 ?/ ?(?P<transport>[A-Za-z0-9\-.]{{1,32}}) (?P<host>{_HOST}) ?(?:: ?(?P<port>[0-9]{{1,5}}))?"
    r" ?(?P<parameters>;.*)?",
    re.IGNORECASE,
)
_TEL = re.compile(r"\+?[0-9A-Fa-f*#\-.()]{1,64}")
_NOT_IN_URI = re.compile(r"[\s<>\"\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Uri:
    """A sip, sips or tel URI."""

    scheme: str
    "In lower case."
    host: str
    'As written, an IPv6 address in brackets; "" in a tel URI.'
    port: int | None
    parameters: Mapping[str, str]
    text: str
    "The whole, as written."

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class NameAddr:
    """A value of From, To, Contact, Route or Record-Route."""

    uri: Uri
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Via:
    """A Via value."""

    transport: str
    host: str
    port: int | None
    parameters: Mapping[str, str]

    @property
    def branch(self) -> str:
        return self.parameters.get("branch", "")


def parse_uri(text: str) -> Uri:
    """Raises ValueError."""
    if len(text) > MAX_URI_CHARS or _NOT_IN_URI.search(text):
        raise ValueError("URI is not valid")
    scheme, _, rest = text.partition(":")
    scheme = scheme.lower()
    if scheme == "tel":
        number, _, parameters = rest.partition(";")
        if not _TEL.fullmatch(number):
            raise ValueError("tel URI is not valid")
        return Uri(scheme, "", None, parse_parameters(parameters), text)
    if scheme not in ("sip", "sips"):
        raise ValueError("URI scheme is not supported")
    place, _, parameters = rest.partition("?")[0].rpartition("@")[2].partition(";")
    match = _HOST_PORT.fullmatch(place)
    if match is None:
        raise ValueError("URI is not valid")
    return Uri(scheme, match["host"], _port(match["port"]), parse_parameters(parameters), text)


def parse_name_addr(text: str) -> NameAddr:
    """Raises ValueError. Without brackets all parameters are the header's, none the URI's (section 20.10)."""
    start = next(_outside_quotes(text, "<"), None)
    if start is None:
        uri, _, parameters = text.partition(";")
        return NameAddr(parse_uri(uri.strip()), parse_parameters(parameters))
    end = text.find(">", start)
    rest = text[end + 1 :].strip()
    if end < 0 or (rest and not rest.startswith(";")):
        raise ValueError("address is not valid")
    return NameAddr(parse_uri(text[start + 1 : end].strip()), parse_parameters(rest[1:]))


def parse_via(text: str) -> Via:
    """Raises ValueError."""
    match = _VIA.fullmatch(" ".join(text.split()))
    if match is None:
        raise ValueError("Via is not valid")
    parameters = parse_parameters((match["parameters"] or "")[1:])
    return Via(match["transport"], match["host"], _port(match["port"]), parameters)


def parse_parameters(text: str) -> dict[str, str]:
    """`a=1;b;c="x;y"` to a dict: names in lower case, values without quotes, "" for none. The first of a name counts.

    Raises ValueError for more than MAX_PARAMETERS.
    """
    found: dict[str, str] = {}
    parts = _split(text, ";")
    if len(parts) > MAX_PARAMETERS:
        raise ValueError("too many parameters")
    for part in parts:
        name, _, value = part.partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return found


def split_values(line: str) -> list[str]:
    """Split a header line at the commas that are neither quoted nor within angle brackets."""
    return _split(line, ",")


def _split(text: str, separator: str) -> list[str]:
    """The parts between separators outside quotes and angle brackets, stripped; empty ones are left out."""
    if '"' not in text and "<" not in text:
        parts = text.split(separator)
    else:
        cuts = [-1, *_outside_quotes(text, separator), len(text)]
        parts = [text[start + 1 : end] for start, end in pairwise(cuts)]
    return [part for part in map(str.strip, parts) if part]


def _outside_quotes(text: str, wanted: str) -> Iterator[int]:
    """Where such a character stands outside quoted strings and, unless it is one itself, outside angle brackets."""
    quoted = bracketed = escaped = False
    for index, char in enumerate(text):
        if escaped:
            escaped = False
        elif quoted:
            escaped = char == "\\"
            quoted = char != '"'
        elif char == wanted and not bracketed:
            yield index
        elif char == '"':
            quoted = True
        elif char in "<>":
            bracketed = char == "<"


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    port = int(text)
    if not 0 < port <= 65535:
        raise ValueError("port is not valid")
    return port
