"""Which engine speaks for a call: the configured one, or, while that takes no more, the one for overflow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mediaserver.speech.measures import SpeechMeasures
from tts_engine.engine import Engine, SpeechRequest
from tts_engine.errors import EngineBusyError, EngineError
from tts_engine.measures import Measure


@dataclass(frozen=True, slots=True)
class CallEngine:
    """The engine of a call, for its whole length: a voice that changed half way would be worse than a plain one."""

    engine: Engine
    measures: SpeechMeasures
    overflow: EngineError | None = None
    "If this is the engine for overflow: why the configured one was not given."

    def voice(self, name: str | None) -> str | None:
        """The voice to ask this engine for. A call that overflowed names one of another engine's: what this one cannot
        speak with becomes its default, which is None.
        """
        if self.overflow is None or name is None:
            return name
        try:
            self.engine.check(SpeechRequest("", name))
        except EngineError:
            return None
        return name


class CallEngines:
    """The engines of this node, and which of them a call gets."""

    def __init__(self, primary: Engine, overflow: Engine | None = None) -> None:
        """`overflow` serves calls that come in while `primary` is busy or not ready; None: they are refused."""
        self.overflowed: Counter[str] = Counter()
        "Calls given to the engine for overflow, by why: busy, not_ready."
        self._primary = CallEngine(primary, SpeechMeasures(primary.name))
        self._overflow = None if overflow is None else CallEngine(overflow, SpeechMeasures(overflow.name))

    @property
    def all(self) -> tuple[Engine, ...]:
        """The primary engine first."""
        return tuple(given.engine for given in self._given())

    @property
    def speech_measures(self) -> list[Measure]:
        """How long callers waited, for each engine."""
        return [measure for given in self._given() for measure in given.measures.measures]

    def choose(self) -> CallEngine:
        """The engine for a further call. Raises the configured engine's EngineError if none has room."""
        fault = self._primary.engine.available()
        if fault is None:
            return self._primary
        if self._overflow is None or self._overflow.engine.available() is not None:
            raise fault
        return CallEngine(self._overflow.engine, self._overflow.measures, fault)

    def count(self, given: CallEngine) -> None:
        """A call was taken with what choose() gave."""
        if given.overflow is not None:
            self.overflowed["busy" if isinstance(given.overflow, EngineBusyError) else "not_ready"] += 1

    def _given(self) -> list[CallEngine]:
        return [self._primary] if self._overflow is None else [self._primary, self._overflow]
