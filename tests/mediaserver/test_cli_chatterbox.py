"""`chatterline say --engine chatterbox`, as a user types it, with a small model; `voices` is in test_cli_voices.py."""

from __future__ import annotations

import audioop
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
soundfile = pytest.importorskip("soundfile")

from click.testing import Result  # noqa: E402

from mediaserver.cli import app  # noqa: E402
from tests.mediaserver.test_cli import chatterline  # noqa: E402
from tests.tts_engine.chatterbox.test_clip import speechlike  # noqa: E402
from tests.tts_engine.serving.small_model import (  # noqa: E402
    brief_model,
    fresh_cfg_scale,
    linked,
    small_model,
    store_voice,
)
from tts_engine.chatterbox import enrol as enrol_module  # noqa: E402
from tts_engine.chatterbox.enrol import Encoders, EnrolmentError  # noqa: E402

__all__ = ["brief_model", "fresh_cfg_scale", "small_model"]

HELLO = "Thank you for calling Harbour Bank."


@dataclass
class Desk:
    """A model, a voices directory, and a file for what is said."""

    model: Path
    directory: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def voices(self) -> Path:
        return self.directory / "voices"

    @property
    def output(self) -> Path:
        return self.directory / "out.wav"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "CHATTERLINE_TTS__CHATTERBOX__MODEL": str(self.model),
            "CHATTERLINE_TTS__CHATTERBOX__VOICES_DIR": str(self.voices),
            "CHATTERLINE_TTS__CHATTERBOX__DEVICES": "cpu",
        }

    def run(self, *arguments: str) -> Result:
        for name, value in self.environment.items():
            self.monkeypatch.setenv(name, value)
        return CliRunner().invoke(app, list(arguments))

    def say(self, text: str = HELLO, *options: str) -> Result:
        return self.run("say", text, "-o", str(self.output), "--engine", "chatterbox", *options)

    def copy(self, *, without: str) -> Path:
        """The model in a directory of its own, with one file left out; gives that file's path."""
        self.model = linked(self.model, self.directory / "copy", without=(without,))
        return self.model / without


@pytest.fixture
def desk(brief_model: Path, tmp_path: Path, fresh_cfg_scale: pytest.MonkeyPatch) -> Desk:
    fresh_cfg_scale.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return Desk(brief_model, tmp_path, fresh_cfg_scale)


def spoken(result: Result) -> None:
    assert result.exit_code == 0, result.output
    assert "engine chatterbox (configured)" in result.stderr
    assert "out.wav: " in result.stdout


def refused(result: Result, *said: str) -> None:
    assert result.exit_code == 1, result.output
    for part in said:
        assert part in result.stderr
    assert "Traceback" not in result.output
    # Anything else than a wanted exit would be an error of ours.
    assert isinstance(result.exception, SystemExit)


