from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from tests.tts_engine.tensorrt.onnx_graphs import FLOAT, model, node
from tests.tts_engine.tensorrt.tiny_stage import INPUTS, OUTPUTS, example
from tts_engine.tensorrt.faults import NotInstalledError, PlanError
from tts_engine.tensorrt.half_emulation import emulate
from tts_engine.tensorrt.onnx_session import CUDA, OnnxSession, sizes
from tts_engine.tensorrt.ports import Port, Stage
from tts_engine.tensorrt.precision import convert
from tts_engine.tensorrt.session import ModuleSession, Session


def inputs_of(rows: int, tokens: int, past: int = 1, seed: int = 0) -> dict[str, Tensor]:
    dims = {"rows": rows, "tokens": tokens, "past": past}
    return example(dims, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def session(tiny: Stage, exported: Path) -> OnnxSession:
    return OnnxSession(exported, tiny)


@pytest.mark.parametrize(("rows", "tokens", "past"), [(1, 4, 1), (2, 33, 0), (7, 12, 3)])
def test_it_gives_what_the_module_gives(tiny: Stage, session: OnnxSession, rows: int, tokens: int, past: int) -> None:
    inputs = inputs_of(rows, tokens, past)
    wanted = ModuleSession(tiny).run(inputs)
    found = session.run(inputs)
    assert list(found) == [port.name for port in OUTPUTS]
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


def test_it_is_a_session_and_not_for_cuda_graphs(tiny: Stage, session: OnnxSession) -> None:
    found: Session = session
    assert (found.inputs, found.outputs, found.capturable) == (tiny.inputs, tiny.outputs, False)


def test_outputs_are_the_callers(session: OnnxSession) -> None:
    first = session.run(inputs_of(2, 9))
    kept = {name: value.clone() for name, value in first.items()}
    second = session.run(inputs_of(2, 9, seed=1))
    for name, value in first.items():
        assert torch.equal(value, kept[name])
        value.fill_(torch.nan)
    assert all(value.isfinite().all() for value in second.values())


def test_inputs_may_lie_anyhow_and_are_not_written_to(session: OnnxSession) -> None:
    inputs = inputs_of(3, 10, past=2)
    turned = {name: value.mT.contiguous().mT if value.ndim > 1 else value for name, value in inputs.items()}
    assert not turned["kept"].is_contiguous()
    before = {name: value.clone() for name, value in turned.items()}
    wanted, found = session.run(inputs), session.run(turned)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert all(torch.equal(turned[name], before[name]) for name in turned)


def test_what_does_not_fit_is_refused(session: OnnxSession) -> None:
    inputs = inputs_of(2, 9)
    with pytest.raises(ValueError, match="no tensor for lengths"):
        session.run({name: value for name, value in inputs.items() if name != "lengths"})
    with pytest.raises(ValueError, match=r"tokens is torch\.int32, the file takes torch\.int64"):
        session.run({**inputs, "tokens": inputs["tokens"].int()})
    with pytest.raises(ValueError, match="lengths is of shape"):
        session.run({**inputs, "lengths": inputs["lengths"][:1]})
    with pytest.raises(ValueError, match="on meta, the session on cpu"):
        session.run({**inputs, "tokens": inputs["tokens"].to("meta")})
    session.run(inputs)  # and goes on


def test_sizes_are_read_off_the_tensors() -> None:
    ports = (Port("a", "float32", ("rows", "480*frames")), Port("b", "float32", ("rows", "frames", 9)))
    assert sizes(ports, {"a": torch.ones(3, 960), "b": torch.ones(3, 2, 9)}) == {"rows": 3, "frames": 2}
    for wrong in (torch.ones(3, 961), torch.ones(4, 960), torch.ones(3)):
        with pytest.raises(ValueError, match="of shape"):
            sizes(ports, {"a": wrong, "b": torch.ones(3, 2, 9)})


@pytest.mark.parametrize(("text", "size"), [("3*n + 1", 16), ("n - 2", 3), ("2*(n + 1)", 12), ("n", 5), ("7", 7)])
def test_outputs_sizes_are_worked_out(tmp_path: Path, text: str, size: int) -> None:
    made = model([node("Expand", "one to", "y")], {"one": (FLOAT, [1]), "to": (TensorProto.INT64, [1])}, ["y"])
    made.graph.output[0].type.tensor_type.shape.dim[0].dim_param = text
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.save(made, tmp_path / "y.onnx")
    ports = (Port("one", "float32", ("n",)), Port("to", "int64", (1,)))
    stage = Stage("y", nn.Module(), ports, (Port("y", "float32", (text,)),), lambda _, __: {})
    inputs = {"one": torch.full((5,), 2.0), "to": torch.tensor([size])}
    if size != 5:
        inputs["one"] = inputs["one"][:1].expand(5)
    found = OnnxSession(tmp_path / "y.onnx", stage)
    if size == 5:
        assert found.run(inputs)["y"].shape == (5,)
    else:
        assert found._shapes["y"] == (text,) if not text.isdigit() else (7,)
        from tts_engine.tensorrt.onnx_session import _sizes

        assert _sizes((text,), {"n": 5}) == (size,)


def test_a_size_that_follows_from_nothing_is_said() -> None:
    from tts_engine.tensorrt.onnx_session import _sizes

    with pytest.raises(ValueError, match="u0"):
        _sizes(("u0",), {"rows": 5})
    with pytest.raises(ValueError, match="does not follow"):
        _sizes(("__import__('os')",), {"rows": 5})


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_half_ports_on_the_cpu(tiny: Stage, exported: Path, tmp_path: Path, half: torch.dtype) -> None:
    convert(tiny, exported, tmp_path / "half.onnx", half)
    made = onnx.load(tmp_path / "half.onnx")
    emulate(made)
    onnx.save(made, tmp_path / "emulated.onnx")
    session = OnnxSession(tmp_path / "emulated.onnx", tiny)
    assert (session.dtype("kept"), session.dtype("wave")) == (half, torch.float32)
    inputs = inputs_of(2, 9, past=3)
    inputs["kept"] = inputs["kept"].to(half)
    found = session.run(inputs)
    assert found["kept_on"].dtype == half
    assert torch.equal(found["kept_on"][:, :3], inputs["kept"])
    with pytest.raises(ValueError, match=r"kept is torch\.float32"):
        session.run({**inputs, "kept": inputs["kept"].float()})


def test_bfloat16_itself_is_refused_with_the_reason(tiny: Stage, exported: Path, tmp_path: Path) -> None:
    convert(tiny, exported, tmp_path / "tiny.onnx", torch.bfloat16)
    with pytest.raises(PlanError, match="is bfloat16, in which ONNX Runtime's CPU provider computes nothing"):
        OnnxSession(tmp_path / "tiny.onnx", tiny)


def test_files_that_are_none_or_others_are_refused(tiny: Stage, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="refuses"):
        OnnxSession(tmp_path / "missing.onnx", tiny)
    (tmp_path / "cut.onnx").write_bytes(exported.read_bytes()[:5000])
    with pytest.raises(PlanError, match="refuses"):
        OnnxSession(tmp_path / "cut.onnx", tiny)
    (tmp_path / "alone.onnx").write_bytes(exported.read_bytes())
    with pytest.raises(PlanError, match="refuses"):
        OnnxSession(tmp_path / "alone.onnx", tiny)
    other = Stage("vocoder", tiny.module, (*INPUTS, Port("mel", "float32", ("rows",))), OUTPUTS, example)
    with pytest.raises(PlanError, match="is not a vocoder: it has no mel"):
        OnnxSession(exported, other)


def test_without_onnx_runtime_or_its_provider_it_says_so(
    tiny: Stage, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotInstalledError, match=r"has no TensorrtExecutionProvider, only .*CPUExecutionProvider"):
        OnnxSession(exported, tiny, ("TensorrtExecutionProvider",))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NotInstalledError, match="not installed"):
        OnnxSession(exported, tiny)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("half", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_on_a_gpu_it_runs_on_the_current_stream(tiny: Stage, exported: Path, tmp_path: Path, half: torch.dtype) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA")
    path = exported
    if half != torch.float32:
        path = tmp_path / "tiny.onnx"
        convert(tiny, exported, path, half)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        session = OnnxSession(path, tiny, (CUDA,))
        for seed in range(3):
            inputs = inputs_of(3, 20 + seed, past=1, seed=seed)
            inputs["kept"] = inputs["kept"].to(half)
            wanted = ModuleSession(tiny).run({**inputs, "kept": inputs["kept"].float()})
            found = session.run({name: value.cuda(non_blocking=True) for name, value in inputs.items()})
            for name, value in wanted.items():
                assert found[name].is_cuda
                off = (found[name].float().cpu() - value).abs().max() / value.abs().max()
                assert float(off) < (1e-3 if half == torch.float32 else 8 * torch.finfo(half).eps)


def test_numpy_is_not_needed_to_hand_tensors_over(session: OnnxSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """By address: a copy through numpy would also fail for bfloat16."""

    def forbidden(*_: object) -> np.ndarray:
        raise AssertionError("copied")

    monkeypatch.setattr(torch.Tensor, "numpy", forbidden)
    session.run(inputs_of(2, 9))
