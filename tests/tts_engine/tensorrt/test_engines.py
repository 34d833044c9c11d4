from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from tests.tts_engine.tensorrt.built import VERSION, Installed
from tests.tts_engine.tensorrt.tiny_stages import tiny_stages
from tts_engine.tensorrt import engine_session, engines
from tts_engine.tensorrt.check_record import CHECK, CheckRecord, read_record
from tts_engine.tensorrt.engines import KERNELS_SUFFIX, Engines, UnfitError, find_engines, load_engines
from tts_engine.tensorrt.faults import PlanError
from tts_engine.tensorrt.plan_store import MANIFEST, PlanStore
from tts_engine.tensorrt.selection import PLAN_FAULTS, STAGES, UNITS

A10G, H100 = (8, 6), (9, 0)
CPU = torch.device("cpu")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Installed:
    # The CPU's allocator gives multiples of 64; GPUs' of 512.
    monkeypatch.setattr(engine_session, "ALIGNMENT", 1)
    monkeypatch.setattr("tests.tts_engine.tensorrt.fake_trt.ALIGNMENT", 1)
    return Installed(monkeypatch)


class TestFinding:
    def test_those_of_this_gpu_and_these_weights(self, installed: Installed, tmp_path: Path) -> None:
        for target in ("sm86", "sm89"):
            installed.build(tmp_path, tiny_stages(), target=target)
        found = find_engines(tmp_path, lambda: "digest", A10G, None)
        assert found.manifest.target == "sm86"
        assert found.title == "TensorRT-RTX sm86 float16"
        assert found.folder.name.startswith("sm86-fp16-tensorrt-rtx-")
        assert found.half == torch.float16

    def test_float16_first_then_tensorrt_or_what_is_asked_for(self, installed: Installed, tmp_path: Path) -> None:
        def folder(precision: str | None = None) -> str:
            return find_engines(tmp_path, lambda: "digest", A10G, precision).folder.name.rpartition("-")[0]  # type: ignore[arg-type]

        installed.build(tmp_path, tiny_stages(), flavour="tensorrt", precision="bf16")
        assert folder() == "sm86-bf16-tensorrt"
        installed.build(tmp_path, tiny_stages())
        assert folder() == "sm86-fp16-tensorrt-rtx"
        installed.build(tmp_path, tiny_stages(), flavour="tensorrt")
        assert folder() == "sm86-fp16-tensorrt"
        assert folder("bf16") == "sm86-bf16-tensorrt"

    def test_one_that_does_not_fit_is_passed_over(self, installed: Installed, tmp_path: Path) -> None:
        installed.build(tmp_path, tiny_stages(), weights="other")
        installed.build(tmp_path, tiny_stages(), precision="bf16")
        assert find_engines(tmp_path, lambda: "digest", A10G, None).half == torch.bfloat16

    def test_weights_are_not_read_for_engines_of_other_gpus(self, installed: Installed, tmp_path: Path) -> None:
        def digest() -> str:
            raise AssertionError("3 GB")

        installed.build(tmp_path, tiny_stages())
        with pytest.raises(PlanError, match=r"^the engines in .* are for sm86; the GPU here is sm90$"):
            find_engines(tmp_path, digest, H100, None)
        with pytest.raises(PlanError, match=r"^no engine for sm90 in /no/such/directory$"):
            find_engines(Path("/no/such/directory"), digest, H100, None)
        with pytest.raises(PlanError, match="fp16; bf16 is wanted"):
            find_engines(tmp_path, digest, A10G, "bf16")

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"weights": "old"}, "those at hand differ, or have changed since"),
            ({"version": "10.9.0"}, f"TensorRT 10.9.0; here is {VERSION}"),
            ({"recipe": 0}, "built by another version of chatterline"),
        ],
    )
    def test_why_not_is_said(self, changes: dict[str, object], said: str, installed: Installed, tmp_path: Path) -> None:
        installed.build(tmp_path, tiny_stages(), flavour="tensorrt", **changes)
        with pytest.raises(PlanError, match=said):
            find_engines(tmp_path, lambda: "digest", A10G, None)

    def test_the_flavour_is_not_installed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        installed = Installed(monkeypatch, "tensorrt")
        installed.build(tmp_path, tiny_stages())
        with pytest.raises(UnfitError, match=r"tensorrt-rtx is not installed; TensorRT .* is, for which") as raised:
            find_engines(tmp_path, lambda: "digest", A10G, None)
        assert raised.value.word == "wrong_flavour"
        installed.names = ()
        with pytest.raises(UnfitError, match=r"^tensorrt-rtx is not installed$") as raised:
            find_engines(tmp_path, lambda: "digest", A10G, None)
        assert raised.value.word == "not_installed"

    def test_a_directory_that_may_not_be_read(
        self, installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: Path) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "iterdir", refuse)
        with pytest.raises(UnfitError, match="Permission denied") as raised:
            find_engines(tmp_path, lambda: "digest", A10G, None)
        assert raised.value.word == "unloadable"

    def test_a_damaged_manifest(self, installed: Installed, tmp_path: Path) -> None:
        manifest, _ = installed.build(tmp_path, tiny_stages())
        (tmp_path / manifest.folder / MANIFEST).write_text("{")
        with pytest.raises(PlanError, match=r"manifest\.json is damaged"):
            find_engines(tmp_path, lambda: "digest", A10G, None)


