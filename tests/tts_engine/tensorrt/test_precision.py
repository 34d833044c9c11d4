from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto

from tests.tts_engine.tensorrt.onnx_graphs import FLOAT, model, node, run
from tests.tts_engine.tensorrt.tiny_stage import OUTPUTS, example
from tts_engine.tensorrt.export import PRECISION, data_path
from tts_engine.tensorrt.faults import BuildError
from tts_engine.tensorrt.half_emulation import halve
from tts_engine.tensorrt.onnx_session import OnnxSession
from tts_engine.tensorrt.ports import Port, Stage
from tts_engine.tensorrt.precision import HALVES, LAYOUT, POLICIES, PRODUCTS, Policy, convert
from tts_engine.tensorrt.session import ModuleSession

HALF_TYPES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@pytest.fixture(scope="module", params=[torch.float16, torch.bfloat16], ids=str)
def half(request: pytest.FixtureRequest) -> torch.dtype:
    dtype = request.param
    assert isinstance(dtype, torch.dtype)
    return dtype


@pytest.fixture(scope="module")
def converted(tiny: Stage, exported: Path, half: torch.dtype, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half") / "tiny.half.onnx"
    convert(tiny, exported, path, half)
    return path


def types_of(made: ModelProto) -> dict[str, int]:
    """Inferred from weights, inputs and operators alone, as TensorRT does."""
    bare = ModelProto()
    bare.CopyFrom(made)
    del bare.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def halves(each: NodeProto, types: Mapping[str, int]) -> bool:
    return any(types.get(name) in HALF_TYPES for name in each.output)


def assert_no_cast_too_many(made: ModelProto) -> None:
    producers = {name: each for each in made.graph.node for name in each.output}
    casts = [each for each in made.graph.node if each.op_type == "Cast"]
    for each in casts:
        before = producers.get(each.input[0])
        assert before is None or before.op_type != "Cast" or before in casts[:0], f"{each.name} undoes {before}"
    twice = [(each.input[0], each.attribute[0].i) for each in casts]
    assert len(set(twice)) == len(twice)
    read = {name for each in made.graph.node for name in each.input} | {value.name for value in made.graph.output}
    assert all(each.output[0] in read for each in casts)


def test_every_value_has_the_type_that_operators_give_it(converted: Path) -> None:
    made = onnx.load(converted)
    onnx.checker.check_model(made, full_check=True)
    types = types_of(made)
    for value in made.graph.value_info:
        assert types[value.name] == value.type.tensor_type.elem_type, value.name


def test_products_are_in_half_and_nothing_else_is(converted: Path, half: torch.dtype) -> None:
    made = onnx.load(converted, load_external_data=False)
    types = types_of(made)
    for each in made.graph.node:
        if each.op_type in POLICIES[half].half and "f0_predictor" not in each.name:
            assert halves(each, types), each.name
        elif each.op_type not in LAYOUT and each.op_type != "Cast" and not each.name.endswith(BIASED):
            assert not halves(each, types), each.name
    assert {each.op_type for each in made.graph.node if not halves(each, types)} >= {
        "LayerNormalization",
        "Mish",
        "Gelu",
        "CumSum",
        "Conv",  # of the F0 predictor
    }


BIASED = tuple(f"linear{suffix}" for suffix in ("", "_2", "_3", "_4", "_6", "_7", "_8"))


def test_residual_sums_are_in_float32_and_biases_in_half(converted: Path) -> None:
    made = onnx.load(converted, load_external_data=False)
    types = types_of(made)
    sums = {
        each.name: halves(each, types) for each in made.graph.node if each.op_type == "Add" and each.output[0] in types
    }
    floats = {name: found for name, found in sums.items() if types[name.rpartition("/")[2]] != TensorProto.INT64}
    assert {name for name, found in floats.items() if found} == {name for name in floats if name.endswith(BIASED)}
    assert any(name.startswith("blocks.0/add") for name in floats)


def test_no_cast_undoes_another_or_is_there_twice(converted: Path) -> None:
    assert_no_cast_too_many(onnx.load(converted, load_external_data=False))


def test_ports_keep_their_kinds(converted: Path, half: torch.dtype) -> None:
    graph = onnx.load(converted, load_external_data=False).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    wanted = HALVES[half]
    assert types == {
        "tokens": TensorProto.INT64,
        "lengths": TensorProto.INT32,
        "kept": wanted,
        "scale_0": FLOAT,
        "scale_1": FLOAT,
        "wave": FLOAT,
        "phase": FLOAT,
        "kept_on": wanted,
    }


def test_weights_of_products_are_stored_in_half_and_once(exported: Path, converted: Path, half: torch.dtype) -> None:
    graph = onnx.load(converted, load_external_data=False).graph
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert len(stored) == len(graph.initializer)
    assert {stored[f"{name}/half"] for name in ("table.weight", "taps.bias")} == {HALVES[half]}
    assert stored["f0_predictor.conv.weight"] == stored["norm.weight"] == FLOAT
    assert not {name.removesuffix("/half") for name in stored if name.endswith("/half")} & stored.keys()
    assert data_path(converted).stat().st_size < 0.56 * data_path(exported).stat().st_size


def test_it_says_its_precision(converted: Path, half: torch.dtype) -> None:
    made = onnx.load(converted, load_external_data=False)
    assert {entry.key: entry.value for entry in made.metadata_props}[PRECISION] == str(half).removeprefix("torch.")


def test_onnx_runtime_takes_float16(tiny: Stage, exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    convert(tiny, exported, path, torch.float16)
    session = OnnxSession(path, tiny)
    for rows, tokens, past in ((1, 4, 0), (3, 21, 2)):
        inputs = example({"rows": rows, "tokens": tokens, "past": past}, torch.Generator().manual_seed(rows))
        inputs["kept"] = inputs["kept"].half()
        wanted = ModuleSession(tiny).run({**inputs, "kept": inputs["kept"].float()})
        found = session.run(inputs)
        for port in OUTPUTS:
            assert found[port.name].dtype == port.dtype(torch.float16)
            scale = float(wanted[port.name].abs().max())
            assert float((found[port.name].float() - wanted[port.name]).abs().max()) < 3e-3 * scale


def as_policy(exported: Path, policy: Policy) -> tuple[ModelProto, dict[str, int]]:
    made = onnx.load(exported)
    halve(made, TensorProto.FLOAT16, (), policy)
    onnx.checker.check_model(made, full_check=True)
    return made, types_of(made)


def test_a_policy_can_keep_nodes_and_add_others(exported: Path) -> None:
    nodes = {each.output[0]: each.name for each in onnx.load(exported, load_external_data=False).graph.node}
    kept, also = nodes["linear_1"], (nodes["mish"], nodes["conv1d"])
    made, types = as_policy(exported, Policy(kept=frozenset({kept}), also=frozenset(also)))
    found = {each.name: halves(each, types) for each in made.graph.node}
    assert not found[kept]
    assert found[also[0]]
    assert found[also[1]]


def test_a_policy_can_leave_biases_and_tables_in_float32(exported: Path) -> None:
    made, types = as_policy(exported, Policy(bias=False, tables=False, whole=()))
    found = {each.output[0]: halves(each, types) for each in made.graph.node}
    assert not found["linear"]
    assert not found["embedding"]
    assert found["conv1d"]


def test_a_policy_of_nothing_changes_nothing(exported: Path) -> None:
    made, types = as_policy(exported, Policy(half=frozenset(), tables=False))
    assert not set(types.values()) & set(HALF_TYPES)
    assert len(made.graph.node) == len(onnx.load(exported, load_external_data=False).graph.node)


def stage_of(*half_ports: str) -> Stage:
    ports = tuple(Port(name, "half", ("rows",)) for name in half_ports)
    return Stage("graph", torch.nn.Module(), ports, (), lambda _, __: {})


def test_a_weight_over_the_range_is_refused_by_name(tmp_path: Path) -> None:
    weight = np.full((4, 4), 7e4, np.float32)
    onnx.save(model([node("MatMul", "x w", "y")], {"x": (FLOAT, ["n", 4])}, ["y"], {"w": weight}), tmp_path / "x.onnx")
    with pytest.raises(BuildError, match="w holds 7e"):
        convert(stage_of(), tmp_path / "x.onnx", tmp_path / "y.onnx", torch.float16)
    convert(stage_of(), tmp_path / "x.onnx", tmp_path / "y.onnx", torch.bfloat16)


def test_what_cannot_be_is_refused(tmp_path: Path, exported: Path, tiny: Stage) -> None:
    with pytest.raises(ValueError, match="neither"):
        convert(tiny, exported, tmp_path / "y.onnx", torch.float32)
    with pytest.raises(ValueError, match="in place"):
        convert(tiny, exported, exported, torch.float16)
    untyped = model([node("Relu", "x", "z"), node("Relu", "z", "y")], {"x": (FLOAT, [3])}, ["y"])
    del untyped.graph.value_info[:]
    onnx.save(untyped, tmp_path / "x.onnx")
    with pytest.raises(BuildError, match="what type z is"):
        convert(stage_of(), tmp_path / "x.onnx", tmp_path / "y.onnx", torch.float16)


def test_a_half_port_goes_through_without_a_cast() -> None:
    """What only moves the pages of a cache does not take them to float32 and back."""
    nodes = [node("Gather", "pages at", "some"), node("Transpose", "some", "y", perm=[1, 0])]
    made = model(nodes, {"pages": (FLOAT, ["n", 4]), "at": (TensorProto.INT64, ["k"])}, ["y"])
    halve(made, TensorProto.FLOAT16, ("pages", "y"), Policy())
    assert [each.op_type for each in made.graph.node] == ["Gather", "Transpose"]
    assert types_of(made)["y"] == TensorProto.FLOAT16


def test_an_output_in_the_other_dtype_keeps_its_name_and_its_readers() -> None:
    nodes = [node("MatMul", "x w", "y"), node("MatMul", "y w", "z")]
    made = model(nodes, {"x": (FLOAT, ["n", 4])}, ["y", "z"], {"w": np.eye(4, dtype=np.float32)})
    halve(made, TensorProto.FLOAT16, ("z",), Policy())
    onnx.checker.check_model(made, full_check=True)
    assert_no_cast_too_many(made)
    x = np.random.default_rng().standard_normal((3, 4), np.float32)
    found = run(made, {"x": x})
    assert [found[name].dtype for name in ("y", "z")] == [np.float32, np.float16]
    np.testing.assert_allclose(found["y"], x, rtol=2e-3)
    np.testing.assert_allclose(found["z"], x, rtol=2e-3)


UNARY = ("Relu", "Neg", "Softmax", "Transpose", "Identity", "Slice", "Unsqueeze")
BINARY = ("MatMul", "Add", "Concat", "Where", "Mul")


@st.composite
def graphs(draw: st.DrawFn) -> tuple[ModelProto, frozenset[str]]:
    """Random graphs of square matrices; any value may be given out, any port may be half."""
    values, nodes = ["x0", "x1", "w", "b"], []
    for at in range(draw(st.integers(1, 12))):
        name, op = f"v{at}", draw(st.sampled_from(UNARY + BINARY))
        pick = st.sampled_from(values)
        one, other = draw(pick), draw(pick)
        if op in ("Concat", "Slice", "Unsqueeze"):  # and back to a square
            long = {"Concat": f"{one} {other}", "Slice": f"{one} zero four zero", "Unsqueeze": f"{one} zero"}[op]
            nodes.append(node(op, long, f"{name}_long", **({"axis": 0} if op == "Concat" else {})))
            nodes.append(
                node(
                    "Squeeze" if op == "Unsqueeze" else "Slice",
                    f"{name}_long zero" + (" four zero" if op != "Unsqueeze" else ""),
                    name,
                )
            )
        elif op == "Where":
            nodes.append(node(op, f"mask {one} {other}", name))
        else:
            nodes.append(node(op, one if op in UNARY else f"{one} {other}", name))
        values.append(name)
    outputs = draw(st.lists(st.sampled_from(values[4:]), min_size=1, max_size=3, unique=True))
    ports = frozenset(draw(st.sets(st.sampled_from(["x0", "x1", *outputs]))))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    weights = {
        "w": generator.standard_normal((4, 4), np.float32) / 2,
        "b": generator.standard_normal((4, 4), np.float32),
        "mask": generator.random((4, 4)) < 0.5,
        "zero": np.array([0]),
        "four": np.array([4]),
    }
    inputs = {name: (FLOAT, [4, 4]) for name in ("x0", "x1")}
    return model(nodes, inputs, outputs, weights), ports


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs(), st.sampled_from([PRODUCTS, PRODUCTS | {"Relu", "Add"}, frozenset({"Softmax"})]))
def test_any_graph_stays_valid_and_computes_the_same(
    made: tuple[ModelProto, frozenset[str]], ops: frozenset[str]
) -> None:
    policy, (source, ports) = Policy(half=ops), made
    changed = ModelProto()
    changed.CopyFrom(source)
    halve(changed, TensorProto.FLOAT16, ports, policy)
    onnx.checker.check_model(changed, full_check=True)
    types = types_of(changed)
    for value in (*changed.graph.input, *changed.graph.output):
        assert types[value.name] == (TensorProto.FLOAT16 if value.name in ports else FLOAT)
    assert [value.name for value in changed.graph.output] == [value.name for value in source.graph.output]
    for each in changed.graph.node:
        if each.op_type not in LAYOUT and each.op_type != "Cast":
            assert policy.computes_in_half(each) == halves(each, types) or each.op_type == "Add"
    generator = np.random.default_rng(1)
    feeds = {name: generator.standard_normal((4, 4), np.float32).astype(np.float16) for name in ("x0", "x1")}
    wanted = run(source, {name: value.astype(np.float32) for name, value in feeds.items()})
    found = run(changed, {name: value if name in ports else value.astype(np.float32) for name, value in feeds.items()})
    for name, value in wanted.items():
        scale = max(1.0, float(np.abs(value).max()))
        if scale < 1e3:
            np.testing.assert_allclose(found[name], value, atol=0.05 * scale, rtol=0.05)


BUILT_FOR = {"rows": (1, 4, 8), "tokens": (4, 32, 64), "past": (1, 2, 4)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_tensorrt_builds_it_for_an_a10g_with_fused_attention(
    tiny: Stage, exported: Path, dtype: torch.dtype, tmp_path: Path
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    path = tmp_path / "tiny.onnx"
    convert(tiny, exported, path, dtype)
    lines: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, text: str) -> None:
            lines.append(f"{severity} {text}")

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse_from_file(str(path)), [str(parser.get_error(at)) for at in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    for port in tiny.inputs:
        sizes = [port.sizes({name: spread[at] for name, spread in BUILT_FOR.items()}) for at in range(3)]
        profile.set_shape(port.name, *sizes)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    errors = [line for line in lines if "ERROR" in line]
    assert plan is not None, errors
    said = "\n".join(lines)
    assert said.count("_gemm_mha_v2_0x") + said.count("_gemm_mha_v2_myl") >= 2
    name = {torch.float16: "Half", torch.bfloat16: "BFloat16"}[dtype]
    assert f"Name: kept, IOMode: Input, DataType: {name}" in said
    assert "Name: wave, IOMode: Output, DataType: Float" in said
    mish = [line for line in lines if "[Mish] inputs:" in line]
    assert mish and all("[FLOAT]" in line for line in mish)


def test_the_names_of_biases_are_those_of_the_tiny_stage(exported: Path) -> None:
    """What the tests above go by: sums right behind a product without bias of its own."""
    nodes = onnx.load(exported, load_external_data=False).graph.node
    made = {name: each.op_type for each in nodes for name in each.output}
    found = [each for each in nodes if each.op_type == "Add" and "MatMul" in {made.get(name) for name in each.input}]
    assert {each.output[0] for each in found} == set(BIASED)
    assert list(itertools.chain.from_iterable(each.output for each in found)) == list(BIASED)
