"""What a graph has to be named like."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tts_engine.onnx_bundle.faults import BundleError
from tts_engine.onnx_bundle.files import PARTS
from tts_engine.onnx_bundle.interface import INPUTS, OUTPUTS, cache_layout, check_interface


@dataclass
class Port:
    name: str
    type: str = "tensor(float)"
    shape: list[object] = field(default_factory=lambda: ["batch", 16, "past", 64])


class Session:
    """Inputs and outputs of a graph that is not there."""

    def __init__(self, inputs: list[Port], outputs: list[Port]) -> None:
        self.inputs = inputs
        self.outputs = outputs

    def get_inputs(self) -> list[Port]:
        return self.inputs

    def get_outputs(self) -> list[Port]:
        return self.outputs


def session(part: str, layers: int = 24, kind: str = "tensor(float)") -> Session:
    caches = [f"{layer}.{half}" for layer in range(layers) for half in ("key", "value")]
    if part != "language_model":
        caches = []
    return Session(
        [*map(Port, INPUTS[part]), *(Port(f"past_key_values.{name}", kind) for name in caches)],
        [*map(Port, OUTPUTS[part]), *(Port(f"present.{name}", kind) for name in caches)],
    )


@pytest.mark.parametrize("part", PARTS)
def test_the_released_interface(part: str) -> None:
    check_interface(part, session(part))


@pytest.mark.parametrize("part", PARTS)
def test_the_synthetic_bundle_has_it(fp32: Path, fp16: Path, part: str) -> None:
    for path in (fp32 / "onnx" / f"{part}.onnx", fp16 / "onnx" / f"{part}_fp16.onnx"):
        check_interface(part, onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]))


@pytest.mark.parametrize("part", PARTS)
def test_every_name_that_is_missing_is_named(part: str) -> None:
    given = session(part)
    lost_input, lost_output = given.inputs.pop(0), given.outputs.pop(0)
    with pytest.raises(BundleError) as raised:
        check_interface(part, given)
    assert f"no input {lost_input.name}" in str(raised.value)
    assert f"no output {lost_output.name}" in str(raised.value)
    assert part in str(raised.value)


def test_a_layer_without_its_value() -> None:
    given = session("language_model", layers=3)
    given.inputs = [port for port in given.inputs if port.name != "past_key_values.1.value"]
    given.outputs = [port for port in given.outputs if port.name != "present.2.key"]
    with pytest.raises(BundleError, match=r"no input past_key_values\.1\.value; no output present\.2\.key"):
        check_interface("language_model", given)


def test_no_caches_at_all() -> None:
    with pytest.raises(BundleError, match=r"no input past_key_values\.0\.key"):
        check_interface("language_model", session("language_model", layers=0))


def test_the_original_chatterbox_is_told_apart() -> None:
    given = session("embed_tokens")
    given.inputs += [Port("position_ids"), Port("exaggeration")]
    with pytest.raises(BundleError, match="an input exaggeration, which Turbo's has not"):
        check_interface("embed_tokens", given)


def test_a_type_that_nobody_feeds() -> None:
    given = session("speech_encoder")
    given.inputs[0].type = "tensor(bfloat16)"
    with pytest.raises(BundleError, match=r"audio_values of tensor\(bfloat16\)"):
        check_interface("speech_encoder", given)


@pytest.mark.parametrize(("kind", "dtype"), [("tensor(float)", np.float32), ("tensor(float16)", np.float16)])
def test_the_caches_layout_is_read_from_the_graph(kind: str, dtype: type) -> None:
    layout = cache_layout(session("language_model", 12, kind))
    assert (layout.layers, layout.heads, layout.width, layout.dtype) == (12, 16, 64, dtype)
    assert layout.past[:3] == ["past_key_values.0.key", "past_key_values.0.value", "past_key_values.1.key"]
    assert layout.present[-1] == "present.11.value"


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (["batch", "heads", "past", 64], "no fixed heads"),
        (["batch", 16, "past"], "3 dimensions"),
        (["batch", 8, "past", 64], "differ"),
    ],
)
def test_caches_that_say_nothing_of_their_layout(shape: list[object], message: str) -> None:
    given = session("language_model", 2)
    changed = given.inputs[3:] if message != "differ" else given.inputs[-1:]
    for port in changed:
        port.shape = shape
    with pytest.raises(BundleError, match=message):
        cache_layout(given)
