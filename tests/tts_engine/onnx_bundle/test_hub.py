"""Downloading a bundle in one precision, and finding it again, against a small hub on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.tts_engine.chatterbox.fake_hub import FakeHub, serving
from tts_engine.chatterbox.hub import HubError
from tts_engine.onnx_bundle.faults import BundleError
from tts_engine.onnx_bundle.files import PARTS, REPOSITORY, SUFFIXES
from tts_engine.onnx_bundle.hub import fetch_bundle, find_bundle, patterns


def released() -> dict[str, bytes]:
    files = {"tokenizer.json": b"{}", "README.md": b"not wanted", "default_voice.wav": b"RIFF"}
    for part in PARTS:
        for suffix in SUFFIXES.values():
            graph = f"{part}{suffix}.onnx"
            files[f"onnx/{graph}"] = f"\x1a{graph}_data\x1a".encode()
            files[f"onnx/{graph}_data"] = b"weights"
    split = "onnx/language_model.onnx"
    files[split] += b"\x1clanguage_model.onnx_data_1\x1a"
    files[f"{split}_data_1"] = b"more weights"
    return files


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(FakeHub(released(), repo_id=REPOSITORY)) as running:
        yield running


def fetched(fake: FakeHub, tmp_path: Path, to: Path | None = None, **wanted: object) -> Path:
    return fetch_bundle(to=to, cache=tmp_path / "cache", endpoint=fake.url, progress=False, **wanted)  # type: ignore[arg-type]


def names(directory: Path) -> set[str]:
    return {
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file() and ".cache" not in str(path)
    }


@pytest.mark.parametrize("precision", SUFFIXES)
def test_one_precision_is_fetched(fake: FakeHub, tmp_path: Path, precision: str) -> None:
    directory = fetched(fake, tmp_path, tmp_path / "to", precision=precision)
    graphs = {f"onnx/{part}{SUFFIXES[precision]}.onnx" for part in PARTS}
    expected = {"tokenizer.json", "default_voice.wav", *graphs, *(f"{graph}_data" for graph in graphs)}
    if precision == "fp32":
        expected.add("onnx/language_model.onnx_data_1")
    assert names(directory) == expected


def test_single_parts_in_another_precision(fake: FakeHub, tmp_path: Path) -> None:
    parts = {"conditional_decoder": "fp32"}
    directory = fetched(fake, tmp_path, tmp_path / "to", precision="q4f16", part_precision=parts)
    found = names(directory)
    assert {"onnx/conditional_decoder.onnx", "onnx/language_model_q4f16.onnx"} <= found
    assert not {"onnx/conditional_decoder_q4f16.onnx", "onnx/language_model.onnx"} & found


def test_it_is_found_in_the_cache(fake: FakeHub, tmp_path: Path) -> None:
    assert find_bundle(REPOSITORY, "q4") is None
    directory = fetched(fake, tmp_path, precision="q4")
    assert find_bundle(REPOSITORY, "q4") == directory
    assert find_bundle(REPOSITORY, "fp16") is None
    (directory / "onnx" / "language_model_q4.onnx_data").unlink()
    assert find_bundle(REPOSITORY, "q4") is None


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    assert find_bundle(str(tmp_path), "q4") == tmp_path
    assert find_bundle("", "q4") is None
    assert find_bundle("no/such/repository", "q4") is None


def test_a_repository_that_is_no_bundle(fake: FakeHub, tmp_path: Path) -> None:
    del fake.files["onnx/embed_tokens_q4.onnx_data"]
    with pytest.raises(HubError, match=r"not a whole ONNX bundle: onnx/embed_tokens_q4\.onnx_data"):
        fetched(fake, tmp_path, precision="q4")


def test_a_precision_that_there_is_not(fake: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="'int8'"):
        fetched(fake, tmp_path, precision="int8")
    assert not fake.asked


def test_a_file_in_the_way(fake: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "to").write_text("")
    with pytest.raises(HubError, match="not a directory"):
        fetched(fake, tmp_path, tmp_path / "to")


def test_nothing_else_is_asked_for() -> None:
    assert patterns("q4")[:2] == ["tokenizer.json", "default_voice.wav"]
    assert all(pattern.startswith("onnx/") and "_q4.onnx" in pattern for pattern in patterns("q4")[2:])
