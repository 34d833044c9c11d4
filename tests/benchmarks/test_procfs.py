"""CPU and memory from /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.load import procfs


def test_stat_with_blanks_and_brackets_in_the_name() -> None:
    text = "42 (a) b (c) S 7 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 12345 1000 200"

    name, parent, seconds = procfs.parse_stat(text)

    assert (name, parent) == ("a) b (c", 7)
    assert seconds == pytest.approx(300 / procfs.TICKS_PER_SECOND)


def test_children_belong_to_the_family() -> None:
    # A shell that has a child of its own; both wait on us.
    script = (
        "import subprocess, sys; c = subprocess.Popen(['cat'], stdin=sys.stdin); print(c.pid, flush=True); c.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        grandchild = int(child.stdout.readline())
        members = procfs.family(child.pid)
        alone = procfs.memory(grandchild)
        together = procfs.memory(child.pid)
        assert child.stdin
        child.stdin.close()

    assert members == [child.pid, grandchild]
    assert together.resident > alone.resident > 0
    assert together.peak >= together.resident


def test_threads_are_told_apart() -> None:
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    try:
        times = procfs.thread_times(os.getpid())
        assert other.native_id in times
        assert os.getpid() in times
        assert {t.process for t in times.values()} == {os.getpid()}
    finally:
        stop.set()
        other.join()


def test_process_that_is_gone_counts_nothing() -> None:
    with subprocess.Popen(["true"]) as child:
        pass

    assert procfs.cpu_seconds(child.pid) == 0.0
    assert procfs.thread_times(child.pid) == {}
    assert procfs.memory(child.pid) == procfs.Memory(0.0, 0.0)


def test_host_time_counts_no_idling(tmp_path: Path) -> None:
    page = tmp_path / "stat"
    page.write_text("cpu  10 20 30 400 500 6 7 8 99 99\ncpu0 1 1 1 1 1 1 1 1 1 1\n")

    found = procfs.host_time(page)

    assert found.busy == pytest.approx((10 + 20 + 30 + 6 + 7 + 8) / procfs.TICKS_PER_SECOND)
    assert found.steal == pytest.approx(8 / procfs.TICKS_PER_SECOND)
    assert procfs.host_time().busy > 0
