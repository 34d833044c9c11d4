"""Saying when a speech engine has gone down, and when it is up again: to the log, and as the service's status."""

from __future__ import annotations

import structlog

from mediaserver.call.engines import CallEngines
from tts_engine.engine import Engine
from tts_engine.errors import EngineNotReadyError

_log = structlog.get_logger("engine")


class EngineWatch:
    """Compares the engines with how they were at the last look. Time is an argument, in seconds on any clock."""

    def __init__(self, engines: CallEngines, serving: str, now: float) -> None:
        """`serving`: the status while all engines are up."""
        self._engines = engines.all
        self._serving = serving
        self._down: dict[int, float] = {}
        "Places of engines that are down, and since when."
        self.status = serving
        "One line for the operator."
        self.look(now)

    def look(self, now: float) -> bool:
        """Whether the status has changed; what has is logged."""
        before = self.status
        reasons = [self._note(place, engine, now) for place, engine in enumerate(self._engines)]
        down = [reason for reason in reasons if reason is not None]
        self.status = "; ".join([self._serving, *down])
        return self.status != before

    def _note(self, place: int, engine: Engine, now: float) -> str | None:
        """What to say of one engine that is down."""
        if engine.ready:
            since = self._down.pop(place, None)
            if since is not None:
                _log.info("engine_up", engine=engine.name, down_s=round(now - since, 1))
            return None
        fault = engine.available()
        # One line: what follows a line break would be an assignment of its own to systemd.
        why = " ".join(str(fault).split()) if isinstance(fault, EngineNotReadyError) else ""
        if place not in self._down:
            self._down[place] = now
            _log.error("engine_down", engine=engine.name, reason=why)
        return f"the {engine.name} engine is down" + (f": {why}" if why else "")
