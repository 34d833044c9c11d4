"""Re-INVITEs of ours within a session: one at a time, in order, again after a glare (RFC 3261 section 14.1)."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from sipmessage import Request, Response

from .client_request import ClientRequest, Draft, OnFailure, OnResponse
from .machine_runner import Clock
from .timers import TimerValues

MAX_WAITING = 8
MAX_GLARES = 4
"A re-INVITE that meets the peer's again and again is given up with the fifth 491."
SESSION_OVER = 481
PENDING = 491

OnAnswer = Callable[[int, bytes], None]
'Is given the final status code and the body of the answer, b"" unless it is a 2xx.'


@dataclass(slots=True)
class _Reinvite:
    draft: Callable[[], Draft]
    "Made when it is sent: the peer's own re-INVITE may have been answered meanwhile, with a later version of our SDP."
    on_result: OnAnswer
    glares: int = 0


@dataclass(frozen=True, slots=True)
class ReinviteUser:
    """What re-INVITEs need of their session."""

    send: Callable[[Draft, OnResponse, OnFailure], ClientRequest]
    blocked: Callable[[], bool]
    "Whether a re-INVITE of the peer's is not finished: ours has to wait."
    accepted: Callable[[Request, Response], None]
    "A 2xx has come, for the first time or again."
    lost: Callable[[], None]
    "The peer knows no such session, or does not answer (section 12.2.1.2)."


class Reinvites:
    """Those of one session. Each has one result."""

    def __init__(self, user: ReinviteUser, clock: Clock, timers: TimerValues, *, owns_call_id: bool) -> None:
        self._user = user
        self._clock = clock
        self._timers = timers
        self._owns_call_id = owns_call_id
        self._waiting: deque[_Reinvite] = deque()
        self._current: _Reinvite | None = None
        self._request: ClientRequest | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._guard: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def under_way(self) -> bool:
        """One is sent and has no final response yet: the peer's gets 491 (section 14.2)."""
        return self._current is not None

    def push(self, draft: Callable[[], Draft], on_result: OnAnswer) -> None:
        """Send one, when those before it are done. 491 if too many wait; 481 if the session ends before its answer."""
        if self._closed:
            on_result(SESSION_OVER, b"")
        elif len(self._waiting) >= MAX_WAITING:
            on_result(PENDING, b"")
        else:
            self._waiting.append(_Reinvite(draft, on_result))
            self.proceed()

    def proceed(self) -> None:
        """Send the next one, if the way is free."""
        if self._closed or self._current is not None or self._pause is not None or not self._waiting:
            return
        if self._user.blocked():
            return
        reinvite = self._current = self._waiting.popleft()
        # A peer that has said 100 and nothing more would hold it for ever.
        self._guard = self._clock.call_at(self._clock.time() + 2 * self._timers.timeout, self._silent)
        user = self._user  # an answer that comes when the session has been forgotten gets its ACK all the same
        self._request = user.send(
            reinvite.draft(),
            lambda request, response: self._received(user, reinvite, request, response),
            lambda code, _reason: self._finished(reinvite, code, b""),
        )

    def close(self) -> None:
        """The session is over. Idempotent."""
        self._closed = True
        self._stop_timers()
        current, self._current = self._current, None
        request, self._request = self._request, None
        if request is not None:
            # It may be answered yet, and a 2xx needs its ACK; but after a provisional response nothing ends the wait.
            self._clock.call_at(self._clock.time() + self._timers.timeout, request.abandon)
        waiting = list(self._waiting)
        self._waiting.clear()
        for reinvite in ([current] if current is not None else []) + waiting:
            reinvite.on_result(SESSION_OVER, b"")

    def discard(self) -> None:
        """Close without a word to anyone."""
        self._waiting.clear()
        self._current = None
        if self._request is not None:
            self._request.abandon()
            self._request = None
        self.close()

    def release(self) -> None:
        """Closed, and the session has been forgotten: let go of it."""
        self._user = _NOBODY

    def _received(self, user: ReinviteUser, reinvite: _Reinvite, request: Request, response: Response) -> None:
        code = response.code
        if code < 200:
            return
        if code < 300:
            user.accepted(request, response)
            self._finished(reinvite, code, response.body)
        elif code == PENDING and reinvite is self._current and reinvite.glares < MAX_GLARES:
            self._postpone(reinvite)
        else:
            self._finished(reinvite, code, b"")

    def _postpone(self, reinvite: _Reinvite) -> None:
        reinvite.glares += 1
        self._current = self._request = None
        self._stop_timers()
        self._waiting.appendleft(reinvite)
        low, high = (2.1, 4.0) if self._owns_call_id else (0.0, 2.0)
        # In steps of 10 ms, so that both do not choose alike: no secret.
        delay = random.randrange(int(low * 100), int(high * 100) + 1) / 100  # noqa: S311
        self._pause = self._clock.call_at(self._clock.time() + delay, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self.proceed()

    def _finished(self, reinvite: _Reinvite, code: int, body: bytes) -> None:
        if reinvite is not self._current:  # its 2xx again, or the session has ended meanwhile
            return
        self._current = self._request = None
        self._stop_timers()
        try:
            reinvite.on_result(code, body)
        finally:
            if code in (408, SESSION_OVER):
                self._user.lost()
            self.proceed()

    def _silent(self) -> None:
        if self._request is not None:
            self._request.abandon()
        if self._current is not None:
            self._finished(self._current, 408, b"")

    def _stop_timers(self) -> None:
        for handle in (self._pause, self._guard):
            if handle is not None:
                handle.cancel()
        self._pause = self._guard = None


def _unsent(_draft: Draft, _on_response: OnResponse, _on_failure: OnFailure) -> ClientRequest:
    raise RuntimeError("the session is over")


_NOBODY = ReinviteUser(_unsent, lambda: True, lambda _request, _response: None, lambda: None)
"""The session of re-INVITEs that is over."""
