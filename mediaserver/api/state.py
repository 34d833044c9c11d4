"""What all interfaces share: configuration, calls, engines, tokens, and the parts that attach to calls."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from prometheus_client import CollectorRegistry
from starlette.requests import HTTPConnection

from mediaserver.api.idempotency import IdempotencyStore
from mediaserver.api.limits import RateLimiter, Turns
from mediaserver.api.tokens import TokenStore, tokens_path
from mediaserver.api.urls import UrlPolicy, policy_of
from mediaserver.call.control import CallsControl
from mediaserver.call.engines import CallEngines
from mediaserver.config import Config

if TYPE_CHECKING:
    from mediaserver.api.agent.manager import AgentManager
    from mediaserver.api.stream.manager import StreamManager
    from mediaserver.api.webhooks.sender import WebhookSender


SOCKETS_PER_S, SOCKETS_AT_ONCE = 100.0, 10
"""WebSockets that begin a second, each with a millisecond or two of the event loop: when the agents of 200 calls came
all at once, the media thread waited for the interpreter, and skipped packets."""


@dataclass(slots=True)
class ApiState:
    """Of one server. Everything belongs to the event loop."""

    config: Config
    calls: CallsControl
    engines: CallEngines
    urls: UrlPolicy
    tokens: TokenStore
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    "The node's metrics: what GET /v1/status is made of."
    rates: RateLimiter = field(default_factory=lambda: RateLimiter(0))
    sockets: Turns = field(default_factory=lambda: Turns(SOCKETS_PER_S, SOCKETS_AT_ONCE))
    "To begin, for WebSockets."
    idempotency: IdempotencyStore = field(default_factory=IdempotencyStore)
    counts: Counter[str] = field(default_factory=Counter)
    "What the interfaces count: names such as agent_messages_refused. In /v1/status, and exported as a metric."
    agents: AgentManager | None = None
    streams: StreamManager | None = None
    webhooks: WebhookSender | None = None
    watchers: int = 0
    "Subscribers of /v1/events."
    status: tuple[float, bytes] | None = None
    "What GET /v1/status last said, and when, in monotonic seconds."
    started_at: float = field(default_factory=time.time)


def make_state(
    config: Config, calls: CallsControl, engines: CallEngines, registry: CollectorRegistry | None = None
) -> ApiState:
    """Of the configuration; agents, streams and webhooks are set by whoever starts them."""
    return ApiState(
        config=config,
        calls=calls,
        engines=engines,
        urls=policy_of(config),
        tokens=TokenStore(tokens_path(config)),
        registry=registry or CollectorRegistry(),
        rates=RateLimiter(config.api.requests_per_s),
    )


def state_of(connection: HTTPConnection) -> ApiState:
    """Of the server that a request or WebSocket came to."""
    state: ApiState = connection.app.state.api
    return state


async def _state(connection: HTTPConnection) -> ApiState:
    """A dependency that is no coroutine would be run in a thread: late, and beside the event loop."""
    return state_of(connection)


State = Annotated[ApiState, Depends(_state)]
"What a route asks for: `state: State`."
