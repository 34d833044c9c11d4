"""Digits, both ways and in all three ways: as telephone-events, by INFO, as tones."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from mediaserver.phone import CallReport, Dtmf, MediaOptions, Play, place_call
from mediaserver.phone.recording import Samples, read_wav
from mediaserver.rtp.dtmf import DtmfEvent
from mediaserver.rtp.dtmf_tones import ToneDetector
from tests.interop.caller_speech import write_wav
from tests.interop.media_servers import Event, MeasuredServer
from tests.interop.sipp import can_play_captures, run_sipp

needs_pjsip = pytest.mark.skipif(sys.version_info >= (3, 13), reason="pjsua2-python has no wheel for 3.13")

SENTENCE = "Good morning, this is the telephone exchange."
# ITU-T Q.23: a row's frequency and a column's.
TONES = {"1": (697, 1209), "2": (697, 1336), "5": (770, 1336), "9": (852, 1477), "0": (941, 1336), "#": (941, 1477)}


def pressed(call: list[Event], source: str | None = None) -> str:
    """The digits of a call in the debug log, each counted at info too."""
    counted = [line["source"] for line in call if line["event"] == "digit_received"]
    digits = "".join(line["digit"] for line in call if line["event"] == "digit")
    assert len(counted) == len(digits) == call[-1]["digits_received"]
    return "".join(itertools.compress(digits, (source in (None, one) for one in counted)))


def assert_secret(call: list[Event]) -> None:
    """No digit above debug."""
    told = [line for line in call if line["level"] != "debug"]
    assert told
    assert not [line for line in told if "digit" in line or "digits" in line], told


def packets_a_second(report: CallReport) -> float:
    return report.received.packets / report.duration_s


@needs_pjsip
def test_events_and_info(media_server: MeasuredServer) -> None:
    """PJSIP sends digits by RFC 4733, then by INFO, and gets ours after the speech; packets are of 60 ms."""
    before = media_server.metric("dtmf_received_total"), media_server.metric("dtmf_sent_total")
    report = place_call(
        media_server.uri,
        say=SENTENCE,
        headers={"X-TTS-Digits": "7*w0"},
        actions=[Dtmf(at=0.3, digits="12#2"), Dtmf(at=1.4, digits="45", method="info")],
        media=MediaOptions(ptime_ms=60),
        max_seconds=10,
    )
    assert report.ended_by == "server", report  # after the digits, not before
    assert "".join(digit.digit for digit in report.digits) == "7*0"
    assert {digit.method for digit in report.digits} == {"rfc4733"}
    first, second, third = (digit.at for digit in report.digits)
    # 100 ms and a gap of 50 ms, in packets of 60 ms; w is half a second more.
    assert 0.14 < second - first < 0.35
    assert 0.6 < third - second < 0.9
    assert [reply.status for reply in report.replies if reply.method == "INFO"] == [200, 200]
    assert packets_a_second(report) == pytest.approx(1 / 0.060, rel=0.2)
    assert report.received.lost == 0
    call = media_server.last_call()
    assert pressed(call, "rfc4733") == "12#2"
    assert pressed(call, "info") == "45"
    assert_secret(call)
    after = media_server.metric("dtmf_received_total"), media_server.metric("dtmf_sent_total")
    assert (after[0] - before[0], after[1] - before[1]) == (6, call[-1]["digits_sent"])


@needs_pjsip
def test_tones(media_server: MeasuredServer, tmp_path: Path) -> None:
    """Without telephone-events digits are tones, both ways; packets are of 30 ms."""
    dialled = tmp_path / "dialled.wav"
    write_wav(dialled, np.concatenate([dial(digit) for digit in "1259#0"]).tobytes())
    wav = tmp_path / "heard.wav"
    report = place_call(
        media_server.uri,
        say=SENTENCE,
        headers={"X-TTS-Digits": "14*D"},
        actions=[Play(at=0.3, path=dialled)],
        media=MediaOptions(ptime_ms=30, telephone_events=False),
        record=wav,
        max_seconds=10,
    )
    assert report.ended_by == "server", report
    assert report.digits == ()
    assert tones_in(wav) == "14*D"
    assert packets_a_second(report) == pytest.approx(1 / 0.030, rel=0.2)
    call = media_server.last_call()
    assert pressed(call, "inband") == pressed(call) == "1259#0"
    assert_secret(call)


@needs_pjsip
def test_info_as_configured(odd_server: MeasuredServer) -> None:
    report = place_call(odd_server.uri, say="Hello.", headers={"X-TTS-Digits": "90#"}, codecs=["PCMU"], max_seconds=10)
    assert report.ended_by == "server", report
    assert [(digit.digit, digit.method) for digit in report.digits] == [(digit, "info") for digit in "90#"]
    call = odd_server.last_call()
    assert call[-1]["digits_sent"] == 3
    assert not [line for line in call if line["event"] == "digit_refused"]
    assert_secret(call)


@pytest.mark.skipif(not can_play_captures(), reason="SIPp plays captures through a raw socket")
def test_captures_and_info_of_sipp(media_server: MeasuredServer, tmp_path: Path) -> None:
    run = run_sipp(media_server, "digits", tmp_path)
    assert "Signal" in run.answers("INFO", 400)[0].start_line
    call = media_server.last_call()
    assert pressed(call, "rfc4733") == "15#"
    assert pressed(call, "info") == "89"
    lengths = [line["milliseconds"] for line in call if line["event"] == "digit_ended" and line["source"] == "rfc4733"]
    assert lengths == [280, 280, 280]
    assert_secret(call)


def dial(digit: str) -> Samples:
    """90 ms of a digit's two tones and 60 ms of silence, at 8 kHz."""
    seconds = np.arange(720) / 8000
    tone = sum(5000 * np.sin(2 * np.pi * hertz * seconds) for hertz in TONES[digit])
    return np.concatenate([np.asarray(tone), np.zeros(480)]).astype(np.int16)


def tones_in(wav: Path) -> str:
    samples, rate = read_wav(wav)
    assert rate == 8000
    heard: list[DtmfEvent] = []
    detector = ToneDetector(heard.append)
    for start in range(0, len(samples) - 159, 160):
        detector.heard(samples[start : start + 160].tobytes(), start // 8)
    return "".join(event.digit for event in heard if event.kind == "ended")
