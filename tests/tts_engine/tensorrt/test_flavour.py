from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tts_engine.tensorrt.fake_builder import fake_tensorrt
from tts_engine.tensorrt.faults import BuildError, NotInstalledError, PlanError
from tts_engine.tensorrt.flavour import Flavour, TensorRt, TensorRtRtx, find_flavour, parse_target, target_name

A10G, L4, H100, T4 = (8, 6), (8, 9), (9, 0), (7, 5)


class TestTargets:
    @pytest.mark.parametrize("text", ["sm86", "SM86", "sm_86", "8.6", " 86 "])
    def test_names_of_an_a10g(self, text: str) -> None:
        assert parse_target(text) == A10G

    @given(st.integers(5, 99), st.integers(0, 9))
    def test_names_come_back(self, major: int, minor: int) -> None:
        assert parse_target(target_name((major, minor))) == (major, minor)
        assert parse_target(f"{major}.{minor}") == (major, minor)

    @pytest.mark.parametrize("text", ["", "a10g", "sm", "sm8", "86.6.1", "-8.6", "sm86; rm", "sm00"])
    def test_what_is_none_is_told(self, text: str) -> None:
        with pytest.raises(BuildError, match="not the name of a GPU target; an A10G's is sm86"):
            parse_target(text)


class TestRtx:
    @pytest.fixture
    def flavour(self) -> Flavour:
        pytest.importorskip("tensorrt_rtx")
        return find_flavour("tensorrt-rtx")

    @pytest.mark.parametrize("target", [T4, (8, 0), A10G, L4, (12, 0)])
    def test_builds_for_a_named_target_without_a_gpu(self, flavour: Flavour, target: tuple[int, int]) -> None:
        flavour.check_target(target, None, hardware_compatible=False)
        config = flavour.module.Builder(flavour.module.Logger()).create_builder_config()
        flavour.aim(config, target, hardware_compatible=False)
        assert config.num_compute_capabilities == 1
        assert config.get_compute_capability(0).name == target_name(target).upper()

    def test_refuses_a_target_that_it_does_not_know(self, flavour: Flavour) -> None:
        with pytest.raises(BuildError, match=r"builds for sm75, sm80, sm86, sm89, .*not for sm90"):
            flavour.check_target(H100, H100, hardware_compatible=False)

    def test_is_not_asked_for_hardware_compatibility(self, flavour: Flavour) -> None:
        with pytest.raises(BuildError, match="--hardware-compatible is TensorRT's"):
            flavour.check_target(A10G, A10G, hardware_compatible=True)

    def test_keeps_no_timing_cache(self, flavour: Flavour) -> None:
        config = flavour.module.Builder(flavour.module.Logger()).create_builder_config()
        assert not flavour.set_timing_cache(config, b"of another flavour")
        assert flavour.get_timing_cache(config) == b""

    def test_says_its_version(self, flavour: Flavour) -> None:
        assert str(flavour) == f"TensorRT-RTX {flavour.module.__version__}"


