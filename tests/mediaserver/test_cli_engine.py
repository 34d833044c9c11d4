"""`chatterline engine`, as a user types it: in this process, with TensorRT-RTX where something is built."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from mediaserver.cli import app
from tests.tts_engine.tensorrt import tiny_onnx
from tests.tts_engine.tensorrt.fake_builder import fake_tensorrt
from tts_engine.chatterbox.checkpoint import S3GEN_FILE, T3_FILES
from tts_engine.tensorrt import build_all, flavour, manifest
from tts_engine.tensorrt.build_all import STAGES
from tts_engine.tensorrt.plan_store import PlanStore
from tts_engine.tensorrt.ports import Stage

SET = "sm86-fp16-tensorrt-rtx"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A directory with the names of a model; what is in it is looked at by the digest only."""
    directory = tmp_path / "weights"
    directory.mkdir()
    save_file({"w": torch.zeros(300, 100)}, directory / T3_FILES["turbo"])
    save_file({"w": torch.zeros(200, 100)}, directory / S3GEN_FILE)
    for name in ("vocab.json", "merges.txt"):
        (directory / name).write_text("")
    return directory


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For engines that tests look at only: the weights are the same for all of them."""
    return tmp_path_factory.mktemp("engines") / "out"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def tiny_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few operators in place of each stage of the model."""

    def stage(name: str) -> Callable[[object], Stage]:
        ports = tiny_onnx.INPUTS, tiny_onnx.OUTPUTS
        return lambda _: Stage(name, torch.nn.Identity(), *ports, lambda dims, generator: {})

    def make_onnx(made: Stage, folder: Path, precision: str, digest: str, report: build_all.Report) -> Path:
        report(made.name, "translating to ONNX", None)
        halves = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
        return tiny_onnx.write(folder / f"{made.name}.onnx", halves[precision])

    profiles: Any = dict.fromkeys(STAGES, tiny_onnx.PROFILES)
    for module in (build_all, manifest):
        monkeypatch.setattr(module, "PROFILES", profiles)
    monkeypatch.setattr(build_all, "MAKERS", {name: stage(name) for name in STAGES})
    monkeypatch.setattr(build_all, "make_onnx", make_onnx)
    monkeypatch.setattr(build_all, "load", lambda directory: None)


def folder(out: Path, kind: str = SET) -> Path:
    """Of the one set of that kind."""
    (found,) = out.glob(kind + "-*")
    return found


def engine(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["engine", *map(str, arguments)])


def build(weights: Path, out: Path, *more: str, stages: tuple[str, ...] = ("vocoder", "estimator")) -> Result:
    chosen = [word for stage in stages for word in ("--stage", stage)]
    return engine("build", "--target", "sm86", "--weights", weights, "--out", out, *chosen, *more)


