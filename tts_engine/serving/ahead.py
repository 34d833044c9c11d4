"""How far ahead of its listener a sequence may be generated: T3 rests for who holds plenty, and goes on in time.

`runs_out` is when the audio before a sequence's undecoded tokens has been heard: its deadline, and later by what the
sequences before it have still to give.
"""

from __future__ import annotations

from dataclasses import dataclass

from tts_engine.chatterbox.chunk_plan import ladder
from tts_engine.chatterbox.constants import TOKEN_RATE
from tts_engine.serving.sequence import Sequence

_RESUME_SHARE = 0.75
"Who rests goes on at this share of the bound: not to stop and go at every step."

_TOKEN_SECONDS = 0.01
"Nobody rests who would then lack the tokens of the next chunk: a slow step's time is assumed for each of them,"
_CHUNK_SECONDS = 0.5
"and a slow batch for the chunk."


@dataclass(frozen=True)
class AheadBound:
    """At most so many seconds of audio, heard by nobody yet: delivered, decoded and as tokens together."""

    seconds: float

    def room(self, sequence: Sequence, runs_out: float, now: float) -> float:
        """Steps that it may take at once; 0: it rests."""
        room = (self.seconds + now - runs_out - sequence.undecoded_seconds) * TOKEN_RATE
        if room >= 1:
            return room
        return max(1, sequence.missing) if now >= runs_out - _needed_seconds(sequence.missing) else 0

    def resume_at(self, sequence: Sequence, runs_out: float) -> float:
        """When one that rests goes on."""
        low = runs_out + sequence.undecoded_seconds - _RESUME_SHARE * self.seconds
        return min(low, runs_out - _needed_seconds(sequence.missing))

    def begin_at(self, sequence: Sequence, runs_out: float) -> float:
        """When one that waits for a slot should have one."""
        low = _RESUME_SHARE * self.seconds
        first = (sequence.policy or ladder(low)).sizes[0]
        return runs_out - max(low, _needed_seconds(first))


def _needed_seconds(tokens: int) -> float:
    """What the next chunk takes, so many tokens missing."""
    return tokens * _TOKEN_SECONDS + _CHUNK_SECONDS
