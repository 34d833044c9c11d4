"""Connecting to an agent or a media stream: within the URL policy, signed, without redirects or proxies."""

from __future__ import annotations

import time

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from mediaserver import __version__
from mediaserver.api.signature import signed_headers
from mediaserver.api.sockets import CLOSE_TIMEOUT_S, NO_CLOSE_FRAME, SocketClosedError
from mediaserver.api.urls import UrlNotAllowedError, UrlPolicy
from mediaserver.api_config import AgentConfig

SCHEMES = ("ws", "wss")
PING_S = 20.0

LARGEST_MESSAGE = 2 * 1024 * 1024
"Bytes; a WebSocket is closed by what is over this."


class DialError(Exception):
    """No connection was made; `final`: nor will one be."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class DialledSocket:
    """A Socket that we connected."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def receive(self) -> str | bytes:
        try:
            return await self._connection.recv()
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def send(self, text: str) -> None:
        try:
            await self._connection.send(text)
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def close(self, code: int, reason: str) -> None:
        try:
            await self._connection.close(code, reason)
        finally:
            self._connection.transport.abort()  # whatever a peer that does not read has left


def _closed(error: ConnectionClosed) -> SocketClosedError:
    return SocketClosedError(error.rcvd.code if error.rcvd is not None else NO_CLOSE_FRAME)


async def dial(url: str, call_id: str, config: AgentConfig, policy: UrlPolicy) -> DialledSocket:
    """Connect to whoever is to have the call. Raises DialError."""
    timeout = config.connect_timeout_s
    headers = signed_headers(config.secret.get_secret_value(), url, call_id, time.time())
    try:
        policy.check(url, SCHEMES)
        sock = await policy.open_socket(url, timeout)
    except UrlNotAllowedError as error:
        raise DialError(str(error), final=True) from None
    except OSError as error:  # a TimeoutError is one
        raise DialError(str(error) or type(error).__name__) from None
    try:
        connection = await connect(
            url,
            sock=sock,
            additional_headers=headers,
            user_agent_header=f"Chatterline/{__version__}",
            proxy=None,
            compression=None,  # short messages, and nothing that unpacks to more than was sent
            open_timeout=timeout,
            ping_interval=PING_S,
            ping_timeout=PING_S,
            close_timeout=CLOSE_TIMEOUT_S / 2,
            max_size=LARGEST_MESSAGE,
        )
    except (
        OSError,
        EOFError,
        WebSocketException,
        ValueError,
    ) as error:  # ValueError: a redirect, which is not followed
        sock.close()
        raise DialError(str(error) or type(error).__name__) from None
    except BaseException:
        sock.close()
        raise
    return DialledSocket(connection)
