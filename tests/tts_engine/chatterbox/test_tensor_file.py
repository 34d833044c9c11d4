"""Reading safetensors: equal to the safetensors library, and what it says of files that are none."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tts_engine.chatterbox import tensor_file
from tts_engine.chatterbox.tensor_file import TensorFile, TensorFileError

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(1)
    tensors = {
        "a": torch.randn(3, 5, generator=generator),
        "b.half": torch.randn(7, generator=generator).half(),
        "c.bfloat": torch.randn(2, 3, 4, generator=generator).bfloat16(),
        "ids": torch.arange(9),
        "scalar": torch.tensor(2.5),
        "nothing": torch.zeros(0, 4),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


def refused(path: Path, *said: str) -> None:
    with pytest.raises(TensorFileError) as caught:
        TensorFile(path)
    for part in (path.name, *said):
        assert part in str(caught.value)


def test_names_shapes_and_dtypes(file: Path) -> None:
    with TensorFile(file) as tensors:
        expected = load_file(file)
        assert tensors.shapes == {name: tuple(tensor.shape) for name, tensor in expected.items()}
        assert tensors.dtypes == {name: tensor.dtype for name, tensor in expected.items()}


@pytest.mark.parametrize("dtype", FLOATS)
def test_tensors_are_those_of_the_library(file: Path, dtype: torch.dtype) -> None:
    expected = load_file(file)
    with TensorFile(file) as tensors:
        for name, tensor in expected.items():
            got = tensors.read(name, dtype)
            assert got.dtype == dtype and got.is_contiguous()
            assert torch.equal(got, tensor.to(dtype))


def test_integers_are_read_as_they_are(file: Path) -> None:
    with TensorFile(file) as tensors:
        assert torch.equal(tensors.read("ids", torch.int64), torch.arange(9))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 32, 1000])
def test_blocks_join_without_a_seam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(tensor_file, "_BLOCK_BYTES", 64)
    tensor = torch.randn(count, generator=torch.Generator().manual_seed(count))
    save_file({"x": tensor}, tmp_path / "x.safetensors")
    with TensorFile(tmp_path / "x.safetensors") as tensors:
        assert torch.equal(tensors.read("x", dtype), tensor.to(dtype))


def test_what_is_read_outlives_the_file(file: Path) -> None:
    expected = load_file(file)["a"].clone()
    with TensorFile(file) as tensors:
        got = tensors.read("a", torch.float32)
    file.write_bytes(b"\xff" * file.stat().st_size)
    file.unlink()
    assert torch.equal(got, expected)


def test_tensors_are_not_mapped(file: Path) -> None:
    with TensorFile(file) as tensors:
        tensors.read("a", torch.float32)
        assert str(file) not in Path("/proc/self/maps").read_text()


def test_unknown_name(file: Path) -> None:
    with TensorFile(file) as tensors, pytest.raises(KeyError):
        tensors.read("zzz", torch.float32)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "No such file")
    (tmp_path / "dir.safetensors").mkdir()
    refused(tmp_path / "dir.safetensors", "directory")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"abc", "truncated"),
        (b"<!DOCTYPE html><html>not found</html>", "is a text file, not a safetensors file; it begins '<!DOCTYPE"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "Git LFS pointer"),
        (bytes(4096), "zeros"),
        (b"\x80\x02}q\x00X\x05\x00\x00\x00model" + bytes(range(200)), "not a safetensors file"),
        (struct.pack("<Q", 1000) + b'{"a":', "truncated: it ends within its header"),
        (struct.pack("<Q", 5) + b'{"a":', "damaged"),
        (struct.pack("<Q", 7) + b'{"a":1}', "damaged"),
        (struct.pack("<Q", 2**62) + b"{}", "not a safetensors file"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "t3_turbo_v1.safetensors"
    path.write_bytes(content)
    refused(path, said)


def test_every_truncation_is_noticed(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for length in range(len(whole)):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(whole[:length])
        refused(path)


def test_a_file_cut_short_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(1000)}, path)
    with TensorFile(path) as tensors:
        with path.open("r+b") as handle:
            handle.truncate(200)
        with pytest.raises(TensorFileError, match=r"x\.safetensors was cut short"):
            tensors.read("x", torch.float32)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
        {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]},
        {"shape": [1]},
        [],
    ],
)
def test_headers_that_contradict_themselves(tmp_path: Path, entry: object) -> None:
    header = json.dumps({"x": entry}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    refused(path, "damaged")


def test_a_dtype_that_no_released_file_has(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    refused(path, "x as F8_E4M3")


@settings(max_examples=200)
@given(st.binary(max_size=300), st.booleans())
def test_garbage_is_refused_in_words(tmp_path_factory: pytest.TempPathFactory, content: bytes, as_header: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.safetensors"
    path.write_bytes(struct.pack("<Q", len(content) + 1) + b"{" + content if as_header else content)
    try:
        TensorFile(path).close()
    except TensorFileError as error:
        assert str(error).startswith("garbage.safetensors ")


def test_a_header_with_a_number_beyond_all_bounds_is_damage(tmp_path: Path) -> None:
    header = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}'
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(TensorFileError, match="damaged"):
        TensorFile(path)
