"""Prompts on disk: what is written is read, and what is damaged is not."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tts_engine.prompts import store as module
from tts_engine.prompts.store import PromptStore, StoredPrompt, StoreError

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))
PROMPT = StoredPrompt("embedded", "heart", "abc:def", 8000, bytes(range(256)) * 20)


@pytest.fixture
def store(tmp_path: Path) -> PromptStore:
    return PromptStore(tmp_path / "a" / "prompts", 1 << 20)


def only_file(store: PromptStore) -> Path:
    (path,) = store.directory.iterdir()
    return path


def test_round_trip(store: PromptStore) -> None:
    assert (store.read(KEY), store.keys(), store.size) == (None, frozenset(), 0)
    store.write(KEY, PROMPT)
    assert store.read(KEY) == PROMPT
    assert store.read(KEY).seconds == 0.32  # type: ignore[union-attr]
    assert store.keys() == {KEY}
    assert store.size == only_file(store).stat().st_size
    assert store.read(OTHER) is None


def test_for_the_owner_only(store: PromptStore) -> None:
    before = os.umask(0)
    try:
        store.write(KEY, PROMPT)
    finally:
        os.umask(before)
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(store).stat().st_mode) == 0o600


def test_a_prompt_is_replaced(store: PromptStore) -> None:
    store.write(KEY, PROMPT)
    newer = StoredPrompt("embedded", "anna", "x", 16000, b"\1\0" * 9)
    store.write(KEY, newer)
    assert store.read(KEY) == newer
    assert store.keys() == {KEY}


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 12, 60, 500, -1, -32, -33])
def test_a_truncated_file(store: PromptStore, caplog: pytest.LogCaptureFixture, cut: int) -> None:
    store.write(KEY, PROMPT)
    path = only_file(store)
    data = path.read_bytes()
    path.write_bytes(data[:cut])
    with caplog.at_level(logging.WARNING):
        assert store.read(KEY) is None
    assert path.name in caplog.text
    with pytest.raises(StoreError, match=r"is damaged|is no prompt"):
        store.load(KEY)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.integers(0, 5000), flip=st.integers(1, 255))
def test_a_changed_byte_anywhere(store: PromptStore, place: int, flip: int) -> None:
    store.write(KEY, PROMPT)
    path = only_file(store)
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= flip
    path.write_bytes(data)
    assert store.read(KEY) is None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_with_a_right_checksum(store: PromptStore, content: bytes) -> None:
    """Whoever can write here could say anything; but nothing of it raises."""
    body = b"CHPROMP1" + content
    store.write(KEY, PROMPT)
    only_file(store).write_bytes(body + module._checksum(KEY, body))
    assert store.read(KEY) is None


def test_a_file_under_the_name_of_another(store: PromptStore) -> None:
    store.write(KEY, PROMPT)
    only_file(store).rename(store.directory / (OTHER.hex() + ".prompt"))
    assert store.read(OTHER) is None


def test_what_is_no_file(store: PromptStore, tmp_path: Path) -> None:
    store.write(KEY, PROMPT)
    path = only_file(store)
    secret = tmp_path / "secret"
    path.rename(secret)
    path.symlink_to(secret)
    with pytest.raises(StoreError, match="is a link"):
        store.load(KEY)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match="is no file"):
        store.load(KEY)
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError):
        store.load(KEY)


def test_a_large_file_is_not_read(store: PromptStore) -> None:
    store.write(KEY, PROMPT)
    with only_file(store).open("r+b") as file:
        file.truncate(module.MAX_FILE_BYTES + 1)
    with pytest.raises(StoreError, match="larger than 32 MB"):
        store.load(KEY)


def test_the_size_of_all_is_bounded(tmp_path: Path) -> None:
    store = PromptStore(tmp_path, 12_000)
    store.write(KEY, PROMPT)
    store.write(OTHER, PROMPT)
    store.write(KEY, PROMPT)  # replaced: no more than before
    with pytest.raises(StoreError, match="is full"):
        store.write(bytes(32), PROMPT)
    assert store.keys() == {KEY, OTHER}
    store.remove(KEY)
    store.write(bytes(32), PROMPT)


def test_a_prompt_too_long_for_a_file(store: PromptStore) -> None:
    with pytest.raises(StoreError, match="too long"):
        store.write(KEY, StoredPrompt("e", "v", "i", 8000, bytes(module.MAX_FILE_BYTES)))
    with pytest.raises(StoreError, match="names"):
        store.write(KEY, StoredPrompt("e", "v" * 5000, "i", 8000, b""))
    assert store.keys() == set()


def test_a_write_that_fails_leaves_the_old_prompt(store: PromptStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(KEY, PROMPT)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        store.write(KEY, StoredPrompt("e", "v", "i", 8000, b"\0\0"))
    assert store.read(KEY) == PROMPT
    assert len(list(store.directory.iterdir())) == 1


def test_others_files_are_left_alone(store: PromptStore) -> None:
    store.write(KEY, PROMPT)
    stranger = store.directory / "notes.txt"
    stranger.write_text("mine")
    (store.directory / (KEY.hex().upper() + ".prompt")).write_text("no key of ours")
    (store.directory / ".new-abc_1.prompt").write_bytes(b"left by a crash")
    assert store.keys() == {KEY}
    assert store.clear() == 2
    assert sorted(path.name for path in store.directory.iterdir()) == [KEY.hex().upper() + ".prompt", "notes.txt"]


@pytest.mark.parametrize("key", [b"", b"../../etc/passwd", bytes(33)])
def test_only_keys_name_files(store: PromptStore, key: bytes) -> None:
    with pytest.raises(ValueError, match="a key has 32 bytes"):
        store.read(key)


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = PromptStore(tmp_path / "file", 1 << 20)
    with pytest.raises(StoreError, match="Not a directory"):
        store.keys()
    with pytest.raises(StoreError):
        store.write(KEY, PROMPT)
    assert store.read(KEY) is None
