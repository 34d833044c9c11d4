"""A voice's model: text in, samples out; synchronous, and safe to use from several threads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hibari.g2p import ASSETS
from hibari.voices import BASE_URL, VOICES, voice_path

from tts_engine.embedded.g2p import load_g2p
from tts_engine.embedded.ipa import to_alphabet
from tts_engine.embedded.network import Network
from tts_engine.embedded.rendering import Rendering, audible_parts
from tts_engine.embedded.text import MAX_CLAUSES_PHONEMES, MAX_PIECE_PHONEMES, cut, sentences
from tts_engine.embedded.waveform import NARROW, WIDE, Band
from tts_engine.errors import EngineError
from tts_engine.pooled_stream import Piece
from tts_engine.resample import Resampler, to_pcm16

NARROW_BAND = 8000
"Up to this sample rate, speech is made at half of the model's own."

MIN_SPEED, MAX_SPEED = 0.5, 2.0

_PAUSE = " .,;:!?…—\"“”()'ˈˌ"  # phoneme symbols without a sound of their own


@dataclass(frozen=True, slots=True)
class EmbeddedVoice:
    """A voice that callers can ask for: a model and how it speaks."""

    model: str
    'A name from hibari.voices.VOICES; "heart" comes with the package.'
    speed: float = 1.0
    "1.0 is the pace that the model learnt; 2.0 is twice as fast."

    def __post_init__(self) -> None:
        if not MIN_SPEED <= self.speed <= MAX_SPEED:
            raise ValueError(f"speed {self.speed} is outside {MIN_SPEED} to {MAX_SPEED}")


class VoiceModel:
    """The network of one voice, with the phoneme alphabet and the G2P of its accent."""

    def __init__(self, network: Network, g2p: Any, vocabulary: Mapping[str, int]) -> None:
        self._network = network
        self._g2p = g2p
        self._vocabulary = vocabulary

    def phonemize(self, sentence: str) -> list[str]:
        """Phonemes of a sentence, cut into pieces the model takes; none if there is nothing to speak."""
        phonemes: str = self._g2p(sentence)
        known = "".join(symbol for symbol in phonemes if symbol in self._vocabulary)
        pieces = cut(known, MAX_CLAUSES_PHONEMES, MAX_PIECE_PHONEMES)
        return [piece for piece in pieces if piece.strip(_PAUSE)]

    def pronounce(self, ipa: str) -> list[str] | None:
        """Phonemes of what is written in IPA, in pieces as of phonemize(); None for what the voice cannot say."""
        phonemes = to_alphabet(ipa, british=self._g2p.british)
        if phonemes is None or not all(symbol in self._vocabulary for symbol in phonemes):
            return None
        return cut(phonemes, MAX_CLAUSES_PHONEMES, MAX_PIECE_PHONEMES)

    def render(self, phonemes: str, speed: float, band: Band, rng: np.random.Generator) -> Rendering:
        """Begin to speak a piece. `rng` gives the noise of breath and fricatives."""
        ids = np.asarray([0, *(self._vocabulary[symbol] for symbol in phonemes), 0], np.int64)
        return Rendering(self._network, ids, speed, band, rng)


def pace(speed: float, rate: float) -> float:
    """The speed of a voice that is asked to speak `rate` times as fast, as far as the model goes."""
    return min(MAX_SPEED, max(MIN_SPEED, speed * rate))


def speak(
    model: VoiceModel, text: str, speed: float, sample_rate: int, seed: int, phonemes: str | None = None
) -> Iterator[Piece]:
    """Speak a text part by part; each step does no more than its part needs, and the first is a short one.

    phonemes: how all of it is pronounced, in IPA; where the voice cannot, the text is spoken.

    One generator seeded with `seed` gives the noise for all pieces in order: the same text, voice and rate give
    the same samples. What hibari raises about a sentence comes through once the others have been spoken.
    """
    rng = np.random.default_rng(seed)
    band = NARROW if sample_rate <= NARROW_BAND else WIDE
    resampler = Resampler(band.rate, sample_rate)
    remaining = _phrases(model, text, phonemes)
    spoken = False
    failure: Exception | None = None
    while remaining:
        try:
            pieces = remaining.pop(0)()
        except Exception as error:  # noqa: BLE001 - whatever G2P stumbles over: the other sentences are still said
            failure = failure or error
            continue
        while pieces:
            rendering = model.render(pieces.pop(0), speed, band, rng)
            for samples in audible_parts(rendering, soon=not spoken):
                spoken = True
                final = not (rendering.frames_left or pieces or remaining or failure)
                yield Piece(to_pcm16(resampler.process(samples, final=final)), final)
                if final:
                    return
    if spoken:
        yield Piece(to_pcm16(resampler.flush()), final=failure is None)
    if failure is not None:
        raise failure


def _phrases(model: VoiceModel, text: str, phonemes: str | None) -> list[Callable[[], list[str]]]:
    """What is to be spoken, sentence by sentence: each gives its phonemes in pieces."""
    pieces = model.pronounce(phonemes) if phonemes else None
    if pieces is not None:
        return [pieces.copy]
    return [partial(model.phonemize, sentence) for sentence in sentences(text)]


def load_models(names: set[str]) -> dict[str, VoiceModel]:
    """Load models by name; those of one accent share its G2P. Raises EngineError if one cannot be had."""
    paths = {name: _model_path(name) for name in sorted(names)}
    vocabulary = json.loads((Path(ASSETS) / "vocab.json").read_text(encoding="utf-8"))
    accents = {bool(VOICES[name]["british"]) for name in names}
    g2p = {british: load_g2p(british) for british in accents}
    return {
        name: VoiceModel(_open(name, path), g2p[bool(VOICES[name]["british"])], vocabulary)
        for name, path in paths.items()
    }


def _model_path(name: str) -> str:
    try:
        path: str = voice_path(name, download_missing=False)
    except ValueError:
        raise EngineError(f"there is no voice model {name!r}; hibari has {', '.join(VOICES)}") from None
    except FileNotFoundError as error:
        url = BASE_URL + VOICES[name]["file"]
        raise EngineError(f"the model of voice {name!r} is not here: fetch {url} and put it at {error}") from None
    return path


def _open(name: str, path: str) -> Network:
    try:
        return Network(path, (NARROW, WIDE))
    # ONNX's and ONNX Runtime's exceptions share no base but Exception.
    except Exception as error:
        raise EngineError(f"the model of voice {name!r} at {path} cannot be loaded: {error}") from error
