from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.tensorrt.build_log import BuildLog, Phases, Tensor, dtype_name

REPORT = """Engine Layer Information:
Layers:
Name: __mye1_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: []
Name: node_MatMul_71_myl0_1, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [-1,-1,320] }], Metadata: [ONNX Layer: q]
Name: _gemm_mha_v2_myl0_2, LayerType: kgen, Inputs: [ { Name: y, Dimensions: [-1,64] }], Constants: []
Name: _gemm_mha_v2_myl0_3, LayerType: kgen, Inputs: []
Name: node_MatMul_71_myl1_0, LayerType: gemm, Inputs: []
Name: _gemm_mha_v2_myl1_1, LayerType: kgen, Inputs: []
Name: Shape copy, LayerType: ShapeHostToDevice, Inputs: []

Bindings:

I/O Tensors:
 Name: x, IOMode: Input, DataType: Half, Dimensions: [-1,-1,320], Location: Device, IsShapeInferenceIO: false, \
ProfileInfo: [ { MinShape: [1,16,320], OptShape: [8,640,320], MaxShape: [32,900,320], Format: linear (kLINEAR) }, \
{ MinShape: [1,1,320], OptShape: [2,3,320], MaxShape: [4,5,320], Format: linear (kLINEAR) }]
 Name: scale, IOMode: Input, DataType: Float, Dimensions: [], Location: Device, ProfileInfo: [ { MinShape: [], \
OptShape: [], MaxShape: [], Format: x }]
 Name: out, IOMode: Output, DataType: BFloat16, Dimensions: [-1,80], Location: Device, ProfileInfo: [ { Format: x }]

Engine Metadata:
 Multi-Device: Disabled
"""


def log_of(*messages: tuple[str, str]) -> BuildLog:
    log = BuildLog()
    for severity, message in messages:
        log.take(severity, message)
    return log


class TestReport:
    def test_tensors(self) -> None:
        x, scale, out = log_of(("VERBOSE", "before"), ("VERBOSE", REPORT), ("VERBOSE", "behind")).tensors()
        assert x == Tensor(
            "x",
            True,
            "float16",
            (-1, -1, 320),
            (((1, 16, 320), (8, 640, 320), (32, 900, 320)), ((1, 1, 320), (2, 3, 320), (4, 5, 320))),
        )
        assert (scale.shape, scale.dtype, scale.profiles) == ((), "float32", (((), (), ()),))
        assert out == Tensor("out", False, "bfloat16", (-1, 80), ())

    def test_kernels_are_those_of_one_profile(self) -> None:
        assert log_of(("VERBOSE", REPORT)).kernels() == {"shape_call": 1, "gemm": 1, "attention": 2}

    def test_without_a_report_nothing_is_known(self) -> None:
        log = log_of(("INFO", "Engine generation completed in 5.4 seconds."))
        assert (log.tensors(), log.kernels(), log.scratch_bytes, log.weights_bytes) == ((), {}, 0, 0)

    @given(st.text())
    def test_whatever_it_says_it_is_read(self, text: str) -> None:
        log = log_of(("VERBOSE", REPORT + text), ("INFO", text), ("ERROR", text))
        assert log.tensors()[0].name == "x"
        assert len(log.last_error()) <= 400

    def test_unknown_dtypes_keep_their_name(self) -> None:
        assert dtype_name("FP8") == "FP8"


class TestMemory:
    def test_of_several_profiles_the_largest_counts(self) -> None:
        log = log_of(
            ("INFO", "Max Scratch Memory: 302286848 bytes"),
            ("INFO", "Total Device Persistent Memory: 512 bytes"),
            ("INFO", "Max Scratch Memory: 8309248 bytes"),
            ("INFO", "Total Activation Memory: 302286848 bytes"),
            ("INFO", "Total Weights Memory: 29839104 bytes"),
        )
        assert log.scratch_bytes == 302286848 + 512
        assert log.weights_bytes == 29839104


class TestErrors:
    def test_the_first_is_the_cause_and_takes_one_line(self) -> None:
        log = log_of(("WARNING", "w"), ("ERROR", "In node 5:\n  not supported"), ("INTERNAL_ERROR", "then this"))
        assert log.last_error() == "In node 5: not supported"
        assert log.warnings == ["w"]
        assert len(log.errors) == 2

    def test_none(self) -> None:
        assert BuildLog().last_error() == ""


class TestPhases:
    def test_a_phase_counts_as_a_step_of_its_parent(self) -> None:
        told: list[float] = []
        phases = Phases(told.append)
        phases.start("build", None, 2)
        phases.start("parse", "build", 4)
        phases.step("parse", 0)
        phases.step("parse", 1)
        phases.finish("parse")
        phases.step("build", 0)
        phases.start("time", "build", 2)
        phases.step("time", 0)
        assert told == pytest.approx([0.125, 0.25, 0.5, 0.75])

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["start", "step", "finish"]),
                st.sampled_from("abc"),
                st.sampled_from([None, "a", "b", "x"]),
                st.integers(-1, 9),
            ),
            max_size=40,
        )
    )
    def test_whatever_comes_it_only_grows_and_ends_at_one(self, calls: list[tuple[str, str, str | None, int]]) -> None:
        told: list[float] = [0.0]
        phases = Phases(told.append)
        order = {None: 0, "a": 1, "b": 2, "c": 3, "x": 0}
        for call, name, parent, number in calls:
            if call == "start" and order[parent] < order[name]:
                phases.start(name, parent, number)
            elif call == "step":
                phases.step(name, max(0, number))
            elif call == "finish":
                phases.finish(name)
        assert told == sorted(told)
        assert 0 <= told[-1] <= 1
