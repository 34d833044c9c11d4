"""Pacing beside an engine: what is made of the packets, the receiver, and a run without an engine."""

from __future__ import annotations

import json
import math
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import pacing_under_load
from benchmarks.load import analysis
from benchmarks.load.sink import HOST, receiving

ROOT = Path(__file__).resolve().parent.parent.parent
MS = 1_000_000


def record(leg: int, sequence: int, stamp_ns: int) -> np.ndarray:
    found = np.zeros(1, analysis.RECORD)
    found["stamp"], found["call"], found["size"] = stamp_ns, leg, analysis.PACKET_SIZE
    found["vpxcc"], found["sequence"], found["timestamp"], found["ssrc"] = 0x80, sequence, 160 * sequence, leg + 1
    return found


def test_spacing_is_over_all_legs_and_only_of_the_phase() -> None:
    even = [record(0, n, 20 * MS * n) for n in range(100)]
    late = [record(1, n, 20 * MS * n + (5 * MS if n == 50 else 0)) for n in range(100)]
    outside = [record(0, 100 + n, 5000 * MS + 37 * MS * n) for n in range(10)]
    records = np.concatenate([*even, *late, *outside])

    found = pacing_under_load.spacing(records, 2, 0, 3000 * MS)

    assert found["packets"] == 200
    assert found["p50_ms"] == 0
    assert found["max_ms"] == pytest.approx(5)
    assert found["p99_ms"] == pytest.approx(np.percentile([0] * 196 + [5] * 2, 99))
    assert found["lost"] == found["timestamp_errors"] == 0


def test_phase_without_packets() -> None:
    found = pacing_under_load.spacing(np.zeros(0, analysis.RECORD), 3, 0, 1)

    assert found["packets"] == 0
    assert found["p99_ms"] is None


def test_lost_packets_are_seen() -> None:
    records = np.concatenate([record(0, n, 20 * MS * n) for n in range(10) if n != 4])

    assert pacing_under_load.spacing(records, 1, 0, 1000 * MS)["lost"] == 1


def test_receiver_keeps_what_was_sent(tmp_path: Path) -> None:
    path = tmp_path / "records.bin"
    with receiving(3, 20.0, path) as sink, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert len(set(sink.ports)) == 3
        for leg, port in enumerate(sink.ports):
            for sequence in range(5):
                header = struct.pack(">BBHII", 0x80, 0, sequence, 160 * sequence, leg + 1)
                sock.sendto(header + bytes(160), (HOST, port))
        lost = sink.finish()

    assert lost == {"kernel_drops": 0, "no_room": 0}
    legs = analysis.by_call(analysis.read(path), 3)
    assert [leg["sequence"].tolist() for leg in legs] == [[0, 1, 2, 3, 4]] * 3
    assert [analysis.analyse(leg).packets for leg in legs] == [5, 5, 5]


def test_receiver_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="did not start"), receiving(1, math.nan, tmp_path / "none"):
        pass


@pytest.mark.parametrize("options", [["--legs", "0"], ["--switch", "0"], ["--seconds", "-1"], ["--engine", "other"]])
def test_options_that_mean_nothing_are_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit):
        pacing_under_load.arguments(options)


def test_idle_end_to_end(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    options = ["--engine", "none", "--legs", "10", "--seconds", "1", "--json", str(path)]
    command = [sys.executable, "-m", "benchmarks.pacing_under_load", *options]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)

    assert run.returncode == 0, run.stderr
    seen = json.loads(path.read_text())["phases"]["idle"]
    assert 300 < seen["spacing"]["packets"] < 700
    assert seen["spacing"]["timestamp_errors"] == 0
    assert seen["underruns"] == 0
    assert 0 < seen["pacer_cpu_percent"] < 100
    assert seen["floor"]["count"] > 0
