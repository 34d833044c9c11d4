"""A voice's network, taken apart so that it can be run over some of the frames.

Its graph (package hibari-tts, "ONNX interface" in its README) is a transformer over the phonemes, which decides on
durations and pitch, and a decoder of convolutions over frames of 12.5 ms, which is two thirds of the work. In one
piece it has a caller wait for the end of a sentence before its beginning is heard.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.shape_inference
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.utils import Extractor

from tts_engine.embedded.onnx import open_session
from tts_engine.embedded.waveform import PARTS, Band
from tts_engine.resample import Samples

_IDS, _SPEED, _PITCH = "ids", "speed", "f0"
_BINS = 601


class Features(NamedTuple):
    """What is to be spoken: of each frame, what the decoder takes, and the pitch."""

    frames: Samples
    "[1, channels, frames]"
    f0: Samples
    "Hz, [frames]; below 40 without voice."


class Network:
    """Any number of threads may run it at once, each on its own core."""

    def __init__(self, path: str, bands: tuple[Band, ...]) -> None:
        """Raises ValueError for a graph that is not of the architecture, and what ONNX Runtime raises."""
        model = onnx.shape_inference.infer_shapes(onnx.load(path))  # files need not tell what is within
        self._features = _input_of(model.graph, "m.dec_in.weight")
        self._normed = _output_of(model.graph, "m.dec_norm.bias")
        self._spectra = _output_of(model.graph, "m.head.bias")
        parts = Extractor(model)
        self._planner = _open(parts.extract_model([_IDS, _SPEED], [self._features, _PITCH]))
        decoder = parts.extract_model([self._features], [self._normed])
        self._halo = _halo(decoder.graph)
        self._decoder = _open(decoder)
        head = parts.extract_model([self._normed], [self._spectra])
        self._heads = {band: _open(_low_bins(head, band.bins)) for band in bands}

    def plan(self, ids: NDArray[np.int64], speed: float) -> Features:
        """ids: symbols of what is spoken, [symbols]; speed: 1.0 is the pace that the model learnt."""
        inputs = {_IDS: ids[None], _SPEED: np.asarray([speed], np.float32)}
        frames, f0 = self._planner.run([self._features, _PITCH], inputs)
        return Features(frames, f0[0])

    def decode(self, features: Features, begin: int, end: int, band: Band) -> Samples:
        """The spectra of frames `begin` to `end`: [end - begin, PARTS * band.bins].

        Up to the rounding of its 8-bit products, whose scale is that of the frames decoded together, they are what
        decoding all frames at once gives.
        """
        first = max(0, begin - self._halo)
        (normed,) = self._decoder.run(None, {self._features: features.frames[:, :, first : end + self._halo]})
        (spectra,) = self._heads[band].run(None, {self._normed: normed[:, begin - first : end - first]})
        parts: Samples = spectra[0]
        return parts


def _open(model: onnx.ModelProto) -> Any:
    return open_session(model.SerializeToString())


def _input_of(graph: onnx.GraphProto, parameter: str) -> str:
    name: str = _user(graph, parameter).input[0]
    return name


def _output_of(graph: onnx.GraphProto, parameter: str) -> str:
    name: str = _user(graph, parameter).output[0]
    return name


def _user(graph: onnx.GraphProto, parameter: str) -> onnx.NodeProto:
    """The node that has that parameter of the trained module: these names stay where those of nodes are numbered."""
    users: list[onnx.NodeProto] = [node for node in graph.node if parameter in node.input]
    if len(users) != 1:
        raise ValueError(f"not a network of the hibari voices: {len(users)} nodes use {parameter!r}")
    return users[0]


def _halo(decoder: onnx.GraphProto) -> int:
    """Frames to either side that it sees, through its convolutions one after the other: of 7 taps each, 27.

    Counted, as with one too few each joint of parts would sound a little wrong, and nothing would say so.
    """
    shapes = {parameter.name: parameter.dims for parameter in decoder.initializer}
    reach = 0
    for node in decoder.node:
        if node.op_type == "Conv":
            dilation = next((value.ints[0] for value in node.attribute if value.name == "dilations"), 1)
            reach += dilation * (shapes[node.input[1]][-1] // 2)
    return reach


def _low_bins(head: onnx.ModelProto, bins: int) -> onnx.ModelProto:
    """The head with the columns of the lowest bins of each part only. Raises ValueError for one of other columns."""
    kept = onnx.ModelProto()
    kept.CopyFrom(head)
    [bias] = [parameter for parameter in kept.graph.initializer if parameter.name == "m.head.bias"]
    if list(bias.dims) != [PARTS * _BINS]:
        raise ValueError(f"not a network of the hibari voices: {list(bias.dims)} columns, not {PARTS * _BINS}")
    columns = (np.arange(PARTS)[:, None] * _BINS + np.arange(bins)).reshape(-1)
    for parameter in kept.graph.initializer:
        if parameter.dims and parameter.dims[-1] == PARTS * _BINS:
            values = numpy_helper.to_array(parameter)
            parameter.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[..., columns]), parameter.name))
    del kept.graph.value_info[:]  # with the number of columns that there were
    kept.graph.output[0].type.tensor_type.ClearField("shape")
    return kept
