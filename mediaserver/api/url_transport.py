"""HTTP within a URL policy: httpx over connections that the policy has vetted."""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

from mediaserver.api.urls import UrlNotAllowedError, UrlPolicy

MAX_CONNECTIONS = 100


def policy_client(policy: UrlPolicy, timeout_s: float) -> httpx.AsyncClient:
    """See UrlPolicy.http_client."""
    return httpx.AsyncClient(
        transport=_PolicyTransport(policy),
        timeout=timeout_s,
        follow_redirects=False,
        trust_env=False,  # a proxy from the environment would connect for us, to whatever it is told
    )


@functools.cache
def _tls() -> ssl.SSLContext:
    """The system's certificate authorities: read once, it takes 20 ms."""
    return ssl.create_default_context()


class _PolicyBackend(httpcore.AsyncNetworkBackend):
    """Connects to a host by its vetted addresses only."""

    def __init__(self, policy: UrlPolicy) -> None:
        self._policy = policy
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._policy.addresses(host, port)
        except OSError as error:
            raise httpcore.ConnectError(f"{host}: {error.strerror or error}") from error
        for left in range(len(addresses), 0, -1):
            share = None if timeout is None else timeout / len(addresses)
            try:
                return await self._network.connect_tcp(
                    str(addresses[-left]), port, share, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if left == 1:
                    raise
        raise httpcore.ConnectError("the host has no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise UrlNotAllowedError("Unix sockets are not connected to")

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class _PolicyTransport(httpx.AsyncBaseTransport):
    """httpx over httpcore's connection pool, as httpx's own transport, but with a network backend of ours."""

    def __init__(self, policy: UrlPolicy) -> None:
        self._policy = policy
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_tls(),
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=20,
            keepalive_expiry=15.0,
            network_backend=_PolicyBackend(policy),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._policy.check(str(request.url), ("http", "https"))
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise TypeError("the request's body must be readable asynchronously")
        with _as_httpx(request):
            response = await self._pool.handle_async_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=request.url.raw_scheme,
                        host=request.url.raw_host,
                        port=request.url.port,
                        target=request.url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response, request),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response, request: httpx.Request) -> None:
        self._response = response
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx(self._request):
            async for piece in self._response.aiter_stream():
                yield piece

    async def aclose(self) -> None:
        with _as_httpx(self._request):
            await self._response.aclose()


@contextmanager
def _as_httpx(request: httpx.Request) -> Iterator[None]:
    """Errors of httpcore have the names of httpx's, and are no relatives of theirs."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
    ) as error:
        matching: Any = getattr(httpx, type(error).__name__, httpx.TransportError)
        raise matching(str(error), request=request) from error