class TestLoading:
    def load(self, directory: Path) -> Engines:
        return load_engines(find_engines(directory, lambda: "digest", A10G, None), CPU)

    def test_all_of_them(self, installed: Installed, tmp_path: Path) -> None:
        _, made = installed.build(tmp_path, tiny_stages())
        loaded = self.load(tmp_path)
        assert sorted(loaded.sessions) == sorted(made)
        assert all(offer.title == "TensorRT-RTX sm86 float16" for offer in loaded.offers.values())
        assert loaded.half == torch.float16
        assert loaded.capturable == frozenset(UNITS)
        assert not loaded.failed
        assert all(len(each.contexts) == 1 and len(each.contexts[0].executed) == 1 for each in made.values())
        memory = {name: each.contexts[0].memory for name, each in made.items()}
        assert memory["t3_step"] == memory["t3_prefill"], "a stream's engines share their scratch"
        assert memory["flow_encoder"] == memory["estimator"] == memory["vocoder"]
        assert memory["t3_step"] != memory["vocoder"]

    def test_a_unit_whose_stage_is_missing(self, installed: Installed, tmp_path: Path) -> None:
        installed.build(tmp_path, [stage for stage in tiny_stages() if stage.name != "estimator"])
        loaded = self.load(tmp_path)
        assert loaded.offers["flow"].fault.startswith("there is no engine for estimator in ")
        assert sorted(loaded.sessions) == ["t3_prefill", "t3_step", "vocoder"]

    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            (lambda path: path.write_bytes(path.read_bytes()[:3]), "truncated: 3 bytes of 6"),
            (lambda path: path.write_bytes(b"x" * len(path.read_bytes())), "digest is not the manifest's"),
            (lambda path: path.unlink(), r"vocoder\.plan is missing"),
        ],
    )
    def test_a_damaged_plan_costs_its_unit_alone(
        self, damage: object, said: str, installed: Installed, tmp_path: Path
    ) -> None:
        manifest, _ = installed.build(tmp_path, tiny_stages())
        damage(PlanStore(tmp_path).plan_path(manifest.folder, "vocoder"))  # type: ignore[operator]
        loaded = self.load(tmp_path)
        assert said.replace(r"\.", ".") in loaded.offers["vocoder"].fault
        assert loaded.failed == ("unloadable",)
        assert loaded.offers["t3"].title
        assert loaded.offers["flow"].title

    def test_one_that_does_not_run_and_one_that_graphs_cannot_hold(self, installed: Installed, tmp_path: Path) -> None:
        installed.build(tmp_path, tiny_stages(), made={"t3_step": {"runs": False}, "estimator": {"capturable": False}})
        loaded = self.load(tmp_path)
        assert loaded.offers["t3"].fault.startswith("the engine t3_step did not run")
        assert loaded.failed == ("unusable",)
        assert set(loaded.failed) <= set(PLAN_FAULTS)
        assert loaded.capturable == {"vocoder"}
        assert sorted(loaded.sessions) == ["estimator", "flow_encoder", "vocoder"]

    def test_no_memory_for_its_scratch(
        self, installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def take(_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

        monkeypatch.setattr(engine_session.Scratch, "memory", take)
        installed.build(tmp_path, tiny_stages())
        loaded = self.load(tmp_path)
        assert {offer.fault for offer in loaded.offers.values()} == {"CUDA out of memory."}
        assert not loaded.sessions

    def test_units_given_up(self, installed: Installed, tmp_path: Path) -> None:
        installed.build(tmp_path, tiny_stages())
        rest = self.load(tmp_path).without({"t3": "slower", "vocoder": "wrong"})
        assert sorted(rest.sessions) == sorted(STAGES["flow"])
        assert [rest.offers[unit].fault for unit in UNITS] == ["slower", "", "wrong"]

    def test_none(self) -> None:
        none = Engines.none("no GPU", "unfit")
        assert {offer.fault for offer in none.offers.values()} == {"no GPU"}
        assert (none.sessions, none.half, none.failed) == ({}, None, ("unfit",))
        none.settle()


class TestKernels:
    def test_what_was_compiled_is_there_at_the_next_start(
        self, installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest, _ = installed.build(tmp_path, tiny_stages())
        loaded = load_engines(find_engines(tmp_path, lambda: "digest", A10G, None), CPU)
        loaded.settle()
        kept = tmp_path / manifest.folder / f"vocoder{KERNELS_SUFFIX}"
        assert kept.read_bytes() == b"compiled"
        kept.write_bytes(b"of yesterday")
        again = load_engines(find_engines(tmp_path, lambda: "digest", A10G, None), CPU)
        assert again.sessions["vocoder"].kernels() == b"of yesterday"  # type: ignore[attr-defined]

    def test_a_start_that_is_cut_off_has_kept_what_it_compiled(
        self, installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest, _ = installed.build(tmp_path, tiny_stages())
        loaded = load_engines(find_engines(tmp_path, lambda: "digest", A10G, None), CPU)
        loaded.keep_kernels()
        kept = tmp_path / manifest.folder / f"t3_step{KERNELS_SUFFIX}"
        kept.unlink()
        loaded.keep_kernels()
        assert not kept.exists(), "nothing was compiled since"
        monkeypatch.setattr(engine_session.EngineSession, "kernels", lambda _: b"compiled more")
        loaded.keep_kernels()
        assert kept.read_bytes() == b"compiled more"

    def test_a_directory_that_cannot_be_written(
        self, installed: Installed, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        installed.build(tmp_path, tiny_stages())
        found = find_engines(tmp_path, lambda: "digest", A10G, None)
        engines._keep(found.folder / "missing" / "x", b"kernels")
        with caplog.at_level(logging.WARNING):
            engines._keep(Path("/proc/x.kernels"), b"kernels")
        assert "compiled kernels are not kept for the next start: /proc/x.kernels" in caplog.text


class TestWhatWasChecked:
    def record(self, installed: Installed, directory: Path, **changes: object) -> CheckRecord:
        manifest, _ = installed.build(directory, tiny_stages())
        given: dict[str, object] = {
            "gpu": "cpu",
            "plans": {stage: plan.sha256 for stage, plan in manifest.plans.items()},
            "slowdowns": {"t3": 0.5, "vocoder": 1.4},
        }
        record = CheckRecord(**(given | changes))  # type: ignore[arg-type]
        record.write(directory / manifest.folder)
        return record

    def load(self, directory: Path) -> Engines:
        return load_engines(find_engines(directory, lambda: "digest", A10G, None), CPU)

    def test_it_reaches_the_offers(self, installed: Installed, tmp_path: Path) -> None:
        record = self.record(installed, tmp_path, faults={"flow": "estimator is off by 0.4"})
        (folder,) = tmp_path.glob("sm86-*")
        assert read_record(folder) == record
        loaded = self.load(tmp_path)
        assert (loaded.offers["t3"].slowdown, loaded.offers["vocoder"].slowdown) == (0.5, 1.4)
        assert "estimator is off by 0.4" in loaded.offers["flow"].fault
        assert not set(loaded.sessions) & set(STAGES["flow"])

    @pytest.mark.parametrize("changes", [{"gpu": "NVIDIA L4"}, {"plans": {"vocoder": "of another build"}}])
    def test_not_if_it_tells_of_something_else(
        self, changes: dict[str, object], installed: Installed, tmp_path: Path
    ) -> None:
        self.record(installed, tmp_path, **changes)
        assert self.load(tmp_path).offers["vocoder"].slowdown is None

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "gpu": "x", "plans": 3}'])
    def test_a_file_that_is_none(self, text: str, tmp_path: Path) -> None:
        (tmp_path / CHECK).write_text(text)
        assert read_record(tmp_path) is None
        assert read_record(tmp_path / "nowhere") is None
