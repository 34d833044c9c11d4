"""Whether one more utterance can be served in time, from what a GPU has to do at the moment. Pure."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_RETRY_SECONDS = 1.0
MOST_RETRY_SECONDS = 60.0

_RECOVERY = 10.0
"An overload works itself off at a tenth of real time: whoever was admitted goes on speaking meanwhile."


@dataclass(frozen=True)
class Refusal:
    """Why not, and when to ask again."""

    reason: str
    "A sentence's worth for a log, with figures."
    retry_after_seconds: float
    "1 to 60."


@dataclass(frozen=True)
class Load:
    """A GPU's state when somebody asks. Times are as measured lately."""

    streams: int
    "Utterances admitted and not done."
    waiting: int
    "Sequences without a slot that will be served before a new one."
    decoding: int
    "Sequences with a slot."
    slots: int
    pages_free: int
    pages_a_sequence: float
    "Of the KV cache, of a typical sequence at its end."
    tokens_a_sequence: float
    "Speech tokens of a typical one."
    prefill_seconds: float
    "Of one prefill batch."
    prefill_rows: int
    step_seconds: float
    "Of one T3 step, at `decoding` rows."
    chunk_backlog_tokens: int
    "Flow tokens, prompts included, in flight and due before a new one's: `Scheduler.chunk_tokens(now)`."
    chunk_seconds_a_token: float
    chunk_fixed_seconds: float
    "Of a batch of chunks, whatever its size."
    slack: float | None
    "Seconds, the most urgent listener's: `Scheduler.slack(now)`."


@dataclass(frozen=True)
class AdmissionPolicy:
    """Who is let in."""

    max_streams: int
    max_first_audio_seconds: float
    "Predicted first audio beyond this is a refusal."
    most_late_seconds: float = 0.5
    "Somebody waits for audio for longer: no more are let in. A first chunk alone may take a good part of that."
    first_chunk_tokens: int = 24
    prompt_tokens: int = 250
    step_rows_fixed: float = 100.0
    "What a step costs at no rows, counted in rows: how its time grows with the batch."

    def predicted_first_audio(self, load: Load) -> float:
        """Seconds from now to the first PCM of an utterance that would come now."""
        return (
            self._slot_seconds(load)
            + self._prefill_seconds(load)
            + self._steps_seconds(load)
            + self._chunk_seconds(load)
        )

    def refusal(self, load: Load) -> Refusal | None:
        """None: come in."""
        if load.streams >= self.max_streams:
            # Of n utterances in progress one ends every n-th of an utterance's length, and 25 tokens are a second.
            next_end = load.tokens_a_sequence / 25 / max(1, load.streams)
            return _refusal(f"all {self.max_streams} streams are taken", next_end)
        if load.slack is not None and load.slack < -self.most_late_seconds:
            late = -load.slack
            return _refusal(f"a listener has waited {late:.1f} s for audio: the GPU is overloaded", _RECOVERY * late)
        # Each of those decoding may want one page more before one of them ends, and the scheduler keeps it for them.
        pages = load.pages_a_sequence * (load.waiting + 1) + load.decoding
        if load.decoding and pages > load.pages_free:
            ending = load.tokens_a_sequence * load.step_seconds
            return _refusal(f"the KV cache has {load.pages_free} pages free where {pages:.0f} are needed", ending)
        predicted = self.predicted_first_audio(load)
        excess = predicted - self.max_first_audio_seconds
        if excess > 0:
            bound = f"{1000 * predicted:.0f} ms, above {1000 * self.max_first_audio_seconds:.0f}"
            return _refusal(f"first audio would take {bound}", _RECOVERY * excess)
        return None

    def _slot_seconds(self, load: Load) -> float:
        """Until a slot is free: those decoding are anywhere in their sequences, so they end evenly spread."""
        too_many = max(0, load.waiting + 1 + load.decoding - load.slots)
        return too_many / max(1, load.decoding) * load.tokens_a_sequence * load.step_seconds

    def _prefill_seconds(self, load: Load) -> float:
        """Those who wait are served before, so many a batch; the last batch is its own."""
        return (load.waiting // load.prefill_rows + 1) * load.prefill_seconds

    def _steps_seconds(self, load: Load) -> float:
        """To the tokens of the first chunk, at the present step's time, grown by the rows that join."""
        rows = min(load.slots, load.decoding + load.waiting + 1)
        growth = (self.step_rows_fixed + rows) / (self.step_rows_fixed + load.decoding)
        return self.first_chunk_tokens * load.step_seconds * growth

    def _chunk_seconds(self, load: Load) -> float:
        """What S3Gen has to do before, the first chunks of those who wait, and its own chunk."""
        first_chunk = self.prompt_tokens + self.first_chunk_tokens
        tokens = load.chunk_backlog_tokens + (load.waiting + 1) * first_chunk
        return load.chunk_fixed_seconds + tokens * load.chunk_seconds_a_token


def _refusal(reason: str, retry_after: float) -> Refusal:
    return Refusal(reason, min(MOST_RETRY_SECONDS, max(LEAST_RETRY_SECONDS, retry_after)))
