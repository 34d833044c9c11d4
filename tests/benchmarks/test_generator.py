"""The generator as a process against a server with known faults, over loopback."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import ROOT
from benchmarks.load import report, run, steady
from benchmarks.load.generator import Generator
from benchmarks.load.plan import Plan
from benchmarks.load.texts import speeches
from tests.benchmarks.fake_server import LEAD_FRAMES, FakeServer, Faults


async def place(
    directory: Path, server: FakeServer | tuple[str, int], calls: int = 2, **options: Any
) -> dict[str, Any]:
    """Run the generator against the server; the figures, as calls.py makes them."""
    shares = options.pop("shares", 1)
    plan = Plan(
        server=server.address if isinstance(server, FakeServer) else server,
        rate=options.pop("rate", 10.0),
        seconds=options.pop("seconds", 2.5),
        scripts=options.pop("scripts", [[text] for text in speeches(calls, 40, 1)]),
        start=time.monotonic() + 0.7,
        token="test",
        **options,
    )
    plan.write(directory / "plan.json")
    command = [sys.executable, "-m", "benchmarks.load.generator", str(directory)]
    processes = [
        await asyncio.create_subprocess_exec(*command, str(share), str(shares), cwd=ROOT) for share in range(shares)
    ]
    assert [await process.wait() for process in processes] == [0] * shares
    outcome = run.collect(directory)
    found = run.analysed(directory, outcome["shares"])
    joined = {name: outcome[name] for name in ("generator", "rtcp")}
    return report.figures(outcome["calls"], found) | joined | {"found": found}


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

    assert {name: figures["calls"][name] for name in ("placed", "answered", "failed", "failures")} == {
        "placed": 2,
        "answered": 2,
        "failed": 0,
        "failures": {},
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
        assert call.packets > 125
    assert figures["ack_to_first_audible_ms"]["p50"] >= LEAD_FRAMES * 20 - 1
    assert figures["speech"]["calls_ended_early"] == 0
    assert figures["generator"]["kernel_drops"] == figures["generator"]["overflowed"] == 0


async def test_a_sound_server_shows_no_fault_and_hears_the_uplink(tmp_path: Path) -> None:
    server = await FakeServer.start()
    try:
        figures = await place(tmp_path, server, calls=3, seconds=1.5)
    finally:
        server.close()

    assert figures["calls"]["failed"] == 0
    rtp = figures["rtp"]
    assert {rtp[name] for name in ("lost", "duplicated", "reordered", "timestamp_errors", "after_close")} == {0}
    assert figures["speech"]["cuts"] == 0
    assert figures["speech"]["audible_percent"] == 100.0
    assert 0 < figures["invite_to_200_ms"]["p50"] < 1000
    # Each call lasts ramp + seconds = 1.8 s: 90 frames each way, less what the last tick cuts off.
    assert 3 * 75 < rtp["packets"] < 3 * 97
    assert 3 * 75 < figures["generator"]["uplink_sent"] < 3 * 97
    assert server.uplink == pytest.approx(figures["generator"]["uplink_sent"], abs=6)
    assert sorted(server.texts) == sorted(speeches(3, 40, 1))
    assert server.byes == 3
    assert figures["generator"]["cpu_percent"] < 50


async def test_finds_a_stall_and_a_leg_that_dies(tmp_path: Path) -> None:
    server = await FakeServer.start(Faults(stall={60: 20}, die=80))
    try:
        figures = await place(tmp_path, server)
    finally:
        server.close()

    rtp = figures["rtp"]
    assert rtp["lost"] == rtp["timestamp_errors"] == 0
    assert rtp["gaps"] >= 2
    assert rtp["talkspurts"] == 2 * 2
    for call in figures["found"]:
        assert call.spacing_error.max() > 350
    # Both legs have the 20 skipped intervals fewer, less the edges; the dead one lacks what it had until BYE, too.
    dead, alive = sorted(shortfalls(tmp_path), reverse=True)
    assert 10 <= alive <= 22
    assert dead > 40
    assert rtp["short"] == dead + alive
    assert figures["mos"]["worst"] < figures["mos"]["median"]


def shortfalls(directory: Path) -> list[int]:
    outcome = run.collect(directory)
    found = run.analysed(directory, outcome["shares"])
    return [report.missing(*each) for each in zip(outcome["calls"], found, strict=True)]


async def test_minutes_see_a_leg_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.load.minutes.MINUTE", 1.0)
    server = await FakeServer.start(Faults(die=60))
    plan = Plan(
        server=server.address,
        rate=10.0,
        seconds=2.0,
        scripts=[[text] for text in speeches(2, 40, 1)],
        start=time.monotonic() + 0.3,
        token="test",
        keep=False,
    )
    generator = Generator(plan, tmp_path)
    try:
        await asyncio.to_thread(generator.run)
        generator.save()
    finally:
        generator.close()
        server.close()

    first, second = (json.loads(line) for line in (tmp_path / "minutes.jsonl").read_text().splitlines())
    assert first["lost"] == second["lost"] == 0
    assert second["short"] >= 40
    assert second["mos"]["worst"] == 1.0
    assert steady.figures([first | OF_SERVER, second | OF_SERVER], run.collect(tmp_path))["short"] >= 40


OF_SERVER = {"underruns": None, "skipped": None, "rss_mb": None}


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
        figures = await place(tmp_path, server, calls=1, seconds=0.5, sound="none")
    finally:
        server.close()

    assert figures["rtp"]["packets"] > 10
    assert figures["generator"]["uplink_sent"] == server.uplink == 0


async def test_a_lost_invite_is_sent_again_and_refusals_are_counted(tmp_path: Path) -> None:
    server = await FakeServer.start(Faults(lose_first_invite=True, refuse=1))
    try:
        figures = await place(tmp_path, server, seconds=1.0)
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


async def test_calls_go_on_speaking_by_info_and_take_turns_with_the_prompts(tmp_path: Path) -> None:
    server = await FakeServer.start()
    scripts = [["One, two.", "Three, four."], ["Three, four.", "One, two."]]
    try:
        figures = await place(tmp_path, server, seconds=2.0, scripts=scripts)
    finally:
        server.close()

    # From 1 s on one text each time that the last is over, which is after 9 to 12 characters / 15 a second.
    assert sorted(server.texts) == ["One, two.", "Three, four."]
    assert 2 <= len(server.more_texts) <= 8
    assert set(server.more_texts) == {"One, two.", "Three, four."}
    assert figures["calls"]["texts_said"] == len(server.more_texts)
    assert figures["calls"]["texts_refused"] == 0


async def test_a_server_that_takes_no_more_text_is_not_pressed(tmp_path: Path) -> None:
    server = await FakeServer.start(Faults(refuse_info=True))
    try:
        figures = await place(tmp_path, server, calls=1, seconds=2.0, scripts=[["One, two."]])
    finally:
        server.close()

    assert figures["calls"]["failed"] == 0
    assert 1 <= figures["calls"]["texts_refused"] <= 2


@pytest.mark.parametrize("mux", [False, True])
async def test_reports_go_both_ways(tmp_path: Path, mux: bool) -> None:
    server = await FakeServer.start(Faults(rtcp=True, drop=frozenset({20})))
    try:
        figures = await place(tmp_path, server, seconds=3.8, rtcp_mux=mux)
    finally:
        server.close()

    rtcp = figures["rtcp"]
    assert rtcp["sent"] == len(server.reports) >= 2 + 2
    assert sum(report.bye for report in server.reports) == 2
    assert all(report.sender for report in server.reports)
    blocks = [report.blocks[0] for report in server.reports]
    assert {block.ssrc for block in blocks} == {7}
    assert {block.lost for block in blocks} <= {0, 1}
    assert blocks[-1].lost == 1
    # What comes after the BYE of ours finds a port that may be closed already.
    assert rtcp["calls_reported_to"] == 2
    assert rtcp["sender_reports"] == rtcp["report_blocks"] >= 2
    assert rtcp["far_lost"] == 2 * 3
    assert rtcp["far_jitter_ms"]["p50"] == 2.0
    assert 0 < rtcp["round_trip_ms"]["p50"] < 500
    assert rtcp["malformed"] == rtcp["strangers"] == 0
    assert figures["rtp"]["malformed"] == figures["generator"]["strangers"] == 0


async def test_shares_are_placed_by_processes_of_their_own(tmp_path: Path) -> None:
    server = await FakeServer.start(Faults(drop=frozenset({20})))
    try:
        figures = await place(tmp_path, server, calls=3, seconds=0.7, shares=2)
    finally:
        server.close()

    assert (figures["calls"]["placed"], figures["calls"]["failed"]) == (3, 0)
    assert sorted(server.texts) == sorted(speeches(3, 40, 1))
    assert figures["rtp"]["lost"] == 3
    assert server.uplink == pytest.approx(figures["generator"]["uplink_sent"], abs=6)


def test_generator_needs_its_plan(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.load.generator", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode != 0
    assert "plan.json" in run.stderr
