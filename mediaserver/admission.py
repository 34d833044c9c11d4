"""Whether there is room for one more call, and which engine would speak on it."""

from __future__ import annotations

import math
from collections.abc import Callable

from mediaserver.call.engines import CallEngine, CallEngines
from mediaserver.config import CallsConfig
from mediaserver.refusal import RefusedError
from mediaserver.rtp.pacer_thread import PacerThread
from tts_engine.errors import EngineBusyError, EngineError

MAX_LOAD = 0.9
"Of the media thread: one more call would have the packets of all others come late."


class Admission:
    """The same for calls that come in and for those that we place."""

    def __init__(
        self, config: CallsConfig, engines: CallEngines, pacer: PacerThread, running: Callable[[], int]
    ) -> None:
        """running: how many calls there are."""
        self.draining = False
        self._config = config
        self._engines = engines
        self._pacer = pacer
        self._running = running

    def admit(self) -> CallEngine:
        """The engine for a further call. Raises RefusedError: none can be taken now."""
        running = self._running()
        if self.draining:
            raise RefusedError(503, "Server Is Draining", self.retry_after())
        if running >= self._config.max_calls:
            raise RefusedError(503, "Call Limit Reached", self.retry_after())
        if running and self._pacer.load > MAX_LOAD:
            raise RefusedError(503, "Media Load Limit Reached", self.retry_after())
        try:
            return self._engines.choose()
        except EngineError as error:
            wait = error.retry_after if isinstance(error, EngineBusyError) else None
            raise RefusedError(503, f"Speech Engine: {error}", self.retry_after(wait)) from None

    def retry_after(self, seconds: float | None = None) -> tuple[tuple[str, str], ...]:
        """The header, rounded up to whole seconds; as configured where nothing better is known."""
        if seconds is None or not math.isfinite(seconds):
            seconds = self._config.retry_after_s
        return (("Retry-After", str(max(1, math.ceil(seconds)))),)
