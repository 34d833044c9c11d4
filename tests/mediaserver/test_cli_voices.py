"""`chatterline voices`, as a user types it, with a stand-in for the encoders; tests/parity/test_enrol.py has them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
soundfile = pytest.importorskip("soundfile")

from click.testing import Result  # noqa: E402

from mediaserver.cli_voices import app, cost_of  # noqa: E402
from mediaserver.config import Config  # noqa: E402
from mediaserver.engines import voices_directory  # noqa: E402
from tests.tts_engine.chatterbox.test_clip import speechlike  # noqa: E402
from tests.tts_engine.chatterbox.voices import make_voice  # noqa: E402
from tts_engine.chatterbox import enrol as enrol_module  # noqa: E402
from tts_engine.chatterbox.enrol import Encoders, Enrolment, EnrolmentError  # noqa: E402
from tts_engine.chatterbox.voice_store import VoiceStore  # noqa: E402


@dataclass
class Bench:
    """A voices directory, a clip, a model's directory, and what the encoders were asked."""

    directory: Path
    clip: Path
    model: Path
    models: list[Path] = field(default_factory=list)
    prompts: list[float] = field(default_factory=list)

    @property
    def store(self) -> VoiceStore:
        return VoiceStore(self.directory / "chatterline" / "voices")

    def add(self, name: str = "anna", *options: str, clip: Path | None = None) -> Result:
        return voices("add", name, str(clip or self.clip), "--model", str(self.model), *options)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    made = Bench(tmp_path / "data", tmp_path / "take 1.wav", tmp_path / "model")
    made.model.mkdir()
    soundfile.write(made.clip, speechlike(12.0), 24_000)

    def load_encoders(directory: Path) -> Encoders:
        made.models.append(directory)
        return Encoders(None, None, None, "cd" * 32)

    def enrol(samples: np.ndarray, encoders: Encoders, prompt_seconds: float) -> Enrolment:
        assert (samples.dtype, len(samples)) == (np.float32, 12 * 24_000)
        made.prompts.append(prompt_seconds)
        return Enrolment(make_voice(300, round(25 * prompt_seconds)), -21.3)

    monkeypatch.setattr(enrol_module, "load_encoders", load_encoders)
    monkeypatch.setattr(enrol_module, "enrol", enrol)
    return made


