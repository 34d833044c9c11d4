"""PJSIP calls the server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mediaserver.phone import CallReport, Dtmf, HangUp, Hold, Resume, SendInfo, place_call
from mediaserver.phone.local_server import LocalServer
from mediaserver.phone.recording import measure, read_wav
from tests.interop.server import StartServer

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 13), reason="pjsua2-python has no wheel for 3.13")

SENTENCE = "Good morning, this is the telephone exchange."
LONG_TEXT = " ".join(f"This is sentence number {number} of a long text." for number in range(1, 9))


def assert_clean(report: CallReport) -> None:
    """Answered and heard, and nothing lost or repeated. On a loaded machine PJSIP may find a few packets too late."""
    counts = report.received
    assert report.answered, report
    assert report.audible_s > 0, report
    assert (counts.lost, counts.duplicated) == (0, 0), report
    assert counts.discarded <= 0.03 * counts.packets, report


@pytest.mark.parametrize("codec", ["PCMU", "PCMA"])
def test_a_sentence_is_heard_and_the_server_hangs_up(codec: str, server: LocalServer, tmp_path: Path) -> None:
    wav = tmp_path / "heard.wav"
    report = place_call(server.uri, say=SENTENCE, codecs=[codec], record=wav, max_seconds=20)
    assert_clean(report)
    assert report.codec == codec
    assert report.ended_by == "server"
    assert report.setup_ms is not None
    assert report.setup_ms < 3000
    assert report.first_audio_ms is not None
    assert report.first_audio_ms < 3000
    assert report.audible_s > 1.0
    assert report.received.bytes == 160 * report.received.packets
    # The end of the sentence is not cut off: what is heard last dies away.
    samples, rate = read_wav(wav)
    assert np.max(np.abs(samples[-rate // 50 :].astype(int))) < 1000


def test_calls_one_after_the_other(server: LocalServer) -> None:
    for _ in range(3):
        report = place_call(server.uri, say="Good morning.", max_seconds=20)
        assert_clean(report)
        assert report.ended_by == "server"


def test_a_call_without_text_hears_the_greeting(chatterline_server: StartServer) -> None:
    server = chatterline_server(CALLS__GREETING="Welcome to the exchange.")
    report = place_call(server.uri, hangup_after_silence=1.0, max_seconds=20)
    assert_clean(report)
    assert report.ended_by == "phone"
    assert report.duration_s < 15


def test_text_sent_during_the_call_is_spoken(server: LocalServer, tmp_path: Path) -> None:
    wav = tmp_path / "heard.wav"
    actions = [SendInfo(at=4.0, body="A second sentence, sent later."), HangUp(at=8.0)]
    report = place_call(server.uri, say="First.", server_hangs_up=False, actions=actions, record=wav)
    assert [reply.status for reply in report.replies if reply.method == "INFO"] == [200]
    assert_clean(report)
    samples, rate = read_wav(wav)
    assert measure(samples[: 3 * rate], rate).audible_s > 0.2
    assert measure(samples[3 * rate : 4 * rate], rate).audible_s == 0
    assert measure(samples[4 * rate :], rate).audible_s > 1.0


def test_clear_silences_at_once(server: LocalServer, tmp_path: Path) -> None:
    wav = tmp_path / "heard.wav"
    actions = [
        SendInfo(at=3.0, headers={"X-TTS-Action": "clear"}),
        SendInfo(at=5.0, body="The reply after that."),
        HangUp(at=9.0),
    ]
    report = place_call(server.uri, say=LONG_TEXT, server_hangs_up=False, actions=actions, record=wav)
    assert [reply.status for reply in report.replies if reply.method == "INFO"] == [200, 200]
    samples, rate = read_wav(wav)
    assert measure(samples[2 * rate : 3 * rate], rate).audible_s > 0.3
    assert measure(samples[int(3.3 * rate) : 5 * rate], rate).audible_s == 0
    # Clearing does not eat what comes afterwards.
    assert measure(samples[5 * rate :], rate).audible_s > 0.7


def test_hold_keeps_the_call_and_resume_goes_on(server: LocalServer, tmp_path: Path) -> None:
    wav = tmp_path / "heard.wav"
    actions = [Hold(at=1.5), Resume(at=4.0), HangUp(at=7.0)]
    report = place_call(server.uri, say=LONG_TEXT, server_hangs_up=False, actions=actions, record=wav)
    assert [(reply.method, reply.status) for reply in report.replies[:3]] == [("INVITE", 200)] * 3
    assert report.ended_by == "phone"
    assert 6.9 <= report.duration_s < 9.0
    # PJSIP counts anew after each re-INVITE, so what crossed one may be missing here.
    assert report.received.lost <= 2
    # Nothing is recorded during the hold: what follows the first 1.5 s was heard after it.
    assert 3.8 <= report.heard_s < 6.0
    samples, rate = read_wav(wav)
    assert measure(samples[: rate * 3 // 2], rate).audible_s > 0.3
    assert measure(samples[rate * 2 :], rate).audible_s > 1.0


def test_hold_is_silent(server: LocalServer) -> None:
    held = place_call(server.uri, say=LONG_TEXT, server_hangs_up=False, actions=[Hold(at=1.0), HangUp(at=5.0)])
    # 50 packets a second for the first second, then none: the phone said sendonly.
    assert 35 <= held.received.packets <= 120, held  # 200 without the hold


def test_digits_do_not_disturb_the_speech(server: LocalServer) -> None:
    report = place_call(server.uri, say=SENTENCE, actions=[Dtmf(at=0.5, digits="12#")], max_seconds=20)
    assert_clean(report)
    assert report.ended_by == "server"


def test_an_unknown_voice_is_refused_by_name(server: LocalServer) -> None:
    report = place_call(server.uri, say="Hello.", headers={"X-TTS-Voice": "nobody"})
    assert (report.answered, report.status) == (False, 400)
    assert "nobody" in report.reason


def test_a_ringing_phone_is_given_up(chatterline_server: StartServer) -> None:
    server = chatterline_server(CALLS__ANSWER_DELAY_MS="5000")
    report = place_call(server.uri, answer_timeout=0.5)
    assert (report.answered, report.ended_by) == (False, "phone")
    assert report.status == 408


def test_a_delayed_answer_is_waited_for(chatterline_server: StartServer) -> None:
    server = chatterline_server(CALLS__ANSWER_DELAY_MS="800")
    report = place_call(server.uri, say="Good morning.", max_seconds=20)
    assert_clean(report)
    assert report.setup_ms is not None
    assert 780 <= report.setup_ms < 4000


def test_the_demonstration_succeeds(tmp_path: Path) -> None:
    wav = tmp_path / "demo.wav"
    script = Path(__file__).parents[2] / "scripts" / "demo.py"
    done = subprocess.run(
        [sys.executable, str(script), str(wav)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The call was clean" in done.stdout
    assert measure(*read_wav(wav)).audible_s > 5
