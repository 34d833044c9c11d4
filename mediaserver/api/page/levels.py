"""WS /v1/levels: how loud the calls are that a page shows.

The client sends {"calls": [ID, ...]}, at most MAX_METERED, whenever that changes; the server sends
{"levels": {ID: [inbound, outbound]}} in dBov, ten times a second while there is any.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import structlog
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from mediaserver.api.auth import accepted_subprotocol, authorize_websocket
from mediaserver.api.page.meters import MAX_METERED, Meters
from mediaserver.api.state import state_of

_log = structlog.get_logger("page")

INTERVAL_S = 0.1
MAX_MESSAGE_CHARS = 8192
BAD_MESSAGE_CLOSE, TOO_MANY_CLOSE = 4400, 4429

router = APIRouter()
Reading = dict[str, tuple[int, int]]


class LevelBroadcast:
    """Reads the meters for all who look, so that none takes from another; asleep while nobody does."""

    def __init__(self, meters: Meters, interval_s: float = INTERVAL_S) -> None:
        self.meters = meters
        self._interval_s = interval_s
        self._listeners: list[Callable[[Reading], None]] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def watchers(self) -> int:
        return len(self._listeners)

    def join(self, listener: Callable[[Reading], None]) -> Callable[[], None]:
        """Have `listener` called with each reading, until what is returned is called."""
        self._listeners.append(listener)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._tick)

        def leave() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return leave

    def _tick(self) -> None:
        self._timer = None
        if not self._listeners:
            return
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._tick)
        reading = self.meters.read()
        for listener in tuple(self._listeners):
            listener(reading)


class Watcher:
    """One page. What it is too slow for it never sees: only the newest reading waits."""

    def __init__(self, websocket: WebSocket, broadcast: LevelBroadcast) -> None:
        self._websocket = websocket
        self._broadcast = broadcast
        self._watched: set[str] = set()
        self._newest: Reading = {}
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Until the page is gone, or sends what it should not."""
        leave = self._broadcast.join(self._take)
        sending = asyncio.get_running_loop().create_task(self._send())
        try:
            while True:
                self._look_at(_wanted_calls(await self._websocket.receive_text()))
        except WebSocketDisconnect:
            pass
        except (ValueError, KeyError) as error:  # KeyError: a binary message, by Starlette
            _log.info("bad_level_message", error=type(error).__name__)
            reason = str(error) if isinstance(error, ValueError) else "a message must be text"
            with contextlib.suppress(RuntimeError):  # gone meanwhile
                await self._websocket.close(BAD_MESSAGE_CLOSE, reason)
        finally:
            leave()
            sending.cancel()
            self._broadcast.meters.unwatch(self._watched)

    def _look_at(self, wanted: set[str]) -> None:
        gone = self._watched - wanted
        self._broadcast.meters.unwatch(gone)
        self._watched -= gone
        self._watched |= self._broadcast.meters.watch(wanted - self._watched)

    def _take(self, reading: Reading) -> None:
        self._newest = {call_id: reading[call_id] for call_id in self._watched if call_id in reading}
        if self._newest:
            self._news.set()

    async def _send(self) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # gone: the other side of run() sees to it
            while True:
                await self._news.wait()
                self._news.clear()
                await self._websocket.send_text(json.dumps({"levels": self._newest}))


@router.websocket("/v1/levels")
async def levels(websocket: WebSocket) -> None:
    await authorize_websocket(websocket, "calls:read")
    state = state_of(websocket)
    await websocket.accept(accepted_subprotocol(websocket))
    if state.watchers >= state.config.api.max_watchers:
        await websocket.close(TOO_MANY_CLOSE, "too many watch already ([api] max_watchers)")
        return
    state.watchers += 1
    try:
        await Watcher(websocket, _broadcast_of(websocket)).run()
    finally:
        state.watchers -= 1


def _broadcast_of(websocket: WebSocket) -> LevelBroadcast:
    """One for each server, made when the first looks."""
    shared = websocket.app.state
    broadcast: LevelBroadcast | None = getattr(shared, "levels", None)
    if broadcast is None:
        broadcast = shared.levels = LevelBroadcast(Meters(state_of(websocket).calls))
    return broadcast


def _wanted_calls(message: str) -> set[str]:
    """The calls that a message asks for. Raises ValueError, which says what is wrong."""
    if len(message) > MAX_MESSAGE_CHARS:
        raise ValueError(f"a message is longer than {MAX_MESSAGE_CHARS} characters")
    try:
        fields: Any = json.loads(message)
    except (ValueError, RecursionError):
        raise ValueError("a message is not JSON") from None
    calls = fields.get("calls") if isinstance(fields, dict) else None
    if not isinstance(calls, list) or not all(isinstance(call_id, str) for call_id in calls):
        raise ValueError('a message must be {"calls": [ID, ...]}')
    if len(calls) > MAX_METERED:
        raise ValueError(f"at most {MAX_METERED} calls")
    return set(calls)
