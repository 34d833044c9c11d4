from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hibari.g2p import G2P
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.sentences import TELEPHONE_SENTENCES
from tts_engine.embedded.g2p import PackedDictionary, load_g2p

words = st.text(min_size=1).filter(lambda word: "\0" not in word and word.isprintable())
entries = st.dictionaries(words, st.one_of(words, st.just({"DEFAULT": "a", "NOUN": None})))


@given(entries, words)
@example({}, "a")
@example({"a": "x", "ab": "y"}, "aa")
def test_packed_dictionary_answers_as_the_dict(plain: dict[str, Any], other: str) -> None:
    packed = PackedDictionary(plain)
    assert {word: packed.get(word) for word in plain} == plain
    assert packed.get(other) == plain.get(other)


def test_packed_dictionary_does_not_find_what_utf8_cannot_hold() -> None:
    assert PackedDictionary({"a": "b"}).get("\ud800") is None


def test_packed_dictionary_finds_no_record_inside_another() -> None:
    packed = PackedDictionary({"abc": "xyz"})
    assert [packed.get(word) for word in ("", "b", "bc", "xyz", "abc\0xyz", "abc\0")] == [None] * 6


@pytest.fixture(scope="module", params=[False, True], ids=["american", "british"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[G2P, G2P]]:
    """hibari's own tables, and ours."""
    yield G2P(british=request.param), load_g2p(british=request.param)


def test_sentences_read_as_hibari_reads_them(pair: tuple[G2P, G2P]) -> None:
    reference, packed = pair
    for sentence in TELEPHONE_SENTENCES:
        assert packed(sentence) == reference(sentence)


def test_random_word_orders_are_tagged_and_read_alike(pair: tuple[G2P, G2P]) -> None:
    # Orders that no grammar gives drive the tagger through rare features.
    reference, packed = pair
    chooser = random.Random(5)
    rare = ["read", "live", "record", "used", "xylograph", "NASA", "Zürich"]
    vocabulary = [*" ".join(TELEPHONE_SENTENCES).split(), *rare]
    for _ in range(200):
        sentence = " ".join(chooser.choices(vocabulary, k=12))
        assert packed(sentence) == reference(sentence)


def test_the_whole_dictionary_is_there(pair: tuple[G2P, G2P]) -> None:
    reference, packed = pair
    for plain, ours in (
        (reference.lexicon.golds, packed.lexicon.golds),
        (reference.lexicon.silvers, packed.lexicon.silvers),
    ):
        assert len(plain.d) > 80_000
        assert all(ours.get(word) == pronunciation for word, pronunciation in plain.d.items())


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=80))
def test_any_text_gives_the_same_or_fails_the_same(pair: tuple[G2P, G2P], text: str) -> None:
    def outcome(g2p: G2P) -> str | type[Exception]:
        try:
            return str(g2p(text))
        except Exception as error:  # noqa: BLE001 - whatever hibari raises on garbage
            return type(error)

    reference, packed = pair
    assert outcome(packed) == outcome(reference)
