"""Prompts in memory: least recently used go first, and only what was asked for twice comes in."""

from __future__ import annotations

from collections import OrderedDict

from tts_engine.engine import PcmChunk

ENTRY_OVERHEAD_BYTES = 512
"What an entry takes beside its PCM: key, dictionary, objects."

LARGEST_SHARE = 8
"No entry takes more than this part of the memory: one long text must not drive out all the others."

SEEN = 16_384
"Texts asked for once are remembered, as hashes, until so many others have come: about 2 MB at most."


class PromptCache:
    """PCM by key. Belongs to one thread; the counts may be read from any."""

    def __init__(self, memory_bytes: int) -> None:
        self.evicted = 0
        self.bytes = 0
        "Held, overhead included; never above `memory_bytes`."
        self.largest = memory_bytes // LARGEST_SHARE - ENTRY_OVERHEAD_BYTES
        "PCM of one entry at most, in bytes."
        self._memory_bytes = memory_bytes
        self._entries: OrderedDict[bytes, PcmChunk] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> PcmChunk | None:
        """The prompt, not copied: everybody gets the same object. It is now the most recently used."""
        chunk = self._entries.get(key)
        if chunk is not None:
            self._entries.move_to_end(key)
        return chunk

    def put(self, key: bytes, chunk: PcmChunk) -> bool:
        """Whether it is held now: what is above `largest` is not."""
        if len(chunk.pcm) > self.largest:
            return False
        self._remove(key)
        self._entries[key] = chunk
        self.bytes += _cost(chunk)
        while self.bytes > self._memory_bytes:
            self._remove(next(iter(self._entries)))
            self.evicted += 1
        return True

    def clear(self) -> None:
        """Give the memory back; nothing counts as evicted."""
        self._entries.clear()
        self.bytes = 0

    def _remove(self, key: bytes) -> None:
        chunk = self._entries.pop(key, None)
        if chunk is not None:
            self.bytes -= _cost(chunk)


def _cost(chunk: PcmChunk) -> int:
    return len(chunk.pcm) + ENTRY_OVERHEAD_BYTES


class SeenBefore:
    """Which keys came up lately.

    Most texts of a voice bot are said once, with a customer's name in them. Kept by recency alone, an hour of them
    would drive out every prompt rarer than they are, and would lie in memory although nobody asks again. So a prompt is
    kept from the second time on: that costs one more synthesis of each.
    """

    def __init__(self, most: int = SEEN) -> None:
        self._most = most
        self._keys: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def again(self, key: bytes) -> bool:
        """Whether this key came before; from now on it did."""
        # A part of the hash is enough: a chance hit keeps one text too early.
        short = key[:12]
        seen = short in self._keys
        self._keys[short] = None
        self._keys.move_to_end(short)
        if len(self._keys) > self._most:
            self._keys.popitem(last=False)
        return seen
