"""Which files a bundle needs, and how what is missing is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.tts_engine.onnx_bundle.synthetic_bundle import write_bundle
from tts_engine.onnx_bundle.faults import BundleError
from tts_engine.onnx_bundle.files import PARTS, SUFFIXES, external_data, find_files, graph_names, missing_files


@pytest.fixture
def copy(fp32: Path, tmp_path: Path) -> Path:
    """A bundle to damage."""
    return Path(shutil.copytree(fp32, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("precision", "name"),
    [
        ("fp32", "language_model.onnx"),
        ("fp16", "language_model_fp16.onnx"),
        ("q8", "language_model_quantized.onnx"),
        ("q4", "language_model_q4.onnx"),
        ("q4f16", "language_model_q4f16.onnx"),
    ],
)
def test_the_released_names(precision: str, name: str) -> None:
    assert graph_names(precision, {})["language_model"] == name
    assert set(graph_names(precision, {})) == set(PARTS)


def test_a_whole_bundle(fp32: Path) -> None:
    files = find_files(fp32, "fp32")
    assert set(files.graphs) == set(PARTS)
    assert files.default_voice == fp32 / "default_voice.wav"
    assert files.tokenizer == fp32 / "tokenizer.json"


def test_a_voice_is_not_needed(copy: Path) -> None:
    (copy / "default_voice.wav").unlink()
    assert find_files(copy, "fp32").default_voice is None


def test_all_that_is_missing_is_named_at_once(copy: Path) -> None:
    gone = ["tokenizer.json", "onnx/embed_tokens.onnx", "onnx/language_model.onnx_data"]
    for name in gone:
        (copy / name).unlink()
    with pytest.raises(BundleError) as raised:
        find_files(copy, "fp32")
    for name in [*gone, str(copy), "fetch-model onnx"]:
        assert name in str(raised.value)
    for name in ("conditional_decoder", "speech_encoder", "embed_tokens.onnx_data"):
        assert f"- onnx/{name}" not in str(raised.value)


def test_of_a_graph_that_is_missing_the_weights_are_missing_too(copy: Path) -> None:
    for path in (copy / "onnx").glob("language_model*"):
        path.unlink()
    assert missing_files(copy, "fp32") == ["onnx/language_model.onnx", "onnx/language_model.onnx_data"]


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        find_files(tmp_path / "nowhere", "fp32")


def test_another_precision_is_there(fp32: Path) -> None:
    with pytest.raises(BundleError, match="it is whole in precision fp32"):
        find_files(fp32, "q4")


def test_parts_of_different_precision(copy: Path) -> None:
    write_bundle(copy, "q4f16")
    for path in (copy / "onnx").glob("conditional_decoder_q4f16*"):
        path.unlink()
    with pytest.raises(BundleError, match=r"onnx/conditional_decoder_q4f16\.onnx"):
        find_files(copy, "q4f16")
    files = find_files(copy, "q4f16", {"conditional_decoder": "fp32"})
    assert files.graphs["conditional_decoder"].name == "conditional_decoder.onnx"
    assert files.graphs["language_model"].name == "language_model_q4f16.onnx"


def test_an_unknown_precision_names_the_known_ones(fp32: Path) -> None:
    with pytest.raises(BundleError) as raised:
        find_files(fp32, "int4")
    assert "'int4'" in str(raised.value)
    assert all(known in str(raised.value) for known in SUFFIXES)


def test_an_unknown_part_names_the_known_ones(fp32: Path) -> None:
    with pytest.raises(BundleError) as raised:
        find_files(fp32, "fp32", {"vocoder": "q4"})
    assert "'vocoder'" in str(raised.value)
    assert all(known in str(raised.value) for known in PARTS)


def test_weights_in_several_files(tmp_path: Path) -> None:
    graph = tmp_path / "language_model_fp16.onnx"
    # As in ONNX's protocol buffer: key, length, name.
    entry = b"\x0a\x08location\x12%c%s"
    names = [b"language_model_fp16.onnx_data", b"language_model_fp16.onnx_data_1", b"language_model_fp16.onnx_data"]
    graph.write_bytes(b"".join(entry % (len(name), name) + b"\x1a\x04rest" for name in names))
    assert external_data(graph) == ["language_model_fp16.onnx_data", "language_model_fp16.onnx_data_1"]


def test_weights_within_the_graph(fp32: Path, tmp_path: Path) -> None:
    assert external_data(fp32 / "onnx" / "speech_encoder.onnx") == []  # small constants only
    assert external_data(fp32 / "onnx" / "language_model.onnx") == ["language_model.onnx_data"]
    (tmp_path / "empty.onnx").touch()
    assert external_data(tmp_path / "empty.onnx") == []
