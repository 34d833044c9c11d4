"""The generator as a process against a server with known faults, over loopback."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import ROOT
from benchmarks.load import analysis, report
from benchmarks.load.generator import Plan
from benchmarks.load.texts import speeches
from tests.benchmarks.fake_server import LEAD_FRAMES, FakeServer, Faults


async def place(
    directory: Path, server: FakeServer | tuple[str, int], calls: int = 2, **options: Any
) -> dict[str, Any]:
    """Run the generator against the server; the figures, as calls.py makes them."""
    plan = Plan(
        server=server.address if isinstance(server, FakeServer) else server,
        rate=options.pop("rate", 10.0),
        seconds=options.pop("seconds", 3.0),
        texts=speeches(calls, 40, 1),
        start=time.monotonic() + 1.0,
        token="test",
        **options,
    )
    plan.write(directory / "plan.json")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.load.generator", str(directory), cwd=ROOT
    )
    assert await process.wait() == 0
    outcome = json.loads((directory / "calls.json").read_text())
    records = analysis.by_call(analysis.read(directory / "records.bin"), calls)
    found = [analysis.analyse(r, c["closed"]) for r, c in zip(records, outcome["calls"], strict=True)]
    return report.figures(outcome["calls"], found) | {"generator": outcome["generator"], "found": found}


async def test_finds_the_faults_that_were_put_in(tmp_path: Path) -> None:
    faults = Faults(
        drop=frozenset({30, 31, 60}),
        duplicate=frozenset({40}),
        swap=frozenset({50}),
        delay={70: 0.3},
        skip_timestamp=frozenset({95}),
        silence=frozenset({110, 111, 120}),
    )
    server = await FakeServer.start(faults)
    try:
        figures = await place(tmp_path, server)
    finally:
        server.close()

    assert figures["calls"] | {"retransmissions": 0} == {
        "placed": 2,
        "answered": 2,
        "failed": 0,
        "failures": {},
        "retransmissions": 0,
    }
    rtp = figures["rtp"]
    assert rtp["lost"] == 2 * 3
    assert rtp["duplicated"] == 2 * 1
    assert rtp["reordered"] == 2 * 1
    assert rtp["timestamp_errors"] == 2 * 1
    assert rtp["talkspurts"] == rtp["markers"] == 2
    assert rtp["malformed"] == rtp["other_ssrc"] == 0
    # The skipped timestamp, and two holes of silence.
    assert figures["speech"]["cuts"] == 2 * 3
    assert figures["speech"]["digital_silence_frames"] == 2 * 3
    for call in figures["found"]:
        # Frame 70 comes 300 ms late, after which the server catches up.
        assert 250 < call.spacing_error.max() < 1000
        assert call.packets > 140
    assert figures["ack_to_first_audible_ms"]["p50"] >= LEAD_FRAMES * 20 - 1
    assert figures["speech"]["calls_ended_early"] == 0
    assert figures["generator"]["kernel_drops"] == figures["generator"]["overflowed"] == 0


async def test_a_sound_server_shows_no_fault_and_hears_the_uplink(tmp_path: Path) -> None:
    server = await FakeServer.start()
    try:
        figures = await place(tmp_path, server, calls=3)
    finally:
        server.close()

    assert figures["calls"]["failed"] == 0
    rtp = figures["rtp"]
    assert {rtp[name] for name in ("lost", "duplicated", "reordered", "timestamp_errors", "after_close")} == {0}
    assert figures["speech"]["cuts"] == 0
    assert figures["speech"]["audible_percent"] == 100.0
    assert 0 < figures["invite_to_200_ms"]["p50"] < 1000
    # Each call lasts ramp + seconds = 3.3 s: 165 frames each way, less what the last tick cuts off.
    assert 3 * 150 < rtp["packets"] < 3 * 172
    assert 3 * 150 < figures["generator"]["uplink_sent"] < 3 * 172
    assert server.uplink == pytest.approx(figures["generator"]["uplink_sent"], abs=6)
    assert sorted(server.texts) == sorted(speeches(3, 40, 1))
    assert server.byes == 3
    assert figures["generator"]["cpu_percent"] < 50


async def test_a_clock_that_runs_slow_shows_as_drift(tmp_path: Path) -> None:
    server = await FakeServer.start(Faults(clock=1.1))
    try:
        figures = await place(tmp_path, server, calls=1)
    finally:
        server.close()

    # 10 % slow; a busy machine's jitter adds some thousand ppm over a call this short.
    assert figures["drift_ppm"]["median"] == pytest.approx(100_000, abs=20_000)


async def test_calls_without_uplink_send_no_rtp(tmp_path: Path) -> None:
    server = await FakeServer.start()
    try:
        figures = await place(tmp_path, server, calls=1, seconds=0.5, uplink=False)
    finally:
        server.close()

    assert figures["rtp"]["packets"] > 10
    assert figures["generator"]["uplink_sent"] == server.uplink == 0


async def test_a_lost_invite_is_sent_again_and_refusals_are_counted(tmp_path: Path) -> None:
    server = await FakeServer.start(Faults(lose_first_invite=True, refuse=1))
    try:
        figures = await place(tmp_path, server, seconds=1.5)
    finally:
        server.close()

    assert figures["calls"]["answered"] == 1
    assert figures["calls"]["failures"] == {"503 Service Unavailable": 1}
    assert figures["calls"]["retransmissions"] >= 2
    assert figures["invite_to_200_ms"]["p50"] >= 500  # from the first INVITE, not the one that arrived


async def test_silent_and_unanswered_calls_fail_with_their_reason(tmp_path: Path) -> None:
    server = await FakeServer.start(Faults(mute=True))
    try:
        figures = await place(tmp_path, server, seconds=0.5)
    finally:
        server.close()
    assert figures["calls"]["failures"] == {"no RTP": 2}

    figures = await place(tmp_path, ("127.0.0.1", 9), seconds=0.2, give_up=1.0)
    assert figures["calls"]["failures"] == {"INVITE not answered": 2}
    assert figures["invite_to_200_ms"]["p50"] is None


def test_arrivals_are_one_a_slot_and_the_same_for_a_seed() -> None:
    plan = Plan(("127.0.0.1", 5060), 5.0, 20.0, ["a"] * 50, 100.0, "t")

    arrivals = plan.arrivals()

    assert arrivals == plan.arrivals()
    assert all(100.0 + i / 5 <= at < 100.0 + (i + 1) / 5 for i, at in enumerate(arrivals))
    phases = {round(at / 0.020 % 1, 1) for at in arrivals}
    assert len(phases) > 5, "the calls share one phase of the frame period"
    assert all(later > earlier for earlier, later in pairwise(arrivals))
    # The first call still stands when the last one has been up for `seconds`.
    assert arrivals[0] + plan.hold >= 100.0 + plan.ramp + plan.seconds


def test_plan_survives_its_file(tmp_path: Path) -> None:
    plan = Plan(("127.0.0.1", 5060), 5.0, 20.0, ["one", "two"], 100.0, "t", uplink=False)

    plan.write(tmp_path / "plan.json")

    assert Plan.read(tmp_path / "plan.json") == plan


def test_generator_needs_its_plan(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.load.generator", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode != 0
    assert "plan.json" in run.stderr
