"""The network's parts give what the whole gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hibari.voices import voice_path
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sentences import TELEPHONE_SENTENCES
from tts_engine.embedded.model import VoiceModel
from tts_engine.embedded.network import Features, Network
from tts_engine.embedded.onnx import open_session
from tts_engine.embedded.waveform import NARROW, PARTS, WIDE, Band


def ids_of(heart: VoiceModel, sentence: str) -> np.ndarray:
    return np.asarray([0, *(heart._vocabulary[symbol] for symbol in heart.phonemize(sentence)[0]), 0], np.int64)


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.5])
@pytest.mark.parametrize("sentence", ["Yes.", *TELEPHONE_SENTENCES[:3]])
def test_all_frames_at_once_are_bit_for_bit_those_of_the_whole_network(
    heart: VoiceModel, sentence: str, speed: float
) -> None:
    ids = ids_of(heart, sentence)
    whole = open_session(voice_path("heart")).run(None, {"ids": ids[None], "speed": np.asarray([speed], np.float32)})
    features = heart._network.plan(ids, speed)
    np.testing.assert_array_equal(features.f0, whole[PARTS][0])
    for band in (NARROW, WIDE):
        expected = np.concatenate([part[0][: band.bins].T for part in whole[:PARTS]], axis=1)
        np.testing.assert_array_equal(heart._network.decode(features, 0, len(features.f0), band), expected)


@pytest.fixture(scope="module")
def features(heart: VoiceModel) -> Features:
    return heart._network.plan(ids_of(heart, TELEPHONE_SENTENCES[0]), 1.0)


@pytest.fixture(scope="module")
def whole(heart: VoiceModel, features: Features) -> dict[Band, np.ndarray]:
    return {band: heart._network.decode(features, 0, len(features.f0), band) for band in (NARROW, WIDE)}


@settings(max_examples=25)
@given(data=st.data(), band=st.sampled_from([NARROW, WIDE]))
def test_any_frames_are_those_of_the_whole_but_for_the_rounding(
    heart: VoiceModel, features: Features, whole: dict[Band, np.ndarray], data: st.DataObject, band: Band
) -> None:
    begin = data.draw(st.integers(0, len(features.f0) - 1))
    end = data.draw(st.integers(begin + 1, len(features.f0)))
    part = heart._network.decode(features, begin, end, band)
    expected = whole[band][begin:end]
    assert part.shape == (end - begin, PARTS * band.bins)
    difference = np.sqrt(np.mean((part - expected) ** 2))
    assert difference < 0.25  # of log magnitudes and phases that spread over some 5: 0.05, and of one frame 0.16
    assert difference < 0.1 * np.std(expected)


def test_the_halo_is_all_that_the_decoder_sees(heart: VoiceModel, features: Features) -> None:
    """What lies beyond changes nothing but the scale of the 8-bit products; what lies within does."""

    def moved(frame: int) -> float:
        frames = features.frames.copy()
        frames[:, :, frame] *= 0.5  # within the range of the others: the scale stays
        part = heart._network.decode(Features(frames, features.f0), 100, 140, NARROW)
        return float(np.max(np.abs(part - heart._network.decode(features, 100, 140, NARROW))))

    assert moved(100 - 28) == moved(140 + 27) == 0.0
    assert min(moved(100 - 27), moved(140 + 26)) > 0.0


def shorten(model: onnx.ModelProto, taps: int) -> None:
    """Makes the kernel of the decoder's last block one of so many taps."""
    [weight] = [parameter for parameter in model.graph.initializer if parameter.name == "m.dec.7.dw.weight"]
    values = onnx.numpy_helper.to_array(weight)[..., :taps]
    weight.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), weight.name))
    [block] = [node for node in model.graph.node if weight.name in node.input]
    for attribute in block.attribute:
        if attribute.name == "kernel_shape":
            attribute.ints[:] = [taps]
        if attribute.name == "pads":
            attribute.ints[:] = [taps // 2, taps // 2]


def test_the_halo_is_counted(tmp_path: Path, heart: VoiceModel, features: Features) -> None:
    """A network that sees less, or more, is not decoded with the frames that ours needs."""
    model = onnx.load(voice_path("heart"))
    shorten(model, 3)
    onnx.save(model, tmp_path / "shorter.onnx")
    shorter = Network(str(tmp_path / "shorter.onnx"), (NARROW,))
    assert (heart._network._halo, shorter._halo) == (27, 25)
    assert shorter.decode(features, 100, 140, NARROW).shape == (40, PARTS * NARROW.bins)


def test_a_file_need_not_tell_the_shapes_within(tmp_path: Path, heart: VoiceModel, features: Features) -> None:
    model = onnx.load(voice_path("heart"))
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "bare.onnx")
    bare = Network(str(tmp_path / "bare.onnx"), (NARROW,))
    expected = heart._network.decode(features, 100, 140, NARROW)
    np.testing.assert_array_equal(bare.decode(features, 100, 140, NARROW), expected)


def test_another_graph_is_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("lh", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["ids"], ["lh"])], "other", [value], [out])
    path = tmp_path / "other.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    with pytest.raises(ValueError, match=r"0 nodes use 'm\.dec_in\.weight'"):
        Network(str(path), (NARROW,))


def test_a_spectrum_of_other_bins_is_refused(tmp_path: Path) -> None:
    """At once, not when the first text is spoken."""
    model = onnx.load(voice_path("heart"))
    for parameter in model.graph.initializer:
        if parameter.dims and parameter.dims[-1] == 601 * PARTS:
            values = onnx.numpy_helper.to_array(parameter)[..., : 513 * PARTS]
            parameter.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), parameter.name))
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"\[2565\] columns, not 3005"):
        Network(str(tmp_path / "other.onnx"), (NARROW,))
