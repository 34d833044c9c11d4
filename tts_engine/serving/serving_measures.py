"""What a worker measures of its own work."""

from __future__ import annotations

from tts_engine.measures import Counter, Gauge, Histogram, Measure
from tts_engine.tensorrt.selection import PLAN_FAULTS, TAKEN, UNITS

_MILLISECONDS = tuple(x / 1000 for x in (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1000))
_FIRST = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)
_SLACK = (-5.0, -1.0, -0.5, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
_TOKENS = (288, 352, 448, 576, 704, 896, 1152, 1440, 1792, 2304, 2880, 3584, 4608, 5760, 7168, 9216, 11520)


class ServingMeasures:
    """One worker's; its thread alone writes."""

    def __init__(self, device: str) -> None:
        labels = {"device": device}

        def counter(name: str, text: str, **more: str) -> Counter:
            return Counter(name, text, labels={**labels, **more})

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, labels=labels)

        def histogram(name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, bounds, labels=labels)

        self.first_chunk = histogram("first_chunk_seconds", "From a request to its first PCM, in the worker", _FIRST)
        self.slack = histogram("deadline_slack_seconds", "How long before it was needed a chunk was there", _SLACK)
        self.late_chunks = counter("late_chunks", "Chunks that came after the listener had run out of audio")
        self.audio_seconds = counter("audio_seconds", "Speech made")
        self.step_seconds = histogram("step_seconds", "T3 steps, on the device", _MILLISECONDS)
        self.step_rows = histogram("step_rows", "Sequences in a T3 step", _ROWS)
        self.step_padding = counter("step_padding_rows", "Rows of T3 steps that were padding")
        self.prefill_seconds = histogram("prefill_seconds", "T3 prefills, on the device", _MILLISECONDS)
        self.prefill_rows = histogram("prefill_rows", "Sequences in a prefill", _ROWS)
        self.flow_seconds = histogram("flow_seconds", "Flow batches, on the device", _MILLISECONDS)
        self.flow_tokens = histogram("flow_tokens", "Tokens in a flow batch, prompts included", _TOKENS)
        self.flow_padding = counter("flow_padding_tokens", "Tokens of flow batches that were padding")
        self.vocoder_seconds = histogram("vocoder_seconds", "Vocoder batches, on the device", _MILLISECONDS)
        self.vocoder_frames = counter("vocoder_frames", "Frames that were rendered, contexts included")
        self.vocoder_padding = counter("vocoder_padding_frames", "Frames of vocoder batches that were padding")
        self.chunk_rows = histogram("chunk_rows", "Chunks in a batch of flow and vocoder", _ROWS)
        self.turns = counter("turns", "Rounds of the worker's loop")
        self.waiting = gauge("sequences_waiting", "Sequences that T3 has not begun")
        self.decoding = gauge("sequences_decoding", "Sequences that T3 is at")
        self.speaking = gauge("sequences_speaking", "Sequences of which sound is still to come")
        self.pages_used = gauge("kv_pages_used", "Pages of the KV cache in use")
        self.pages = gauge("kv_pages", "Pages of the KV cache")
        self.memory = gauge("gpu_memory_bytes", "Memory of the GPU in use, by whomever")
        self.failures = {
            kind: counter("utterances_failed", "Utterances that were not finished", kind=kind)
            for kind in ("overflow", "memory", "voice", "text", "pages")
        }
        self.backends = {
            (unit, backend): Gauge(
                "unit_backend", "1 for what a unit of the model runs by", labels=labels | {"unit": unit, "by": backend}
            )
            for unit in UNITS
            for backend in TAKEN
        }
        self.plans_failed = {
            reason: counter("plans_failed", "TensorRT plans that could not be used at start", reason=reason)
            for reason in PLAN_FAULTS
        }
        self.ends = {
            kind: counter("sequences_ended", "Why T3 ended a sequence", kind=kind)
            for kind in ("stop", "too_long", "endless_silence", "repetition")
        }

    def all(self) -> tuple[Measure, ...]:
        """Every measure."""
        found: list[Measure] = []
        for value in vars(self).values():
            found += value.values() if isinstance(value, dict) else [value]
        return tuple(found)
