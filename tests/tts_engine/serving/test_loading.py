from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tts_engine.serving.served import Serve, Served, settings_for
from tests.tts_engine.serving.small_model import linked
from tts_engine.chatterbox.model import Chatterbox
from tts_engine.errors import EngineError
from tts_engine.serving import loading
from tts_engine.serving.backends import Backends
from tts_engine.serving.loading import POSITIONS, EnginesLostError, not_here
from tts_engine.serving.settings import WorkerSettings
from tts_engine.tensorrt.engines import Engines
from tts_engine.tensorrt.faults import TensorRtError
from tts_engine.tensorrt.profiles import MOST_PAGES
from tts_engine.tensorrt.selection import UNITS, Offer, choose
from tts_engine.tensorrt.session import Session

TEXT = "Hold the line."


class TestWhatIsMissing:
    @pytest.mark.parametrize(
        ("model", "said"),
        [
            ("ResembleAI/chatterbox-nano", "run `chatterline fetch-model ResembleAI/chatterbox-nano`"),
            ("turbo", "run `chatterline fetch-model turbo`"),
            ("/no/such/model", "there is no directory /no/such/model"),
            ("~/no such model", "there is no directory ~/no such model"),
        ],
    )
    def test_a_model_that_is_not_here(
        self, model: str, said: str, serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        with pytest.raises(EngineError) as raised:
            serve(model=model)
        assert said in str(raised.value)
        assert str(raised.value) == not_here(model)

    def test_a_file_of_it(self, small_model: Path, voices_dir: Path, tmp_path: Path) -> None:
        directory = linked(small_model, tmp_path / "model", without=("vocab.json",))
        with pytest.raises(EngineError, match=r"vocab\.json"):
            Served.over(settings_for(directory, voices_dir))

    def test_a_voice_to_speak_with(self, serve: Serve, loaded: Chatterbox, tmp_path: Path) -> None:
        mute = replace(loaded, default_voice=None)
        with pytest.raises(
            EngineError, match=r"no voice 'default'.*none along \(conds\.pt\).*holds anna, bob, .*; see"
        ):
            serve(mute, default_voice="default")
        with pytest.raises(EngineError, match=r"holds none; see `chatterline voices add`"):
            serve(mute, default_voice="default", voices_dir=tmp_path / "none")
        assert not serve(mute).loaded.built_in_voice
        assert serve(default_voice="default").loaded.built_in_voice

    def test_a_default_voice_that_nobody_has(self, serve: Serve) -> None:
        with pytest.raises(EngineError, match=r"no voice 'dora'.*holds anna, bob, carol"):
            serve(default_voice="dora")

    def test_a_default_voice_that_is_broken(self, serve: Serve, tmp_path: Path) -> None:
        (tmp_path / "bad.safetensors").write_text("no voice")
        with pytest.raises(EngineError, match=r"bad\.safetensors is not a voice file"):
            serve(default_voice="bad", voices_dir=tmp_path)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_a_device(self, small_model: Path, voices_dir: Path) -> None:
        settings = WorkerSettings(settings_for(small_model, voices_dir), "cuda", 0.0, 4)
        with pytest.raises(EngineError, match="there is no device cuda"):
            loading.load(settings, lambda report: None)

    def test_memory(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        def take(*_: Any, **__: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")

        monkeypatch.setattr(loading, "PagedCache", take)
        with pytest.raises(EngineError, match=r"the GPU has no room .*lower \[tts\.chatterbox\] kv_memory_mb"):
            serve()

    def test_pages_for_one_long_sequence(self, serve: Serve) -> None:
        with pytest.raises(EngineError, match=r"kv_memory_mb holds 30 pages; one long sequence takes 44"):
            serve(kv_memory_mb=1)


class TestLimits:
    def test_memory_for_keys_and_values_is_as_configured(self, serve: Serve) -> None:
        cache = serve().loaded.synthesiser._t3._cache
        assert 0.9 * 8e6 < cache.keys_values.nbytes <= 8e6 + cache.keys_values.nbytes / cache.pages
        twins = serve(cfg_scale=0.5).loaded.synthesiser._t3._cache
        assert twins.keys_values.nbytes <= cache.keys_values.nbytes, "guidance takes its share of them"

    def test_no_more_than_all_slots_can_use(self, serve: Serve) -> None:
        limits = serve(streams=2, kv_memory_mb=100).loaded.scheduler.limits
        assert (limits.slots, limits.pages) == (2, 2 * -(-POSITIONS // limits.page))

    def test_slots_are_bounded_and_streams_are_not(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loading, "MOST_SLOTS", 3)
        served = serve(streams=5, ahead_seconds=7.0)
        assert served.loaded.scheduler.limits.slots == 3
        assert served.loaded.scheduler.limits.ahead_seconds == 7.0
        assert len(served.loaded.synthesiser._roster.free_slots) == 5


class TestBackend:
    @pytest.mark.parametrize("backend", ["cuda-graphs", "tensorrt"])
    def test_some_need_a_gpu(self, backend: str, serve: Serve) -> None:
        with pytest.raises(EngineError, match=f"backend {backend} needs a GPU; the device is cpu"):
            serve(backend=backend)
        assert serve(backend="eager").loaded.summary.endswith("eager, because there is no GPU")


class TestEnginesThatFail:
    """Under auto the model is loaded again without them."""

    def backends(self, failed: str) -> Backends:
        offers = {unit: Offer(fault=failed) if failed else Offer("engines") for unit in UNITS}
        sessions: dict[str, Session] = {} if failed else {"vocoder": Broken()}
        engines = Engines(offers, sessions, failed=("unusable",) if failed else ())
        return Backends(choose("auto", offers, "there is no GPU"), engines, torch.float32)

    def serve(self, serve: Serve, patch: pytest.MonkeyPatch, fault: Exception, **changes: Any) -> Served:
        def fail(settings: WorkerSettings, model: Chatterbox, backends: Backends) -> Any:
            if backends.engines.sessions:
                raise fault
            return speech_runner(settings, model, backends)

        speech_runner = loading._speech_runner
        patch.setattr(loading, "choose_backends", lambda *given: self.backends("".join(given[3:])))
        patch.setattr(loading, "_t3_runner", self.plain(loading._t3_runner))
        patch.setattr(loading, "_speech_runner", fail)
        return serve(**changes)

    def plain(self, t3_runner: Any) -> Any:
        def make(settings: WorkerSettings, model: Chatterbox, limits: Any, backends: Backends) -> Any:
            return t3_runner(settings, model, limits, self.backends("without"))

        return make

    @pytest.mark.parametrize(
        ("fault", "said"),
        [
            (TensorRtError("the engine vocoder did not run"), "the engine vocoder did not run"),
            (torch.OutOfMemoryError("CUDA out of memory.\nTried to"), "CUDA out of memory."),
        ],
    )
    def test_the_next_backend_is_taken(
        self,
        fault: Exception,
        said: str,
        serve: Serve,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        served = self.serve(serve, monkeypatch, fault)
        assert f"TensorRT engines are given up: {said}" in caplog.text
        assert served.loaded.summary.endswith(f"eager, because there is no GPU, {said}")
        assert served.loaded.measures.plans_failed["unusable"].value == 1
        served.speak(1, TEXT)
        served.run()
        assert len(served.pcm(1)) > 4000

    def test_but_not_if_tensorrt_is_what_is_configured(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(EngineError, match="the engine vocoder did not run"):
            self.serve(serve, monkeypatch, TensorRtError("the engine vocoder did not run"), backend="tensorrt")
        with pytest.raises(EngineError, match="the GPU has no room for the model"):
            self.serve(serve, monkeypatch, torch.OutOfMemoryError("none"), backend="tensorrt")

    def test_a_gpu_that_is_useless_then_is_said(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        """An illegal access is final: nothing can be done in this process any more."""

        def poisoned(_: object) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might")

        monkeypatch.setattr(loading, "_free", poisoned)
        with pytest.raises(
            EnginesLostError, match=r"failed \(TensorRT engines: RuntimeError: operation failed\) and have"
        ):
            self.serve(serve, monkeypatch, RuntimeError("operation failed\nmore"))

    @pytest.mark.parametrize("fault", [RuntimeError("operation failed"), ValueError("no profile"), TypeError("bad")])
    def test_faults_of_a_capture_are_the_engines(
        self, fault: Exception, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert self.serve(serve, monkeypatch, fault).loaded.measures.plans_failed["unusable"].value == 1
        assert f"given up: TensorRT engines: {type(fault).__name__}: {fault}" in caplog.text

    def test_after_one_process_was_lost_the_next_does_without(
        self, small_model: Path, voices_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: list[str] = []

        def choose_backends(*arguments: Any) -> Backends:
            given.append(arguments[3])
            raise EngineError("enough")

        monkeypatch.setattr(loading, "choose_backends", choose_backends)
        settings = WorkerSettings(settings_for(small_model, voices_dir), "cpu", 0.0, 4, engines_failed="lost")
        with pytest.raises(EngineError, match="enough"):
            loading.load(settings, lambda report: None)
        assert given == ["lost"]


class TestPagesOfEngines:
    @pytest.mark.parametrize(("cfg_scale", "most"), [(0.0, MOST_PAGES - 1), (0.5, (MOST_PAGES - 1) // 2)])
    def test_no_more_than_their_profiles_take(
        self, cfg_scale: float, most: int, loaded: Chatterbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        def pages(memory: int, *, by_engine: bool) -> int:
            offers = {unit: Offer("engines" if by_engine else "") for unit in UNITS}
            backends = Backends(choose("auto", offers, None), Engines(offers), torch.float32)
            engine = settings_for(Path("model"), Path("voices"), kv_memory_mb=memory)
            return loading._limits(WorkerSettings(engine, "cpu", cfg_scale, 256), loaded, backends).pages

        sizes = loaded.sizes
        page = sizes.layers * 2 * sizes.heads * 32 * 64 * 4 * (2 if cfg_scale else 1)
        assert most - 100 < pages(most * page // 1_000_000, by_engine=True) <= most
        assert not caplog.text
        beyond = (most + 200) * page // 1_000_000 + 1
        assert pages(beyond, by_engine=True) == most
        assert f"T3's TensorRT engines take {most}" in caplog.text
        assert pages(beyond, by_engine=False) > most


class Broken:
    inputs = outputs = ()
    capturable = True

    def run(self, inputs: Any) -> Any:
        raise AssertionError


class TestModel:
    def test_summary_says_what_runs_on_what(self, small_model: Path, serve: Serve) -> None:
        assert serve().loaded.summary == f"turbo of {small_model} on cpu as float32, eager, because there is no GPU"
        assert serve(cfg_scale=1.5).loaded.summary.endswith(", guidance 1.5")

    @pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", torch.bfloat16), ("auto", torch.float32)])
    def test_precision(self, small_model: Path, voices_dir: Path, precision: str, dtype: torch.dtype) -> None:
        """Read from its files."""
        served = Served.over(settings_for(small_model, voices_dir, precision=precision))
        assert served.loaded.synthesiser._t3._cache.keys_values.dtype == dtype
        served.speak(1, TEXT)
        served.run()
        pcm = served.pcm(1)
        assert len(pcm) == pytest.approx((len(TEXT) + 3) * 320, abs=640)
        assert np.abs(pcm.astype(int)).max() > 1000

    def test_a_seed_changes_what_is_said(self, serve: Serve) -> None:
        heard = []
        for seed in (0, 0, 1):
            served = serve(seed=seed)
            served.speak(1, TEXT)
            served.run()
            heard.append(served.pcm(1).tobytes())
        assert heard[0] == heard[1] != heard[2]

    def test_a_voice_of_the_fewest_tokens(self, serve: Serve, loaded: Chatterbox) -> None:
        from tests.tts_engine.chatterbox.voices import make_voice

        served = serve(replace(loaded, default_voice=make_voice(1, 1)), default_voice="default")
        served.speak(1, TEXT, "default")
        served.run()
        assert len(served.pcm(1)) > 4000

    def test_no_text_is_logged(self, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            served = serve()
            served.speak(1, TEXT)
            served.speak(2, TEXT, "nobody")
            served.run()
        assert TEXT not in caplog.text
