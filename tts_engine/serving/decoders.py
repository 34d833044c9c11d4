"""The T3 decoders that utterances borrow: each owns the memory, and on a GPU the graph, of one sequence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tts_engine.chatterbox.decoder import TokenDecoder
from tts_engine.chatterbox.guards import MOST_TOKENS
from tts_engine.chatterbox.sampling import SamplingSettings
from tts_engine.chatterbox.t3 import T3, VoicePrefix
from tts_engine.serving.graphs import GraphDecoder

MOST_TEXT_TOKENS = 400
"Of a segment. Byte-level BPE needs more than one token a character for foreign scripts only."

CAPACITY = MOST_TEXT_TOKENS + 1 + MOST_TOKENS


class DecoderPool:
    """Decoders made as they are needed, at most one for each utterance under way, and used again."""

    def __init__(self, t3: T3, settings: SamplingSettings, cfg_scale: float, *, graphs: bool, kept: int = 1) -> None:
        """`kept`: how many are kept for utterances to come; each has some 200 MB on a GPU."""
        self._kept = kept
        self._t3 = t3
        self._settings = settings
        self._cfg_scale = cfg_scale
        self._graphs = graphs
        self._free: list[GraphDecoder] = []
        self._lock = threading.Lock()

    def prepare(self, prefix: VoicePrefix) -> None:
        """Make all that are kept: capturing one takes a third of a second, for which nobody should wait."""
        if self._graphs:
            made = [self._take(prefix) for _ in range(self._kept)]
            with self._lock:
                self._free += made

    @contextmanager
    def borrowed(self, prefix: VoicePrefix) -> Iterator[TokenDecoder]:
        """A decoder that speaks with this voice."""
        if not self._graphs:
            # Memory and nothing else: not worth keeping.
            yield TokenDecoder(self._t3, prefix, CAPACITY, self._settings, self._cfg_scale)
            return
        decoder = self._take(prefix)
        try:
            yield decoder
        finally:
            with self._lock:
                self._free.append(decoder)
                del self._free[: -self._kept]

    def _take(self, prefix: VoicePrefix) -> GraphDecoder:
        """One whose graph was captured for prompts of this length, or a new one."""
        with self._lock:
            for at, decoder in enumerate(self._free):
                if decoder.use(prefix):
                    return self._free.pop(at)
        return GraphDecoder(self._t3, prefix, CAPACITY, self._settings, self._cfg_scale)
