"""The language model with its caches: text in, logits of speech tokens out, token by token.

Caches stay where the session runs, as OrtValues that are bound from one step's outputs to the next one's inputs. On
a GPU 137 MB (24 layers, 16 heads, 700 positions, float32) would else cross the bus twice a step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]

from tts_engine.onnx_bundle.interface import cache_layout, input_dtypes
from tts_engine.onnx_bundle.sessions import NVIDIA, Array, run

logger = logging.getLogger(__name__)

AGREEMENT = 0.05
"""Relative RMS difference of logits, up to which a prefix read ahead counts as equal. A graph that loses the cache is
off by about 1; one with activations quantised per tensor (q8) by some hundredths."""


@dataclass(frozen=True)
class Cache:
    """Keys and values of so many positions. No run changes it, so that many may start from one."""

    values: tuple[Any, ...]
    "OrtValues in the order of CacheLayout.past."
    positions: int


@dataclass(frozen=True)
class VoicePrefix:
    """What every utterance in a voice begins with."""

    features: Array
    "(1, n, width): the speech encoder's audio_features."
    cache: Cache | None
    "After `features`; None: the model reads them again with each text."


class LanguageModel:
    """Two graphs: ids to embeddings, and embeddings with caches to logits. Safe to use from several threads."""

    def __init__(self, embed: Any, model: Any) -> None:
        """Sessions of embed_tokens and language_model. Raises BundleError if the caches cannot be made out."""
        self._embed = embed
        self._model = model
        self.layout = cache_layout(model)
        self._dtypes = input_dtypes(model)
        self._device = "cuda" if model.get_providers()[0] in NVIDIA else "cpu"
        self._read_ahead: bool | None = None

    def prefix(self, features: Array, text: Sequence[int], options: Any = None) -> VoicePrefix:
        """Read a voice's features ahead, if this model gives the same logits of `text` then (found out once).

        `options`, here and below: RunOptions, by which a run under way can be ended (it raises then).
        """
        _, cache = self._run(features, self._empty(), options)
        if self._read_ahead is None:
            self._read_ahead = self._agrees(features, cache, text, options)
            if not self._read_ahead:
                logger.warning("this language_model takes no text after a cache: each utterance begins slower")
        return VoicePrefix(features, cache if self._read_ahead else None)

    def begin(
        self, prefix: VoicePrefix, text: Sequence[int], options: Any = None
    ) -> tuple[npt.NDArray[np.float32], Cache]:
        """Ids as the tokenizer gives them (START included), to the first token's logits (V,) and the cache."""
        embeds = self._embeds(text, options)
        if prefix.cache is not None:
            return self._run(embeds, prefix.cache, options)
        return self._run(np.concatenate([prefix.features, embeds], axis=1), self._empty(), options)

    def step(self, token: int, cache: Cache, options: Any = None) -> tuple[npt.NDArray[np.float32], Cache]:
        """One speech token further: the next one's logits (V,) and the longer cache."""
        return self._run(self._embeds([token], options), cache, options)

    def _embeds(self, ids: Sequence[int], options: Any = None) -> Array:
        return run(self._embed, {"input_ids": np.asarray([list(ids)], np.int64)}, options)["inputs_embeds"]

    def _empty(self) -> Cache:
        layout = self.layout
        nothing = np.zeros((1, layout.heads, 0, layout.width), layout.dtype)
        return Cache(tuple(onnxruntime.OrtValue.ortvalue_from_numpy(nothing) for _ in layout.past), 0)

    def _run(self, embeds: Array, past: Cache, options: Any = None) -> tuple[npt.NDArray[np.float32], Cache]:
        positions = past.positions + embeds.shape[1]
        feeds = {
            "inputs_embeds": embeds,
            "attention_mask": np.ones((1, positions)),
            "position_ids": np.arange(past.positions, positions)[None],
        }
        binding = self._model.io_binding()
        bound = {name: np.ascontiguousarray(array, self._dtypes[name]) for name, array in feeds.items()}
        for name, array in bound.items():
            binding.bind_cpu_input(name, array)
        for name, value in zip(self.layout.past, past.values, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("logits", "cpu")
        for name in self.layout.present:
            binding.bind_output(name, self._device)
        self._model.run_with_iobinding(binding, options)
        logits, *present = binding.get_outputs()
        return logits.numpy()[0, -1].astype(np.float32), Cache(tuple(present), positions)

    def _agrees(self, features: Array, cache: Cache, text: Sequence[int], options: Any) -> bool:
        at_once, _ = self.begin(VoicePrefix(features, None), text, options)
        try:
            ahead, _ = self.begin(VoicePrefix(features, cache), text, options)
        # Whatever a graph raises that was not made for it (ONNX Runtime's exceptions have no base of their own).
        except Exception as error:
            if options is not None and options.terminate:
                raise
            logger.debug("reading ahead failed: %s", error)
            return False
        return relative_difference(ahead, at_once) <= AGREEMENT


def relative_difference(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """RMS of the difference over the RMS of `other` without its mean, to which logits are indifferent."""
    spread = np.std(other, dtype=np.float64)
    return float(np.std(one.astype(np.float64) - other) / max(spread, 1e-12))