class TestTensorRt:
    """Against a module with TensorRT's names and no more: no library of it is at hand."""

    def test_builds_for_the_gpu_that_is_present(self) -> None:
        TensorRt(fake_tensorrt()).check_target(A10G, A10G, hardware_compatible=False)

    def test_refuses_another(self) -> None:
        with pytest.raises(BuildError, match="the GPU that is present, sm90, not for sm86; --hardware-compatible"):
            TensorRt(fake_tensorrt()).check_target(A10G, H100, hardware_compatible=False)

    def test_needs_a_gpu_and_names_the_flavour_that_does_not(self) -> None:
        with pytest.raises(BuildError, match="none here; TensorRT-RTX builds without one"):
            TensorRt(fake_tensorrt()).check_target(A10G, None, hardware_compatible=True)

    def test_hardware_compatible_engines_are_for_ampere_and_later(self) -> None:
        flavour = TensorRt(fake_tensorrt())
        flavour.check_target(A10G, H100, hardware_compatible=True)
        with pytest.raises(BuildError, match="for sm80 and later, not sm75"):
            flavour.check_target(T4, A10G, hardware_compatible=True)

    def test_sets_the_level_of_compatibility(self) -> None:
        module = fake_tensorrt()
        flavour, config = TensorRt(module), module.Builder(None).create_builder_config()
        flavour.aim(config, A10G, hardware_compatible=False)
        assert config.hardware_compatibility_level == module.HardwareCompatibilityLevel.NONE
        flavour.aim(config, A10G, hardware_compatible=True)
        assert config.hardware_compatibility_level == module.HardwareCompatibilityLevel.AMPERE_PLUS

    @pytest.mark.parametrize(("version", "flags"), [("10.14.0", 2), ("10.16.1.11", 2), ("11.4.1.2", 0)])
    def test_networks_are_strongly_typed(self, version: str, flags: int) -> None:
        """By the flag up to 10.x; from 11 on they are without it."""
        module = fake_tensorrt(version)
        assert TensorRt(module).network(module.Builder(None)).flags == flags

    def test_is_refused_if_too_old(self) -> None:
        with pytest.raises(NotInstalledError, match=r"10\.13\.3 is too old: 10\.14"):
            TensorRt(fake_tensorrt("10.13.3"))

    def test_the_timing_cache_comes_back(self) -> None:
        module = fake_tensorrt()
        flavour, config = TensorRt(module), module.Builder(None).create_builder_config()
        assert flavour.set_timing_cache(config, b"")
        config.measure(b"first ")
        data = flavour.get_timing_cache(config)
        other = module.Builder(None).create_builder_config()
        assert flavour.set_timing_cache(other, data)
        other.measure(b"second")
        assert flavour.get_timing_cache(other) == b"sm86:first second"

    def test_a_foreign_timing_cache_is_replaced_by_an_empty_one(self) -> None:
        module = fake_tensorrt()
        flavour, config = TensorRt(module), module.Builder(None).create_builder_config()
        assert not flavour.set_timing_cache(config, b"sm75:of a T4")
        assert flavour.get_timing_cache(config) == b"sm86:"

    def test_a_timing_cache_that_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """TensorRT gives no cache for what it cannot read."""
        module = fake_tensorrt()
        flavour, config = TensorRt(module), module.Builder(None).create_builder_config()
        create = config.create_timing_cache
        monkeypatch.setattr(config, "create_timing_cache", lambda data: None if data else create(data))
        assert not flavour.set_timing_cache(config, b"torn")
        assert flavour.get_timing_cache(config) == b"sm86:"
        monkeypatch.setattr(config, "create_timing_cache", lambda data: None)
        assert not flavour.set_timing_cache(config, b"torn")

    def test_without_the_flag_nothing_is_required(self) -> None:
        module = fake_tensorrt()
        assert not hasattr(module.BuilderFlag, "REQUIRE_USER_ALLOCATION")
        TensorRt(module).require_capturable(module.Builder(None).create_builder_config())

    def test_contexts_have_no_memory_of_their_own(self) -> None:
        module = fake_tensorrt()
        engine = module.Runtime(None).deserialize_cuda_engine(module.PLAN)
        contexts = TensorRt(module).contexts(engine)
        assert contexts.make().strategy == module.ExecutionContextAllocationStrategy.USER_MANAGED
        assert contexts.make() is not contexts.make()
        assert contexts.cache() == b""

    def test_no_context_is_a_fault(self) -> None:
        module = fake_tensorrt()
        engine = module.Runtime(None).deserialize_cuda_engine(module.PLAN)
        engine.out_of_memory = True
        with pytest.raises(PlanError, match="no execution context"):
            TensorRt(module).contexts(engine).make()


