"""hibari's grapheme-to-phoneme rules over tables that take a third of the memory.

As Python dicts the American tables take 90 MB, half of the engine; packed they give the same answers from 25 MB,
and the garbage collector has nothing to walk in them.
"""

from __future__ import annotations

import gzip
import json
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hibari.g2p import ASSETS, G2P
from hibari.g2p.lexicon import Lexicon
from hibari.g2p.oov import OOV
from hibari.g2p.tagger import Tagger
from hibari.g2p.tokenize import Tokenizer

from tts_engine.embedded.onnx import open_session

Pronunciation = str | dict[str, str | None]
"Phonemes; or by part of speech, where that decides."

_SEPARATOR = b"\0"


class PackedDictionary:
    """A read-only str -> Pronunciation mapping: sorted records in one block of bytes, found by bisection."""

    def __init__(self, entries: Mapping[str, Pronunciation]) -> None:
        self._by_part_of_speech = {word: ps for word, ps in entries.items() if not isinstance(ps, str)}
        records = sorted((_encode(word), _encode(ps)) for word, ps in entries.items() if isinstance(ps, str))
        block = bytearray()
        self._starts = array("I")
        for word, ps in records:
            self._starts.append(len(block))
            block += word + _SEPARATOR + ps + _SEPARATOR
        self._block = bytes(block)

    def get(self, word: str) -> Pronunciation | None:
        special = self._by_part_of_speech.get(word)
        if special is not None:
            return special
        wanted = _encode(word)
        index = bisect_left(self._starts, wanted, key=self._word_at)
        if index == len(self._starts) or self._word_at(self._starts[index]) != wanted:
            return None
        start = self._starts[index] + len(wanted) + 1
        return self._block[start : self._block.index(_SEPARATOR, start)].decode()

    def _word_at(self, start: int) -> bytes:
        return self._block[start : self._block.index(_SEPARATOR, start)]


def _encode(text: str) -> bytes:
    # Text from outside may hold lone surrogates; no entry does, so they are merely not found.
    return text.encode("utf-8", "surrogatepass")


Weights = tuple[tuple[str, float], ...]


class PackedTagger(Tagger):  # type: ignore[misc]
    """hibari's part-of-speech tagger with each feature's weights as shared (tag, weight) pairs."""

    def predict(self, feats: Iterable[str]) -> str:
        scores: dict[str, float] = {}
        for feature in feats:
            for tag, weight in self.weights.get(feature, ()):
                scores[tag] = scores.get(tag, 0) + weight
        return max(self.tags, key=lambda tag: (scores.get(tag, 0), tag)) if scores else "NN"


def _load_json(name: str, object_pairs_hook: Any = None) -> Any:
    path = Path(ASSETS) / name
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    return json.loads(raw, object_pairs_hook=object_pairs_hook)


def load_tagger() -> PackedTagger:
    """Packs while parsing, so that the unpacked table never exists."""
    shared: dict[tuple[str, float], tuple[str, float]] = {}

    def pack(pairs: list[tuple[str, Any]]) -> Weights | dict[str, Any]:
        if pairs and isinstance(pairs[0][1], float):
            return tuple(shared.setdefault(pair, pair) for pair in pairs)
        return dict(pairs)

    return PackedTagger(_load_json("tagger.json.gz", pack))


def load_g2p(british: bool) -> G2P:
    """Text to phonemes, American or British. Safe to use from several threads: it holds no state between calls."""
    accent = "gb" if british else "us"
    oov_path = str(Path(ASSETS) / ("oov_gb.onnx" if british else "oov.onnx"))
    g2p = object.__new__(G2P)  # its own constructor loads the unpacked tables
    g2p.lexicon = Lexicon(
        PackedDictionary(_load_json(f"lexicon_{accent}_gold.json.gz")),
        PackedDictionary(_load_json(f"lexicon_{accent}_silver.json.gz")),
        british,
    )
    g2p.tokenizer = Tokenizer(_load_json("tokenizer_exceptions.json"))
    g2p.tagger = load_tagger()
    g2p._oov = OOV(oov_path, session=open_session(oov_path))
    g2p.unk = ""
    g2p.british = british
    return g2p
