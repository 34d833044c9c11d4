"""Machine, versions, commit, table and result file."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import common


def test_machine() -> None:
    found = common.machine()

    assert found["cpu"]
    assert found["cores"] >= 1
    assert found["memory_mb"] > 100
    assert platform.release() in found["kernel"]


def test_versions() -> None:
    found = common.versions()

    assert found["python"] == platform.python_version()
    assert found["numpy"] is not None
    assert set(common.DISTRIBUTIONS) < set(found)


def test_distribution_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "DISTRIBUTIONS", ("no-such-distribution",))

    assert common.versions()["no-such-distribution"] is None


def git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_commit_that_is_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_COMMIT", "abc123")
    assert common.commit(tmp_path) == {"commit": "abc123", "dirty": None}


def test_commit_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert common.commit(tmp_path) == {"commit": None, "dirty": None}
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    head = git(tmp_path, "rev-parse", "HEAD")

    assert common.commit(tmp_path) == {"commit": head, "dirty": False}
    (tmp_path / "untracked").write_text("two")
    assert common.commit(tmp_path)["dirty"] is False
    (tmp_path / "file").write_text("three")
    assert common.commit(tmp_path) == {"commit": head, "dirty": True}


def test_table_aligns_names_left_and_figures_right() -> None:
    text = common.table(
        [("calls", 50), ("drift", -1.234), ("lost", 3.0), ("spacing", None), ("held", True)], ("name", "value")
    )

    assert text.split("\n") == [
        "name     value",
        "----     -----",
        "calls       50",
        "drift    -1.23",
        "lost         3",
        "spacing      -",
        "held       yes",
    ]


def test_empty_table() -> None:
    assert common.table([]) == ""


@given(st.lists(st.tuples(st.text("abc", max_size=8), st.integers(), st.floats(allow_nan=False)), min_size=1))
def test_table_has_one_line_a_row_and_one_width(rows: list[tuple[str, int, float]]) -> None:
    lines = common.table(rows).split("\n")

    assert len(lines) == len(rows)
    assert len({len(line) for line in lines}) == 1


def test_result_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"

    common.write_json(path, {"a": [1, 2.5, None]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}

    with pytest.raises(ValueError, match="not JSON compliant"):
        common.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]
