"""The T3 decoders that utterances borrow: each owns the memory, and on a GPU the graphs, of one sequence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from weakref import WeakSet

from tts_engine.chatterbox.decoder import TokenDecoder
from tts_engine.chatterbox.guards import MOST_TOKENS
from tts_engine.chatterbox.sampling import SamplingSettings
from tts_engine.chatterbox.t3 import T3, VoicePrefix
from tts_engine.errors import SynthesisError
from tts_engine.serving.graphs import GraphDecoder

MOST_TEXT_TOKENS = 400
"Of a segment. Byte-level BPE needs more than one token a character for foreign scripts only."

CAPACITY = MOST_TEXT_TOKENS + 1 + MOST_TOKENS


class DecoderPool:
    """Decoders are taken by the one worker; they are given back on whatever thread an utterance ends, even within a
    garbage collection. So there is no lock: giving back is an append.
    """

    def __init__(self, t3: T3, settings: SamplingSettings, cfg_scale: float, *, graphs: bool, kept: int = 1) -> None:
        """`kept`: how many there may be before unused ones of other prompt lengths are let go; each has some 200 MB on
        a GPU.
        """
        self._kept = kept
        self._t3 = t3
        self._settings = settings
        self._cfg_scale = cfg_scale
        self._graphs = graphs
        self._free: list[GraphDecoder] = []
        self._made: WeakSet[GraphDecoder] = WeakSet()

    def prepare(self, prefixes: Iterable[VoicePrefix]) -> None:
        """Make what is kept, shared out among the prompts' lengths: capturing one takes a third of a second, for which
        nobody should wait.
        """
        by_length = {prefix.length: prefix for prefix in prefixes}
        if self._graphs:
            for prefix in by_length.values():
                self._free += [self._make(prefix) for _ in range(max(1, self._kept // len(by_length)))]

    @contextmanager
    def borrowed(self, prefix: VoicePrefix, capacity: int) -> Iterator[TokenDecoder]:
        """A decoder that speaks with this voice, for a sequence of up to `capacity` (at most CAPACITY) positions."""
        if not self._graphs:
            # Memory and nothing else: not worth keeping.
            yield TokenDecoder(self._t3, prefix, capacity, self._settings, self._cfg_scale)
            return
        decoder = self._take(prefix)
        try:
            yield decoder
        except SynthesisError:
            # What its cache holds may not be numbers: it is not used again.
            raise
        except BaseException:
            self._free.append(decoder)
            raise
        else:
            self._free.append(decoder)

    def _take(self, prefix: VoicePrefix) -> GraphDecoder:
        """One whose graphs were captured for prompts of this length, or a new one."""
        for decoder in self._free.copy():
            if decoder.use(prefix):
                self._free.remove(decoder)
                return decoder
        while self._free and len(self._made) >= self._kept:
            del self._free[0]
        return self._make(prefix)

    def _make(self, prefix: VoicePrefix) -> GraphDecoder:
        decoder = GraphDecoder(self._t3, prefix, CAPACITY, self._settings, self._cfg_scale)
        self._made.add(decoder)
        return decoder
