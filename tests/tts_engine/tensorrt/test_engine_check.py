"""`engine check --run` on the CPU, with the model's own modules in place of engines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tts_engine.serving.small_model import small_model
from tests.tts_engine.tensorrt.built import Installed
from tests.tts_engine.tensorrt.tiny_stages import tiny_stages
from tts_engine.chatterbox.model import Chatterbox, load
from tts_engine.chatterbox.padded import PaddedFlow, PaddedVocoder
from tts_engine.chatterbox.paged_t3 import PlainPasses
from tts_engine.tensorrt import engine_check, engine_speed
from tts_engine.tensorrt.check_record import read_record
from tts_engine.tensorrt.engine_check import (
    MOST,
    Check,
    Findings,
    check_set,
    check_sets,
    check_stage,
    line_of,
    measure,
    run_checks,
    sizes_of,
)
from tts_engine.tensorrt.engine_speed import Rivals, Speed, slowdown
from tts_engine.tensorrt.engines import EngineSet, find_engines
from tts_engine.tensorrt.faults import PlanError, TensorRtError
from tts_engine.tensorrt.onnx_check import PortError, in_half
from tts_engine.tensorrt.ports import Stage
from tts_engine.tensorrt.profiles import PROFILES, Profile
from tts_engine.tensorrt.session import ModuleSession
from tts_engine.tensorrt.stages import MAKERS

__all__ = ["small_model"]

SMALL = {
    "t3_prefill": Profile("all", {"rows": (1, 2, 2), "text": (1, 5, 9), "voices": (1, 2, 2)}),
    "t3_step": Profile(
        "short", {"rows": (1, 3, 20), "pages": (1, 2, 3), "tiles": (1, 3, 5), "pool": (1, 9, 20), "voices": (1, 2, 9)}
    ),
    "flow_encoder": Profile("short", {"rows": (1, 2, 2), "tokens": (4, 10, 20)}),
    "estimator": Profile("short", {"rows": (1, 2, 2), "frames": (8, 20, 30)}),
    "vocoder": Profile("short", {"rows": (1, 1, 2), "frames": (4, 6, 9)}),
}


@pytest.fixture(scope="module")
def model(small_model: Path) -> Chatterbox:
    return load(small_model)


class Off(ModuleSession):
    """The module, its outputs changed."""

    def __init__(self, stage: Stage, by: float) -> None:
        super().__init__(stage)
        self._by = by

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor + self._by for name, tensor in super().run(inputs).items()}


def test_all_stages_have_makers(model: Chatterbox) -> None:
    assert list(MAKERS) == list(PROFILES)
    assert [make(model).name for make in MAKERS.values()] == list(PROFILES)


class TestParity:
    @pytest.mark.parametrize("name", list(PROFILES))
    def test_the_module_itself_is_exact(self, name: str, model: Chatterbox) -> None:
        stage = MAKERS[name](model)
        checks = list(check_stage(stage, ModuleSession(stage), [SMALL[name]], torch.float32))
        assert [check.sizes for check in checks] == sizes_of(SMALL[name])
        for check in checks:
            assert check.passed
            assert {error.port for error in check.errors} == {port.name for port in stage.outputs}
            assert max(error.error for error in check.errors) < 1e-6
            assert min(check.seconds, check.module_seconds) > 0

    @pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
    def test_half_precision_is_within_its_bound(self, half: torch.dtype, model: Chatterbox) -> None:
        stage = MAKERS["estimator"](model)
        for check in check_stage(stage, ModuleSession(in_half(stage, half)), [SMALL["estimator"]], half):
            assert check.passed
            assert check.worst.error > 0

    @pytest.mark.parametrize("by", [0.3, torch.nan, torch.inf])
    def test_what_is_off_is_found(self, by: float, model: Chatterbox) -> None:
        stage = MAKERS["flow_encoder"](model)
        for check in check_stage(stage, Off(stage, by), [SMALL["flow_encoder"]], torch.float16):
            assert not check.passed
            assert "WRONG: mu" in line_of(check)

    def test_inputs_are_fresh_each_time(self, model: Chatterbox) -> None:
        stage, seen = MAKERS["estimator"](model), []

        class Seen(ModuleSession):
            def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
                seen.append(inputs["frames"].flatten()[:20].clone())
                return super().run(inputs)

        for _ in range(2):
            list(check_stage(stage, Seen(stage), [SMALL["estimator"]], torch.float16))
        assert len({tuple(frames.tolist()) for frames in seen}) == 2 * len(sizes_of(SMALL["estimator"]))

    def test_sizes_of_a_profile(self) -> None:
        for name, profiles in PROFILES.items():
            for profile in profiles:
                found = sizes_of(profile)
                assert found[0] == {size: range_[0] for size, range_ in profile.dims.items()}
                for sizes in found:
                    for size, value in sizes.items():
                        assert value == MOST.get(size, value) or value < MOST[size], name
                        assert profile.dims[size][0] <= value <= profile.dims[size][2]
                rows = [sizes["rows"] for sizes in found]
                assert rows[-1] == profile.dims["rows"][2]

    @pytest.mark.parametrize("name", ["t3_step", "t3_prefill"])
    def test_examples_can_be_made_of_all_of_them(self, name: str, model: Chatterbox) -> None:
        stage = MAKERS[name](model)
        for profile in PROFILES[name]:
            for sizes in sizes_of(profile):
                example = stage.example(sizes, torch.Generator())
                assert {tensor: tuple(example[tensor].shape) for tensor in example} == {
                    port.name: port.sizes(sizes) for port in stage.inputs
                }


class TestSpeed:
    def test_engines_and_rivals_do_the_same_work(self, model: Chatterbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each pair is called with the same inputs, and gives the same."""
        monkeypatch.setattr(engine_speed, "STEP_ROWS", (1, 8))
        monkeypatch.setattr(engine_speed, "TEXTS", (5, 9))
        monkeypatch.setattr(engine_speed, "FLOW_BATCHES", ((30,), (20, 31)))
        monkeypatch.setattr(engine_speed, "FLOW_LONGEST", 32)
        monkeypatch.setattr(engine_speed, "PROMPT_TOKENS", 10)
        monkeypatch.setattr(engine_speed, "VOCODER_BATCHES", ((20,), (9, 24)))
        monkeypatch.setattr(engine_speed, "VOCODER_LONGEST", 24)
        results: list[Tensor] = []

        def timed(call: object, device: torch.device, *, captured: bool) -> float:
            result = call()  # type: ignore[operator]
            results.append(result[0] if isinstance(result, tuple | list) else result)
            return 2.0 if captured else 3.0

        monkeypatch.setattr(engine_speed, "seconds_of", timed)
        sessions = {name: ModuleSession(make(model)) for name, make in MAKERS.items()}
        sessions["vocoder"] = Uncaptured(MAKERS["vocoder"](model))
        rivals = Rivals(PlainPasses, lambda flow: PaddedFlow(flow, voices=2), PaddedVocoder)
        found = list(measure(model, sessions, {"t3", "flow", "vocoder"}, rivals))
        assert [(speed.unit, speed.what) for speed in found] == [
            ("t3", "step of 1"),
            ("t3", "step of 8"),
            ("t3", "prefill of 2"),
            ("flow", "1 of 30 tokens"),
            ("flow", "2 of 51 tokens"),
            ("vocoder", "1 of 20 frames"),
            ("vocoder", "2 of 33 frames"),
        ]
        assert [speed.slowdown for speed in found] == [1, 1, 1, 1, 1, 1.5, 1.5]
        assert [speed.share for speed in found] == [0, engine_speed.STEPS_A_PREFILL, 1, 0, 1, 0, 1]
        # Voices of the flow are made up anew for each side; T3 and vocoder are given the very same.
        for at, speed in enumerate(found):
            ours, theirs = results[2 * at : 2 * at + 2]
            if speed.unit != "t3":
                assert ours.shape == theirs.shape
            if speed.what == "step of 1":
                torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)

    def test_time_on_a_cpu(self) -> None:
        calls: list[int] = []
        assert engine_speed.seconds_of(lambda: calls.append(1), torch.device("cpu"), captured=True) > 0
        assert len(calls) == 3

    def test_what_a_full_gpu_runs_decides(self) -> None:
        alone = Speed("t3", "a", 9.0, 1.0, 0.0)
        speeds = [alone, Speed("t3", "b", 1.0, 2.0, 12), Speed("t3", "c", 6.0, 2.0)]
        assert slowdown(speeds) == pytest.approx((12 * 1 + 6) / (12 * 2 + 2))

    def test_rows_of_all_lengths_are_split_as_the_server_splits_them(
        self, model: Chatterbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Some within the pages of the short profile, some beyond: the engine takes them in several calls."""
        monkeypatch.setattr(engine_speed, "STEP_ROWS", (80,))
        monkeypatch.setattr(engine_speed, "PROMPT_TOKENS", 10)
        monkeypatch.setattr(engine_speed, "TEXTS", (5,))
        made: list[list[Tensor]] = []

        def timed(call: Any, device: torch.device, *, captured: bool) -> float:
            made.append(call())
            return 1.0

        monkeypatch.setattr(engine_speed, "seconds_of", timed)
        sessions = {name: ModuleSession(MAKERS[name](model)) for name in ("t3_prefill", "t3_step")}
        rivals = Rivals(PlainPasses, lambda flow: None, lambda vocoder: None)
        engine_speed.t3_speeds(model, sessions, rivals, captured=True)
        ours, theirs = made[:2]
        assert len(ours) > len(theirs) == 1
        assert sum(map(len, ours)) >= len(theirs[0]) == 80


class Uncaptured(ModuleSession):
    capturable = False  # type: ignore[assignment]


class TestFindings:
    def check(self, stage: str, error: float) -> Check:
        return Check(stage, "short", {"rows": 3}, (PortError({"rows": 3}, "out", error, 0.1),), 1.0, 1.0)

    def test_faults_and_speeds_by_unit(self) -> None:
        findings = Findings(
            (self.check("estimator", 0.05), self.check("flow_encoder", 0.5), self.check("vocoder", 0.01)),
            (Speed("vocoder", "a", 1.0, 2.0), Speed("vocoder", "b", 1.0, 2.0)),
            {"t3_step": "the engine t3_step did not run"},
        )
        faults = findings.unit_faults()
        assert faults["flow"].startswith("flow_encoder: out is off by 0.5 of its range")
        assert faults["t3"] == "t3_step: the engine t3_step did not run"
        assert "vocoder" not in faults
        assert findings.slowdowns() == {"vocoder": 0.5}

    def test_a_line_has_the_columns_of_the_heading(self) -> None:
        line, heading = line_of(self.check("estimator", 0.05)), engine_check.HEADING
        assert len(line) == len(heading)
        assert re.fullmatch(r"estimator +short +rows 3 +5\.0e-02 +1\.0e-01 +1000\.00 +1000\.00", line)


class TestWholeSets:
    @pytest.fixture
    def found(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EngineSet:
        Installed(monkeypatch).build(tmp_path, tiny_stages())
        found = find_engines(tmp_path, lambda: "digest", (8, 6), None)
        plans = {name: replace(plan, profiles=(SMALL[name],)) for name, plan in found.manifest.plans.items()}
        return replace(found, manifest=replace(found.manifest, plans=plans))

    def test_a_set_is_checked_and_kept_in_mind(
        self, found: EngineSet, model: Chatterbox, small_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def session(_: EngineSet, stage: str, __: object) -> ModuleSession:
            if stage == "t3_step":
                raise PlanError("t3_step.plan is truncated")
            module = in_half(MAKERS[stage](model), torch.float16)
            return Off(module, 0.5) if stage == "estimator" else ModuleSession(module)

        monkeypatch.setattr(engine_check, "load_session", session)
        monkeypatch.setattr(engine_check, "fused_fault", lambda: "there is no GPU")
        said: list[str] = []
        assert not check_sets([found], small_model, torch.device("cpu"), said.append)
        record = read_record(found.folder)
        assert record is not None
        assert record.fits("cpu", found.manifest)
        assert set(record.faults) == {"t3", "flow"}
        assert record.faults["t3"] == "t3_step: t3_step.plan is truncated"
        assert "change is off by" in record.faults["flow"]
        assert not record.slowdowns
        text = "\n".join(said)
        assert said[0].startswith("TensorRT-RTX sm86 float16 (TensorRT-RTX 1.7.1.116) in ")
        assert "not compared with CUDA graphs: there is no GPU" in text
        assert "flow is not fit for use: estimator: change is off by" in text
        assert text.count("WRONG: change") == 3
        assert sum(line.startswith("vocoder  ") for line in said) == 3

    def test_one_that_does_not_run_is_said_and_the_others_go_on(
        self, found: EngineSet, model: Chatterbox, small_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Stuck(ModuleSession):
            def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
                raise TensorRtError("the engine did not run")

        def session(_: EngineSet, stage: str, __: object) -> ModuleSession:
            made = in_half(MAKERS[stage](model), torch.bfloat16)
            return Stuck(made) if stage == "flow_encoder" else ModuleSession(made)

        measured: list[set[str]] = []

        def measure_nothing(_: object, __: object, units: set[str], ___: object) -> list[Speed]:
            measured.append(units)
            return [Speed("vocoder", "1 of 2 frames", 0.003, 0.002)]

        monkeypatch.setattr(engine_check, "load_session", session)
        monkeypatch.setattr(engine_check, "fused_fault", lambda: None)
        monkeypatch.setattr(engine_check, "fused_rivals", lambda: None)
        monkeypatch.setattr(engine_check, "measure", measure_nothing)
        half = replace(found, manifest=replace(found.manifest, precision="bf16"))
        said: list[str] = []
        findings = check_set(half, model, small_model, said.append)
        assert findings.faults == {"flow_encoder": "the engine did not run"}
        assert measured == [{"t3", "vocoder"}]
        assert findings.slowdowns() == {"vocoder": 1.5}
        assert said[-1] == "vocoder 1 of 2 frames: 3.00 ms, by CUDA graphs of our own kernels 2.00 ms"

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_without_a_gpu(self, tmp_path: Path, small_model: Path) -> None:
        with pytest.raises(PlanError, match="--run needs the GPU that the engines are for"):
            run_checks(tmp_path, small_model, print)

    def test_none_for_this_gpu(
        self, found: EngineSet, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
        with pytest.raises(PlanError, match=r"are for sm86; the GPU here is sm90"):
            run_checks(tmp_path, small_model, print)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
        monkeypatch.setattr(engine_check, "weights_digest", lambda _: "digest")
        given: list[EngineSet] = []
        monkeypatch.setattr(engine_check, "check_sets", lambda sets, *_: not given.extend(sets))
        assert run_checks(tmp_path, small_model, print)
        assert [each.title for each in given] == ["TensorRT-RTX sm86 float16"]
