from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.tts_engine.tensorrt.test_manifest import manifest, plan
from tts_engine.tensorrt.faults import BuildError, PlanError
from tts_engine.tensorrt.manifest import Manifest, Plan
from tts_engine.tensorrt.plan_store import _HIDDEN, MANIFEST, PlanStore, disk_faults

FOLDER = manifest().folder
DATA = os.urandom(4096)
NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> PlanStore:
    return PlanStore(tmp_path / "engines")


def kept(store: PlanStore, data: bytes = DATA) -> Plan:
    """A plan in the store, and its manifest."""
    made = plan(bytes=len(data), sha256=store.write_plan(FOLDER, "vocoder", data))
    store.write_manifest(manifest(plans={"vocoder": made}))
    return made


def files(store: PlanStore) -> set[str]:
    return {str(path.relative_to(store.directory)) for path in store.directory.rglob("*") if path.is_file()}


class TestKept:
    def test_comes_back(self, store: PlanStore) -> None:
        made = kept(store)
        assert store.read(FOLDER, made) == DATA
        assert store.is_whole(FOLDER, made)
        assert store.manifest(FOLDER).plans == {"vocoder": made}
        assert made.sha256 == hashlib.sha256(DATA).hexdigest()
        assert files(store) == {f"{FOLDER}/vocoder.plan", f"{FOLDER}/{MANIFEST}"}

    def test_a_memoryview_as_the_builder_gives_it(self, store: PlanStore) -> None:
        store.write_plan(FOLDER, "vocoder", memoryview(bytearray(DATA)))
        assert store.plan_path(FOLDER, "vocoder").read_bytes() == DATA

    def test_is_replaced(self, store: PlanStore) -> None:
        old = kept(store)
        new = kept(store, b"another")
        assert store.read(FOLDER, new) == b"another"
        assert not store.is_whole(FOLDER, old)

    def test_plans_that_the_manifest_does_not_tell_of_go(self, store: PlanStore) -> None:
        kept(store)
        store.write_plan(FOLDER, "t3_step", b"of another checkpoint")
        store.write_manifest(store.manifest(FOLDER))
        assert files(store) == {f"{FOLDER}/vocoder.plan", f"{FOLDER}/{MANIFEST}"}

    def test_the_list(self, store: PlanStore) -> None:
        assert store.list() == []
        kept(store)
        other = replace(store.manifest(FOLDER), precision="bf16")
        store.write_manifest(replace(other, plans={}))
        (store.directory / "notes").mkdir()
        assert [entry.folder.name for entry in store.list()] == [other.folder, FOLDER]
        assert all(entry.manifest is not None and entry.problem is None for entry in store.list())

    def test_the_list_shows_what_is_damaged(self, store: PlanStore) -> None:
        kept(store)
        (store.directory / FOLDER / MANIFEST).write_text("{")
        (entry,) = store.list()
        assert entry.manifest is None
        assert "is damaged" in (entry.problem or "")

    def test_the_list_goes_on_where_something_may_not_be_read(
        self, store: PlanStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept(store)
        read_text = Path.read_text

        def denied(path: Path, **options: Any) -> str:
            if path.parent.name == "secret":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return read_text(path, **options)

        (store.directory / "secret").mkdir()
        (store.directory / "a file").write_text("")
        monkeypatch.setattr(Path, "read_text", denied)
        secret, good = store.list()
        assert secret.manifest is None
        assert secret.problem == f"{store.directory / 'secret' / MANIFEST}: Permission denied"
        assert good.manifest is not None

    def test_a_folder_that_may_not_be_entered(self) -> None:
        # Not below pytest's own directory, which is root's alone where root runs the tests: root may enter anything,
        # so the listing is done by nobody.
        with TemporaryDirectory() as directory:
            Path(directory).chmod(0o755)
            store = PlanStore(Path(directory))
            kept(store)
            (store.directory / FOLDER).chmod(0)
            user = os.geteuid()
            if user == 0:
                os.seteuid(NOBODY)
            try:
                (entry,) = store.list()
            finally:
                os.seteuid(user)
                (store.directory / FOLDER).chmod(0o700)
        assert "Permission denied" in (entry.problem or "")

    def test_removed_whole(self, store: PlanStore) -> None:
        kept(store)
        other = replace(store.manifest(FOLDER), weights="other", plans={})
        store.write_manifest(other)
        store.remove(FOLDER)
        assert files(store) == {f"{other.folder}/{MANIFEST}"}
        with pytest.raises(BuildError, match=f"{FOLDER}: No such file"):
            store.remove(FOLDER)

    def test_the_timing_cache_is_of_one_gpu_and_version(self, store: PlanStore) -> None:
        assert store.timing_cache("sm86", "tensorrt", "10.16") == b""
        store.write_timing_cache("sm86", "tensorrt", "10.16", b"measured")
        assert store.timing_cache("sm86", "tensorrt", "10.16") == b"measured"
        assert store.timing_cache("sm86", "tensorrt", "11.0") == store.timing_cache("sm89", "tensorrt", "10.16") == b""


class TestUnusable:
    def test_nothing_there(self, store: PlanStore) -> None:
        with pytest.raises(PlanError, match=f"no engines in .*{FOLDER}: `chatterline engine build` makes them"):
            store.manifest(FOLDER)

    def test_a_truncated_plan(self, store: PlanStore) -> None:
        made = kept(store)
        os.truncate(store.plan_path(FOLDER, "vocoder"), 4000)
        with pytest.raises(PlanError, match=r"vocoder\.plan is truncated: 4000 bytes of 4096"):
            store.read(FOLDER, made)

    def test_a_longer_plan(self, store: PlanStore) -> None:
        made = kept(store)
        store.plan_path(FOLDER, "vocoder").write_bytes(DATA + b"x")
        with pytest.raises(PlanError, match="not the plan that the manifest tells of"):
            store.read(FOLDER, made)

    def test_a_damaged_plan(self, store: PlanStore) -> None:
        made = kept(store)
        store.plan_path(FOLDER, "vocoder").write_bytes(bytes(len(DATA)))
        with pytest.raises(PlanError, match="is damaged: its digest"):
            store.read(FOLDER, made)

    def test_a_missing_plan(self, store: PlanStore) -> None:
        made = kept(store)
        store.plan_path(FOLDER, "vocoder").unlink()
        with pytest.raises(PlanError, match=r"vocoder\.plan is missing"):
            store.read(FOLDER, made)

    def test_a_directory_in_its_place(self, store: PlanStore) -> None:
        made = kept(store)
        store.plan_path(FOLDER, "vocoder").unlink()
        store.plan_path(FOLDER, "vocoder").mkdir()
        with pytest.raises(PlanError, match=r"vocoder\.plan"):
            store.read(FOLDER, made)

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{}", b"\x00" * 100])
    def test_a_manifest_that_is_none(self, store: PlanStore, content: bytes) -> None:
        kept(store)
        (store.directory / FOLDER / MANIFEST).write_bytes(content)
        with pytest.raises(PlanError, match="is damaged"):
            store.manifest(FOLDER)

    def test_a_directory_that_was_renamed(self, store: PlanStore) -> None:
        kept(store)
        (store.directory / FOLDER).rename(store.directory / "sm89-fp16-tensorrt-rtx")
        with pytest.raises(PlanError, match=f"is of {FOLDER}: the directory was renamed"):
            store.manifest("sm89-fp16-tensorrt-rtx")

    def test_a_store_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "engines").write_text("")
        with pytest.raises(PlanError, match="engines: Not a directory"):
            PlanStore(tmp_path / "engines").list()


