"""The flow's stages: what their modules give, and that they go through ONNX with all sizes free."""

from __future__ import annotations

import pytest
import torch

from tests.tts_engine.tensorrt.s3gen import generator, small_flow
from tts_engine.chatterbox.flow import Flow, FlowSizes
from tts_engine.tensorrt.flow_stages import encoder_stage, estimator_stage
from tts_engine.tensorrt.ports import Stage
from tts_engine.tensorrt.profiles import PROFILES
from tts_engine.tensorrt.session import ModuleSession


@pytest.fixture(scope="module")
def flow() -> Flow:
    return small_flow()


def check_example(stage: Stage, dims: dict[str, int]) -> dict[str, torch.Tensor]:
    given = stage.example(dims, generator())
    assert list(given) == [port.name for port in stage.inputs]
    for port in stage.inputs:
        assert given[port.name].dtype == port.dtype(torch.float32), port.name
        assert tuple(given[port.name].shape) == port.sizes(dims), port.name
    outputs = ModuleSession(stage).run(given)
    for port in stage.outputs:
        assert outputs[port.name].dtype == port.dtype(torch.float32), port.name
        assert tuple(outputs[port.name].shape) == port.sizes(dims), port.name
    return given


@pytest.mark.parametrize("make", [encoder_stage, estimator_stage])
def test_examples_are_as_the_ports_say(flow: Flow, make: type[Stage]) -> None:
    stage = make(flow)
    name = stage.inputs[0].shape[1]
    assert isinstance(name, str)
    for rows, longest in ((1, 1), (3, 8), (2, 5)):
        given = check_example(stage, {"rows": rows, name: longest})
        lengths = given["lengths"]
        assert lengths[0] == longest
        assert lengths.min() >= 1
    assert {name, "rows"} == set(PROFILES[stage.name][0].dims)


def test_the_encoder_is_the_flow_s(flow: Flow) -> None:
    stage = encoder_stage(flow)
    given = stage.example({"rows": 3, "tokens": 9}, generator())
    mu = ModuleSession(stage).run(given)["mu"]
    for row, length in enumerate(given["lengths"].tolist()):
        alone = flow.encode(given["tokens"][row : row + 1, :length])[0]
        torch.testing.assert_close(mu[row, : 2 * length], alone, atol=1e-5, rtol=1e-5)


def test_the_estimator_is_the_flow_s(flow: Flow) -> None:
    stage, estimator = estimator_stage(flow), flow.decoder.estimator
    given = stage.example({"rows": 3, "frames": 9}, generator())
    for time in estimator.times():
        change = ModuleSession(stage).run({**given, "time": time})["change"]
        for row, length in enumerate(given["lengths"].tolist()):
            known = torch.cat((given["frames"], given["conditions"]), dim=-1)[row : row + 1, :length]
            torch.testing.assert_close(change[row, :length], estimator(known, time)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [encoder_stage, estimator_stage])
def test_a_row_that_is_empty_gives_numbers(flow: Flow, make: type[Stage]) -> None:
    stage = make(flow)
    given = stage.example({"rows": 2, "tokens": 6, "frames": 6}, generator())
    given["lengths"][1] = 0
    assert all(output.isfinite().all() for output in ModuleSession(stage).run(given).values())


@pytest.mark.parametrize("make", [encoder_stage, estimator_stage])
def test_in_half_precision_what_goes_in_and_out_is_float32(flow: Flow, make: type[Stage]) -> None:
    half = small_flow().to(torch.bfloat16)
    given = make(flow).example({"rows": 2, "tokens": 12, "frames": 12}, generator())
    (exact,) = ModuleSession(make(flow)).run(given).values()
    (rounded,) = ModuleSession(make(half)).run(given).values()
    assert rounded.dtype == torch.float32
    inside = torch.arange(exact.shape[1]) < given["lengths"][:, None] * (exact.shape[1] // 12)
    assert (rounded - exact)[inside].norm() < 0.05 * exact[inside].norm()


def test_ports_follow_the_flow_s_sizes() -> None:
    with torch.device("meta"):
        flow = Flow(FlowSizes(mid_blocks=1, transformers=1, layers=1, up_layers=1))
    assert encoder_stage(flow).outputs[0].shape == ("rows", "2*tokens", 80)
    estimator = estimator_stage(flow)
    assert [port.shape for port in estimator.inputs] == [
        ("rows", "frames", 80),
        ("rows", "frames", 240),
        (3, 256),
        ("rows",),
    ]
    assert estimator_stage(small_flow()).module.estimator is not flow.decoder.estimator


def test_weights_are_shared(flow: Flow) -> None:
    shared = {id(parameter) for parameter in flow.parameters()}
    for stage in (encoder_stage(flow), estimator_stage(flow)):
        assert {id(parameter) for parameter in stage.module.parameters()} <= shared
