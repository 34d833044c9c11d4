"""What a worker's units run by, on a GPU that is made up."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tts_engine.serving.served import settings_for
from tests.tts_engine.tensorrt.built import Installed
from tests.tts_engine.tensorrt.tiny_stages import tiny_stages
from tts_engine.errors import EngineError
from tts_engine.serving import backends as module
from tts_engine.serving.backends import Backends, choose_backends
from tts_engine.serving.serving_measures import ServingMeasures
from tts_engine.serving.settings import WorkerSettings
from tts_engine.tensorrt import engine_session, engines
from tts_engine.tensorrt.check_record import CheckRecord
from tts_engine.tensorrt.faults import PlanError
from tts_engine.tensorrt.selection import STAGES, UNITS

GPU = torch.device("cuda:0")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Installed:
    """An A10G on which engines run on the CPU."""
    monkeypatch.setattr(module, "make_exact", lambda: None)
    monkeypatch.setattr(module, "fused_fault", lambda: None)
    monkeypatch.setattr(module, "weights_digest", lambda _: "digest")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    monkeypatch.setattr(engine_session, "ALIGNMENT", 1)
    monkeypatch.setattr("tests.tts_engine.tensorrt.fake_trt.ALIGNMENT", 1)
    load_engines = engines.load_engines
    monkeypatch.setattr(module, "load_engines", lambda found, _, units: load_engines(found, torch.device("cpu"), units))
    return Installed(monkeypatch)


def chosen(directory: Path | None = None, device: torch.device = GPU, failed: str = "", **changes: Any) -> Backends:
    engine = settings_for(Path("model"), Path("voices"), engines_dir=directory, **changes)
    return choose_backends(WorkerSettings(engine, str(device), 0.0, 4), Path("model"), device, failed)


class TestWithoutEngines:
    @pytest.mark.parametrize(
        ("backend", "fault", "expected"),
        [
            ("auto", None, "CUDA graphs, because no directory of engines is configured"),
            ("cuda-graphs", None, "CUDA graphs"),
            ("eager", None, "eager, as configured"),
            ("eager", "no compiler", "eager, as configured"),
            ("cuda-graphs", "no compiler", "eager, because no compiler"),
            ("auto", "no compiler", "eager, because no compiler, no directory of engines is configured"),
        ],
    )
    def test_as_configured_and_as_far_as_the_kernels_run(
        self,
        backend: str,
        fault: str | None,
        expected: str,
        installed: Installed,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(module, "fused_fault", lambda: fault)
        found = chosen(backend=backend)
        assert found.summary == expected
        assert found.fused is found.captured("t3") is found.captured("vocoder") is expected.startswith("CUDA")
        assert found.dtype == torch.bfloat16
        assert ("a good deal slower: no compiler" in caplog.text) is (bool(fault) and backend != "eager")

    def test_on_a_cpu(self) -> None:
        found = chosen(device=torch.device("cpu"))
        assert found.summary == "eager, because there is no GPU"
        assert found.dtype == torch.float32
        assert not any(found.captured(unit) or found.by_engine(unit) for unit in UNITS)
        for backend in ("tensorrt", "cuda-graphs"):
            with pytest.raises(EngineError, match=f"backend {backend} needs a GPU; the device is cpu"):
                chosen(device=torch.device("cpu"), backend=backend)

    def test_an_empty_directory_is_no_fault(
        self, installed: Installed, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        found = chosen(tmp_path)
        assert found.summary == f"CUDA graphs, because no engine for sm86 in {tmp_path}"
        assert not found.engines.failed
        assert not caplog.text
        with pytest.raises(PlanError, match=f"backend tensorrt: t3 has no engines: no engine for sm86 in {tmp_path}"):
            chosen(tmp_path, backend="tensorrt")


class TestWithEngines:
    def test_auto_takes_them_and_their_precision(self, installed: Installed, tmp_path: Path) -> None:
        installed.build(tmp_path, tiny_stages())
        found = chosen(tmp_path)
        assert found.summary == "TensorRT-RTX sm86 float16"
        assert found.dtype == torch.float16
        assert all(found.by_engine(unit) and found.captured(unit) for unit in UNITS)
        assert found.fused, "sampling has kernels of its own"

    @pytest.mark.parametrize(("precision", "dtype"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
    def test_a_precision_that_is_asked_for(
        self, precision: str, dtype: torch.dtype, installed: Installed, tmp_path: Path
    ) -> None:
        for built in ("fp16", "bf16"):
            installed.build(tmp_path, tiny_stages(), precision=built)
        found = chosen(tmp_path, precision=precision)
        assert (found.dtype, found.engines.half) == (dtype, dtype)

    def test_float32_has_none(self, installed: Installed, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        installed.build(tmp_path, tiny_stages())
        found = chosen(tmp_path, precision="float32")
        assert found.summary == "CUDA graphs, because engines are of float16 or bfloat16, and precision is float32"
        assert found.dtype == torch.float32
        with pytest.raises(PlanError, match="and precision is float32"):
            chosen(tmp_path, precision="float32", backend="tensorrt")

    def test_without_the_kernels_graphs_still_hold_engines(
        self, installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "fused_fault", lambda: "no compiler")
        installed.build(tmp_path, [stage for stage in tiny_stages() if stage.name in STAGES["t3"]])
        found = chosen(tmp_path)
        assert [found.captured(unit) for unit in UNITS] == [True, False, False]
        assert not found.fused

    def test_what_graphs_cannot_hold_is_not_captured(self, installed: Installed, tmp_path: Path) -> None:
        installed.build(tmp_path, tiny_stages(), made={"vocoder": {"capturable": False}})
        found = chosen(tmp_path)
        assert [found.by_engine(unit) for unit in UNITS] == [True, True, False]
        assert "graphs cannot hold TensorRT-RTX sm86 float16, and nobody measured it" in found.summary
        found = chosen(tmp_path, backend="tensorrt")
        assert [found.captured(unit) for unit in UNITS] == [True, True, False]
        assert found.by_engine("vocoder")

    def test_only_t3_decides_the_precision(self, installed: Installed, tmp_path: Path) -> None:
        installed.build(tmp_path, [stage for stage in tiny_stages() if stage.name in STAGES["vocoder"]])
        found = chosen(tmp_path)
        assert found.by_engine("vocoder")
        assert found.dtype == torch.bfloat16

    @pytest.mark.parametrize("where", ["find_engines", "load_engines"])
    def test_whatever_engines_raise_auto_goes_on(
        self,
        where: str,
        installed: Installed,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def fail(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        installed.build(tmp_path, tiny_stages())
        monkeypatch.setattr(module, where, fail)
        found = chosen(tmp_path)
        assert found.summary.startswith("CUDA graphs, because PermissionError: ")
        assert found.engines.failed == ("unusable",)
        assert "TensorRT engines are not used: PermissionError" in caplog.text

    def test_engines_of_other_weights_are_passed_over_with_a_warning(
        self, installed: Installed, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        installed.build(tmp_path, tiny_stages(), weights="before the fine-tune")
        with caplog.at_level(logging.WARNING):
            found = chosen(tmp_path)
        assert "TensorRT engines are not used: " in caplog.text
        assert "those at hand differ, or have changed since" in caplog.text
        assert found.engines.failed == ("unfit",)
        assert found.captured("t3")
        assert not found.by_engine("t3")
        assert found.dtype == torch.bfloat16
        with pytest.raises(PlanError, match=r"backend tensorrt: t3 has no engines: .*have changed since"):
            chosen(tmp_path, backend="tensorrt")

    def test_a_plan_that_does_not_run_costs_its_unit(
        self, installed: Installed, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        installed.build(tmp_path, tiny_stages(), made={"estimator": {"runs": False}})
        found = chosen(tmp_path)
        assert [found.by_engine(unit) for unit in UNITS] == [True, False, True]
        assert found.summary.startswith("t3, vocoder: TensorRT-RTX sm86 float16; flow: CUDA graphs, because the engine")
        assert "TensorRT engines of flow are not used: the engine estimator did not run" in caplog.text
        measures = ServingMeasures("cuda:0")
        found.measure(measures)
        assert {key for key, gauge in measures.backends.items() if gauge.value} == {
            ("t3", "tensorrt"),
            ("flow", "cuda-graphs"),
            ("vocoder", "tensorrt"),
        }
        assert {key: counter.value for key, counter in measures.plans_failed.items() if counter.value} == {
            "unusable": 1
        }

    def test_what_was_measured_to_be_slower_is_not_kept_in_memory(self, installed: Installed, tmp_path: Path) -> None:
        manifest, _ = installed.build(tmp_path, tiny_stages())
        plans = {stage: plan.sha256 for stage, plan in manifest.plans.items()}
        slowdowns = dict.fromkeys(UNITS, 1.5)
        CheckRecord("cpu", plans, slowdowns).write(tmp_path / manifest.folder)
        found = chosen(tmp_path)
        assert "took 1.50 times as long here" in found.summary
        assert not found.engines.sessions
        assert found.dtype == torch.bfloat16, "no engine's precision counts"
        assert chosen(tmp_path, backend="tensorrt").summary == "TensorRT-RTX sm86 float16"

    def test_more_voices_than_engines_take(self, installed: Installed, tmp_path: Path) -> None:
        installed.build(tmp_path, tiny_stages())
        found = chosen(tmp_path, voices=65)
        assert [found.by_engine(unit) for unit in UNITS] == [False, True, True]
        assert "voices_at_once is 65, and its engines take 64" in found.summary

    def test_they_are_not_looked_for_where_others_are_configured(self, installed: Installed, tmp_path: Path) -> None:
        _, made = installed.build(tmp_path, tiny_stages())
        for backend in ("cuda-graphs", "eager"):
            assert not chosen(tmp_path, backend=backend).engines.sessions
        assert not any(each.contexts for each in made.values())

    def test_once_they_have_failed_they_are_not_tried_again(self, installed: Installed, tmp_path: Path) -> None:
        _, made = installed.build(tmp_path, tiny_stages())
        found = chosen(tmp_path, failed="the engine t3_step did not run")
        assert found.summary == "CUDA graphs, because the engine t3_step did not run"
        assert found.engines.failed == ("unusable",)
        assert not any(each.contexts for each in made.values())
