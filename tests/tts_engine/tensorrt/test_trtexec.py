"""The lines, and docs/deployment.md, which shows those of Turbo's stages."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch

from tts_engine.chatterbox.flow import Flow, FlowSizes
from tts_engine.chatterbox.t3 import T3, T3Sizes
from tts_engine.chatterbox.vocoder import Vocoder, VocoderSizes
from tts_engine.tensorrt.flow_stages import encoder_stage, estimator_stage
from tts_engine.tensorrt.ports import Port, Stage
from tts_engine.tensorrt.profiles import PROFILES, Profile
from tts_engine.tensorrt.t3_stages import prefill_stage, step_stage
from tts_engine.tensorrt.trtexec import Program, command, shapes
from tts_engine.tensorrt.vocoder_stage import vocoder_stage

DOCS = Path(__file__).parents[3] / "docs" / "deployment.md"
LAYERS = 24


@functools.cache
def released() -> dict[str, Stage]:
    """Turbo's stages, without weights."""
    with torch.device("meta"):
        t3, flow, vocoder = T3(T3Sizes(LAYERS, 1024, 16)), Flow(FlowSizes()), Vocoder(VocoderSizes())
        stages = (prefill_stage(t3), step_stage(t3), encoder_stage(flow), estimator_stage(flow), vocoder_stage(vocoder))
    return {stage.name: stage for stage in stages}


def collapsed(stage: Stage, program: Program) -> str:
    """The command, with the pages of all layers but the first as `$(pages SHAPE)`, a function of the shell."""
    text = command(program, stage.name, stage.inputs, PROFILES[stage.name])
    for layer in range(1, LAYERS):
        text = re.sub(rf",pages_{layer}:[0-9x]+(?=[, ]|$)", "", text, flags=re.MULTILINE)
    return re.sub(r",pages_0:([0-9x]+)", r"$(pages \1)", text)


class TestCommand:
    INPUTS = (
        Port("mel", "float32", ("rows", 80, "frames")),
        Port("noise", "float32", ("rows", "480*frames")),
        Port("time", "float32", (14, 256)),
    )
    PROFILES = (
        Profile("short", {"rows": (1, 8, 16), "frames": (4, 96, 128)}),
        Profile("long", {"rows": (1, 1, 2), "frames": (4, 448, 1152)}),
    )

    def test_shapes_of_what_varies(self) -> None:
        assert shapes(self.INPUTS, self.PROFILES[0]) == (
            "--minShapes=mel:1x80x4,noise:1x1920 --optShapes=mel:8x80x96,noise:8x46080 "
            "--maxShapes=mel:16x80x128,noise:16x61440"
        )

    def test_a_profile_is_a_line(self) -> None:
        head, short, long = command("trtexec", "vocoder", self.INPUTS, self.PROFILES).split(" \\\n  ")
        assert head == (
            "trtexec --onnx=vocoder.onnx --stronglyTyped --noTF32 --timingCacheFile=timing.cache "
            "--memPoolSize=workspace:2048 --skipInference --saveEngine=vocoder.plan"
        )
        assert short == "--profile=0 " + shapes(self.INPUTS, self.PROFILES[0])
        assert long == "--profile=1 " + shapes(self.INPUTS, self.PROFILES[1])

    def test_tensorrt_rtx_is_strongly_typed_and_times_nothing(self) -> None:
        text = command("tensorrt_rtx", "vocoder", self.INPUTS, self.PROFILES)
        assert text.startswith("tensorrt_rtx --onnx=vocoder.onnx --memPoolSize")


class TestDocs:
    @pytest.mark.parametrize("name", PROFILES)
    def test_shows_the_line_of_each_stage(self, name: str) -> None:
        assert collapsed(released()[name], "trtexec") in DOCS.read_text()

    def test_pages_are_of_all_layers(self) -> None:
        text = command("trtexec", "t3_step", released()["t3_step"].inputs, PROFILES["t3_step"])
        assert text.count(f",pages_{LAYERS - 1}:") == 3 * len(PROFILES["t3_step"])
        assert f"seq 0 {LAYERS - 1}" in DOCS.read_text()

    def test_names_the_versions_that_were_tried(self) -> None:
        pytest.importorskip("tensorrt_rtx")
        assert "tensorrt-rtx-cu13==1.7.1.116" in DOCS.read_text()
