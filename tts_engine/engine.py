"""The interface that all speech engines share.

An engine turns one text into a stream of PCM chunks. It is driven from one asyncio event loop, which it never
blocks: the work is done elsewhere (worker threads, a GPU).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tts_engine.errors import EngineError
from tts_engine.measures import Measure

SAMPLE_RATES = (8000, 16000, 24000)
"Sample rates in Hz that every engine can be asked for."

BYTES_PER_SAMPLE = 2

Feature = Literal["rate", "phonemes", "enrol"]
"""rate, phonemes: the fields of SpeechRequest. enrol: new voices can be made from recordings."""


def _nothing_buffered() -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class PcmChunk:
    """A piece of speech: signed 16-bit little-endian mono PCM."""

    pcm: bytes
    sample_rate: int
    "Hz."

    @property
    def seconds(self) -> float:
        return len(self.pcm) / (BYTES_PER_SAMPLE * self.sample_rate)


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One utterance to be spoken."""

    text: str = field(repr=False)  # no log should hold it
    voice: str | None = None
    "One of the engine's voices; None for its default."
    sample_rate: int = 8000
    "Hz, one of SAMPLE_RATES."
    buffered_seconds: Callable[[], float] = field(default=_nothing_buffered)
    """How much audio the listener still has to hear before this stream's next chunk is missed. The engine may ask
    at any time and from any thread; it serves first whom it runs out for first."""
    cacheable: bool = True
    "Whether its audio may be kept, and be given to others who ask for the same; False for what is private."
    rate: float = 1.0
    "Of speech: 2.0 is twice as fast. Engines without the feature speak at their own."
    phonemes: str | None = field(default=None, repr=False)
    "How the text is pronounced, in IPA. Engines without the feature, or that cannot, speak the text."


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What an engine can be asked for at most."""

    max_text_chars: int
    "Length of one request's text."
    max_streams: int
    "Streams open at once."
    sample_rates: tuple[int, ...] = SAMPLE_RATES


class SpeechStream(Protocol):
    """The audio of one utterance, chunk by chunk; the chunks joined are one continuous signal.

    Iteration raises SynthesisError if the utterance fails half way. A text with nothing speakable in it gives a
    stream of no chunks.
    """

    def __aiter__(self) -> AsyncIterator[PcmChunk]: ...

    async def __anext__(self) -> PcmChunk: ...

    def cancel(self) -> None:
        """Stop the work behind the stream; iteration, also one under way, ends without an error. Idempotent."""


class Engine(Protocol):
    """A speech engine."""

    @property
    def name(self) -> str: ...

    @property
    def limits(self) -> EngineLimits: ...

    @property
    def voices(self) -> tuple[str, ...]: ...

    @property
    def default_voice(self) -> str: ...

    @property
    def features(self) -> frozenset[Feature]:
        """What of a request it does beyond the text; the rest it ignores."""

    @property
    def ready(self) -> bool:
        """Whether the engine runs: False before start(), after stop(), and while it starts again after a failure.

        May be read from any thread.
        """

    @property
    def measures(self) -> Sequence[Measure]:
        """What the engine counts of itself; may be read from any thread. The names of two engines may be alike."""

    def available(self) -> EngineError | None:
        """Why a further stream would not be served, or not in time, now; None if it would.

        EngineBusyError or EngineNotReadyError. On the event loop's thread, cheap: it is asked for each call that comes
        in. Streams that are open already are not concerned.
        """

    async def start(self) -> None:
        """Load and warm up; ready once this returns. Raises EngineError if it cannot be."""

    async def stop(self) -> None:
        """Cancel what runs, end the workers, free the memory."""

    def check(self, request: SpeechRequest) -> None:
        """Raise what synthesize() would refuse about the request itself (voice, length, rate)."""

    def synthesize(self, request: SpeechRequest) -> SpeechStream:
        """Begin an utterance; the work starts at once.

        Raises UnknownVoiceError, TextTooLongError, UnsupportedSampleRateError, EngineBusyError or
        EngineNotReadyError.
        """