class TestSay:
    def test_it_speaks(self, desk: Desk, small_model: Path) -> None:
        desk.model = small_model
        spoken(desk.say())
        with wave.open(str(desk.output)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
            assert file.getnframes() % 960 == 0, "whole speech tokens"
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert np.abs(samples).max() > 1000
        first = desk.output.read_bytes()
        spoken(desk.say())
        assert desk.output.read_bytes() == first, "the same text gives the same file"

    def test_for_the_telephone(self, desk: Desk, small_model: Path) -> None:
        desk.model = small_model
        spoken(desk.say(HELLO, "--telephone"))
        data = desk.output.read_bytes()
        assert data[20:22] == b"\x07\x00"  # WAVE_FORMAT_MULAW
        assert int.from_bytes(data[24:28], "little") == 8000
        samples = np.frombuffer(audioop.ulaw2lin(data[58:], 2), "<i2")
        assert len(samples) > 0.3 * 8000
        assert np.abs(samples).max() > 1000

    def test_as_a_command(self, desk: Desk) -> None:
        result = chatterline(
            "say", HELLO, "-o", str(desk.output), "--engine", "chatterbox", "--telephone", **desk.environment
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == f"{desk.output}: 0.3 s"
        assert "Traceback" not in result.stderr
        assert "Warning" not in result.stderr

    def test_with_a_voice_of_one_s_own(self, desk: Desk) -> None:
        store_voice(desk.voices, "anna")
        spoken(desk.say())
        without = desk.output.read_bytes()
        spoken(desk.say(HELLO, "--voice", "anna"))
        assert len(desk.output.read_bytes()) == len(without)
        assert desk.output.read_bytes() != without

    def test_guidance_is_of_the_environment(self, desk: Desk, small_model: Path) -> None:
        desk.model = small_model
        desk.monkeypatch.setenv("CHATTERBOX_CFG_SCALE", "x2")
        refused(desk.say(), "CHATTERBOX_CFG_SCALE is 'x2'; it must be a number from 0")
        assert not desk.output.exists()

    @pytest.mark.parametrize("text", ["", "...", "🙂 🙃", "\ud83d"])
    def test_nothing_speakable(self, desk: Desk, text: str) -> None:
        refused(desk.say(text), "there is nothing speakable in this text")
        assert not desk.output.exists()

    @pytest.mark.parametrize("name", ["bob", "../../etc/passwd", "/etc/passwd", "..", "voices/anna", "", "ANNA"])
    def test_a_voice_that_nobody_has(self, desk: Desk, name: str) -> None:
        store_voice(desk.voices, "anna")
        refused(desk.say(HELLO, "--voice", name), f"unknown voice {name!r}; available: default, anna")

    @pytest.mark.parametrize("path", ["../anna", "sub/anna"])
    def test_a_voice_file_elsewhere_is_not_reached(self, desk: Desk, path: str) -> None:
        store_voice((desk.voices / path).parent, "anna")
        desk.voices.mkdir(exist_ok=True)
        refused(desk.say(HELLO, "--voice", path), f"unknown voice '{path}'; available: default")


class TestModel:
    def test_not_here(self, desk: Desk) -> None:
        desk.model = desk.directory / "none"
        refused(desk.say(), f"there is no directory {desk.model}")

    def test_an_empty_directory(self, desk: Desk) -> None:
        desk.model = desk.directory / "empty"
        desk.model.mkdir()
        refused(desk.say(), "cannot be loaded", "t3_turbo_v1.safetensors", "s3gen_meanflow.safetensors", "fetch-model")

    @pytest.mark.parametrize("name", ["t3_turbo_v1.safetensors", "s3gen_meanflow.safetensors"])
    def test_weights_that_are_cut_short(self, desk: Desk, brief_model: Path, name: str) -> None:
        data = (brief_model / name).read_bytes()
        desk.copy(without=name).write_bytes(data[: len(data) * 2 // 3])
        refused(desk.say(), "cannot be loaded", f"{name} ", "completes one that was interrupted")

    def test_weights_that_are_a_text(self, desk: Desk) -> None:
        """As a web page, or a pointer of Git LFS, that was saved in their place."""
        desk.copy(without="s3gen_meanflow.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 1064\n"
        )
        refused(desk.say(), "cannot be loaded", "s3gen_meanflow.safetensors")

    def test_all_that_is_wrong_is_told_at_once(self, desk: Desk) -> None:
        desk.copy(without="vocab.json")
        for name, content in (("t3_turbo_v1.safetensors", "text"), ("conds.pt", "text"), ("merges.txt", None)):
            (desk.model / name).unlink()
            if content is not None:
                (desk.model / name).write_text(content)
        refused(desk.say(), "t3_turbo_v1.safetensors", "conds.pt", "vocab.json", "merges.txt")

    def test_without_a_voice(self, desk: Desk) -> None:
        desk.copy(without="conds.pt")
        refused(desk.say(), "there is no voice 'default'", "brings none along (conds.pt)", "holds none")
        store_voice(desk.voices, "anna")
        desk.monkeypatch.setenv("CHATTERLINE_TTS__CHATTERBOX__DEFAULT_VOICE", "anna")
        spoken(desk.say())


class TestBrokenVoices:
    def test_one_of_another_model(self, desk: Desk, brief_model: Path) -> None:
        desk.voices.mkdir()
        weights = (brief_model / "s3gen_meanflow.safetensors").read_bytes()
        (desk.voices / "weights.safetensors").write_bytes(weights)
        refused(desk.say(HELLO, "--voice", "weights"), "weights.safetensors")
        data = store_voice(desk.voices, "anna").read_bytes()
        assert data.count(b'"chatterbox-turbo"') == 1
        (desk.voices / "other.safetensors").write_bytes(data.replace(b'"chatterbox-turbo"', b'"chatterbox-multi"'))
        refused(
            desk.say(HELLO, "--voice", "other"),
            "other.safetensors holds a voice that was made for another model: chatterbox-multi",
        )
        spoken(desk.say(HELLO, "--voice", "anna"))

    def test_one_that_is_cut_short(self, desk: Desk) -> None:
        file = store_voice(desk.voices, "anna")
        file.write_bytes(file.read_bytes()[:5000])
        refused(desk.say(HELLO, "--voice", "anna"), "anna.safetensors is cut short")
        spoken(desk.say())
        listed = desk.run("voices", "list")
        assert listed.exit_code == 1
        assert "anna.safetensors is cut short" in listed.stderr

    def test_a_link_out_of_the_directory(self, desk: Desk) -> None:
        elsewhere = store_voice(desk.directory / "elsewhere", "anna")
        desk.voices.mkdir()
        (desk.voices / "anna.safetensors").symlink_to(elsewhere)
        refused(desk.say(HELLO, "--voice", "anna"), "is a link out of the voices directory")


class TestClips:
    """What `voices add` refuses before any encoder is loaded; the brief model has none."""

    @pytest.fixture
    def clip(self, desk: Desk) -> Path:
        return desk.directory / "clip.wav"

    def add(self, desk: Desk, clip: Path) -> Result:
        return desk.run("voices", "add", "anna", str(clip))

    def test_silence(self, desk: Desk, clip: Path) -> None:
        soundfile.write(clip, np.zeros(12 * 24_000, np.float32), 24_000)
        refused(self.add(desk, clip), "silen")

    def test_nearly_silence(self, desk: Desk, clip: Path) -> None:
        noise = np.random.default_rng(0).normal(0, 1e-5, 12 * 24_000).astype(np.float32)
        soundfile.write(clip, noise, 24_000)
        refused(self.add(desk, clip), "silen")

    def test_two_seconds(self, desk: Desk, clip: Path) -> None:
        soundfile.write(clip, speechlike(2.0), 24_000)
        refused(self.add(desk, clip), "a voice needs at least 5 s")

    def test_a_text_by_that_name(self, desk: Desk, clip: Path) -> None:
        clip.write_text("RIFF I am none\n" * 100)
        refused(self.add(desk, clip), "is not a sound file")

    def test_nothing_at_all(self, desk: Desk, clip: Path) -> None:
        clip.write_bytes(b"")
        refused(self.add(desk, clip), "clip.wav")

    def test_stereo_at_44100_hz_is_good(self, desk: Desk, clip: Path) -> None:
        """So what is complained of is the model, which cannot enrol."""

        def incomplete(directory: Path) -> Encoders:
            raise EnrolmentError(f"{directory / 've.safetensors'} is missing")

        desk.monkeypatch.setattr(enrol_module, "load_encoders", incomplete)
        mono = speechlike(12.0, rate=44_100)
        soundfile.write(clip, np.stack([mono, 0.5 * mono], axis=1), 44_100)
        refused(self.add(desk, clip), "ve.safetensors")
