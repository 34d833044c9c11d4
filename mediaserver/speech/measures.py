"""How long callers wait for speech: text in, first PCM out of the engine, first RTP packet with it."""

from __future__ import annotations

from tts_engine.measures import Histogram, Measure

BOUNDS_S = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
"Upper bounds of the buckets. The figure to keep is 0.2; the time between two packets is 0.02."

_FIRST_PCM = "From a text's arrival, or its turn if others were before it, to the first PCM from the engine"
_FIRST_PACKET = (
    "From a text's arrival, or from the time since which its caller listens and hears nothing else, to its first packet"
)


class SpeechMeasures:
    """Of all calls that one engine speaks for. Written by the event loop's thread.

    `queued`: whether the call had other speech to be played when the text came; without, the caller waits in silence.
    """

    def __init__(self, engine: str) -> None:
        def histogram(name: str, text: str, queued: bool) -> Histogram:
            return Histogram(name, text, BOUNDS_S, labels={"engine": engine, "queued": "yes" if queued else "no"})

        self._first_pcm = [histogram("speech_first_pcm_seconds", _FIRST_PCM, queued) for queued in (False, True)]
        self._first_packet = [
            histogram("speech_first_packet_seconds", _FIRST_PACKET, queued) for queued in (False, True)
        ]

    @property
    def measures(self) -> list[Measure]:
        return [*self._first_pcm, *self._first_packet]

    def first_pcm(self, seconds: float, *, queued: bool) -> None:
        """An engine has given an utterance's first audio."""
        self._first_pcm[queued].observe(seconds)

    def first_packet(self, seconds: float, *, queued: bool) -> None:
        """The first packet of an utterance has been taken for sending."""
        self._first_packet[queued].observe(seconds)
