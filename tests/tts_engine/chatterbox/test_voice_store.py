from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tts_engine.chatterbox.voices import make_voice
from tts_engine.chatterbox.voice_file import VoiceFileError, VoiceMetadata
from tts_engine.chatterbox.voice_store import VoiceNameError, VoiceStore, check_name
from tts_engine.errors import EngineError, UnknownVoiceError


@pytest.fixture
def store(tmp_path: Path) -> VoiceStore:
    store = VoiceStore(tmp_path / "state" / "voices")
    for name in ("zoe", "anna", "b2_x-1"):
        store.add(name, make_voice(10, 5), VoiceMetadata(name, source=f"{name}.wav"))
    return store


def test_voices_are_listed_in_order(store: VoiceStore) -> None:
    assert store.names() == ["anna", "b2_x-1", "zoe"]
    assert [(entry.name, entry.metadata and entry.metadata.source) for entry in store.list()] == [
        ("anna", "anna.wav"),
        ("b2_x-1", "b2_x-1.wav"),
        ("zoe", "zoe.wav"),
    ]
    assert all(entry.problem is None for entry in store.list())


def test_a_voice_is_read(store: VoiceStore) -> None:
    voice, metadata = store.read("anna")
    assert torch.equal(voice.x_vector, make_voice(10, 5).x_vector)
    assert metadata.name == "anna"


def test_no_directory_is_no_voices(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path / "none")
    assert store.names() == []
    assert store.list() == []
    with pytest.raises(UnknownVoiceError, match="unknown voice 'anna'"):
        store.read("anna")
    assert not (tmp_path / "none").exists()


def test_removing(store: VoiceStore) -> None:
    store.remove("anna")
    assert store.names() == ["b2_x-1", "zoe"]
    with pytest.raises(UnknownVoiceError, match="unknown voice 'anna'; available: b2_x-1, zoe"):
        store.remove("anna")


def test_adding_twice_needs_to_be_meant(store: VoiceStore) -> None:
    with pytest.raises(VoiceFileError, match="exists already"):
        store.add("anna", make_voice(10, 5, seed=1), VoiceMetadata("anna"))
    store.add("anna", make_voice(10, 5, seed=1), VoiceMetadata("anna"), replace=True)
    assert torch.equal(store.read("anna")[0].x_vector, make_voice(10, 5, seed=1).x_vector)


NAMES_OF_NO_VOICE = [
    "", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "a\0b", "a\n", "\na", "-a", "_a", "a b", "a.b", "Anna",
    "ANNA", "é", "аnna", "ａnna", "x" * 65, "x" * 100_000, "\ud800", "~root", "$HOME", "%2e%2e", "anna.safetensors",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES_OF_NO_VOICE)
def test_a_name_that_no_voice_can_have(store: VoiceStore, name: str) -> None:
    for use in (store.path, store.read, store.remove):
        with pytest.raises(VoiceNameError, match="is not a name for a voice: 1 to 64 of") as caught:
            use(name)
        assert isinstance(caught.value, EngineError)
        assert len(str(caught.value)) < 300
        str(caught.value).encode()  # can be printed
    with pytest.raises(VoiceNameError):
        store.add(name, make_voice(10, 5), VoiceMetadata("x"))
    assert store.names() == ["anna", "b2_x-1", "zoe"]


def test_the_name_of_the_built_in_voice_is_taken(store: VoiceStore) -> None:
    with pytest.raises(VoiceNameError, match="'default' is the voice that comes with the model"):
        store.add("default", make_voice(10, 5), VoiceMetadata("default"))


@given(st.text(max_size=80))
def test_a_name_that_passes_stays_in_the_directory(name: str) -> None:
    try:
        check_name(name)
    except VoiceNameError:
        return
    path = VoiceStore(Path("/voices")).path(name)
    assert path.parent == Path("/voices")
    assert path.name == f"{name}.safetensors"


def test_links_out_of_the_directory_are_refused(store: VoiceStore, tmp_path: Path) -> None:
    outside = tmp_path / "secret.safetensors"
    outside.write_bytes((store.directory / "anna.safetensors").read_bytes())
    (store.directory / "linked.safetensors").symlink_to(outside)
    for use in (store.read, store.remove):
        with pytest.raises(VoiceFileError, match="is a link out of the voices directory"):
            use("linked")
    with pytest.raises(VoiceFileError, match="is a link out"):
        store.add("linked", make_voice(10, 5), VoiceMetadata("linked"), replace=True)
    problems = {entry.name: entry.problem for entry in store.list()}
    assert "is a link out" in (problems["linked"] or "")
    assert outside.exists()


def test_a_link_inside_the_directory_is_another_name(store: VoiceStore) -> None:
    (store.directory / "ann.safetensors").symlink_to("anna.safetensors")
    assert torch.equal(store.read("ann")[0].x_vector, store.read("anna")[0].x_vector)
    store.remove("ann")
    assert "anna" in store.names()


def test_a_dangling_link_can_be_removed(store: VoiceStore) -> None:
    (store.directory / "gone.safetensors").symlink_to("nothing.safetensors")
    assert "gone" in store.names()
    store.remove("gone")
    assert "gone" not in store.names()


def test_the_directory_itself_may_be_a_link(store: VoiceStore, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(store.directory)
    assert VoiceStore(link).names() == store.names()
    assert VoiceStore(link).read("zoe")[1].name == "zoe"


def test_broken_files_are_listed_with_their_problem(store: VoiceStore) -> None:
    (store.directory / "text.safetensors").write_text("hello, I am no voice")
    (store.directory / "cut.safetensors").write_bytes((store.directory / "zoe.safetensors").read_bytes()[:-9])
    (store.directory / "Upper.safetensors").write_bytes((store.directory / "zoe.safetensors").read_bytes())
    (store.directory / "folder.safetensors").mkdir()
    (store.directory / "notes.txt").write_text("no voice, and nobody says so")
    (store.directory / ".anna-x.part").write_text("left by a crash")
    entries = {entry.name: entry for entry in store.list()}
    assert list(entries) == ["Upper", "anna", "b2_x-1", "cut", "folder", "text", "zoe"]
    assert "not a voice file" in (entries["text"].problem or "")
    assert "cut short" in (entries["cut"].problem or "")
    assert "is not a name" in (entries["Upper"].problem or "")
    assert "Is a directory" in (entries["folder"].problem or "")
    assert entries["anna"].problem is None
    store.remove("text")
    assert "text" not in store.names()


def test_a_directory_that_cannot_be_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    store = VoiceStore(file)
    with pytest.raises(VoiceFileError, match="Not a directory"):
        store.names()
    with pytest.raises(VoiceFileError, match=r"File exists|Not a directory"):
        store.add("anna", make_voice(10, 5), VoiceMetadata("anna"))
