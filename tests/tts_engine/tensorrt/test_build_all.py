"""Stages of a few operators take the place of the model's, and mostly a double the place of TensorRT. The model's own
stages go the whole way in test_real_widths.py.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.tts_engine.tensorrt import tiny_onnx
from tests.tts_engine.tensorrt.fake_builder import fake_tensorrt
from tests.tts_engine.tensorrt.tiny_onnx import INPUTS, OUTPUTS
from tts_engine.chatterbox.checkpoint import S3GEN_FILE, T3_FILES
from tts_engine.tensorrt import build_all as module
from tts_engine.tensorrt import manifest as manifest_module
from tts_engine.tensorrt.build_all import STAGES, Order, Outcome, build_all, check_stages, export_all, space_needed
from tts_engine.tensorrt.builder import Options
from tts_engine.tensorrt.faults import BuildError
from tts_engine.tensorrt.flavour import Flavour, TensorRt, find_flavour
from tts_engine.tensorrt.plan_store import PlanStore
from tts_engine.tensorrt.ports import Stage
from tts_engine.tensorrt.profiles import PROFILES

MAKE_ONNX = module.make_onnx
A10G = Options(target=(8, 6), gpu=(8, 6))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """What the digest and the estimate of space look at."""
    directory = tmp_path / "weights"
    directory.mkdir()
    save_file({"w": torch.randn(300, 100)}, directory / T3_FILES["turbo"])
    save_file({"w": torch.randn(200, 100)}, directory / S3GEN_FILE)
    return directory


@pytest.fixture
def store(tmp_path: Path) -> PlanStore:
    return PlanStore(tmp_path / "engines")


@pytest.fixture(autouse=True)
def tiny_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    def stage(name: str) -> Callable[[object], Stage]:
        return lambda _: Stage(name, torch.nn.Identity(), INPUTS, OUTPUTS, lambda dims, generator: {})

    def make_onnx(made: Stage, folder: Path, precision: str, digest: str, report: module.Report) -> Path:
        return tiny_onnx.write(folder / f"{made.name}.onnx", {"fp16": "float16", "bf16": "bfloat16"}[precision])

    profiles: Mapping[str, Any] = dict.fromkeys(PROFILES, tiny_onnx.PROFILES)
    for changed in (module, manifest_module):
        monkeypatch.setattr(changed, "PROFILES", profiles)
    monkeypatch.setattr(module, "MAKERS", {name: stage(name) for name in STAGES})
    monkeypatch.setattr(module, "make_onnx", make_onnx)
    monkeypatch.setattr(module, "load", lambda directory: None)


def folder(store: PlanStore, prefix: str = "sm86-fp16-tensorrt") -> str:
    """Of the one set that there is."""
    (name,) = [entry.folder.name for entry in store.list()]
    assert re.fullmatch(prefix + "-[0-9a-f]{8}", name)
    return name


class Reports:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str, float | None]] = []

    def __call__(self, stage: str, what: str, part: float | None) -> None:
        self.lines.append((stage, what, part))

    def built(self) -> list[str]:
        return [stage for stage, what, _ in self.lines if what == "built"]


def order(weights: Path, **changes: Any) -> Order:
    return replace(Order(weights, "turbo", "fp16", A10G, ("vocoder", "estimator")), **changes)


def double() -> Flavour:
    return TensorRt(fake_tensorrt())


def built(outcomes: list[Outcome]) -> list[str]:
    return [outcome.plan.stage for outcome in outcomes if outcome.built]


class TestRtx:
    """For real, without a GPU."""

    def test_plans_and_manifest(self, weights: Path, store: PlanStore) -> None:
        pytest.importorskip("tensorrt_rtx")
        reports, flavour = Reports(), find_flavour("tensorrt-rtx")
        outcomes = build_all(order(weights, options=Options(target=(8, 6))), flavour, store, reports)
        assert built(outcomes) == reports.built() == ["vocoder", "estimator"]
        name = folder(store, "sm86-fp16-tensorrt-rtx")
        manifest = store.manifest(name)
        assert (manifest.target, manifest.precision, manifest.model) == ("sm86", "fp16", "turbo")
        assert manifest.version == flavour.version
        assert {"python", "torch", "onnx"} <= set(manifest.tools)
        for outcome in outcomes:
            plan = manifest.plan(outcome.plan.stage, store.directory)
            assert plan == outcome.plan
            assert len(store.read(name, plan)) == plan.bytes
            assert (plan.inputs, plan.outputs, plan.profiles) == (INPUTS, OUTPUTS, tiny_onnx.PROFILES)
            assert plan.scratch_bytes > 0
            assert plan.weights_bytes > 0
        left = {path.name for path in store.directory.iterdir()}
        assert left == {name, ".lock"}


class TestBuild:
    def test_again_does_nothing(self, weights: Path, store: PlanStore, monkeypatch: pytest.MonkeyPatch) -> None:
        first = build_all(order(weights), double(), store, Reports())
        before = {path: path.stat().st_mtime_ns for path in store.directory.rglob("*")}
        monkeypatch.delattr(module, "load")
        reports = Reports()
        again = build_all(order(weights, model="/the/same/model"), double(), store, reports)
        assert built(again) == reports.lines == []
        assert [outcome.plan for outcome in again] == [outcome.plan for outcome in first]
        assert {path: path.stat().st_mtime_ns for path in store.directory.rglob("*")} == before

    def test_only_what_is_missing(self, weights: Path, store: PlanStore) -> None:
        build_all(order(weights, stages=("vocoder",)), double(), store, Reports())
        assert built(build_all(order(weights), double(), store, Reports())) == ["estimator"]
        assert set(store.manifest(folder(store)).plans) == {"vocoder", "estimator"}

    def test_another_precision_lies_beside(self, weights: Path, store: PlanStore) -> None:
        one = ("vocoder",)
        build_all(order(weights, stages=one), double(), store, Reports())
        build_all(order(weights, stages=one, precision="bf16"), double(), store, Reports())
        assert [entry.folder.name[:18] for entry in store.list()] == ["sm86-bf16-tensorrt", "sm86-fp16-tensorrt"]

    def test_a_damaged_plan_is_built_again(self, weights: Path, store: PlanStore) -> None:
        build_all(order(weights), double(), store, Reports())
        os.truncate(store.plan_path(folder(store), "vocoder"), 100)
        assert built(build_all(order(weights), double(), store, Reports())) == ["vocoder"]
        assert store.is_whole(folder(store), store.manifest(folder(store)).plans["vocoder"])

    def test_a_damaged_manifest_counts_for_nothing(self, weights: Path, store: PlanStore) -> None:
        build_all(order(weights), double(), store, Reports())
        (store.directory / folder(store) / "manifest.json").write_text("{")
        assert built(build_all(order(weights), double(), store, Reports())) == ["vocoder", "estimator"]

    def test_weights_that_changed_are_another_set(self, weights: Path, store: PlanStore) -> None:
        build_all(order(weights), double(), store, Reports())
        before, content = folder(store), (weights / S3GEN_FILE).read_bytes()
        (weights / S3GEN_FILE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert built(build_all(order(weights, stages=("vocoder",)), double(), store, Reports())) == ["vocoder"]
        (new,) = [entry for entry in store.list() if entry.folder.name != before]
        assert new.manifest is not None
        assert set(new.manifest.plans) == {"vocoder"}
        (weights / S3GEN_FILE).write_bytes(content)
        assert built(build_all(order(weights), double(), store, Reports())) == [], "the old set is whole still"

    def test_another_version_is_another_set(self, weights: Path, store: PlanStore) -> None:
        build_all(order(weights), double(), store, Reports())
        newer = TensorRt(fake_tensorrt("11.4.1.2"))
        assert built(build_all(order(weights, stages=("vocoder",)), newer, store, Reports())) == ["vocoder"]
        assert built(build_all(order(weights), double(), store, Reports())) == []
        assert len(store.list()) == 2

    def test_when_it_was_built(self, weights: Path, store: PlanStore) -> None:
        started = int(time.time())
        build_all(order(weights), double(), store, Reports())
        assert started <= store.manifest(folder(store)).built <= time.time()

    @pytest.mark.parametrize("options", [replace(A10G, level=2), replace(A10G, workspace_bytes=64 << 20)])
    def test_other_options_are_another_build(self, weights: Path, store: PlanStore, options: Options) -> None:
        one = ("vocoder",)
        build_all(order(weights, stages=one), double(), store, Reports())
        assert built(build_all(order(weights, stages=one, options=options), double(), store, Reports())) == ["vocoder"]
        assert built(build_all(order(weights, stages=one), double(), store, Reports())) == []

    def test_profiles_that_changed_are_another_build(
        self, weights: Path, store: PlanStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build_all(order(weights), double(), store, Reports())
        for changed in (module, manifest_module):
            monkeypatch.setattr(changed, "PROFILES", {**module.PROFILES, "vocoder": tiny_onnx.PROFILES[:1]})
        assert built(build_all(order(weights), double(), store, Reports())) == ["vocoder"]


class TestFaults:
    def test_a_stage_that_there_is_not(self, weights: Path) -> None:
        with pytest.raises(BuildError, match="no stage vocodr: there are t3_prefill, t3_step, flow_encoder"):
            order(weights, stages=("vocoder", "vocodr"))
        check_stages(STAGES)

    def test_a_target_that_there_is_not(self, weights: Path, store: PlanStore) -> None:
        with pytest.raises(BuildError, match="not for sm90"):
            build_all(order(weights, options=replace(A10G, target=(9, 0))), double(), store, Reports())
        assert not store.directory.exists()

    def test_no_room(self, weights: Path, store: PlanStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
        with pytest.raises(BuildError, match=r"0\.0 GB free; building vocoder, estimator takes up to"):
            build_all(order(weights), double(), store, Reports())
        assert [path.name for path in store.directory.iterdir()] == [".lock"]

    def test_what_a_killed_build_left_makes_room(
        self, weights: Path, store: PlanStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Space is looked at after it is gone."""
        with store.scratch() as killed:
            left = killed.with_name(killed.name + "x")
        left.mkdir(parents=True)
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 0 if left.exists() else 1 << 40)
        )
        assert built(build_all(order(weights), double(), store, Reports())) == ["vocoder", "estimator"]

    def test_what_another_built_meanwhile_is_found(
        self, weights: Path, store: PlanStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Up to the lock somebody else may have built."""
        locked = store.locked

        @contextmanager
        def late() -> Iterator[None]:
            build_all(order(weights, stages=("vocoder",)), double(), PlanStore(store.directory), Reports())
            with locked():
                yield

        monkeypatch.setattr(store, "locked", late)
        assert built(build_all(order(weights), double(), store, Reports())) == ["estimator"]
        assert set(store.manifest(folder(store)).plans) == {"vocoder", "estimator"}

    @pytest.mark.parametrize("step", ["export", "check", "convert"])
    def test_a_disk_fault_on_the_way(
        self, weights: Path, store: PlanStore, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        def fault(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        for name in ("export", "check", "convert"):
            monkeypatch.setattr(module, name, fault if name == step else lambda *_, **__: None)
        monkeypatch.setattr(module, "make_onnx", MAKE_ONNX)
        with pytest.raises(BuildError, match=f"no space is left for {store.directory}"):
            build_all(order(weights), double(), store, Reports())
        assert [path.name for path in store.directory.iterdir()] == [".lock"]

    def test_what_was_finished_before_stays(
        self, weights: Path, store: PlanStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_plan = store.write_plan

        def full(folder: str, stage: str, data: bytes | memoryview) -> str:
            if stage == "estimator":
                raise BuildError("no space is left")
            return write_plan(folder, stage, data)

        with monkeypatch.context() as patch:
            patch.setattr(store, "write_plan", full)
            with pytest.raises(BuildError, match="no space is left"):
                build_all(order(weights), double(), store, Reports())
        assert set(store.manifest(folder(store)).plans) == {"vocoder"}
        assert built(build_all(order(weights), double(), store, Reports())) == ["estimator"]

    def test_two_at_once(self, weights: Path, store: PlanStore) -> None:
        with store.locked(), pytest.raises(BuildError, match="by another process"):
            build_all(order(weights), double(), PlanStore(store.directory), Reports())


class TestExport:
    def test_appears_whole(self, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With its weights beside it, and over what was there."""
        out = tmp_path / "onnx"
        out.mkdir()
        (out / "vocoder.onnx").write_text("old")

        def make_onnx(made: Stage, folder: Path, *_: object) -> Path:
            assert (out / "vocoder.onnx").read_text() == "old"
            (folder / "vocoder.onnx.data").write_text("weights")
            (folder / "vocoder.onnx").write_text("new")
            return folder / "vocoder.onnx"

        monkeypatch.setattr(module, "make_onnx", make_onnx)
        assert export_all(weights, out, ("vocoder",), "fp32", Reports()) == [out / "vocoder.onnx"]
        assert (out / "vocoder.onnx").read_text() == "new"
        assert {path.name for path in out.iterdir()} == {"vocoder.onnx", "vocoder.onnx.data", ".lock"}

    def test_or_not_at_all(self, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def half(made: Stage, path: Path, **_: object) -> None:
            path.write_text("half")
            raise OSError("512 requested and 7 written")

        monkeypatch.setattr(module, "make_onnx", MAKE_ONNX)
        monkeypatch.setattr(module, "export", half)
        out = tmp_path / "onnx"
        with pytest.raises(BuildError, match=f"{out}.*: 512 requested and 7 written"):
            export_all(weights, out, ("vocoder",), "fp32", Reports())
        assert [path.name for path in out.iterdir()] == [".lock"]


class TestTensorRt:
    """Against a module with TensorRT's names, on a machine with an A10G."""

    OPTIONS = Options(target=(8, 6), gpu=(8, 6), workspace_bytes=1 << 30, level=4)

    def test_the_timing_cache_grows_from_stage_to_stage(self, weights: Path, store: PlanStore) -> None:
        flavour = TensorRt(fake_tensorrt())
        outcomes = build_all(order(weights, options=self.OPTIONS), flavour, store, Reports())
        assert built(outcomes) == ["vocoder", "estimator"]
        assert store.timing_cache("sm86", "tensorrt", flavour.version) == b"sm86:measured measured "
        assert store.manifest(folder(store)).flavour == "tensorrt"

    def test_what_the_builder_was_told(self, weights: Path, store: PlanStore) -> None:
        import json

        build_all(order(weights, options=self.OPTIONS), TensorRt(fake_tensorrt()), store, Reports())
        told = json.loads(store.plan_path(folder(store), "vocoder").read_bytes())
        assert told["limits"] == {"WORKSPACE": 1 << 30}
        assert (told["level"], told["flags"], told["verbosity"], told["network"]) == (4, [], "DETAILED", 2)

    def test_scratch_memory_is_the_engines_own_account(self, weights: Path, store: PlanStore) -> None:
        (outcome, _) = build_all(order(weights, options=self.OPTIONS), TensorRt(fake_tensorrt()), store, Reports())
        largest = max(
            1000 * sum(size for port in INPUTS[:4] for size in port.sizes({n: d[2] for n, d in profile.dims.items()}))
            for profile in tiny_onnx.PROFILES
        )
        assert outcome.plan.scratch_bytes == largest

    def test_an_engine_of_other_profiles_is_refused(
        self, weights: Path, store: PlanStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake = fake_tensorrt()
        given = fake.ICudaEngine.get_tensor_profile_shape
        monkeypatch.setattr(
            fake.ICudaEngine, "get_tensor_profile_shape", lambda self, name, index: given(self, name, 1 - index)
        )
        with pytest.raises(BuildError, match="not as it was ordered: input x has profiles"):
            build_all(order(weights, options=self.OPTIONS), TensorRt(fake), store, Reports())
        assert not store.list()

    def test_an_engine_that_cannot_be_loaded_is_refused(
        self, weights: Path, store: PlanStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake = fake_tensorrt()
        monkeypatch.setattr(fake.Runtime, "deserialize_cuda_engine", lambda self, plan: None)
        with pytest.raises(BuildError, match="cannot load the engine that it has just built"):
            build_all(order(weights, options=self.OPTIONS), TensorRt(fake), store, Reports())


class TestSpace:
    def test_is_of_the_parameters(self, weights: Path) -> None:
        """The largest file's export in both precisions, and a plan for each stage of T3 and for S3Gen."""
        t3, s3gen, kernels = 30_000, 20_000, 64 << 20
        assert space_needed(weights, STAGES) == int(6 * t3 + 2.5 * (2 * t3 + s3gen)) + 5 * kernels
        assert space_needed(weights, ("t3_step",)) == int(8.5 * t3) + kernels
        assert space_needed(weights, ("vocoder", "estimator")) == int(8.5 * s3gen) + 2 * kernels

    def test_without_a_checkpoint_nothing_is_known(self, tmp_path: Path) -> None:
        assert space_needed(tmp_path, ("vocoder",)) == 64 << 20
