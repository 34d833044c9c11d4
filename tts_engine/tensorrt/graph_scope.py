"""What a CUDA graph holds of engines: for each call of one in it a context that nothing else ever uses.

A graph is tied to the contexts that it was captured with (NVIDIA: one for each graph), to their sizes and addresses.
"""

from __future__ import annotations

from collections import Counter
from contextvars import ContextVar, Token
from typing import Generic, Protocol, TypeVar


class Held(Protocol):
    """An execution context."""

    def refusal(self, stream: int) -> str:
        """Why a graph captured on that stream (its handle) cannot hold it, "" if it can. After a first call."""


HeldT = TypeVar("HeldT", bound=Held)


class GraphScope(Generic[HeldT]):
    """Of one graph, and alive as long as that. While it is entered, sessions keep their contexts here.

    The function to be captured is called some times in it, `begin` before each, and the last of these is captured: the
    n-th call of a session always meets the same context.
    """

    def __init__(self) -> None:
        self._contexts: dict[tuple[object, int], HeldT] = {}
        self._calls: Counter[object] = Counter()
        self._tokens: list[Token[GraphScope[HeldT] | None]] = []

    def __enter__(self) -> GraphScope[HeldT]:
        self._tokens.append(_current.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._tokens.pop())

    def begin(self) -> None:
        """The function is called from its beginning."""
        self._calls.clear()

    def place(self, session: object) -> int:
        """Which call of that session this is, since the last beginning."""
        self._calls[session] += 1
        return self._calls[session] - 1

    def get(self, session: object, place: int) -> HeldT | None:
        """What that call met before."""
        return self._contexts.get((session, place))

    def keep(self, session: object, place: int, context: HeldT) -> None:
        """It meets this from now on."""
        self._contexts[session, place] = context

    def refusal(self, stream: int) -> str:
        """Why a graph cannot hold these contexts, "" if it can."""
        return next((why for context in self._contexts.values() if (why := context.refusal(stream))), "")


_current: ContextVar[GraphScope | None] = ContextVar("graph_scope", default=None)  # type: ignore[type-arg]


def current_scope() -> GraphScope | None:  # type: ignore[type-arg]
    """That of the graph that is being captured, or warmed up for it; None: calls are what they seem."""
    return _current.get()