def refused(result: Result, said: str) -> None:
    """One message on standard error, exit code 1, no traceback."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("chatterline: ")
    assert said in result.stderr
    assert "Traceback" not in result.output


needs_rtx = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="TensorRT-RTX has no wheel for other machines"
)


@needs_rtx
@pytest.mark.usefixtures("tiny_stages")
class TestBuild:
    def test_says_what_it_did(self, weights: Path, tmp_path: Path) -> None:
        result = build(weights, tmp_path / "out")
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert lines[0].startswith("TensorRT-RTX ")
        assert f"fp16 for sm86, weights of {weights}" in lines[0]
        assert lines[1:3] == ["vocoder    built", "estimator  built"]
        assert lines[3].split() == [
            "stage",
            "plan",
            "MB",
            "weights",
            "MB",
            "scratch",
            "MB",
            "fused",
            "attention",
            "seconds",
        ]
        assert [line.split()[0] for line in lines[4:6]] == ["vocoder", "estimator"]
        assert lines[6] == f"in {tmp_path / 'out'}"
        assert len({len(line) for line in lines[3:6]}) == 1, "columns are aligned"
        assert "\r" not in result.stdout
        assert "\x1b" not in result.stdout
        assert set(PlanStore(tmp_path / "out").manifest(folder(tmp_path / "out").name).plans) == {
            "vocoder",
            "estimator",
        }

    def test_again_it_was_there(self, weights: Path, tmp_path: Path) -> None:
        build(weights, tmp_path / "out")
        lines = build(weights, tmp_path / "out").stdout.splitlines()
        assert [line.endswith("was there") for line in lines] == [False, False, True, True, False]

    def test_bf16(self, weights: Path, tmp_path: Path) -> None:
        assert build(weights, tmp_path / "out", "--precision", "bf16", stages=("vocoder",)).exit_code == 0
        assert (folder(tmp_path / "out", "sm86-bf16-tensorrt-rtx") / "vocoder.plan").is_file()

    def test_all_stages_without_a_choice(self, weights: Path, tmp_path: Path) -> None:
        assert build(weights, tmp_path / "out", stages=()).exit_code == 0
        assert set(PlanStore(tmp_path / "out").manifest(folder(tmp_path / "out").name).plans) == set(STAGES)

    def test_lies_where_the_service_keeps_its_state(
        self, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
        result = engine("build", "--target", "8.6", "--weights", weights, "--stage", "vocoder")
        assert result.exit_code == 0, result.output
        assert (folder(tmp_path / "state" / "engines") / "vocoder.plan").is_file()

    def test_the_gpu_that_is_here_is_the_target(
        self, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With TensorRT's double, which knows an A10G."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
        monkeypatch.setattr(flavour, "_is_there", lambda name: name == "tensorrt")
        monkeypatch.setattr(flavour.importlib, "import_module", lambda name: fake_tensorrt())
        result = engine("build", "--weights", weights, "--out", tmp_path / "out", "--stage", "vocoder")
        assert result.exit_code == 0, result.output
        assert (folder(tmp_path / "out", "sm86-fp16-tensorrt") / "vocoder.plan").is_file()


@pytest.mark.usefixtures("tiny_stages")
class TestBuildRefused:
    def test_no_tensorrt(self, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(flavour, "_is_there", lambda name: False)
        result = build(weights, tmp_path / "out")
        refused(result, "pip install 'chatterline[tensorrt-rtx]'")
        assert "pip install 'chatterline[tensorrt]'" in result.stderr
        refused(build(weights, tmp_path / "out", "--flavour", "tensorrt"), "TensorRT is not installed")

    @needs_rtx
    def test_a_target_that_this_flavour_does_not_build_for(self, weights: Path, tmp_path: Path) -> None:
        refused(engine("build", "--target", "sm90", "--weights", weights, "--out", tmp_path), "not for sm90")
        refused(engine("build", "--target", "a10g", "--weights", weights, "--out", tmp_path), "an A10G's is sm86")

    @needs_rtx
    def test_no_target_and_no_gpu(self, weights: Path, tmp_path: Path) -> None:
        refused(
            engine("build", "--weights", weights, "--out", tmp_path), "no GPU here to build for: --target names one"
        )

    def test_tensorrt_without_a_gpu(self, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(flavour, "_is_there", lambda name: True)
        monkeypatch.setattr(flavour.importlib, "import_module", lambda name: fake_tensorrt())
        refused(build(weights, tmp_path / "out", "--flavour", "tensorrt"), "TensorRT-RTX builds without one")

    def test_a_stage_that_there_is_not(self, weights: Path, tmp_path: Path) -> None:
        refused(build(weights, tmp_path / "out", stages=("t3",)), "there is no stage t3: there are t3_prefill")

    def test_a_flavour_that_there_is_not(self, weights: Path, tmp_path: Path) -> None:
        assert build(weights, tmp_path / "out", "--flavour", "openvino").exit_code == 2

    @needs_rtx
    def test_no_weights(self, tmp_path: Path) -> None:
        refused(build(tmp_path / "none", tmp_path / "out"), "is not here: `chatterline fetch-model` fetches it")
        (tmp_path / "empty").mkdir()
        refused(build(tmp_path / "empty", tmp_path / "out"), "s3gen_meanflow.safetensors is missing")

    @needs_rtx
    def test_no_room(self, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
        refused(build(weights, tmp_path / "out"), "0.0 GB free; building vocoder, estimator takes up to")

    @needs_rtx
    def test_an_engine_that_cannot_be_built(self, weights: Path, tmp_path: Path) -> None:
        result = engine(
            *("build", "--target", "sm86", "--weights", weights, "--out", tmp_path / "out"),
            *("--stage", "vocoder", "--workspace-mb", "1"),
        )
        refused(result, "built no engine of vocoder.onnx")

    def test_ctrl_c(self, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(build_all, "build_all", interrupted)
        monkeypatch.setattr(flavour, "_is_there", lambda name: True)
        monkeypatch.setattr(flavour.importlib, "import_module", lambda name: fake_tensorrt("1.7", rtx=True))
        result = build(weights, tmp_path / "out")
        assert result.exit_code == 130
        assert "the same command goes on where it was" in result.stderr


@needs_rtx
@pytest.mark.usefixtures("tiny_stages")
class TestListAndCheck:
    @pytest.fixture
    def out(self, weights: Path, tmp_path: Path, built_once: Path) -> Path:
        if not built_once.exists():
            assert build(weights, built_once, stages=()).exit_code == 0
        return shutil.copytree(built_once, tmp_path / "out")

    def test_nothing_there(self, weights: Path, tmp_path: Path) -> None:
        assert f"no engines in {tmp_path}" in engine("list", "--out", tmp_path, "--weights", weights).stdout
        refused(engine("check", "--out", tmp_path, "--weights", weights), "there are no engines in")

    def test_what_there_is(self, weights: Path, out: Path) -> None:
        result = engine("list", "--out", out, "--weights", weights)
        assert result.exit_code == 0
        head, fit, *plans = result.stdout.splitlines()
        assert head.startswith(f"{folder(out).name}: ")
        assert "/weights for sm86, tensorrt-rtx 1." in head
        assert fit == "  fits the weights and the TensorRT at hand"
        assert [line.strip().split(":")[0] for line in plans] == list(STAGES)
        assert plans[0].endswith("(short: rows up to 8, frames up to 16; long: rows up to 2, frames up to 64)")

    def test_without_weights_the_rest_is_compared(self, out: Path, tmp_path: Path) -> None:
        config = tmp_path / "chatterline.toml"
        config.write_text(f'[tts.chatterbox]\nmodel = "{tmp_path}/none"\n')
        assert "fits the TensorRT at hand" in engine("list", "--out", out, "--config", config).stdout

    @pytest.mark.parametrize("command", ["list", "check", "prune"])
    def test_weights_that_were_named_must_be_there(self, out: Path, tmp_path: Path, command: str) -> None:
        refused(engine(command, "--out", out, "--weights", tmp_path / "none"), "is not here")

    def test_the_model_is_that_of_the_configured_engine(self, weights: Path, out: Path, tmp_path: Path) -> None:
        config = tmp_path / "chatterline.toml"
        models = f'[tts.chatterbox]\nmodel = "{tmp_path}/none"\nnano_model = "{weights}"\n'
        config.write_text(f'[tts]\nengine = "chatterbox-nano"\n{models}')
        assert engine("check", "--out", out, "--config", config).exit_code == 0
        config.write_text(f'[tts]\nengine = "chatterbox"\n{models}')
        refused(engine("check", "--out", out, "--config", config), f"the model {tmp_path}/none is not here")

    def test_weights_that_changed(self, weights: Path, out: Path) -> None:
        save_file({"w": torch.randn(200, 100)}, weights / S3GEN_FILE)
        listed = engine("list", "--out", out, "--weights", weights).stdout
        assert "outdated: " in listed
        assert listed.endswith("`chatterline engine prune` removes what is outdated\n")
        result = engine("check", "--out", out, "--weights", weights)
        assert result.exit_code == 1
        assert "those at hand differ, or have changed since" in result.stderr
        assert "none of the engines in" in result.stderr

    def test_outdated_ones_stay_beside_those_that_fit(self, weights: Path, out: Path) -> None:
        old = folder(out)
        save_file({"w": torch.randn(200, 100)}, weights / S3GEN_FILE)
        assert build(weights, out, stages=()).exit_code == 0
        result = engine("check", "--out", out, "--weights", weights)
        assert result.exit_code == 0, result.output
        assert f"{old.name}: not for here: " in result.stderr
        kept = engine("prune", "--dry-run", "--out", out, "--weights", weights).stdout
        assert f"{old.name}: would be removed: " in kept
        assert old.exists()
        assert f"{old.name}: removed: " in engine("prune", "--out", out, "--weights", weights).stdout
        assert not old.exists()
        assert engine("check", "--out", out, "--weights", weights).exit_code == 0

    def test_prune_keeps_what_it_cannot_judge(self, weights: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (out / "sm89-fp16-tensorrt-rtx-00000000").mkdir()
        (out / "sm89-fp16-tensorrt-rtx-00000000" / "manifest.json").write_text("{")
        monkeypatch.setattr(flavour, "_is_there", lambda name: False)
        save_file({"w": torch.randn(200, 100)}, weights / S3GEN_FILE)
        lines = engine("prune", "--out", out, "--weights", weights).stdout.splitlines()
        assert lines[0] == f"{folder(out).name}: stays"
        assert "00000000: stays, remove it by hand: " in lines[1]

    def test_another_gpu(self, weights: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        assert "for sm86; the GPU here is sm90" in engine("list", "--out", out, "--weights", weights).stdout
        result = engine("check", "--out", out, "--weights", weights)
        assert result.exit_code == 1
        assert "not for here: the engines in" in result.stderr
        assert "are for sm86; the GPU here is sm90" in result.stderr
        assert "none of the engines in" in result.stderr
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
        result = engine("check", "--out", out, "--weights", weights)
        assert result.exit_code == 0
        assert "no GPU here" not in result.stdout

    def test_a_broken_set_among_whole_ones(self, weights: Path, out: Path) -> None:
        copy = "sm89-fp16-tensorrt-rtx-00000000"
        shutil.copytree(folder(out), out / copy)
        result = engine("list", "--out", out, "--weights", weights)
        assert f"{copy}: unusable: " in result.stdout
        assert folder(out).name in result.stdout
        assert engine("check", "--out", out, "--weights", weights).exit_code == 1

    def test_whole(self, weights: Path, out: Path) -> None:
        result = engine("check", "--out", out, "--weights", weights)
        assert result.exit_code == 0, result.output
        head, *lines = result.stdout.splitlines()
        assert head == "there is no GPU here: for which GPU the engines are was not compared"
        name = folder(out).name
        assert [line.rpartition(",")[0] for line in lines] == [f"{name} {stage}: whole" for stage in STAGES]

    def test_incomplete(self, weights: Path, tmp_path: Path) -> None:
        out = tmp_path / "some"
        build(weights, out, stages=("vocoder",))
        assert "incomplete: no engine for t3_prefill, t3_step, flow_encoder, estimator" in (
            engine("list", "--out", out, "--weights", weights).stdout
        )
        result = engine("check", "--out", out, "--weights", weights)
        assert result.exit_code == 1
        assert "t3_step: there is no engine for t3_step in" in result.stderr
        assert "vocoder: whole" in result.stdout

    def test_truncated(self, weights: Path, out: Path) -> None:
        os.truncate(folder(out) / "vocoder.plan", 1000)
        result = engine("check", "--out", out, "--weights", weights)
        assert result.exit_code == 1
        assert "vocoder.plan is truncated: 1000 bytes of" in result.stderr
        assert f"{folder(out).name} estimator: whole" in result.stdout

    def test_run_needs_the_gpu(self, weights: Path, out: Path) -> None:
        refused(engine("check", "--run", "--out", out, "--weights", weights), "--run needs the GPU")

    def test_run_says_why_nothing_fits(self, weights: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        refused(engine("check", "--run", "--out", out, "--weights", weights), "sm90")


@pytest.mark.usefixtures("tiny_stages")
class TestExport:
    def test_writes_the_files(self, weights: Path, tmp_path: Path) -> None:
        result = engine("export", "--weights", weights, "--out", tmp_path / "onnx", "--stage", "vocoder")
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines() == ["vocoder  exported", str(tmp_path / "onnx" / "vocoder.onnx")]
        assert (tmp_path / "onnx" / "vocoder.onnx").is_file()

    def test_a_file_in_the_way(self, weights: Path, tmp_path: Path) -> None:
        (tmp_path / "onnx").write_text("")
        refused(engine("export", "--weights", weights, "--out", tmp_path / "onnx"), "onnx: File exists")


class TestProgress:
    def test_a_terminal_sees_one_line_that_moves(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from mediaserver.engine_lines import Progress

        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        with Progress(("vocoder", "t3_step")) as progress:
            for part in (0.0, 0.001, 0.5):
                progress.report("vocoder", "building", part)
            progress.report("vocoder", "building", 0.5)
            progress.report("vocoder", "built", 1.0)
        shown = capsys.readouterr().out
        assert shown.count("\n") == 1
        assert shown.count("\r") == 3, "the same line is not written twice"
        assert shown.endswith("vocoder  built\n")

    def test_what_failed_half_way_keeps_its_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from mediaserver.engine_lines import Progress

        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        with pytest.raises(RuntimeError), Progress(("vocoder",)) as progress:
            progress.report("vocoder", "tracing", None)
            raise RuntimeError
        assert capsys.readouterr().out.endswith("vocoder  tracing\n")
