"""Where plans lie: a directory for each build, with its manifest.

    OUT/sm86-fp16-tensorrt-rtx-1a2b3c4d/manifest.json
    OUT/sm86-fp16-tensorrt-rtx-1a2b3c4d/estimator.plan ...
    OUT/timing-sm86-tensorrt-10.16.1.11.cache

The digits stand for weights, version and options (manifest.py): a build touches no other build's plans. A file appears
whole or not at all. Plans that a server has loaded may be replaced: it holds them in memory.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tts_engine.tensorrt.faults import BuildError, PlanError
from tts_engine.tensorrt.manifest import AGAIN, Manifest, Plan

MANIFEST = "manifest.json"
PLAN_SUFFIX = ".plan"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NEXT_TO_NOTHING = 16 << 20
"Free bytes below which a write that broke off did so for want of space."
_LOCK = ".lock"
_HIDDEN = ".chatterline-unfinished-"
"Begins the name of what is being written."


@dataclass(frozen=True)
class Stored:
    """A directory of engines: what it holds, or why that cannot be read."""

    folder: Path
    manifest: Manifest | None
    problem: str | None = None


class _NoManifestError(PlanError):
    """There is no manifest in the directory, or no such directory."""


class PlanStore:
    """Everything below one directory, which need not exist until something is written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    # Reading

    def list(self) -> list[Stored]:
        """All that is there, by name. Raises PlanError if the directory cannot be read."""
        try:
            folders = sorted(self.directory.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise PlanError(f"{self.directory}: {error.strerror}") from None
        found = (self._stored(folder) for folder in folders if not folder.name.startswith("."))
        return [stored for stored in found if stored is not None]

    def manifest(self, folder: str) -> Manifest:
        """Of one directory. Raises PlanError: none there, unreadable, damaged, of another format."""
        path = self.directory / folder / MANIFEST
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise _NoManifestError(
                f"there are no engines in {self.directory / folder}: `chatterline engine build` makes them"
            ) from None
        except UnicodeDecodeError:
            raise PlanError(f"{path} is damaged; {AGAIN}") from None
        except OSError as error:
            raise PlanError(f"{path}: {error.strerror}") from None
        manifest = Manifest.from_json(text, path)
        if manifest.folder != folder:  # a set that a build would not find, and take for absent
            raise PlanError(f"{path} is of {manifest.folder}: the directory was renamed or copied over another")
        return manifest

    def read(self, folder: str, plan: Plan) -> bytes:
        """A plan's bytes, compared with the manifest. Raises PlanError: missing, truncated, changed."""
        path = self.plan_path(folder, plan.stage)
        try:
            size = path.stat().st_size
            data = path.read_bytes() if size == plan.bytes else b""
        except FileNotFoundError:
            raise PlanError(f"{path} is missing: `chatterline engine build` makes it again") from None
        except OSError as error:
            raise PlanError(f"{path}: {error.strerror}") from None
        if len(data) != plan.bytes:
            what = "truncated" if size < plan.bytes else "not the plan that the manifest tells of"
            raise PlanError(
                f"{path} is {what}: {size} bytes of {plan.bytes}; `chatterline engine build` makes it again"
            )
        if hashlib.sha256(data).hexdigest() != plan.sha256:
            raise PlanError(f"{path} is damaged: its digest is not the manifest's; {AGAIN}")
        return data

    def is_whole(self, folder: str, plan: Plan) -> bool:
        """Whether the plan's file is there as the manifest has it."""
        try:
            self.read(folder, plan)
        except PlanError:
            return False
        return True

    def plan_path(self, folder: str, stage: str) -> Path:
        """Where a stage's plan lies."""
        return self.directory / folder / (stage + PLAN_SUFFIX)

    # Writing

    def write_plan(self, folder: str, stage: str, data: bytes | memoryview) -> str:
        """Keep a plan; gives its SHA-256. Raises BuildError, and then leaves the file that was there."""
        self._write(self.plan_path(folder, stage), data)
        return hashlib.sha256(data).hexdigest()

    def write_manifest(self, manifest: Manifest) -> None:
        """Keep a manifest, and remove plans that it does not tell of. Raises BuildError."""
        folder = self.directory / manifest.folder
        self._write(folder / MANIFEST, manifest.to_json().encode())
        with disk_faults(folder):
            for path in folder.glob("*" + PLAN_SUFFIX):
                if path.stem not in manifest.plans:
                    path.unlink(missing_ok=True)

    def timing_cache(self, target: str, flavour: str, version: str) -> bytes:
        """What the builder measured on this GPU with this version; b"" if nothing."""
        try:
            return self._timing_path(target, flavour, version).read_bytes()
        except OSError:
            return b""

    def write_timing_cache(self, target: str, flavour: str, version: str, data: bytes) -> None:
        """Raises BuildError."""
        self._write(self._timing_path(target, flavour, version), data)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else builds here meanwhile, and what a killed build left is gone. Raises BuildError if somebody
        does, or the directory cannot be written.
        """
        with disk_faults(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self.directory / _LOCK).open("a")
        with lock:
            with disk_faults(self.directory / _LOCK):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise BuildError(
                        f"engines are being built in {self.directory} already, by another process"
                    ) from None
            with disk_faults(self.directory):
                self._sweep()
            yield

    def remove(self, folder: str) -> None:
        """A directory of engines, whole: it is hidden first, so that nobody sees a half of it. Raises BuildError."""
        path = self.directory / folder
        with disk_faults(path):
            hidden = path.with_name(f"{_HIDDEN}{os.getpid()}-{folder}")
            path.rename(hidden)
            shutil.rmtree(hidden)

    def _sweep(self) -> None:
        """Remove what a killed build left."""
        for path in (*self.directory.glob(_HIDDEN + "*"), *self.directory.glob("*/" + _HIDDEN + "*")):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory for intermediate files, on the same disk, gone afterwards. Raises BuildError."""
        with disk_faults(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            path = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=self.directory))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def require_space(self, needed: int, what: str) -> None:
        """Raises BuildError if the disk has less free than that many bytes."""
        path = next(path for path in (self.directory, *self.directory.absolute().parents) if path.exists())
        with disk_faults(path):
            free = shutil.disk_usage(path).free
        if free < needed:
            raise BuildError(
                f"{self.directory} has {free / 1e9:.1f} GB free; {what} takes up to {needed / 1e9:.1f} GB "
                f"(--out names another place)"
            )

    def _timing_path(self, target: str, flavour: str, version: str) -> Path:
        return self.directory / f"timing-{target}-{flavour}-{version}.cache"

    def _stored(self, folder: Path) -> Stored | None:
        """None: not one of ours."""
        try:
            return Stored(folder, self.manifest(folder.name))
        except _NoManifestError:
            return None
        except PlanError as fault:
            return Stored(folder, None, str(fault))

    def _write(self, path: Path, data: bytes | memoryview) -> None:
        """Beside its place, then moved there. Raises BuildError; nothing of it is left then."""
        unfinished = path.with_name(f"{_HIDDEN}{os.getpid()}-{path.name}")
        with disk_faults(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with unfinished.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.replace(path)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """An OSError on the way becomes a BuildError that names the place. What writes here removes what it began."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL or (error.errno is None and _is_full(path)):
            raise BuildError(f"no space is left for {path}; nothing of it was kept") from error
        reason = error.strerror or str(error) or type(error).__name__
        # Libraries raise it without a file, or with one that says little.
        where = path if error.filename is None else error.filename
        raise BuildError(f"{where}: {reason}") from error


def _is_full(path: Path) -> bool:
    """numpy, which writes weights, raises an OSError without a number where it could not write all of them."""
    there = next((place for place in (path, *path.absolute().parents) if place.exists()), path)
    try:
        return shutil.disk_usage(there).free < _NEXT_TO_NOTHING
    except OSError:
        return False
