"""T3's stages as they are: their ports, their examples, in half precision, and as ONNX at sizes of any kind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tts_engine.tensorrt.t3_cases import MOST_PREFIX, SIZES, TINY, fresh, make_t3, make_voices
from tts_engine.chatterbox.paged_t3 import PAGE
from tts_engine.chatterbox.t3 import T3
from tts_engine.tensorrt.ports import Stage
from tts_engine.tensorrt.prefix_tiles import most_tiles
from tts_engine.tensorrt.t3_stages import prefill_stage, step_stage

STAGES = {"t3_prefill": prefill_stage, "t3_step": step_stage}

SIZES_OF: dict[str, list[dict[str, int]]] = {
    "t3_prefill": [
        {"rows": 1, "text": 1, "voices": 1},
        {"rows": 3, "text": 40, "voices": 2},
        {"rows": 8, "text": 9, "voices": 5},
    ],
    "t3_step": [
        {"rows": 1, "pages": 1, "tiles": 1, "pool": 1, "voices": 1},
        {"rows": 19, "pages": 3, "tiles": 2, "pool": 40, "voices": 3},
        {"rows": 33, "pages": 5, "tiles": 8, "pool": 11, "voices": 6},
    ],
}
CASES = [(name, sizes) for name, cases in SIZES_OF.items() for sizes in cases]


def all_sizes(sizes: dict[str, int]) -> dict[str, int]:
    return {**sizes, "positions": sizes.get("text", 0) + 1}


def run(stage: Stage, example: dict[str, Tensor]) -> list[Tensor]:
    with torch.inference_mode():
        return list(stage.module(*(example[port.name] for port in stage.inputs)))


@pytest.fixture(scope="module")
def t3() -> T3:
    with torch.inference_mode():
        return make_t3(fresh(), TINY)


@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_examples_and_results_are_as_the_ports_say(t3: T3, name: str, sizes: dict[str, int]) -> None:
    stage = STAGES[name](t3, most_prefix=MOST_PREFIX)
    assert stage.name == name
    example = stage.example(sizes, fresh())
    assert list(example) == [port.name for port in stage.inputs]
    for ports, tensors in ((stage.inputs, list(example.values())), (stage.outputs, run(stage, example))):
        for port, tensor in zip(ports, tensors, strict=True):
            assert tuple(tensor.shape) == port.sizes(all_sizes(sizes)), port.name
            assert tensor.dtype == port.dtype(torch.float32), port.name
            if tensor.is_floating_point():
                assert tensor.isfinite().all()


def test_an_example_is_such_as_the_model_meets(t3: T3) -> None:
    generator = fresh()
    voices = make_voices(t3, generator, (5, 70))
    sizes = {"rows": 40, "pages": 4, "tiles": 8, "pool": 9, "voices": 7}
    example = step_stage(t3, voices, most_prefix=MOST_PREFIX).example(sizes, generator)
    assert example["prefix_lengths"].tolist() == [6, 71, 6, 71, 6, 71, 6]
    bank = example["prefixes"].unflatten(0, (7, -1, 2))
    assert torch.equal(bank[3, :, 1, :, :71], voices[1].values)
    assert not bank[3, :, :, :, 71:].any()
    tile, within = example["place"] // 16, example["place"] % 16
    assert torch.equal(example["tile_rows"][tile, within], torch.arange(40, dtype=torch.int32))
    assert torch.equal(example["tile_voice"][tile], example["voice"])
    assert int(example["own"].max()) < 4 * PAGE
    heads = voices[0].values[1].transpose(0, 1)
    page = example["pages_1"].unflatten(0, (-1, 2))[4, 1].transpose(0, 1)
    assert all(any(torch.equal(position, other) for other in heads) for position in page)
    prefill = prefill_stage(t3, voices, most_prefix=MOST_PREFIX).example({"rows": 9, "text": 5, "voices": 2}, generator)
    assert int(prefill["lengths"].max()) == 5
    assert torch.equal(prefill["prefixes"].unflatten(0, (2, -1, 2))[0, :, 0, :, :6], voices[0].keys)


def test_rows_that_fit_no_tiles_are_refused(t3: T3) -> None:
    sizes = {"rows": 33, "pages": 1, "tiles": 2, "pool": 1, "voices": 4}
    with pytest.raises(ValueError, match="33 rows do not fit 2 tiles"):
        step_stage(t3, most_prefix=MOST_PREFIX).example(sizes, fresh())


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_in_half_precision_only_products_are_rounded(name: str, dtype: torch.dtype) -> None:
    generator = fresh()
    t3 = make_t3(generator, SIZES)
    stage = STAGES[name](t3, most_prefix=MOST_PREFIX)
    example = stage.example(SIZES_OF[name][1], generator)
    exact, _ = run(stage, example)
    t3.to(dtype)
    rounded = {port.name: example[port.name].to(port.dtype(dtype)) for port in stage.inputs}
    logits, kept = run(stage, rounded)
    assert (logits.dtype, kept.dtype) == (torch.float32, dtype)
    error = (logits - exact).pow(2).mean().sqrt() / exact.std()
    assert error < 12 * torch.finfo(dtype).eps


def test_a_stage_shares_the_model_s_weights(t3: T3) -> None:
    weights = {weight.data_ptr() for weight in t3.parameters()}
    for make in STAGES.values():
        assert {weight.data_ptr() for weight in make(t3).module.parameters()} == weights


def test_more_tiles_than_needed_change_nothing(t3: T3) -> None:
    generator = fresh()
    stage = step_stage(t3, most_prefix=MOST_PREFIX)
    example = stage.example({"rows": 20, "pages": 2, "tiles": most_tiles(20, 4), "pool": 5, "voices": 4}, generator)
    logits, kept = run(stage, example)
    more = 3
    example["tile_rows"] = torch.cat((example["tile_rows"], torch.zeros(more, 16, dtype=torch.int32)))
    example["tile_voice"] = torch.cat((example["tile_voice"], torch.ones(more, dtype=torch.int32)))
    wider = run(stage, example)
    torch.testing.assert_close(wider[0], logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(wider[1], kept, atol=1e-5, rtol=0)
