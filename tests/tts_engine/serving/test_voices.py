from __future__ import annotations

from pathlib import Path

import pytest

from tests.tts_engine.serving.small_model import store_voice
from tts_engine.chatterbox.voice_store import VoiceStore
from tts_engine.errors import EngineError
from tts_engine.serving.voices import VoiceNames, without_paths


def names_of(directory: Path, *, built_in: bool = True) -> VoiceNames:
    return VoiceNames(VoiceStore(directory), built_in=built_in)


def test_the_model_s_own_comes_first(tmp_path: Path) -> None:
    for name in ("bob", "anna"):
        store_voice(tmp_path, name)
    assert names_of(tmp_path).names == ("default", "anna", "bob")
    assert names_of(tmp_path, built_in=False).names == ("anna", "bob")
    assert names_of(tmp_path / "none").names == ("default",)


def test_a_broken_file_is_logged_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store_voice(tmp_path, "anna")
    (tmp_path / "bad.safetensors").write_text("no voice")
    voices = names_of(tmp_path)
    assert voices.names == ("default", "anna")
    assert "voice bad cannot be used" in caplog.text
    with pytest.raises(EngineError, match=r"^bad\.safetensors is not a voice file"):
        voices.has("bad")


def test_one_that_was_added_since(tmp_path: Path) -> None:
    voices = names_of(tmp_path)
    assert not voices.has("carol")
    store_voice(tmp_path, "carol")
    assert voices.has("carol")
    assert voices.names == ("default", "carol")


@pytest.mark.parametrize("name", ["", "../anna", "Anna", "a" * 65, "nobody", "x/y", "\x00"])
def test_what_no_voice_is_called(tmp_path: Path, name: str) -> None:
    store_voice(tmp_path, "anna")
    assert not names_of(tmp_path).has(name)


def test_the_built_in_one_where_there_is_none(tmp_path: Path) -> None:
    assert not names_of(tmp_path, built_in=False).has("default")


def test_one_that_has_gone(tmp_path: Path) -> None:
    store_voice(tmp_path, "anna")
    voices = names_of(tmp_path)
    voices.forget("anna")
    assert voices.names == ("default",)
    voices.forget("anna")


def test_a_directory_that_cannot_be_read_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    voices = names_of(tmp_path)

    def read(self: VoiceStore, name: str) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(VoiceStore, "read", read)
    assert not voices.has("carol")
    assert "cannot be read: Permission denied" in caplog.text


def test_errors_do_not_tell_where_voices_lie(tmp_path: Path) -> None:
    error = EngineError(f"{tmp_path}/anna.safetensors is cut short")
    assert str(without_paths(VoiceStore(tmp_path), error)) == "anna.safetensors is cut short"
