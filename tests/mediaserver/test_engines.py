"""Which engine a configuration means on which machine, and how one that cannot be had is refused."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from mediaserver import engines
from mediaserver.config import ChatterboxConfig, Config, TtsConfig, VoiceConfig
from mediaserver.engines import (
    NEEDED,
    Choice,
    Kind,
    choose,
    engines_directory,
    make_engine,
    make_overflow_engine,
    missing_packages,
)
from mediaserver.server import Server, StartError, serve
from tests.mediaserver.test_cli import chatterline
from tts_engine.embedded import EmbeddedEngine
from tts_engine.errors import EngineError

NO_WEIGHTS = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": "/nonexistent"}


class Machine:
    """What `auto` asks about, all of it there at first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.driver = True
        self.absent: list[str] = []
        self.model: Path | None = Path("/models/turbo")
        self.cuda = True
        self.asked: list[str] = []
        monkeypatch.setattr(engines, "_has_nvidia_driver", lambda: self._ask("driver", self.driver))
        monkeypatch.setattr(engines, "missing_packages", lambda: self._ask("packages", self.absent))
        hub = types.ModuleType("tts_engine.chatterbox.hub")
        hub.find_model = lambda name: self._ask(f"model {name}", self.model)  # type: ignore[attr-defined]
        torch = types.ModuleType("torch")
        torch.cuda = types.SimpleNamespace(is_available=lambda: self._ask("torch", self.cuda))  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tts_engine.chatterbox.hub", hub)
        monkeypatch.setitem(sys.modules, "torch", torch)

    def _ask(self, what: str, answer: Any) -> Any:
        self.asked.append(what)
        return answer


class Recorded:
    """In place of a ChatterboxEngine."""

    def __init__(self, name: str, settings: Any, max_streams: int, max_text_chars: int) -> None:
        self.name = name
        self.settings = settings
        self.max_streams = max_streams
        self.max_text_chars = max_text_chars


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


class TestAuto:
    def test_with_all_it_is_chatterbox(self, machine: Machine) -> None:
        assert choose(TtsConfig()) == Choice("chatterbox", "auto: a GPU and the weights are here")
        assert machine.asked == ["driver", "packages", "model ResembleAI/chatterbox-turbo", "torch"]

    def test_the_model_is_the_configured_one(self, machine: Machine) -> None:
        choose(TtsConfig(chatterbox=ChatterboxConfig(model="/models/mine")))
        assert "model /models/mine" in machine.asked

    def test_without_a_gpu(self, machine: Machine) -> None:
        machine.driver = False
        assert choose(TtsConfig()) == Choice("embedded", "auto: no GPU")
        assert machine.asked == ["driver"], "the other questions are dear"

    def test_with_a_gpu_that_is_not_to_be_used(self, machine: Machine) -> None:
        assert choose(TtsConfig(chatterbox=ChatterboxConfig(devices=("cpu",)))) == Choice("embedded", "auto: no GPU")

    def test_without_packages(self, machine: Machine) -> None:
        machine.absent = ["torch", "tokenizers"]
        assert choose(TtsConfig()) == Choice("embedded", "auto: torch, tokenizers not installed (extra chatterbox)")
        assert machine.asked == ["driver", "packages"]

    def test_without_weights(self, machine: Machine) -> None:
        machine.model = None
        choice = choose(TtsConfig())
        assert choice.kind == "embedded"
        assert choice.reason == (
            "auto: the weights of ResembleAI/chatterbox-turbo are not here (chatterline fetch-model)"
        )
        assert "torch" not in machine.asked

    def test_with_a_gpu_that_torch_cannot_use(self, machine: Machine) -> None:
        machine.cuda = False
        assert choose(TtsConfig()) == Choice("embedded", "auto: torch finds no GPU")


