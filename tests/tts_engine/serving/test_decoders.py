"""Which decoder serves whom. The graph itself is a stand-in here: test_graphs.py has it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

import tts_engine.serving.decoders as decoders_module
from tests.tts_engine.chatterbox.voices import make_voice
from tts_engine.chatterbox.decoder import TokenDecoder
from tts_engine.chatterbox.model import Chatterbox
from tts_engine.chatterbox.sampling import SamplingSettings
from tts_engine.chatterbox.t3 import VoicePrefix
from tts_engine.errors import SynthesisError
from tts_engine.serving.decoders import CAPACITY, DecoderPool


class EagerGraph(TokenDecoder):
    """GraphDecoder as the pool sees it: bound to the length of its first prompt."""

    def __init__(self, t3, prefix, capacity, settings, cfg_scale=0.0) -> None:  # type: ignore[no-untyped-def]
        own = VoicePrefix(prefix.keys.clone(), prefix.values.clone())
        super().__init__(t3, own, capacity, settings, cfg_scale)
        self.own = own

    def use(self, prefix: VoicePrefix) -> bool:
        if prefix.length != self.own.length:
            return False
        self.own.keys.copy_(prefix.keys)
        self.own.values.copy_(prefix.values)
        return True


@pytest.fixture
def pool(loaded: Chatterbox, monkeypatch: pytest.MonkeyPatch) -> DecoderPool:
    monkeypatch.setattr(decoders_module, "GraphDecoder", EagerGraph)
    return DecoderPool(loaded.t3, SamplingSettings(), 0.0, graphs=True, kept=2)


def prefix_of(model: Chatterbox, prompt_tokens: int, seed: int = 0) -> VoicePrefix:
    voice = make_voice(prompt_tokens, 5, seed=seed)
    with torch.inference_mode():
        return model.t3.prefix(voice.speaker_embedding, voice.prompt_tokens)


def said(decoder: TokenDecoder) -> list[int]:
    decoder.begin([1, 2, 3])
    return [decoder.next(0.1 * step, forbid_stop=True) for step in range(8)]


def test_one_is_used_again(pool: DecoderPool, loaded: Chatterbox) -> None:
    prefix = prefix_of(loaded, 20)
    with pool.borrowed(prefix, CAPACITY) as first:
        expected = said(first)
    with pool.borrowed(prefix, CAPACITY) as again:
        assert again is first
        assert said(again) == expected, "nothing of the sequence before is left"


def test_two_at_once_are_two(pool: DecoderPool, loaded: Chatterbox) -> None:
    prefix = prefix_of(loaded, 20)
    with pool.borrowed(prefix, CAPACITY) as first, pool.borrowed(prefix, CAPACITY) as second:
        assert first is not second
    with pool.borrowed(prefix, CAPACITY) as third, pool.borrowed(prefix, CAPACITY) as fourth:
        assert {id(third), id(fourth)} == {id(first), id(second)}


def test_it_is_given_back_after_a_failure_that_is_not_its_own(pool: DecoderPool, loaded: Chatterbox) -> None:
    prefix = prefix_of(loaded, 20)
    with pytest.raises(KeyError), pool.borrowed(prefix, CAPACITY) as first:
        raise KeyError
    with pool.borrowed(prefix, CAPACITY) as second:
        assert second is first


def test_one_whose_numbers_overflowed_is_not_used_again(pool: DecoderPool, loaded: Chatterbox) -> None:
    prefix = prefix_of(loaded, 20)
    with pytest.raises(SynthesisError), pool.borrowed(prefix, CAPACITY) as first:
        raise SynthesisError("the model's numbers overflowed")
    with pool.borrowed(prefix, CAPACITY) as second:
        assert second is not first


def test_giving_back_within_a_garbage_collection_does_not_block(pool: DecoderPool, loaded: Chatterbox) -> None:
    """An utterance that everybody forgot, in a cycle, is found while another one takes its decoder."""
    prefix = prefix_of(loaded, 20)

    def utterance() -> Iterator[None]:
        with pool.borrowed(prefix, CAPACITY):
            yield

    forgotten = utterance()
    next(forgotten)
    cycle: list[object] = [forgotten]
    cycle.append(cycle)
    with pool.borrowed(prefix, CAPACITY):
        pass
    del forgotten, cycle
    original = EagerGraph.use

    def collecting(self: EagerGraph, given: VoicePrefix) -> bool:
        gc.collect()
        return original(self, given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EagerGraph, "use", collecting)
        with pool.borrowed(prefix, CAPACITY):
            pass


@pytest.mark.parametrize("prompt_tokens", [20, 31])
def test_it_speaks_with_the_voice_asked_for(pool: DecoderPool, loaded: Chatterbox, prompt_tokens: int) -> None:
    with pool.borrowed(prefix_of(loaded, 20), CAPACITY) as first:
        said(first)
    other = prefix_of(loaded, prompt_tokens, seed=1)
    expected = said(TokenDecoder(loaded.t3, other, CAPACITY, SamplingSettings()))
    with pool.borrowed(other, CAPACITY) as decoder:
        assert said(decoder) == expected
    assert prefix_of(loaded, 20).values.equal(prefix_of(loaded, 20).values), "no prefix was written to"


def test_without_graphs_each_has_its_own(loaded: Chatterbox) -> None:
    pool = DecoderPool(loaded.t3, SamplingSettings(), 0.0, graphs=False)
    prefix = prefix_of(loaded, 20)
    with pool.borrowed(prefix, CAPACITY) as first:
        expected = said(first)
    with pool.borrowed(prefix, CAPACITY) as second:
        assert second is not first
        assert said(second) == expected


def test_those_kept_are_made_ahead(pool: DecoderPool, loaded: Chatterbox, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Counted(EagerGraph):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(decoders_module, "GraphDecoder", Counted)
    prefix = prefix_of(loaded, 20)
    pool.prepare([prefix, prefix])
    assert len(made) == 2
    with pool.borrowed(prefix, CAPACITY), pool.borrowed(prefix, CAPACITY):
        assert len(made) == 2
        with pool.borrowed(prefix, CAPACITY):
            assert len(made) == 3


def test_prompts_of_two_lengths_in_turn_do_not_throw_each_other_out(pool: DecoderPool, loaded: Chatterbox) -> None:
    short, long = prefix_of(loaded, 20), prefix_of(loaded, 31)
    with pool.borrowed(short, CAPACITY) as first, pool.borrowed(long, CAPACITY) as second:
        pass
    for _ in range(3):
        with pool.borrowed(short, CAPACITY) as again:
            assert again is first
        with pool.borrowed(long, CAPACITY) as again:
            assert again is second


def test_unused_ones_of_other_lengths_make_room(pool: DecoderPool, loaded: Chatterbox) -> None:
    short, long = prefix_of(loaded, 20), prefix_of(loaded, 31)
    pool.prepare([short, long])
    with pool.borrowed(long, CAPACITY), pool.borrowed(long, CAPACITY):
        assert len(pool._made) == 2, "the short one was let go"
    with pool.borrowed(short, CAPACITY):
        assert len(pool._made) == 2
