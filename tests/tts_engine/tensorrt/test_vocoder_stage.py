"""The vocoder's stage: what its module gives, and that it goes through ONNX with all sizes free."""

from __future__ import annotations

from copy import deepcopy

import torch

from tests.tts_engine.chatterbox.tiny_vocoder import tiny_vocoder
from tests.tts_engine.tensorrt.s3gen import generator
from tests.tts_engine.tensorrt.test_flow_stages import check_example
from tts_engine.chatterbox.constants import SAMPLES_PER_FRAME
from tts_engine.tensorrt.profiles import PROFILES
from tts_engine.tensorrt.session import ModuleSession
from tts_engine.tensorrt.vocoder_stage import vocoder_stage


def test_examples_are_as_the_ports_say() -> None:
    stage = vocoder_stage(tiny_vocoder())
    for rows, frames in ((1, 1), (3, 8)):
        given = check_example(stage, {"rows": rows, "frames": frames})
        assert given["lengths"][0] == frames
        assert (given["known"] <= given["lengths"]).all()
    assert set(PROFILES["vocoder"][0].dims) == {"rows", "frames"}


def test_it_is_the_vocoder_s_render() -> None:
    stage = vocoder_stage(tiny_vocoder())
    given = stage.example({"rows": 2, "frames": 11}, generator())
    outputs = ModuleSession(stage).run(given)
    length, samples = int(given["lengths"][1]), SAMPLES_PER_FRAME * int(given["lengths"][1])
    wave, f0, phases = tiny_vocoder().render(
        given["mel"][1:, :, :length],
        given["phase"][1:],
        given["offsets"][1:],
        given["noise"][1:, :, :samples],
        None,
        given["known_f0"][1:, :length],
        given["known"][1:],
    )
    torch.testing.assert_close(outputs["f0"][1:, :length], f0, atol=1e-3, rtol=1e-5)
    turns = (outputs["phases"][1:, :, :length] - phases).abs()
    assert torch.minimum(turns, 1 - turns).max() < 1e-3
    torch.testing.assert_close(outputs["wave"][1:, :samples], wave, atol=2e-3, rtol=1e-3)
    assert outputs["wave"][1, samples:].eq(0).all()


def test_empty_rows_are_silent() -> None:
    stage = vocoder_stage(tiny_vocoder())
    given = stage.example({"rows": 2, "frames": 5}, generator())
    given["lengths"].zero_()
    given["known"].zero_()
    outputs = ModuleSession(stage).run(given)
    assert outputs["wave"].eq(0).all()
    assert outputs["f0"].eq(0).all()


def test_in_half_precision_the_source_is_float32_still() -> None:
    exact, half = vocoder_stage(tiny_vocoder()), vocoder_stage(deepcopy(tiny_vocoder()).cast(torch.bfloat16))
    given = exact.example({"rows": 2, "frames": 9}, generator())
    expected, rounded = ModuleSession(exact).run(given), ModuleSession(half).run(given)
    for name in ("f0", "phases"):
        assert torch.equal(expected[name], rounded[name])
    assert rounded["wave"].dtype == torch.float32
    assert (rounded["wave"] - expected["wave"]).norm() < 0.1 * expected["wave"].norm()