class TestConfigured:
    @pytest.mark.parametrize("engine", ["embedded", "chatterbox", "chatterbox-nano"])
    def test_it_is_taken_whatever_is_here(self, machine: Machine, engine: Any) -> None:
        machine.driver = False
        assert choose(TtsConfig(engine=engine)) == Choice(engine, "configured")
        assert machine.asked == []

    def test_embedded(self) -> None:
        engine = make_engine(TtsConfig(engine="embedded"), 3, 99)
        assert isinstance(engine, EmbeddedEngine)
        assert (engine.limits.max_streams, engine.limits.max_text_chars) == (3, 99)

    def test_the_choice_that_was_made_holds(self, machine: Machine) -> None:
        engine = make_engine(TtsConfig(), 3, 99, Choice("embedded", "for a test"))
        assert isinstance(engine, EmbeddedEngine)
        assert machine.asked == []

    def test_without_packages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engines, "missing_packages", lambda: ["torch"])
        with pytest.raises(
            EngineError, match=r"engine chatterbox needs torch: pip install 'chatterline\[chatterbox\]'"
        ):
            make_engine(TtsConfig(engine="chatterbox"), 3, 99)


class TestOverflow:
    def test_refuse_is_the_default(self) -> None:
        assert make_overflow_engine(TtsConfig(), "chatterbox", 99) is None

    @pytest.mark.parametrize("kind", ["chatterbox", "chatterbox-nano"])
    def test_the_embedded_engine_with_limits_of_its_own(self, kind: Kind) -> None:
        voices = {"heart": VoiceConfig(), "slow": VoiceConfig(speed=0.8)}
        config = TtsConfig(overflow="embedded", overflow_max_streams=12, voices=voices)
        engine = make_overflow_engine(config, kind, 99)
        assert isinstance(engine, EmbeddedEngine)
        assert (engine.limits.max_streams, engine.limits.max_text_chars) == (12, 99)
        assert engine.voices == ("heart", "slow")

    def test_the_embedded_engine_has_none_behind_it(self) -> None:
        assert make_overflow_engine(TtsConfig(overflow="embedded"), "embedded", 99) is None


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else object())
    assert missing_packages() == ["torch"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert missing_packages() == list(NEEDED)


class TestChatterbox:
    @pytest.fixture(autouse=True)
    def _needs_torch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("torch")
        from tts_engine.chatterbox.cfg import VARIABLE, cfg_scale

        monkeypatch.delenv(VARIABLE, raising=False)
        cfg_scale.cache_clear()

    @pytest.fixture
    def made(self, monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
        """The engine's place is taken by one that keeps what it is given."""
        serving_engine = types.ModuleType("tts_engine.serving.engine")
        serving_engine.ChatterboxEngine = Recorded  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tts_engine.serving.engine", serving_engine)
        return Recorded

    def test_the_settings_arrive(self, tmp_path: Path, made: type[Recorded]) -> None:
        from tts_engine.chatterbox.sampling_settings import SamplingSettings
        from tts_engine.serving.settings import ChatterboxSettings

        given = ChatterboxConfig(
            model="/models/turbo",
            nano_model="/models/nano",
            devices=("cuda:1", "cuda:3"),
            backend="tensorrt",
            precision="float16",
            voices_dir=str(tmp_path),
            engines_dir=str(tmp_path / "plans"),
            default_voice="anna",
            max_streams=7,
            max_first_audio_ms=750,
            kv_memory_mb=2048,
            ahead_s=8.5,
            telephone_reading=False,
            max_segment_chars=200,
            watermark=True,
            temperature=0.7,
            top_k=900,
            top_p=0.9,
            repetition_penalty=1.3,
        )
        for kind, model in (("chatterbox", "/models/turbo"), ("chatterbox-nano", "/models/nano")):
            engine = make_engine(TtsConfig(engine=kind, seed=5, chatterbox=given), 300, 99)  # type: ignore[arg-type]
            assert isinstance(engine, made)
            assert engine.settings == ChatterboxSettings(
                model=model,
                devices=("cuda:1", "cuda:3"),
                backend="tensorrt",
                precision="float16",
                kv_memory_mb=2048,
                ahead_seconds=8.5,
                max_first_audio_seconds=0.75,
                voices_dir=tmp_path,
                engines_dir=tmp_path / "plans",
                default_voice="anna",
                telephone_reading=False,
                max_segment_chars=200,
                watermark=True,
                sampling=SamplingSettings(0.7, 900, 0.9, 1.3),
                seed=5,
            )
            assert (engine.name, engine.max_streams, engine.max_text_chars) == (kind, 7, 99)
        few = make_engine(TtsConfig(engine="chatterbox", chatterbox=given), 2, 99)
        assert isinstance(few, made)
        assert few.max_streams == 2

    def test_every_gpu_is_meant_by_none(self, made: type[Recorded]) -> None:
        engine = make_engine(TtsConfig(engine="chatterbox"), 9, 99)
        assert isinstance(engine, made)
        assert engine.settings.devices == ()
        unlimited = ChatterboxConfig(max_first_audio_ms=0)
        engine = make_engine(TtsConfig(engine="chatterbox", chatterbox=unlimited), 9, 99)
        assert isinstance(engine, made)
        assert engine.settings.max_first_audio_seconds == 0

    def test_the_settings_have_defaults_of_their_own_that_agree(self, made: type[Recorded]) -> None:
        from tts_engine.chatterbox.sampling_settings import SamplingSettings
        from tts_engine.serving.settings import ChatterboxSettings

        engine = make_engine(TtsConfig(engine="chatterbox"), 9, 99)
        assert isinstance(engine, made)
        given = engine.settings
        assert given == ChatterboxSettings(given.model, given.voices_dir, engines_dir=given.engines_dir)
        assert engine.settings.sampling == SamplingSettings()

    async def test_a_server_without_weights_does_not_start(self, tmp_path: Path) -> None:
        nowhere = tmp_path / "nowhere"
        given = ChatterboxConfig(model=str(nowhere), devices=("cpu",))
        with pytest.raises(StartError) as raised:
            await Server(Config(tts=TtsConfig(engine="chatterbox", chatterbox=given))).run()
        assert str(raised.value) == (
            f"speech engine: there is no directory {nowhere} with a model: "
            f"`chatterline fetch-model --to {nowhere}` makes it"
        )

    async def test_an_unfit_guidance_is_told_before_anything_starts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "setswitchinterval", lambda seconds: None)
        monkeypatch.setenv("CHATTERBOX_CFG_SCALE", "high")
        with pytest.raises(StartError, match=r"^speech engine: CHATTERBOX_CFG_SCALE is 'high'; it must be a number"):
            await serve(Config(tts=TtsConfig(engine="chatterbox")))

    def test_the_command_says_so_in_one_line_and_ends(self) -> None:
        result = chatterline("serve", CHATTERLINE_TTS__ENGINE="chatterbox-nano", **NO_WEIGHTS)
        assert result.returncode == 1, result.stderr
        said = [line for line in result.stderr.splitlines() if line.startswith("chatterline: ")]
        assert said == [
            "chatterline: speech engine: the model ResembleAI/chatterbox-nano is not here: "
            "run `chatterline fetch-model ResembleAI/chatterbox-nano`"
        ]
        assert result.stderr.rstrip().endswith(said[0])
        assert "Traceback" not in result.stderr + result.stdout


def test_where_engines_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the voices, unless configured."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    assert engines_directory(TtsConfig()) == tmp_path / ".local" / "share" / "chatterline" / "engines"
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert engines_directory(TtsConfig()) == Path("/data/chatterline/engines")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/chatterline:/var/lib/other")
    assert engines_directory(TtsConfig()) == Path("/var/lib/chatterline/engines")
    given = ChatterboxConfig(engines_dir="~/plans")
    assert engines_directory(TtsConfig(chatterbox=given)) == tmp_path / "plans"
