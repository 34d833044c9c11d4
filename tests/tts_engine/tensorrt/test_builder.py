"""Built for real, by TensorRT-RTX for an SM86, on a machine that need not have a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tts_engine.tensorrt import tiny_onnx
from tests.tts_engine.tensorrt.tiny_onnx import INPUTS, OUTPUTS, PROFILES, WIDTH
from tts_engine.tensorrt.build_log import Tensor
from tts_engine.tensorrt.builder import Built, Options, Ports, _configuration, build_plan, profile_shapes
from tts_engine.tensorrt.faults import BuildError
from tts_engine.tensorrt.flavour import Flavour, find_flavour
from tts_engine.tensorrt.ports import Port
from tts_engine.tensorrt.profiles import Profile

pytest.importorskip("tensorrt_rtx")

SM86 = Options(target=(8, 6))
PORTS = Ports(INPUTS, OUTPUTS, torch.float16)


@pytest.fixture(scope="module")
def flavour() -> Flavour:
    return find_flavour("tensorrt-rtx")


@pytest.fixture(scope="module")
def told() -> list[float]:
    return []


@pytest.fixture(scope="module")
def built(flavour: Flavour, told: list[float], tmp_path_factory: pytest.TempPathFactory) -> Built:
    path = tiny_onnx.write(tmp_path_factory.mktemp("onnx") / "tiny.onnx")
    return build_plan(flavour, path, PROFILES, PORTS, SM86, told.append)


def named(built: Built) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in built.tensors}


class TestReadBack:
    def test_has_the_ports_of_the_stage(self, built: Built) -> None:
        tensors = named(built)
        assert {name for name, tensor in tensors.items() if tensor.is_input} == {port.name for port in INPUTS}
        assert {name for name, tensor in tensors.items() if not tensor.is_input} == {port.name for port in OUTPUTS}
        assert [tensors[port.name].dtype for port in INPUTS] == ["float16", "int32", "bool", "int64", "float32"]
        assert tensors["x"].shape == (-1, -1, WIDTH)
        assert tensors["time"].shape == (3, WIDTH)
        assert tensors["y"].dtype == "float16"

    def test_has_the_profiles(self, built: Built) -> None:
        short, long = named(built)["x"].profiles
        assert short == ((1, 2, WIDTH), (4, 8, WIDTH), (8, 16, WIDTH))
        assert long == ((1, 2, WIDTH), (1, 32, WIDTH), (2, 64, WIDTH))

    def test_tells_its_memory(self, built: Built) -> None:
        assert built.weights_bytes >= WIDTH * WIDTH * 2
        assert 0 < built.scratch_bytes < 64 << 20
        assert built.plan.nbytes > built.weights_bytes
        assert built.seconds > 0

    def test_tells_its_kernels(self, built: Built) -> None:
        assert sum(built.kernels.values()) >= 2
        assert "attention" not in built.kernels

    def test_bfloat16(self, flavour: Flavour, tmp_path: Path) -> None:
        path = tiny_onnx.write(tmp_path / "tiny.onnx", "bfloat16")
        built = build_plan(flavour, path, PROFILES[:1], replace(PORTS, half=torch.bfloat16), SM86)
        assert named(built)["x"].dtype == named(built)["y"].dtype == "bfloat16"


class TestConfiguration:
    def test_what_the_builder_is_told(self, flavour: Flavour) -> None:
        """Graphs can hold what is built."""
        trt = flavour.module
        builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        config = _configuration(flavour, builder, replace(SM86, level=2))
        assert config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        assert not config.get_flag(trt.BuilderFlag.TF32)
        assert config.builder_optimization_level == 2


class TestProgress:
    def test_grows_from_nothing_to_all(self, built: Built, told: list[float]) -> None:
        assert told == sorted(told)
        assert 0 <= told[0] < 0.5
        assert told[-1] == 1.0
        assert len(set(told)) > 5


class TestRefused:
    def test_an_operator_that_the_parser_does_not_take(self, flavour: Flavour, tmp_path: Path) -> None:
        path = tiny_onnx.write(tmp_path / "mish.onnx", "bfloat16", operator="Mish")
        with pytest.raises(BuildError, match=r"parser refuses mish\.onnx: Mish activation: .*FLOAT16"):
            build_plan(flavour, path, PROFILES, replace(PORTS, half=torch.bfloat16), SM86)

    @pytest.mark.parametrize("content", [None, b"", b"not a model", b"\x08\x0a" * 40])
    def test_a_file_that_is_no_onnx(self, flavour: Flavour, tmp_path: Path, content: bytes | None) -> None:
        path = tmp_path / "none.onnx"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BuildError, match=r"none\.onnx"):
            build_plan(flavour, path, PROFILES, PORTS, SM86)

    def test_another_dtype_than_ordered(self, flavour: Flavour, tmp_path: Path) -> None:
        path = tiny_onnx.write(tmp_path / "full.onnx", "float32")
        with pytest.raises(BuildError, match="input x is float32, wanted float16; output y is float32"):
            build_plan(flavour, path, PROFILES, PORTS, SM86)

    def test_other_ports_than_the_stage_has(self, flavour: Flavour, tmp_path: Path) -> None:
        path = tiny_onnx.write(tmp_path / "tiny.onnx")
        ports = Ports((*INPUTS[:-1], Port("voice", "int32", ("rows",))), OUTPUTS, torch.float16)
        with pytest.raises(BuildError, match="input voice is missing; input time is unknown"):
            build_plan(flavour, path, PROFILES, ports, SM86)

    def test_a_size_that_the_export_fixed(self, flavour: Flavour, tmp_path: Path) -> None:
        path = tiny_onnx.write(tmp_path / "tiny.onnx")
        ports = Ports((*INPUTS[:-1], Port("time", "float32", ("rows", WIDTH))), OUTPUTS, torch.float16)
        with pytest.raises(BuildError, match=r"input time has shape \[3, 64\], wanted \[-1, 64\]"):
            build_plan(flavour, path, PROFILES, ports, SM86)

    def test_a_target_that_it_does_not_build_for(self, flavour: Flavour, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match="not for sm90"):
            build_plan(flavour, tmp_path / "never read", PROFILES, PORTS, Options(target=(9, 0)))

    def test_too_little_scratch_memory(self, flavour: Flavour, tmp_path: Path) -> None:
        path = tiny_onnx.write(tmp_path / "tiny.onnx")
        with pytest.raises(BuildError, match=r"tiny\.onnx: .*limited to 0 MB"):
            build_plan(flavour, path, PROFILES, PORTS, replace(SM86, workspace_bytes=1 << 10))

    def test_a_profile_whose_least_is_above_its_most(self, flavour: Flavour, tmp_path: Path) -> None:
        path = tiny_onnx.write(tmp_path / "tiny.onnx")
        wrong = Profile("wrong", {"rows": (4, 2, 1), "frames": (2, 8, 16)})
        with pytest.raises(BuildError):
            build_plan(flavour, path, (wrong,), PORTS, SM86)


class TestCancelled:
    def test_ctrl_c_ends_the_build(self, flavour: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As Python has it: raised on the main thread, which waits for the build's."""
        import threading

        def join(thread: threading.Thread, timeout: float | None = None) -> None:
            if timeout is not None:
                raise KeyboardInterrupt
            wait(thread)

        wait = threading.Thread.join
        monkeypatch.setattr(threading.Thread, "join", join)
        path = tiny_onnx.write(tmp_path / "tiny.onnx")
        with pytest.raises(KeyboardInterrupt):
            build_plan(flavour, path, PROFILES, PORTS, SM86)
        assert not [thread for thread in threading.enumerate() if thread.name == "engine-build"]


def test_profile_shapes_follow_multiples() -> None:
    port = Port("noise", "float32", ("rows", 9, "480*frames"))
    profile = Profile("short", {"rows": (1, 2, 3), "frames": (4, 5, 6)})
    assert profile_shapes(port, profile) == ((1, 9, 1920), (2, 9, 2400), (3, 9, 2880))
