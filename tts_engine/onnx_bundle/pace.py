"""How fast a machine speaks, from what was measured in the warm-up, and how late a further text would begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tts_engine.chatterbox.constants import TOKEN_RATE

USUAL_TOKENS = 150
"A segment of 6 s, by which the real-time factor is reckoned."

FIRST_TOKENS = 60
"A first clause of 2.4 s, all of which is decoded before a whole segment sounds."


@dataclass(frozen=True)
class Pace:
    """Seconds of one worker that has the machine, or its share of the cores, to itself."""

    begin: float
    "To read a text of one sentence."
    step: float
    "For each token of 40 ms."
    decode: float
    "Of `decoded` tokens, the voice's prompt included; taken as proportional to them."
    decoded: int
    prompt: int
    "Tokens of the voice, which every decode pays for."
    chunks: Sequence[int] = ()
    "New tokens of each decode, the last repeated; empty: segments are decoded whole."

    def decoding(self, tokens: int) -> float:
        """Seconds of one decode of so many tokens of speech."""
        return self.decode * (self.prompt + tokens) / self.decoded

    @property
    def first_sound(self) -> float:
        """Seconds from a text to its first sound, on an idle machine."""
        tokens = self.chunks[0] if self.chunks else FIRST_TOKENS
        return self.begin + tokens * self.step + self.decoding(tokens)

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of speech; at 1 or more a worker cannot keep up with one listener."""
        work = self.begin + USUAL_TOKENS * self.step + sum(map(self.decoding, self._decodes(USUAL_TOKENS)))
        return work * TOKEN_RATE / USUAL_TOKENS

    def wait(self, silent: int, speaking: int, workers: int) -> float:
        """Seconds until a text that comes now is heard, beside others that have, or have not, begun to sound.

        Those that are silent are as urgent as it is and take turns with it. Those that speak have sound in hand; they
        take their share of the workers, and the decode that one of them may be at is not broken off.
        """
        load = min(1.0, self.real_time_factor) * speaking / workers
        turns = max(1.0, (1 + silent) / workers + load)
        return self.first_sound * turns + min(1.0, load) * self.decoding(USUAL_TOKENS)

    def _decodes(self, tokens: int) -> list[int]:
        """Tokens of speech in each decode of a segment of so many."""
        sizes, done, number = [], 0, 0
        while self.chunks and (done := done + self.chunks[min(number, len(self.chunks) - 1)]) < tokens:
            sizes.append(done)
            number += 1
        return [*sizes, tokens]
