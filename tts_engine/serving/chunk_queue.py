"""Chunks whose tokens are there, and which of them S3Gen decodes next."""

from __future__ import annotations

from tts_engine.serving.limits import Limits
from tts_engine.serving.sequence import Sequence, by_deadline


class ChunkQueue:
    """Sequences with a chunk planned that is in no batch yet."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._due: dict[int, Sequence] = {}

    def __len__(self) -> int:
        return len(self._due)

    def add(self, sequence: Sequence) -> None:
        """Its chunk may be decoded from now on. Again: no effect."""
        self._due[sequence.id] = sequence

    def discard(self, sequence: Sequence) -> None:
        """It wants nothing any more."""
        self._due.pop(sequence.id, None)

    def tokens(self, before: float) -> int:
        """What chunks with deadlines before that cost."""
        return sum(each.chunk_cost for each in self._due.values() if each.deadline < before)

    def take(self, now: float) -> list[Sequence]:
        """The next batch, which leaves the queue: of those at one sample rate, the most urgent first, in order.

        The head alone decides the rate and is always taken, even if it is larger than a batch: so nobody is passed over
        for ever. Urgent ones fill the batch up to its full size. The others fill it, too, while nobody is urgent,
        and else only up to the smaller one.
        """
        if not self._due:
            return []
        limits = self._limits
        ordered = sorted(self._due.values(), key=by_deadline)
        head = ordered[0]
        urgent_before = now + limits.urgent_seconds
        fill = limits.urgent_tokens if head.deadline < urgent_before else limits.chunk_tokens
        batch: list[Sequence] = []
        tokens = frames = 0
        for each in ordered:
            if each.sample_rate != head.sample_rate or each.plan is None:
                continue
            tokens += each.chunk_cost
            frames += each.plan.window_frames
            most = limits.chunk_tokens if each.deadline < urgent_before else fill
            full = len(batch) == limits.chunk_rows or tokens > most or frames > limits.window_frames
            if batch and full:
                break
            batch.append(each)
        for each in batch:
            del self._due[each.id]
        return batch
