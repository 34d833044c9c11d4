"""The names that the bundle's graphs must have, and what can be read from them: checked once, at load.

From the model card of ResembleAI/chatterbox-turbo-ONNX, which feeds and reads the graphs by these names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tts_engine.onnx_bundle.faults import BundleError
from tts_engine.onnx_bundle.files import CONDITIONAL_DECODER, EMBED_TOKENS, LANGUAGE_MODEL, SPEECH_ENCODER

INPUTS: dict[str, tuple[str, ...]] = {
    SPEECH_ENCODER: ("audio_values",),
    EMBED_TOKENS: ("input_ids",),
    LANGUAGE_MODEL: ("inputs_embeds", "attention_mask", "position_ids"),
    CONDITIONAL_DECODER: ("speech_tokens", "speaker_embeddings", "speaker_features"),
}
"And the language model's caches: past_key_values.N.key and .value."

OUTPUTS: dict[str, tuple[str, ...]] = {
    SPEECH_ENCODER: ("audio_features", "audio_tokens", "speaker_embeddings", "speaker_features"),
    EMBED_TOKENS: ("inputs_embeds",),
    LANGUAGE_MODEL: ("logits",),
    CONDITIONAL_DECODER: ("waveform",),
}
"And present.N.key and .value."

DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
"By ONNX Runtime's names for them."

_PAST = re.compile(r"past_key_values\.(\d+)\.(?:key|value)")


@dataclass(frozen=True)
class CacheLayout:
    """Of the language model's keys and values: 2 * layers arrays (1, heads, positions, width)."""

    layers: int
    heads: int
    width: int
    dtype: npt.DTypeLike

    @property
    def past(self) -> list[str]:
        """Names of the inputs."""
        return [f"past_key_values.{layer}.{kind}" for layer in range(self.layers) for kind in ("key", "value")]

    @property
    def present(self) -> list[str]:
        """Names of the outputs, in the same order."""
        return [f"present.{layer}.{kind}" for layer in range(self.layers) for kind in ("key", "value")]


def check_interface(part: str, session: Any) -> None:
    """Raises BundleError, which names every input and output that is missing, or that nobody would feed."""
    inputs, outputs = _names(session.get_inputs()), _names(session.get_outputs())
    wanted_inputs, wanted_outputs = list(INPUTS[part]), list(OUTPUTS[part])
    if part == LANGUAGE_MODEL:
        cache = _named_cache(inputs)
        wanted_inputs += cache.past
        wanted_outputs += cache.present
    problems = [
        *(f"no input {name}" for name in wanted_inputs if name not in inputs),
        *(f"no output {name}" for name in wanted_outputs if name not in outputs),
        *(f"an input {name}, which Turbo's has not" for name in inputs if name not in wanted_inputs),
        *(f"an input {port.name} of {port.type}" for port in session.get_inputs() if port.type not in DTYPES),
    ]
    if problems:
        raise BundleError(f"this {part} is not that of chatterbox-turbo-ONNX: it has {'; '.join(problems)}")


def cache_layout(session: Any) -> CacheLayout:
    """Read from the language model's inputs. Raises BundleError where they do not say it, or do not agree."""
    ports = {port.name: port for port in session.get_inputs()}
    found = {_layout_of(port) for name, port in ports.items() if _PAST.fullmatch(name)}
    if len(found) != 1:
        raise BundleError(f"the language_model's caches differ in shape or type: {sorted(map(str, found))}")
    heads, width, kind = found.pop()
    if not isinstance(heads, int) or not isinstance(width, int):
        raise BundleError(f"the language_model's caches have no fixed heads and width: ({heads}, {width})")
    return CacheLayout(_named_cache(list(ports)).layers, heads, width, DTYPES[kind])


def input_dtypes(session: Any) -> dict[str, npt.DTypeLike]:
    """By input name."""
    return {port.name: DTYPES[port.type] for port in session.get_inputs()}


def _layout_of(port: Any) -> tuple[object, object, str]:
    shape = list(port.shape)
    if len(shape) != 4:
        raise BundleError(f"the language_model's {port.name} has {len(shape)} dimensions, not 4")
    return shape[1], shape[3], str(port.type)


def _named_cache(names: Sequence[str]) -> CacheLayout:
    """Layers up to the highest that is named, so that a gap is found missing; one at least."""
    layers = [int(match[1]) for name in names if (match := _PAST.fullmatch(name))]
    return CacheLayout(max(layers, default=0) + 1, 0, 0, np.float32)


def _names(ports: Sequence[Any]) -> list[str]:
    return [port.name for port in ports]
