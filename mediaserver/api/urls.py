"""Where this server may connect to when a URL tells it to: no request forgery towards the host's own network.

Two questions. May this URL be named at all (UrlPolicy.check)? And is the address that its host resolves to one that may
be reached (UrlPolicy.addresses)? The host is resolved once and that address is connected to, so that a name that
resolves to something else a moment later (DNS rebinding) leads nowhere. OWASP, Server-Side Request Forgery Prevention.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from mediaserver.config_section import Network

if TYPE_CHECKING:
    import httpx

    from mediaserver.config import Config

MAX_URL_CHARS = 2048
MAX_ADDRESSES = 4
"Of one host, tried one after the other."
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[list[Address]]]
"(host, port) to addresses, the best first; raises OSError."

_IPV6_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_CLOUD_INTERNAL = frozenset({ipaddress.ip_address("168.63.129.16")})
"Azure's platform address: public by its number, and a service of the host's own network all the same."
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NOT_IN_URL = re.compile(r"[^\x21-\x7e]|[\\<>\"^`{|}]")
_DOT_SEGMENT = re.compile(r"/(?:\.|%2e){1,2}(?:/|%2f|$)", re.IGNORECASE)


class UrlNotAllowedError(ValueError):
    """This server does not connect there. The text says why, and names nothing but what the URL itself says."""


class UrlPolicy:
    """Which URLs may be connected to, and by which addresses."""

    def __init__(
        self,
        allow_urls: Sequence[str],
        allow_networks: Sequence[Network],
        configured: Iterable[str],
        *,
        resolve: Resolve | None = None,
    ) -> None:
        """allow_urls: prefixes of URLs that a request may name, such as "https://sounds.example.com/". allow_networks:
        addresses that may be reached although they are not public. configured: URLs of our own configuration: those are
        allowed, wherever they lead. resolve: instead of the system's resolver.
        """
        self._prefixes = tuple(_normal(urlsplit(prefix)) for prefix in allow_urls)
        self._networks = tuple(allow_networks)
        self._configured = frozenset(url for url in configured if url)
        self._configured_normal = frozenset(_normal(urlsplit(url)) for url in self._configured)
        self._trusted = frozenset(endpoint_of(url) for url in self._configured)
        self._resolve = resolve or _resolve

    def check(self, url: str, schemes: tuple[str, ...]) -> None:
        """Whether the URL may be named, by its letters alone: nothing is resolved. Raises UrlNotAllowedError."""
        scheme = url.partition(":")[0].lower()
        if scheme not in schemes:
            raise UrlNotAllowedError(f"the URL must begin with {' or '.join(f'{name}://' for name in schemes)}")
        if url in self._configured:
            return
        given = _normal(_split_strictly(url))
        if given not in self._configured_normal and not any(given.startswith(prefix) for prefix in self._prefixes):
            raise UrlNotAllowedError("the URL is not among those that [api] allow_urls permits")

    async def addresses(self, host: str, port: int) -> list[Address]:
        """The addresses of a host that may be connected to, at most MAX_ADDRESSES.

        Raises UrlNotAllowedError if it has addresses and none may be, OSError if it has none.
        """
        found = await self._resolve(host, port)
        if (host.lower(), port) in self._trusted:
            return found[:MAX_ADDRESSES]
        allowed = [address for address in found if self._may_reach(address)]
        if not allowed:
            raise UrlNotAllowedError(f"{host} is at no public address, and at none that [api] allow_networks permits")
        return allowed[:MAX_ADDRESSES]

    async def open_socket(self, url: str, timeout_s: float) -> socket.socket:
        """A TCP connection to the URL's host, non-blocking, by a vetted address; TLS is for the caller to add.

        Raises UrlNotAllowedError, and OSError (TimeoutError among them) when nothing answers there.
        """
        self.check(url, tuple(DEFAULT_PORTS))
        host, port = endpoint_of(url)
        async with asyncio.timeout(timeout_s) as limit:
            addresses = await self.addresses(host, port)
            return await _connect_to_one(addresses, port, limit)

    def http_client(self, timeout_s: float) -> httpx.AsyncClient:
        """An HTTP client that reaches only what this policy allows, and follows no redirects.

        A request elsewhere raises UrlNotAllowedError. timeout_s: of each step (connecting, each read, each write).
        """
        from mediaserver.api.url_transport import policy_client  # noqa: PLC0415 - httpx is loaded by who uses it

        return policy_client(self, timeout_s)

    def _may_reach(self, address: Address) -> bool:
        if any(address in network for network in self._networks):
            return True
        return _is_public(address) and not _is_own(address)


def policy_of(config: Config) -> UrlPolicy:
    """The policy that the configuration describes."""
    trunks = config.trunks.values()
    configured = [config.agent.url, config.webhooks.url]
    configured += [url for trunk in trunks for url in (trunk.agent_url, trunk.stream_url)]
    return UrlPolicy(config.api.allow_urls, config.api.allow_networks, configured)


def endpoint_of(url: str) -> tuple[str, int]:
    """Host, in lower case, and port of a URL. Raises UrlNotAllowedError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UrlNotAllowedError("the URL's host or port is malformed") from None
    if not host:
        raise UrlNotAllowedError("the URL has no host")
    return host, port or DEFAULT_PORTS.get(parts.scheme, 0)


