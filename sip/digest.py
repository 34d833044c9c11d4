"""Digest access authentication, the side that is challenged (RFC 7616, RFC 2617; in SIP RFC 3261 section 22,
RFC 8760).

MD5 and SHA-256, with qop auth or none. Pure: responses in, header fields out.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sipmessage import Response

MAX_LINE_CHARS = 4096
MAX_CHALLENGES = 16
"Looked at in one response."
MAX_NONCES = 16
"Whose counts are kept."
MAX_ROUNDS = 4
"A request is sent again so often: once for each realm on the way, and once when its nonce is stale."

_ANSWER_HEADERS = {401: ("WWW-Authenticate", "Authorization"), 407: ("Proxy-Authenticate", "Proxy-Authorization")}
_HASHES = {"md5": hashlib.md5, "sha-256": hashlib.sha256}

# Possessive, and of disjoint classes: linear in the length of what a stranger sends.
_NAME = r"[A-Za-z0-9\-.!%*_+`'~]++"
_GAP = re.compile(r"[\s,]*+")
_PARAMETER = re.compile(rf'({_NAME})\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s,"]++))', re.DOTALL)
_SCHEME = re.compile(rf"({_NAME})(?:\s++|$)")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are towards whoever asks. Raises ValueError for a user name that no header can carry."""

    username: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        if not self.username or not self.username.isprintable():
            raise ValueError("user name is not valid")


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge that can be answered. Quoted values are kept as written: both sides hash them so."""

    realm: str
    nonce: str
    opaque: str | None = None
    algorithm: str | None = None
    "As written; None if it was not, which means MD5."
    qop: bool = False
    "Whether the response is to have qop=auth; without, it is that of RFC 2069."
    stale: bool = False
    "The credentials before were right, only their nonce too old."


def parse_challenges(lines: Iterable[str]) -> list[Challenge]:
    """The challenges of these header values that can be answered, the server's favourite first; others are left out.

    Never raises.
    """
    found: list[Challenge] = []
    for line in lines:
        for scheme, parameters in _split(line):
            challenge = _challenge(parameters) if scheme == "digest" else None
            if challenge is not None and len(found) < MAX_CHALLENGES:
                found.append(challenge)
    return found


def _split(line: str) -> list[tuple[str, dict[str, str]]]:
    """Schemes, and their parameters by name in lower case; nothing of a line that is no list of challenges."""
    challenges: list[tuple[str, dict[str, str]]] = []
    if len(line) > MAX_LINE_CHARS:
        return []
    at = 0
    while (at := _end(_GAP, line, at)) < len(line):
        if (match := _PARAMETER.match(line, at)) and challenges:
            name, quoted, plain = match.groups()
            challenges[-1][1].setdefault(name.lower(), plain if quoted is None else quoted)
        elif match := _SCHEME.match(line, at):
            challenges.append((match[1].lower(), {}))
        else:
            return []
        at = match.end()
    return challenges


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _challenge(parameters: dict[str, str]) -> Challenge | None:
    realm, nonce = parameters.get("realm"), parameters.get("nonce")
    algorithm = parameters.get("algorithm")
    if realm is None or not nonce or (algorithm or "md5").lower() not in _HASHES:
        return None
    offered = {option.strip().lower() for option in parameters.get("qop", "").split(",")} - {""}
    if offered and "auth" not in offered:
        return None
    stale = parameters.get("stale", "").lower() == "true"
    return Challenge(realm, nonce, parameters.get("opaque"), algorithm, bool(offered), stale)


def authorization(
    challenge: Challenge, credentials: Credentials, method: str, uri: str, *, cnonce: str, count: int
) -> str:
    """The value of the (Proxy-)Authorization header.

    uri: the Request-URI as it is sent. count: how often this nonce has been answered, this time included.
    """
    make = _HASHES[(challenge.algorithm or "md5").lower()]

    def digest(*parts: str) -> str:
        return make(":".join(parts).encode(), usedforsecurity=False).hexdigest()

    secret = digest(credentials.username, challenge.realm, credentials.password)
    request = digest(method, uri)
    username = credentials.username.replace("\\", "\\\\").replace('"', '\\"')
    fields = [
        f'username="{username}"',
        f'realm="{challenge.realm}"',
        f'nonce="{challenge.nonce}"',
        f'uri="{uri}"',
    ]
    if challenge.qop:
        number = f"{count:08x}"
        response = digest(secret, challenge.nonce, number, cnonce, "auth", request)
        fields += [f'response="{response}"', "qop=auth", f"nc={number}", f'cnonce="{cnonce}"']
    else:
        fields.append(f'response="{digest(secret, challenge.nonce, request)}"')
    if challenge.algorithm is not None:
        fields.append(f"algorithm={challenge.algorithm}")
    if challenge.opaque is not None:
        fields.append(f'opaque="{challenge.opaque}"')
    return "Digest " + ", ".join(fields)


def _new_cnonce() -> str:
    return secrets.token_hex(8)


class DigestClient:
    """One user's credentials, and how often each nonce has been answered with them."""

    def __init__(self, credentials: Credentials, new_cnonce: Callable[[], str] = _new_cnonce) -> None:
        self._credentials = credentials
        self._new_cnonce = new_cnonce
        self._counts: dict[str, int] = {}

    def answer(self, challenge: Challenge, method: str, uri: str) -> str:
        """The value of the header that answers it, with the next count of its nonce."""
        count = self._counts.pop(challenge.nonce, 0) + 1
        self._counts[challenge.nonce] = count
        if len(self._counts) > MAX_NONCES:
            self._counts.pop(next(iter(self._counts)))
        return authorization(challenge, self._credentials, method, uri, cnonce=self._new_cnonce(), count=count)


class DigestExchange:
    """The challenges that one request meets on its way: of proxies (407) and of its end (401)."""

    def __init__(self, client: DigestClient) -> None:
        self._client = client
        self._challenges: dict[tuple[str, str], Challenge] = {}
        self._rounds = 0

    def challenged(self, response: Response) -> bool:
        """Whether the request is to be sent again, with headers().

        Not if the same realm has refused our credentials already: it would again (RFC 3261 section 22.1). A nonce that
        is stale is another matter, if the new one is new.
        """
        names = _ANSWER_HEADERS.get(response.code)
        if names is None or self._rounds >= MAX_ROUNDS:
            return False
        asked, answered = names
        fresh: dict[tuple[str, str], Challenge] = {}
        for challenge in parse_challenges(response.headers.getlist(asked)):
            key = (answered, challenge.realm)
            if key not in fresh and self._may_answer(self._challenges.get(key), challenge):
                fresh[key] = challenge
        self._challenges.update(fresh)
        self._rounds += 1
        return bool(fresh)

    @staticmethod
    def _may_answer(before: Challenge | None, challenge: Challenge) -> bool:
        return before is None or (challenge.stale and challenge.nonce != before.nonce)

    def headers(self, method: str, uri: str) -> tuple[tuple[str, str], ...]:
        """For the next copy of the request: each has counts of its own."""
        return tuple(
            (name, self._client.answer(challenge, method, uri)) for (name, _), challenge in self._challenges.items()
        )
