"""What an engine can refuse, and why; every error says it in a sentence fit for the person who asked."""

from __future__ import annotations

from collections.abc import Iterable


class EngineError(Exception):
    """Base of all that an engine raises on purpose."""


class UnknownVoiceError(EngineError):
    def __init__(self, voice: str, known: Iterable[str]) -> None:
        self.voice = voice
        self.known = tuple(known)
        super().__init__(f"unknown voice {voice!r}; available: {', '.join(self.known)}")


class TextTooLongError(EngineError):
    def __init__(self, length: int, limit: int) -> None:
        self.length = length
        self.limit = limit
        super().__init__(f"text of {length} characters is over the limit of {limit}")


class UnsupportedSampleRateError(EngineError):
    def __init__(self, sample_rate: int, supported: Iterable[int]) -> None:
        self.sample_rate = sample_rate
        self.supported = tuple(supported)
        rates = ", ".join(str(rate) for rate in self.supported)
        super().__init__(f"sample rate {sample_rate} is not supported; available: {rates}")


class EngineBusyError(EngineError):
    """The engine is ready and has no room for a further stream; it may have in a moment."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        """`retry_after`: in how many seconds there may be room, if the engine can tell."""
        self.retry_after = retry_after
        super().__init__(message)


class EngineNotReadyError(EngineError):
    """The engine has not started, has stopped, or is starting again after a failure; the message says which."""


class SynthesisError(EngineError):
    """An utterance failed half way; what was yielded before stands."""
