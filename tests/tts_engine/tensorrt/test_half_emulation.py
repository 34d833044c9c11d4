from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto

from tests.tts_engine.tensorrt.onnx_graphs import FLOAT, model, node, run
from tests.tts_engine.tensorrt.tiny_stage import example
from tts_engine.tensorrt.half_emulation import decompose, emulate, halve, rounded
from tts_engine.tensorrt.onnx_session import OnnxSession
from tts_engine.tensorrt.ports import Stage
from tts_engine.tensorrt.precision import Policy
from tts_engine.tensorrt.session import ModuleSession

TYPES = {torch.float16: TensorProto.FLOAT16, torch.bfloat16: TensorProto.BFLOAT16}


def emulated(made: ModelProto, half: int, policy: Policy, ports: tuple[str, ...] = ()) -> ModelProto:
    halve(made, half, ports, policy)
    emulate(made)
    onnx.checker.check_model(made, full_check=True)
    return made


@pytest.mark.parametrize("half", TYPES, ids=str)
def test_every_product_is_rounded_once(half: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    x, w = torch.randn(5, 64, generator=generator), torch.randn(64, 64, generator=generator)
    nodes = [node("MatMul", "x w", "y"), node("Transpose", "y", "t", perm=[1, 0]), node("MatMul", "y t", "z")]
    made = model(nodes, {"x": (FLOAT, ["n", 64])}, ["z"], {"w": w.numpy()})
    found = run(emulated(made, TYPES[half], Policy()), {"x": x.numpy()})["z"]

    def to_half(value: torch.Tensor) -> torch.Tensor:
        return value.to(half).float()

    product = to_half(to_half(x) @ to_half(w))
    np.testing.assert_allclose(found, to_half(product @ product.T).numpy(), rtol=2 * torch.finfo(half).eps)
    assert np.abs(found - (x @ w @ (x @ w).T).numpy()).max() > 0


def test_what_overflows_float16_overflows_here_and_not_in_onnx_runtimes_own() -> None:
    nodes = [node("Mul", "x x", "y"), node("Sqrt", "y", "z")]
    policy, feeds = Policy(half=frozenset({"Mul", "Sqrt"})), {"x": np.full((1, 4), 300.0, np.float32)}
    own = model(nodes, {"x": (FLOAT, ["n", 4])}, ["z"])
    halve(own, TensorProto.FLOAT16, (), policy)
    assert np.isfinite(run(own, feeds)["z"]).all()
    made = emulated(model(nodes, {"x": (FLOAT, ["n", 4])}, ["z"]), TensorProto.FLOAT16, policy)
    assert np.isposinf(run(made, feeds)["z"]).all()


def test_half_ports_stay_half() -> None:
    nodes = [node("Transpose", "x", "t", perm=[1, 0]), node("MatMul", "x t", "y")]
    made = emulated(model(nodes, {"x": (FLOAT, ["n", 4])}, ["y", "t"]), TensorProto.FLOAT16, Policy(), ("x", "y", "t"))
    x = np.random.default_rng().standard_normal((3, 4)).astype(np.float16)
    found = run(made, {"x": x})
    assert {value.dtype.name for value in found.values()} == {"float16"}
    np.testing.assert_array_equal(found["t"], x.T)
    np.testing.assert_allclose(found["y"], x.astype(np.float32) @ x.T.astype(np.float32), rtol=1e-3, atol=1e-3)


def test_rounded_values_are_where_it_says() -> None:
    nodes = [node("MatMul", "x w", "y"), node("Relu", "y", "z")]
    made = model(nodes, {"x": (FLOAT, ["n", 4])}, ["z"], {"w": np.eye(4, dtype=np.float32)})
    emulated(made, TensorProto.BFLOAT16, Policy())
    made.graph.output.append(onnx.helper.make_tensor_value_info(rounded("y"), FLOAT, None))
    x = np.random.default_rng().standard_normal((3, 4), np.float32)
    wanted = torch.from_numpy(x).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(run(made, {"x": x})[rounded("y")], wanted)


def norm_or_attention(op: str, mask: str = "") -> tuple[ModelProto, dict[str, np.ndarray]]:
    generator = np.random.default_rng(5)
    if op == "LayerNormalization":
        nodes = [node(op, "x scale bias", "y", axis=-1, epsilon=1e-3)]
        weights = {name: generator.standard_normal(16, np.float32) for name in ("scale", "bias")}
        made = model(nodes, {"x": (FLOAT, ["n", "t", 16])}, ["y"], weights)
        return made, {"x": generator.standard_normal((2, 3, 16), np.float32)}
    shapes = {"q": (2, 3, 5, 8), "k": (2, 3, 7, 8), "v": (2, 3, 7, 8)}
    feeds: dict[str, np.ndarray] = {
        name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()
    }
    inputs: dict[str, tuple[int, tuple[int, ...]]] = {name: (FLOAT, shape) for name, shape in shapes.items()}
    if mask:
        feeds["m"] = generator.random((2, 1, 5, 7)) < 0.6
        feeds["m"][..., 0] = True
        inputs["m"] = (TensorProto.BOOL, (2, 1, 5, 7))
        if mask == "float":
            feeds["m"] = np.where(feeds["m"], 0, -30000).astype(np.float32)
            inputs["m"] = (FLOAT, (2, 1, 5, 7))
    return model([node("Attention", "q k v" + (" m" if mask else ""), "y")], inputs, ["y"]), feeds


@pytest.mark.parametrize(
    ("op", "mask"),
    [("LayerNormalization", ""), ("Attention", ""), ("Attention", "bool"), ("Attention", "float")],
)
def test_taken_apart_they_compute_the_same(op: str, mask: str) -> None:
    made, feeds = norm_or_attention(op, mask)
    wanted = run(made, feeds)["y"]
    decompose(made)
    onnx.checker.check_model(made, full_check=True)
    assert op not in {each.op_type for each in made.graph.node}
    assert {each.name.rpartition("/")[0] for each in made.graph.node} == {"/y"}
    np.testing.assert_allclose(run(made, feeds)["y"], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attributes", [{"is_causal": 1}, {"q_num_heads": 2, "kv_num_heads": 2}])
def test_attention_of_other_kinds_stays_whole(attributes: dict[str, int]) -> None:
    shape = (2, 3, 5, 8) if "is_causal" in attributes else (2, 5, 16)
    inputs = dict.fromkeys("qkv", (FLOAT, shape))
    made = model([node("Attention", "q k v", "y", **attributes)], inputs, ["y"])
    decompose(made)
    assert [each.op_type for each in made.graph.node] == ["Attention"]


@pytest.mark.parametrize("half", TYPES, ids=str)
def test_a_whole_stage_is_as_near_as_its_half_run(
    tiny: Stage, exported: Path, half: torch.dtype, tmp_path: Path
) -> None:
    made = onnx.load(exported)
    emulated(made, TYPES[half], Policy(), ("kept", "kept_on"))
    onnx.save(made, tmp_path / "emulated.onnx")
    session = OnnxSession(tmp_path / "emulated.onnx", tiny)
    inputs = example({"rows": 3, "tokens": 17, "past": 2}, torch.Generator().manual_seed(4))
    wanted = ModuleSession(tiny).run(inputs)
    found = session.run({**inputs, "kept": inputs["kept"].to(half)})
    assert found["kept_on"].dtype == half
    for name, value in wanted.items():
        off = float((found[name].float() - value).abs().max() / value.abs().max())
        assert 0 < off < 8 * torch.finfo(half).eps, name
