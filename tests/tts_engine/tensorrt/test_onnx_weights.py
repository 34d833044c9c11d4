from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, numpy_helper

from tts_engine.tensorrt.faults import BuildError
from tts_engine.tensorrt.onnx_weights import WeightsFile, read, storage_dtype, to_half

FLOATS = arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))


@given(FLOATS)
def test_bfloat16_is_rounded_as_pytorch_rounds_it(values: np.ndarray) -> None:
    wanted = torch.from_numpy(values.copy()).to(torch.bfloat16)
    given_ = torch.from_numpy(to_half(values, TensorProto.BFLOAT16, "w").view(np.int16).copy()).view(torch.bfloat16)
    assert torch.equal(given_.isnan(), wanted.isnan())
    assert torch.equal(given_[~wanted.isnan()], wanted[~wanted.isnan()])


@given(FLOATS)
def test_float16_is_rounded_as_pytorch_rounds_it_or_refused(values: np.ndarray) -> None:
    wanted = torch.from_numpy(values.copy()).to(torch.float16).numpy()
    if (np.isinf(wanted) & np.isfinite(values)).any():
        with pytest.raises(BuildError, match="65504"):
            to_half(values, TensorProto.FLOAT16, "w")
    else:
        np.testing.assert_array_equal(to_half(values, TensorProto.FLOAT16, "w"), wanted)


def test_a_tie_goes_to_the_even_bfloat16() -> None:
    bits = np.array([0x3F808000, 0x3F818000], np.uint32)  # halfway to the next one, from an even and an odd one
    assert to_half(bits.view(np.float32), TensorProto.BFLOAT16, "w").tolist() == [0x3F80, 0x3F82]


def test_an_overflow_names_the_weight_and_what_it_holds() -> None:
    with pytest.raises(BuildError, match=r"blocks\.1\.weight holds 7e\+04"):
        to_half(np.array([1.0, -70000.0], np.float32), TensorProto.FLOAT16, "blocks.1.weight")


@pytest.mark.parametrize("shape", [(3,), (40, 50), (600, 700), (0, 4), ()])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT64])
def test_what_is_written_is_read_again(tmp_path: Path, shape: tuple[int, ...], kind: int) -> None:
    dtype = storage_dtype(kind)
    generator = np.random.default_rng()
    before, values = (generator.integers(0, 99, size).astype(dtype) for size in ((77, 90), shape))
    with (tmp_path / "w.data").open("wb") as file:
        weights = WeightsFile(file, "w.data")
        weights.tensor("before", kind, before)
        tensor = weights.tensor("w", kind, values)
    assert tensor.data_type == kind
    again = read(tensor, tmp_path)
    assert again.dtype == dtype
    np.testing.assert_array_equal(again, values)


def test_small_tensors_stay_in_the_file_and_large_ones_begin_on_a_page(tmp_path: Path) -> None:
    with (tmp_path / "w.data").open("wb") as file:
        weights = WeightsFile(file, "w.data")
        small = weights.tensor("small", TensorProto.FLOAT, np.ones(8, np.float32))
        weights.tensor("odd", TensorProto.FLOAT, np.ones(1001, np.float32))
        large = weights.tensor("large", TensorProto.FLOAT, np.ones(1 << 19, np.float32))
    assert not small.external_data
    np.testing.assert_array_equal(numpy_helper.to_array(small), np.ones(8, np.float32))
    where = {entry.key: entry.value for entry in large.external_data}
    assert int(where["offset"]) % 4096 == 0
    assert where["location"] == "w.data"
    assert int(where["length"]) == 4 << 19


def test_a_file_that_is_too_short_is_named(tmp_path: Path) -> None:
    with (tmp_path / "w.data").open("wb") as file:
        tensor = WeightsFile(file, "w.data").tensor("blocks.0", TensorProto.FLOAT, np.ones(5000, np.float32))
    with (tmp_path / "w.data").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(BuildError, match=r"w\.data does not hold blocks\.0"):
        read(tensor, tmp_path)


def test_large_weights_are_mapped_not_copied(tmp_path: Path) -> None:
    with (tmp_path / "w.data").open("wb") as file:
        tensor = WeightsFile(file, "w.data").tensor("w", TensorProto.FLOAT, np.ones(5000, np.float32))
    assert isinstance(read(tensor, tmp_path), np.memmap)
