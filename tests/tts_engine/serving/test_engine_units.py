"""The whole serving stack with sessions in place of engines: it says what the model's own modules say."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch

from tests.tts_engine.serving.runner_cases import relative_error
from tests.tts_engine.serving.served import Plain, Serve, Served, assert_same_sound, calm, settings_for
from tts_engine.chatterbox.model import Chatterbox, load
from tts_engine.chatterbox.step_attention import fused_fault
from tts_engine.serving import loading
from tts_engine.serving.backends import Backends
from tts_engine.serving.device import make_exact
from tts_engine.serving.settings import WorkerSettings
from tts_engine.serving.texts import Texts
from tts_engine.tensorrt.engine_flow import EngineFlow
from tts_engine.tensorrt.engine_t3 import EnginePasses
from tts_engine.tensorrt.engine_vocoder import EngineVocoder
from tts_engine.tensorrt.engines import Engines
from tts_engine.tensorrt.flow_stages import encoder_stage, estimator_stage
from tts_engine.tensorrt.selection import STAGES, UNITS, Offer, Unit, choose
from tts_engine.tensorrt.session import ModuleSession, Session
from tts_engine.tensorrt.t3_stages import prefill_stage, step_stage
from tts_engine.tensorrt.vocoder_stage import vocoder_stage

GPU = torch.device("cuda:0")

TEXT = "Please hold the line, somebody will be with you. It takes a moment."


def sessions_of(model: Chatterbox) -> dict[str, Session]:
    stages = (
        prefill_stage(model.t3),
        step_stage(model.t3),
        encoder_stage(model.flow),
        estimator_stage(model.flow),
        vocoder_stage(model.vocoder),
    )
    return {stage.name: ModuleSession(stage) for stage in stages}


def by_engine(model: Chatterbox, units: tuple[Unit, ...]) -> Backends:
    sessions = sessions_of(model)
    offers = {unit: Offer("sessions") if unit in units else Offer(fault="not asked for") for unit in UNITS}
    taken = {stage: sessions[stage] for unit in units for stage in STAGES[unit]}
    engines = Engines(offers, taken, torch.float32)
    return Backends(choose("auto", offers, "there is no GPU"), engines, torch.float32)


def use(patch: pytest.MonkeyPatch, model: Chatterbox, *units: Unit) -> None:
    patch.setattr(loading, "choose_backends", lambda *_: by_engine(model, units))


@pytest.mark.parametrize(
    "units",
    [*(units for size in (1, 2) for units in combinations(UNITS, size)), UNITS],
    ids="+".join,
)
def test_a_call_hears_the_same(
    units: tuple[Unit, ...], serve: Serve, steady: Chatterbox, plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, steady, *units)
    served = serve()
    synthesiser = served.loaded.synthesiser
    assert isinstance(synthesiser._t3._decoder._passes, EnginePasses) is ("t3" in units)
    assert isinstance(synthesiser._speech._flow, EngineFlow) is ("flow" in units)
    assert isinstance(synthesiser._speech._vocoder, EngineVocoder) is ("vocoder" in units)
    served.speak(1, "Hold the line.")
    served.run()
    assert_same_sound(served.pcm(1), plain("Hold the line."))
    served.assert_nothing_is_held()


def test_a_crowd_hears_the_same(
    serve: Serve, steady: Chatterbox, plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Voices with prompts of different lengths, texts that come while others are spoken, more of them than slots."""
    use(monkeypatch, steady, *UNITS)
    monkeypatch.setattr(loading, "MOST_SLOTS", 3)
    served = serve()
    texts = {1: (TEXT, "anna"), 2: ("Yes.", "bob"), 3: ("One moment, please.", "carol"), 4: ("Hello there.", "bob")}
    for id, (text, voice) in texts.items():
        served.speak(id, text, voice)
        for _ in range(7):
            served.turn()
    served.run()
    for id, (text, voice) in texts.items():
        assert_same_sound(served.pcm(id), plain(text, voice))
    assert not served.failed


def test_with_guidance(serve: Serve, steady: Chatterbox, plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, steady, *UNITS)
    served = serve(cfg_scale=0.7)
    served.speak(1, "Hold the line.")
    served.run()
    assert_same_sound(served.pcm(1), plain("Hold the line.", cfg_scale=0.7))


def test_summary_and_measures_say_what_runs_by_what(
    serve: Serve, steady: Chatterbox, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, steady, "t3", "flow")
    served: Served = serve()
    assert served.loaded.summary == (
        f"turbo of {small_model} on cpu as float32, t3, flow: sessions; "
        f"vocoder: eager, because there is no GPU, not asked for"
    )
    told = {
        (measure.labels["unit"], measure.labels["by"]): measure.value  # type: ignore[union-attr]
        for measure in served.loaded.snapshot()
        if measure.name == "unit_backend"
    }
    assert {key for key, value in told.items() if value} == {
        ("t3", "tensorrt"),
        ("flow", "tensorrt"),
        ("vocoder", "eager"),
    }


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_graphs_hold_all_of_it(small_model: Path, voices_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_exact()
    model = load(small_model, device=GPU)
    with torch.no_grad():
        calm(model.vocoder)
    offers = {unit: Offer("sessions") for unit in UNITS}
    engines = Engines(offers, sessions_of(model), torch.float32, frozenset(UNITS))
    choices = choose("tensorrt", offers, None)
    backends = Backends(choices, engines, torch.float32, fused=fused_fault() is None)
    monkeypatch.setattr(loading, "choose_backends", lambda *_: backends)
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: model)
    settings = settings_for(small_model, voices_dir, devices=(str(GPU),), precision="float32", kv_memory_mb=50)
    given, reports = WorkerSettings(settings, str(GPU), 0.0, 4), []  # type: ignore[var-annotated]
    loaded = loading.load(given, reports.append)
    served = Served(loaded, Texts(loaded.tokenizer, given, None), reports, 4)
    assert served.loaded.synthesiser._t3._steps
    assert served.loaded.synthesiser._speech._flows
    texts = {1: (TEXT, "anna"), 2: ("Yes.", "bob"), 3: ("One moment, please.", "carol")}
    for id, (text, voice) in texts.items():
        served.speak(id, text, voice)
    while not served.loaded.synthesiser.idle:
        served.turn()
    plain = Plain(model, voices_dir, GPU)
    for id, (text, voice) in texts.items():
        error = relative_error(served.pcm(id), plain(text, voice))
        print("error", error)
        assert error < 0.05
