"""Who asks: bearer tokens (RFC 6750) and their scopes, for requests and for WebSockets."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Annotated

import structlog
from fastapi import Depends, Security, WebSocket, WebSocketException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection

from mediaserver.api.limits import Turns
from mediaserver.api.problems import Problem
from mediaserver.api.state import ApiState, State, state_of
from mediaserver.api.tokens import SCOPES, Scope, Token

__all__ = [
    "SCOPES",
    "SUBPROTOCOL",
    "Admin",
    "Authorized",
    "CallsRead",
    "CallsWrite",
    "Scope",
    "Token",
    "accepted_subprotocol",
    "authorize",
    "authorize_websocket",
    "bearer_of",
    "is_known",
    "require",
]

_log = structlog.get_logger("api")

SUBPROTOCOL = "chatterline"
"What a browser's WebSocket names beside its token, and what is accepted."

TOKEN_SUBPROTOCOL = "chatterline.bearer."  # noqa: S105 - what comes before one
"A browser cannot set the header of a WebSocket: its token comes as a subprotocol of this prefix."

TOO_EARLY_CLOSE, UNAUTHORIZED_CLOSE, FORBIDDEN_CLOSE, TOO_MANY_CLOSE = 4400, 4401, 4403, 4429
"""Close codes of WebSockets, in the range for applications (RFC 6455 section 7.4.2). Before the handshake is accepted
the server shows them as an HTTP 403."""

Authorized = Callable[..., Awaitable[Token]]

bearer = HTTPBearer(
    auto_error=False, scheme_name="token", description="What `chatterline tokens add NAME --scope SCOPE` prints."
)


def require(*scopes: Scope) -> Authorized:
    """A dependency for requests: `token: Annotated[Token, Depends(require("calls:read"))]`. All scopes are needed."""

    async def authorized(
        connection: HTTPConnection,
        state: State,
        # As a default: an annotation is text here, and could not name `scopes`.
        credentials: HTTPAuthorizationCredentials | None = Security(bearer, scopes=list(scopes)),  # noqa: B008 - FastAPI's way
    ) -> Token:
        token = authorize(connection, state, credentials.credentials if credentials is not None else None, scopes)
        connection.state.token = token
        return token

    return authorized


def is_known(connection: HTTPConnection) -> bool:
    """Whether a request has a token that holds, whatever it allows."""
    secret = bearer_of(connection)
    return secret is not None and state_of(connection).tokens.find(secret, time.time()) is not None


def authorize(connection: HTTPConnection, state: ApiState, secret: str | None, scopes: tuple[Scope, ...]) -> Token:
    """The token, if it is one, has the scopes and does not ask too often. Raises Problem: 401, 403 or 429."""
    token = state.tokens.find(secret, time.time()) if secret else None
    if token is None:
        _slow_down(state, f"from {connection.client.host if connection.client else ''}")
        state.counts["unauthorized"] += 1
        _log.info("unauthorized", path=connection.url.path, given=bool(secret))
        error = ', error="invalid_token"' if secret else ""
        raise Problem(
            401,
            "unauthorized",
            _why_unauthorized(state, secret),
            headers={"WWW-Authenticate": f'Bearer realm="chatterline"{error}'},
        )
    _slow_down(state, token.id)
    missing = [scope for scope in scopes if not token.may(scope)]
    if missing:
        state.counts["forbidden"] += 1
        _log.info("forbidden", path=connection.url.path, token=token.id, missing=missing)
        wanted = " ".join(scopes)
        raise Problem(
            403,
            "forbidden",
            f"the token lacks the scope {missing[0]}",
            headers={"WWW-Authenticate": f'Bearer realm="chatterline", error="insufficient_scope", scope="{wanted}"'},
        )
    return token


def _why_unauthorized(state: ApiState, secret: str | None) -> str:
    if secret:
        return "the token is unknown or has expired"
    needed = "a token is needed, as Authorization: Bearer ctl_..."
    return needed if state.tokens.list() else f"{needed}; there is none yet: chatterline tokens add NAME --scope SCOPE"


def _slow_down(state: ApiState, key: str) -> None:
    """Raises Problem 429."""
    wait = state.rates.take(key, time.monotonic())
    if wait:
        state.counts["rate_limited"] += 1
        raise Problem(
            429,
            "too-many-requests",
            f"more than {state.config.api.requests_per_s:g} requests a second",
            headers={"Retry-After": str(math.ceil(wait))},
        )


async def authorize_websocket(websocket: WebSocket, scope: Scope) -> Token:
    """The token of a handshake that is not accepted yet: in its Authorization header, or as a subprotocol.

    Returns when it is the connection's turn to begin: look up after that what it is for. Accept it with
    `accepted_subprotocol()`. Raises WebSocketException with a close code of 4401, 4403 or 4429, or of 4400 where the
    client does not wait for that.
    """
    secret = bearer_of(websocket) or _token_subprotocol(websocket)
    state = state_of(websocket)
    try:
        token = authorize(websocket, state, secret, (scope,))
    except Problem as problem:
        code = {401: UNAUTHORIZED_CLOSE, 403: FORBIDDEN_CLOSE}.get(problem.status_code, TOO_MANY_CLOSE)
        raise WebSocketException(code, problem.detail) from None
    if not await _comes_to_its_turn(websocket, state.sockets):
        raise WebSocketException(TOO_EARLY_CLOSE, "the client went away, or spoke, before it was let in")
    return token


async def _comes_to_its_turn(websocket: WebSocket, turns: Turns) -> bool:
    """Waits for it; ends at once, and leaves the queue, where the client goes away or the server stops."""
    await websocket.receive()  # "websocket.connect": the next, as long as we have not accepted, is an end
    turn, end = waits = [asyncio.create_task(turns.wait()), asyncio.create_task(websocket.receive())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return turn.done() and not end.done()
    finally:
        for wait in waits:
            wait.cancel()


def accepted_subprotocol(websocket: WebSocket) -> str | None:
    """What to accept of the subprotocols that were offered: never the one with the token in it."""
    return SUBPROTOCOL if SUBPROTOCOL in websocket.scope.get("subprotocols", ()) else None


def bearer_of(connection: HTTPConnection) -> str | None:
    """The token of the Authorization header (RFC 6750 section 2.1)."""
    kind, _, value = connection.headers.get("authorization", "").partition(" ")
    return value.strip() or None if kind.lower() == "bearer" else None


def _token_subprotocol(websocket: WebSocket) -> str | None:
    for offered in websocket.scope.get("subprotocols", ()):
        if offered.startswith(TOKEN_SUBPROTOCOL):
            return str(offered.removeprefix(TOKEN_SUBPROTOCOL))
    return None


CallsRead = Annotated[Token, Depends(require("calls:read"))]
CallsWrite = Annotated[Token, Depends(require("calls:write"))]
Admin = Annotated[Token, Depends(require("admin"))]