class TestDisk:
    def test_too_little_is_told_before(self, store: PlanStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1_500_000_000))
        store.require_space(1_400_000_000, "building t3_step")
        with pytest.raises(BuildError, match=r"has 1\.5 GB free; building t3_step takes up to 2\.0 GB \(--out"):
            store.require_space(2_000_000_000, "building t3_step")

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    def test_full_on_the_way_leaves_no_half_plan(
        self, store: PlanStore, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        made = kept(store)

        def full(_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(BuildError, match=r"no space is left for .*vocoder\.plan; nothing of it was kept"):
            store.write_plan(FOLDER, "vocoder", b"new" * 1000)
        assert store.read(FOLDER, made) == DATA
        assert files(store) == {f"{FOLDER}/vocoder.plan", f"{FOLDER}/{MANIFEST}"}

    def test_a_real_full_disk(self, store: PlanStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Linux has a device that is always full."""
        monkeypatch.setattr(Path, "with_name", lambda self, name: Path("/dev/full"))
        monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        with pytest.raises(BuildError, match="no space is left"):
            store.write_plan(FOLDER, "vocoder", DATA)

    @pytest.mark.parametrize(
        ("free", "said"), [(1 << 20, "no space is left for .*engines"), (1 << 40, "512 requested")]
    )
    def test_an_error_without_a_number(
        self, store: PlanStore, monkeypatch: pytest.MonkeyPatch, free: int, said: str
    ) -> None:
        """As numpy raises it, whatever the reason was."""
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 41, 0, free))
        with pytest.raises(BuildError, match=said), disk_faults(store.directory):
            raise OSError("512 requested and 0 written")

    def test_another_fault_is_named(self, store: PlanStore) -> None:
        store.directory.mkdir()
        (store.directory / FOLDER).write_text("in the way")
        with pytest.raises(BuildError, match=f"{FOLDER}: (File exists|Not a directory)"):
            store.write_plan(FOLDER, "vocoder", DATA)

    def test_an_old_plan_that_cannot_be_removed(self, store: PlanStore) -> None:
        (store.directory / FOLDER / "t3_step.plan").mkdir(parents=True)
        with pytest.raises(BuildError, match=r"t3_step\.plan: Is a directory"):
            kept(store)

    def test_an_interrupted_write_leaves_nothing(self, store: PlanStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(_: int) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.write_plan(FOLDER, "vocoder", DATA)
        assert files(store) == set()

    def test_intermediate_files_go(self, store: PlanStore) -> None:
        with store.scratch() as folder:
            (folder / "vocoder.onnx").write_bytes(DATA)
            assert folder.parent == store.directory
        with pytest.raises(RuntimeError), store.scratch() as folder:
            raise RuntimeError
        assert list(store.directory.iterdir()) == []


class TestOneBuilder:
    def test_a_second_is_refused(self, store: PlanStore) -> None:
        with (
            store.locked(),
            pytest.raises(BuildError, match=r"being built in .* already"),
            PlanStore(store.directory).locked(),
        ):
            pass
        with store.locked():
            pass

    def test_what_a_killed_one_left_goes(self, store: PlanStore) -> None:
        made = kept(store)
        with store.scratch() as folder:
            (folder / "big.onnx").write_bytes(DATA)
            shutil.copytree(folder, store.directory / (_HIDDEN + "killed"))
        (store.directory / FOLDER / (_HIDDEN + "7-estimator.plan")).write_bytes(DATA)
        with store.locked():
            assert files(store) == {f"{FOLDER}/vocoder.plan", f"{FOLDER}/{MANIFEST}", ".lock"}
            assert store.read(FOLDER, made) == DATA

    def test_a_disk_without_locks(self, store: PlanStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_locks(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", no_locks)
        with pytest.raises(BuildError, match="No locks available"), store.locked():
            pass

    def test_the_lock_is_the_systems_own(self, store: PlanStore) -> None:
        """So that it ends with the process."""
        with store.locked(), (store.directory / ".lock").open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_manifest_of_any_kind_finds_its_folder(store: PlanStore) -> None:
    changes: list[dict[str, Any]] = [{"target": "sm120"}, {"precision": "bf16"}, {"flavour": "tensorrt"}]
    made: list[Manifest] = [manifest(plans={}, **change) for change in changes]
    for one in made:
        store.write_manifest(one)
    assert [store.manifest(one.folder) for one in made] == made