def shown(url: str) -> str:
    """The URL for logs, events and lists: without credentials, and without the query, which may hold some."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    if not host:
        return ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"


def _split_strictly(url: str) -> SplitResult:
    """The parts of a URL about which no two parsers disagree. Raises UrlNotAllowedError."""
    if len(url) > MAX_URL_CHARS:
        raise UrlNotAllowedError(f"the URL is longer than {MAX_URL_CHARS} characters")
    if _NOT_IN_URL.search(url):
        raise UrlNotAllowedError("the URL contains a character that belongs in no URL; it has to be percent-encoded")
    host, _port = endpoint_of(url)
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise UrlNotAllowedError("the URL must not contain credentials")
    if not _is_plain_host(host):
        raise UrlNotAllowedError("the URL's host is neither a DNS name nor an IP address in its usual notation")
    if parts.fragment or url.endswith("#"):
        raise UrlNotAllowedError("the URL must not have a fragment")
    if _DOT_SEGMENT.search(parts.path):
        raise UrlNotAllowedError('the URL\'s path must not contain "." or ".." segments')
    return parts


def _is_plain_host(host: str) -> bool:
    """A name or a numeric address. Notations of IPv4 that only some resolvers know (0x7f.1, 2130706433) are none."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        labels = host.split(".")
        return len(host) <= 253 and all(map(_LABEL.fullmatch, labels)) and not labels[-1][0].isdigit()
    return getattr(address, "scope_id", None) is None


def _normal(parts: SplitResult) -> str:
    """Scheme and host in lower case, the port always there: what prefixes are compared by."""
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    query = f"?{parts.query}" if parts.query else ""
    return (
        f"{parts.scheme.lower()}://{host}:{parts.port or DEFAULT_PORTS.get(parts.scheme, 0)}{parts.path or '/'}{query}"
    )


async def _resolve(host: str, port: int) -> list[Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # of the IDNA codec: a label that is empty or too long
        raise OSError("the host is no valid name") from None
    texts = dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found)  # in the resolver's order of preference
    return [ipaddress.ip_address(text) for text in texts]


def _is_public(address: Address) -> bool:
    """Whether it is an address of the public Internet, as far as its number tells; also what it carries inside."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return _is_public(inner)
        if address not in _IPV6_UNICAST:
            return False
    return address.is_global and not address.is_multicast and address not in _CLOUD_INTERNAL


def _is_own(address: Address) -> bool:
    """Whether it is this host's own: then it is also what would be sent from. Nothing is sent to find out."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))
        except OSError:
            return False  # no route: connecting will say so
        return ipaddress.ip_address(probe.getsockname()[0]) == address


async def _connect_to_one(addresses: list[Address], port: int, limit: asyncio.Timeout) -> socket.socket:
    """Each address gets an equal share of the time that is left. Raises the last one's OSError."""
    loop = asyncio.get_running_loop()
    for left in range(len(addresses), 0, -1):
        share = ((limit.when() or loop.time()) - loop.time()) / left
        try:
            return await asyncio.wait_for(_connect(addresses[-left], port), share)
        except OSError:
            if left == 1:
                raise
    raise OSError("the host has no address")


async def _connect(address: Address, port: int) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
    except BaseException:
        connection.close()
        raise
    return connection
