"""Prompts in memory: the bound, the order in which they go, and which come in."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from tts_engine.engine import PcmChunk
from tts_engine.prompts.cache import ENTRY_OVERHEAD_BYTES, LARGEST_SHARE, PromptCache, SeenBefore


def chunk(size: int) -> PcmChunk:
    return PcmChunk(bytes(size), 8000)


def test_everybody_gets_the_same_object() -> None:
    cache = PromptCache(100_000)
    given_ = chunk(100)
    assert cache.put(b"a", given_)
    assert cache.get(b"a") is given_
    assert cache.get(b"a") is given_
    assert cache.get(b"b") is None


def test_the_least_recently_used_goes_first() -> None:
    size = 1000
    cache = PromptCache(8 * (size + ENTRY_OVERHEAD_BYTES))
    for number in range(8):
        cache.put(bytes([number]), chunk(size))
    assert cache.get(b"\0") is not None  # used: the next to go is \1
    cache.put(b"new", chunk(size))
    assert [number for number in range(8) if cache.get(bytes([number])) is None] == [1]
    assert (len(cache), cache.evicted) == (8, 1)


def test_a_long_one_does_not_drive_out_the_others() -> None:
    cache = PromptCache(80_000)
    cache.put(b"a", chunk(10))
    assert cache.largest == 80_000 // LARGEST_SHARE - ENTRY_OVERHEAD_BYTES
    assert not cache.put(b"b", chunk(cache.largest + 2))
    assert cache.get(b"a") is not None
    assert cache.put(b"b", chunk(cache.largest))


def test_no_memory_holds_nothing() -> None:
    cache = PromptCache(0)
    assert not cache.put(b"a", chunk(0))
    assert (len(cache), cache.bytes) == (0, 0)


def test_clear() -> None:
    cache = PromptCache(100_000)
    cache.put(b"a", chunk(10))
    cache.clear()
    assert (cache.get(b"a"), cache.bytes, cache.evicted) == (None, 0, 0)


@given(st.lists(st.tuples(st.sampled_from("pg"), st.integers(0, 12), st.integers(0, 3000)), max_size=80))
def test_against_a_plain_model(steps: list[tuple[str, int, int]]) -> None:
    """Bytes never above the bound, and exactly what a list kept by hand would hold."""
    bound = 12_000
    cache, model = PromptCache(bound), OrderedDict[bytes, int]()
    for step, name, size in steps:
        key = bytes([name])
        if step == "g":
            found = cache.get(key)
            assert (found is None) == (key not in model)
            if found is not None:
                assert len(found.pcm) == model[key]
                model.move_to_end(key)
        elif cache.put(key, chunk(size)):
            model.pop(key, None)
            model[key] = size
            while sum(model.values()) + len(model) * ENTRY_OVERHEAD_BYTES > bound:
                model.popitem(last=False)
        else:
            assert size > cache.largest
        assert cache.bytes == sum(model.values()) + len(model) * ENTRY_OVERHEAD_BYTES <= bound
        assert len(cache) == len(model)


class TestSeenBefore:
    def test_the_second_time(self) -> None:
        seen = SeenBefore()
        assert [seen.again(b"a" * 32), seen.again(b"b" * 32), seen.again(b"a" * 32)] == [False, False, True]

    def test_it_forgets_the_oldest(self) -> None:
        seen = SeenBefore(3)
        for key in (b"a", b"b", b"c", b"a", b"d"):  # a came again: b is the oldest
            seen.again(key)
        assert len(seen) == 3
        assert seen.again(b"a")
        assert seen.again(b"c")
        assert not seen.again(b"b")

    def test_a_flood_of_texts_said_once_leaves_the_prompts_alone(self) -> None:
        """The reason for it: an LRU alone would have dropped the prompt."""
        cache, seen = PromptCache(64 * 1024), SeenBefore()
        greeting = b"greeting" * 4
        for key in (greeting, greeting):
            if seen.again(key):
                cache.put(key, chunk(4000))
        for number in range(1000):
            key = number.to_bytes(32, "big")[::-1]
            if seen.again(key):
                cache.put(key, chunk(4000))
        assert cache.get(greeting) is not None
        assert len(cache) == 1
