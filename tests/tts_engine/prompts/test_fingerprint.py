"""Whether a file is still the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tts_engine.prompts import fingerprint as module
from tts_engine.prompts.fingerprint import BLOCK_BYTES, BLOCKS, Fingerprints, fingerprint


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(BLOCKS * BLOCK_BYTES * 2))
    return path


@pytest.mark.parametrize("whole", [True, False])
def test_by_content_wherever_it_lies(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    if not whole:
        monkeypatch.setattr(module, "WHOLE_BYTES", 1000)
    copy = tmp_path / "copy"
    copy.write_bytes(file.read_bytes())
    assert fingerprint(copy) == fingerprint(file)
    content = bytearray(file.read_bytes())
    for place in (0, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        copy.write_bytes(changed)
        assert fingerprint(copy) != fingerprint(file), place
    copy.write_bytes(bytes(byte ^ 1 for byte in content))  # other training: all of it
    assert fingerprint(copy) != fingerprint(file)
    copy.write_bytes(content + b"\0")
    assert fingerprint(copy) != fingerprint(file)


def test_of_a_large_file_only_blocks_are_read(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "WHOLE_BYTES", 1000)
    before = fingerprint(file)
    content = bytearray(file.read_bytes())
    content[BLOCK_BYTES + 1] ^= 1  # between the first two blocks
    file.write_bytes(content)
    assert fingerprint(file) == before, "the price of not reading gigabytes"


def test_an_empty_file_and_none(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert fingerprint(tmp_path / "empty") != fingerprint(Path(__file__))
    with pytest.raises(FileNotFoundError):
        fingerprint(tmp_path / "none")


def test_a_file_that_stays_is_read_once_and_a_changed_one_again(file: Path) -> None:
    reads: list[Path] = []

    def read(path: Path) -> str:
        reads.append(path)
        return fingerprint(path)

    known = Fingerprints(read)
    first = known.of(file)
    assert known.of(file) == first
    assert len(reads) == 1
    replacement = file.with_suffix(".new")
    replacement.write_bytes(b"other")
    replacement.replace(file)
    assert known.of(file) != first
    assert len(reads) == 2
    file.unlink()
    with pytest.raises(FileNotFoundError):
        known.of(file)