class TestRtxContexts:
    """Against a module with the names of TensorRT-RTX's runtime: without a driver it loads no engine."""

    @pytest.fixture
    def module(self) -> Any:
        return fake_tensorrt("1.7.1.116", rtx=True)

    def test_the_runtime_configuration(self, module: Any) -> None:
        engine = module.Runtime(None).deserialize_cuda_engine(module.PLAN)
        context = TensorRtRtx(module).contexts(engine, specialisation="lazy").make()
        assert context.config.strategy == module.ExecutionContextAllocationStrategy.USER_MANAGED
        assert context.config.dynamic_shapes_kernel_specialization_strategy.name == "LAZY"
        assert context.config.cuda_graph_strategy.name == "DISABLED"

    def test_compiled_kernels_are_kept_for_the_next_start(self, module: Any) -> None:
        flavour, engine = TensorRtRtx(module), module.Runtime(None).deserialize_cuda_engine(module.PLAN)
        contexts = flavour.contexts(engine)
        contexts.make()
        data = contexts.cache()
        assert data == b"sm86:compiled"
        again = flavour.contexts(engine, data)
        assert again.cache() == data

    def test_a_foreign_cache_is_left_out(self, module: Any) -> None:
        flavour, engine = TensorRtRtx(module), module.Runtime(None).deserialize_cuda_engine(module.PLAN)
        assert flavour.contexts(engine, b"sm75:compiled").cache() == b""

    def test_the_real_module_has_these_names(self, module: Any) -> None:
        """What the double stands for is there, by the same names."""
        real = pytest.importorskip("tensorrt_rtx")
        for owner in ("ICudaEngine", "IRuntimeConfig", "IRuntimeCache", "IExecutionContext", "IBuilderConfig"):
            names = {name for name in vars(getattr(module, owner)) if not name.startswith("_")} - module.OURS
            assert names
            assert names <= set(dir(getattr(real, owner))), owner
        for enum in ("CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy", "HardwareCompatibilityLevel"):
            assert set(getattr(module, enum).__members__) <= set(getattr(real, enum).__members__)


class TestFinding:
    @pytest.fixture
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType | Exception]:
        """What can be imported: nothing, until a test says otherwise."""
        present: dict[str, ModuleType | Exception] = {}

        def import_module(name: str) -> ModuleType:
            found = present[name]
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(importlib.util, "find_spec", present.get)
        monkeypatch.setattr(importlib, "import_module", import_module)
        return present

    def test_none_names_both_extras(self, installed: dict[str, Any]) -> None:
        with pytest.raises(NotInstalledError, match=r"chatterline\[tensorrt-rtx\].*chatterline\[tensorrt\]"):
            find_flavour()

    def test_not_the_one_that_is_wanted(self, installed: dict[str, Any]) -> None:
        installed["tensorrt_rtx"] = fake_tensorrt("1.7.1", rtx=True)
        with pytest.raises(NotInstalledError, match=r"TensorRT is not installed: .*'chatterline\[tensorrt\]'"):
            find_flavour("tensorrt")

    def test_no_such_flavour(self) -> None:
        with pytest.raises(NotInstalledError, match="'openvino' is no flavour of TensorRT: there are tensorrt-rtx and"):
            find_flavour("openvino")

    def test_bindings_without_libraries(self, installed: dict[str, Any]) -> None:
        installed["tensorrt"] = ImportError("libnvinfer.so.10: cannot open shared object file")
        with pytest.raises(NotInstalledError, match=r"cannot be loaded: libnvinfer\.so\.10"):
            find_flavour("tensorrt")
        with pytest.raises(NotInstalledError, match=r"libnvinfer\.so\.10"):
            find_flavour()

    def test_of_both_the_one_that_times_kernels_where_there_is_a_gpu(self, installed: dict[str, Any]) -> None:
        installed["tensorrt"] = fake_tensorrt()
        installed["tensorrt_rtx"] = fake_tensorrt("1.7.1", rtx=True)
        assert find_flavour(gpu=A10G).name == "tensorrt"
        assert find_flavour().name == "tensorrt-rtx"

    def test_the_other_if_one_is_broken(self, installed: dict[str, Any]) -> None:
        installed["tensorrt"] = OSError("undefined symbol")
        installed["tensorrt_rtx"] = fake_tensorrt("1.7.1", rtx=True)
        assert find_flavour(gpu=A10G).name == "tensorrt-rtx"

    def test_the_real_one(self) -> None:
        pytest.importorskip("tensorrt_rtx")
        assert find_flavour("tensorrt-rtx").module is sys.modules["tensorrt_rtx"]