def voices(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def refused(result: Result, said: str) -> None:
    assert result.exit_code == 1, result.output
    assert said in result.stderr
    assert result.stderr.startswith("chatterline: ")
    assert "Traceback" not in result.output


def test_a_voice_is_added_listed_and_removed(bench: Bench) -> None:
    added = bench.add("anna", "--consent", "signed")
    assert added.exit_code == 0, added.output
    assert "anna.safetensors: voice 'anna', prompt 10 s, from 12." in added.stdout
    assert "at -21.3 LUFS" in added.stdout
    voice, metadata = bench.store.read("anna")
    assert len(voice.prompt_tokens) == 300
    assert metadata.source == "take 1.wav"  # the base name: no path of the operator's machine
    assert (metadata.source_seconds, metadata.source_loudness, metadata.prompt_seconds) == (12.0, -21.3, 10.0)
    assert (metadata.encoders_sha256, metadata.consent) == ("cd" * 32, "signed")
    assert metadata.created.endswith("+00:00")

    listed = voices("list")
    assert listed.exit_code == 0
    assert listed.stdout.startswith("anna: prompt 10 s, from take 1.wav (12.0 s), made 20")
    assert "consent: signed" in listed.stdout

    removed = voices("remove", "anna")
    assert removed.exit_code == 0
    assert "anna: removed" in removed.stdout
    assert "no voices in" in voices("list").stdout


def test_the_cost_of_the_prompt_is_told(bench: Bench) -> None:
    short = bench.add("short", "--prompt-seconds", "3")
    assert "each chunk of 1 s decodes 3 s of prompt too: 144 GFLOP instead of 343 with a prompt of 10 s" in short.stdout
    assert bench.prompts == [3.0]
    assert bench.store.read("short")[1].prompt_seconds == 3.0
    assert "decodes 10 s of prompt too: 343 GFLOP instead of 144 with a prompt of 3 s" in bench.add("full").stdout
    assert "4.5 s" in cost_of(4.5)


@pytest.mark.parametrize("seconds", ["1.9", "10.5", "long", "nan"])
def test_a_prompt_of_an_impossible_length(bench: Bench, seconds: str) -> None:
    result = bench.add("anna", "--prompt-seconds", seconds)
    assert result.exit_code != 0
    assert "prompt" in result.stderr
    assert bench.prompts == []


def test_a_voice_is_not_overwritten_unless_asked(bench: Bench) -> None:
    bench.add("anna")
    refused(bench.add("anna", "--prompt-seconds", "2"), "there is a voice 'anna' already; --replace overwrites it")
    assert bench.prompts == [10.0]  # refused before any work
    assert bench.add("anna", "--prompt-seconds", "2", "--replace").exit_code == 0
    assert bench.store.read("anna")[1].prompt_seconds == 2.0


@pytest.mark.parametrize("name", ["../x", "a/b", ".", "", "Anna", "x" * 65, "default"])
def test_a_name_that_no_voice_can_have(bench: Bench, name: str) -> None:
    for result in (bench.add(name), voices("remove", name)):
        refused(result, "choose another name" if name == "default" else "is not a name for a voice")
    assert bench.models == []


def test_a_clip_that_is_none(bench: Bench, tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("I only look like a recording.\n" * 99)
    short = tmp_path / "short.wav"
    soundfile.write(short, speechlike(2.0), 24_000)
    refused(bench.add(clip=text), "is not a sound file")
    refused(bench.add(clip=short), "a voice needs at least 5 s")
    refused(bench.add(clip=tmp_path / "none.wav"), "No such file or directory")
    refused(bench.add(clip=tmp_path), "is a directory")
    assert bench.models == []  # the encoders were not loaded for it
    assert bench.store.names() == []


def test_a_doubtful_clip_is_taken_with_a_warning(bench: Bench, tmp_path: Path) -> None:
    loud = tmp_path / "loud.wav"
    soundfile.write(loud, np.clip(4 * speechlike(12.0), -1, 1), 24_000)
    result = bench.add(clip=loud)
    assert result.exit_code == 0
    assert "clipped" in result.stderr


def test_a_model_that_is_not_here(bench: Bench, tmp_path: Path) -> None:
    bench.model = tmp_path / "no such model"
    refused(bench.add(), "is not here: `chatterline fetch-model` fetches it")


def test_what_enrolment_refuses_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def incomplete(directory: Path) -> Encoders:
        raise EnrolmentError(f"{directory / 've.safetensors'} is missing")

    monkeypatch.setattr(enrol_module, "load_encoders", incomplete)
    refused(bench.add(), "ve.safetensors is missing")


def test_a_broken_voice_is_listed_and_can_be_removed(bench: Bench) -> None:
    bench.add("anna")
    (bench.store.directory / "bad.safetensors").write_text("no voice")
    listed = voices("list")
    assert listed.exit_code == 1
    assert listed.stdout.startswith("anna: ")
    assert "bad: " in listed.stderr
    assert "is not a voice file" in listed.stderr
    assert voices("remove", "bad").exit_code == 0
    assert voices("list").exit_code == 0


def test_removing_what_is_not_there(bench: Bench) -> None:
    bench.add("anna")
    refused(voices("remove", "bob"), "unknown voice 'bob'; available: anna")


def test_a_wrong_configuration_is_told(bench: Bench, tmp_path: Path) -> None:
    refused(voices("list", "--config", str(tmp_path / "none.toml")), "configuration: ")


def test_model_and_directory_come_from_the_configuration(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "chatterline.toml"
    file.write_text(f'[tts.chatterbox]\nmodel = "{bench.model}"\nvoices_dir = "{tmp_path / "cloned"}"\n')
    result = voices("add", "anna", str(bench.clip), "--config", str(file))
    assert result.exit_code == 0, result.output
    assert bench.models == [bench.model]
    assert VoiceStore(tmp_path / "cloned").names() == ["anna"]
    assert voices("list", "--config", str(file)).stdout.startswith("anna: ")


def test_where_voices_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / ".local" / "share" / "chatterline" / "voices"
    assert voices_directory(Config().tts) == home
    monkeypatch.setenv("XDG_DATA_HOME", "relative/path")
    assert voices_directory(Config().tts) == home
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert voices_directory(Config().tts) == Path("/data/chatterline/voices")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/chatterline:/var/lib/other")
    assert voices_directory(Config().tts) == Path("/var/lib/chatterline/voices")
    monkeypatch.setenv("CHATTERLINE_TTS__CHATTERBOX__VOICES_DIR", "~/cloned")
    assert voices_directory(Config().tts) == tmp_path / "cloned"


def test_without_torch_it_says_what_to_install(tmp_path: Path) -> None:
    program = """
import sys
sys.modules["torch"] = None
from mediaserver.cli_voices import app
app(["list"])
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=Path.cwd(), timeout=60
    )
    assert result.returncode == 1
    assert "need the extra `chatterbox`: pip install 'chatterline[chatterbox]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_command_line_starts_without_torch() -> None:
    program = "import sys, mediaserver.cli_voices; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
