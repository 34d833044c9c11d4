"""RTCP, callers who fall silent, packets that return to their sender, wideband calls."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mediaserver.phone import Play, SendInfo, place_call
from mediaserver.phone.recording import measure, read_wav
from tests.interop.media_servers import TIMEOUT_S, Event, MeasuredServer
from tests.interop.server import wait_for
from tests.interop.sipp import SippRun, can_play_captures, run_sipp

needs_pjsip = pytest.mark.skipif(sys.version_info >= (3, 13), reason="pjsua2-python has no wheel for 3.13")

LATE_S = 0.6
RunScenario = dict[str, Future[SippRun]]


@pytest.fixture(scope="module")
def sipp_runs(odd_server: MeasuredServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunScenario]:
    """Scenarios that mostly wait, all at the same time."""
    names = ["no_media", "held", "uac", *(["media_stops"] if can_play_captures() else [])]
    arguments = {"uac": ("-rtp_echo", "-d", "3000")}
    with ThreadPoolExecutor(len(names)) as pool:
        yield {
            name: pool.submit(
                run_sipp, odd_server, name, tmp_path_factory.mktemp(name), arguments=arguments.get(name, ())
            )
            for name in names
        }


def call_of(server: MeasuredServer, run: SippRun) -> list[Event]:
    """The log of a scenario's only call."""
    (call_id,) = {message.header("Call-ID") for message in run.messages}
    wait_for(lambda: any(line["call_id"] == call_id for line in server.events("call_ended")), "the end of the call")
    return [line for line in server.events() if line.get("call_id") == call_id]


def ended(call: list[Event]) -> Event:
    (event,) = (line for line in call if line["event"] == "call_ended")
    return event


@needs_pjsip
def test_reports_both_ways(media_server: MeasuredServer, sipp_runs: RunScenario) -> None:
    """PJSIP and the server hear of each other's losses, and time the round trip, RTCP on the port above RTP's."""
    assert sipp_runs
    text = " ".join(f"This is sentence number {number}." for number in range(1, 12))
    report = place_call(media_server.uri, say=text, server_hangs_up=False, max_seconds=7.5)
    far = report.far
    assert far.reports >= 1
    assert far.lost == 0
    assert far.round_trip_ms is not None
    assert 0 <= far.round_trip_ms < 100
    end = ended(media_server.last_call())
    assert (end["loss_in"], end["loss_out"]) == (0, 0)
    assert 4.0 < end["mos_in"] < 4.5
    assert 4.0 < end["mos_out"] < 4.5
    assert end["jitter_in_ms"] < 20
    assert end["jitter_out_ms"] < 20
    assert 0 <= end["round_trip_ms"] < 100
    assert media_server.metric("rtcp_received_total") >= 2
    assert media_server.metric("rtcp_malformed_total") == 0


@needs_pjsip
def test_wideband(odd_server: MeasuredServer, caller_speech: Path, tmp_path: Path) -> None:
    """G.722: the speech has what a telephone line cuts off, and the caller is heard; digits follow by INFO."""
    wav = tmp_path / "heard.wav"
    report = place_call(
        odd_server.uri,
        say=" ".join(["She sells sea shells by the sea shore, and some sausages."] * 3),
        server_hangs_up=False,
        codecs=["G722"],
        actions=[
            Play(at=1.5, path=caller_speech),
            SendInfo(at=4.5, body="Six.", headers={"X-TTS-Digits": "42", "X-TTS-Hangup": "yes"}),
        ],
        record=wav,
        max_seconds=10,
    )
    assert (report.codec, report.ended_by) == ("G722", "server"), report
    assert report.received.lost == 0
    assert "".join(digit.digit for digit in report.digits) == "42"
    samples, rate = read_wav(wav)
    assert rate == 16000
    spectrum = np.abs(np.fft.rfft(samples[: 2 * rate].astype(float))) ** 2
    hertz = np.fft.rfftfreq(2 * rate, 1 / rate)
    high, low = spectrum[(hertz > 4200) & (hertz < 7000)].sum(), spectrum[(hertz > 300) & (hertz < 3400)].sum()
    assert high > 0.01 * low  # the sibilants
    call = odd_server.last_call()
    (cut,) = (line for line in call if line["event"] == "interrupted")
    assert cut["cause"] == "speech"
    assert cut["played_ms"] < 3000
    assert measure(samples[int(2.6 * rate) : int(4.4 * rate)], rate).audible_s == 0
    assert measure(samples[int(4.5 * rate) :], rate).audible_s > 0.2


def test_a_caller_without_media_is_hung_up_on(odd_server: MeasuredServer, sipp_runs: RunScenario) -> None:
    run = sipp_runs["no_media"].result()
    (bye,) = run.received("BYE")
    assert bye.header("Reason") == 'Q.850;cause=102;text="RTP timeout"'
    assert TIMEOUT_S <= bye.at - run.answers("INVITE")[0].at < TIMEOUT_S + LATE_S
    assert ended(call_of(odd_server, run))["reason"] == "rtp_never_started"


@pytest.mark.skipif(not can_play_captures(), reason="SIPp plays captures through a raw socket")
def test_a_caller_whose_media_stop_is_hung_up_on(odd_server: MeasuredServer, sipp_runs: RunScenario) -> None:
    run = sipp_runs["media_stops"].result()
    (bye,) = run.received("BYE")
    assert bye.header("Reason") == 'Q.850;cause=102;text="RTP timeout"'
    # 0.2 s of quiet and 0.2 s of packets come before.
    assert TIMEOUT_S + 0.2 < bye.at - run.answers("INVITE")[0].at < TIMEOUT_S + 0.4 + LATE_S
    end = ended(call_of(odd_server, run))
    assert end["reason"] == "rtp_stopped"
    assert end["packets_received"] == 10
    assert end["digits_received"] == 1


def test_a_caller_on_hold_owes_no_media(odd_server: MeasuredServer, sipp_runs: RunScenario) -> None:
    run = sipp_runs["held"].result()  # which sends the BYE, after twice the limit
    assert not run.received("BYE")
    end = ended(call_of(odd_server, run))
    assert end["reason"] == "caller_hung_up"
    assert end["seconds"] > 2 * TIMEOUT_S
    assert end["packets_received"] == 0


def test_packets_that_come_back_do_no_harm(odd_server: MeasuredServer, sipp_runs: RunScenario) -> None:
    """SIPp returns each packet as it is: our own SSRC, the one taken instead, and our speech at its full level."""
    call = call_of(odd_server, sipp_runs["uac"].result())
    end = ended(call)
    assert not [line for line in call if line["event"] == "interrupted"]
    assert end["reason"] == "caller_hung_up"
    assert end["packets_sent"] == pytest.approx(150, abs=15)
    assert end["packets_received"] == pytest.approx(end["packets_sent"], abs=3)
    assert odd_server.metric("rtp_ssrc_collisions_total") == 1  # not one for each SSRC that comes back
