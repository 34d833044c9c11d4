"""A caller interrupts the speech: by voice or by digit, where that is wanted, and never by an echo."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mediaserver.phone import Dtmf, HangUp, Hold, MediaOptions, Play, Resume, SendInfo, place_call
from mediaserver.phone.recording import AUDIBLE_DBFS, WINDOW_S, measure, read_wav
from tests.interop import baresip
from tests.interop.caller_speech import write_wav
from tests.interop.media_servers import Event, MeasuredServer
from tests.interop.server import wait_for

needs_pjsip = pytest.mark.skipif(sys.version_info >= (3, 13), reason="pjsua2-python has no wheel for 3.13")

LONG_TEXT = " ".join(f"This is sentence number {number} of a long text." for number in range(1, 9))
# From the caller's first voiced sound to the last of ours that the phone plays, its jitter buffer included.
SILENT_WITHIN_S = 0.6


def interruptions(call: list[Event]) -> list[Event]:
    found = [line for line in call if line["event"] == "interrupted"]
    assert len(found) == call[-1]["interruptions"]
    return found


def audible(wav: Path) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Of each 10 ms of a recording, whether anything is heard."""
    samples, rate = read_wav(wav)
    width = round(rate * WINDOW_S)
    windows = samples[: len(samples) // width * width].reshape(-1, width).astype(float)
    return np.sqrt(np.mean(windows**2, axis=1)) > 32768 * 10 ** (AUDIBLE_DBFS / 20)


def heard_between(wav: Path, first_s: float, last_s: float) -> float:
    """Seconds of sound between two moments of a recording."""
    return float(np.sum(audible(wav)[int(first_s / WINDOW_S) : int(last_s / WINDOW_S)])) * WINDOW_S


def silent_from(wav: Path, moment_s: float) -> float:
    """When the silence begins that holds at `moment_s` of a recording."""
    before = np.flatnonzero(audible(wav)[: int(moment_s / WINDOW_S)])
    return float(before[-1] + 1) * WINDOW_S


def onset_s(clip: Path) -> float:
    onset = measure(*read_wav(clip)).first_audible_s
    assert onset is not None
    return onset


@needs_pjsip
def test_speech_then_a_digit(media_server: MeasuredServer, caller_speech: Path, tmp_path: Path) -> None:
    """Both interrupt; what is said after each is heard. RTCP comes on RTP's port."""
    before = [media_server.metric(f"interruptions_{cause}_total") for cause in ("speech", "digit")]
    wav = tmp_path / "heard.wav"
    report = place_call(
        media_server.uri,
        say=LONG_TEXT,
        server_hangs_up=False,
        headers={"X-TTS-Barge-In": "either"},
        actions=[
            Play(at=2.0, path=caller_speech),
            SendInfo(at=5.5, body=LONG_TEXT),
            Dtmf(at=6.5, digits="5"),
            SendInfo(at=7.3, body="Goodbye."),
            HangUp(at=8.8),
        ],
        media=MediaOptions(rtcp_mux=True),
        record=wav,
    )
    assert report.recording_at is not None
    spoke_s = report.playing_at[0] - report.recording_at + onset_s(caller_speech)
    silent_s = silent_from(wav, 5.0)
    print(f"silent {1000 * (silent_s - spoke_s):.0f} ms after the caller's first sound")
    assert 0 < silent_s - spoke_s < SILENT_WITHIN_S
    assert heard_between(wav, silent_s, 5.4) == 0
    pressed_s = 6.5 - report.recording_at
    assert heard_between(wav, 5.6, pressed_s) > 0.4, "the text after the interruption"
    digit_silent_s = silent_from(wav, 7.2)
    print(f"silent {1000 * (digit_silent_s - pressed_s):.0f} ms after the digit")
    assert digit_silent_s - pressed_s < 0.3
    assert heard_between(wav, 7.3, 8.8) > 0.3, "the text after the digit"

    assert report.far.round_trip_ms is not None  # that both sides' reports arrive

    by_speech, by_digit = interruptions(media_server.last_call())
    after = [media_server.metric(f"interruptions_{cause}_total") for cause in ("speech", "digit")]
    assert [late - early for early, late in zip(before, after, strict=True)] == [1, 1]
    assert (by_speech["cause"], by_digit["cause"]) == ("speech", "digit")
    first_s = measure(*read_wav(wav)).first_audible_s
    assert first_s is not None
    # The log's figure and the recording's agree, up to the silence around words.
    assert by_speech["played_ms"] / 1000 == pytest.approx(silent_s - first_s, abs=0.4)
    total_ms = by_speech["total_ms"]
    assert total_ms is None or total_ms > 10_000
    # Eight words a sentence, some 2.5 s each.
    assert 3 <= by_speech["words_heard"] <= 12
    assert by_digit["words_heard"] <= 5
    assert by_digit["played_ms"] == pytest.approx(1000, abs=400)


@needs_pjsip
def test_only_what_the_policy_names_interrupts(media_server: MeasuredServer, caller_speech: Path) -> None:
    """None at first, then digits: neither the speech nor the first digit is minded.

    Then a hold: at its beginning and end PJSIP says goodbye by RTCP, and goes on with the same SSRC. So does the call.
    """
    report = place_call(
        media_server.uri,
        say=LONG_TEXT,
        server_hangs_up=False,
        actions=[
            Play(at=0.8, path=caller_speech),
            Dtmf(at=1.5, digits="1"),
            SendInfo(at=2.0, headers={"X-TTS-Barge-In": "digit"}),
            Dtmf(at=3.3, digits="2"),
            Hold(at=3.6),
            Resume(at=3.9),
            SendInfo(at=4.1, body="Another text."),
            Dtmf(at=4.8, digits="3"),
            HangUp(at=5.2),
        ],
    )
    assert [reply.status for reply in report.replies if reply.method == "INFO"] == [200, 200]
    call = media_server.last_call()
    first, second = interruptions(call)
    assert (first["cause"], second["cause"]) == ("digit", "digit")
    assert first["played_ms"] == pytest.approx(3300, abs=500)
    assert second["played_ms"] == pytest.approx(700, abs=300)
    assert call[-1]["digits_received"] == 3
    assert call[-1]["loss_in"] == 0


@needs_pjsip
def test_an_echo_does_not_interrupt(media_server: MeasuredServer, tmp_path: Path) -> None:
    """The phone returns what it hears, 12 dB down; nor does a digit, where only speech may. Packets are of 10 ms."""
    wav = tmp_path / "heard.wav"
    report = place_call(
        media_server.uri,
        say=LONG_TEXT,
        server_hangs_up=False,
        headers={"X-TTS-Barge-In": "speech"},
        actions=[Dtmf(at=1.5, digits="1"), HangUp(at=5.0)],
        media=MediaOptions(echo_db=-12, ptime_ms=10),
        record=wav,
    )
    call = media_server.last_call()
    assert interruptions(call) == []
    assert call[-1]["digits_received"] == 1
    assert heard_between(wav, 0.5, 4.9) > 2.5
    assert report.received.packets / report.duration_s == pytest.approx(100, rel=0.2)


def test_baresip_interrupts_and_dials(odd_server: MeasuredServer, caller_speech: Path, tmp_path: Path) -> None:
    """The policy is the configuration's; the digits, pressed when all is silent, interrupt nothing."""
    before, calls = len(odd_server.events("interrupted")), len(odd_server.events("call_ended"))
    samples, rate = read_wav(caller_speech)
    speech = tmp_path / "speech.wav"
    quiet = np.zeros(rate * 3 // 2, np.int16)
    write_wav(speech, np.concatenate([quiet, samples, quiet]).tobytes(), rate)

    def dial(command: baresip.Command) -> None:
        wait_for(lambda: len(odd_server.events("interrupted")) > before, "the interruption")
        for count, digit in enumerate("3#", 1):
            pressed = len(odd_server.events("digit_ended")) + 1
            command("sndcode", digit)
            wait_for(lambda n=pressed: len(odd_server.events("digit_ended")) == n, f"digit {count}")  # type: ignore[misc]

    call = baresip.call(odd_server.uri, tmp_path, speech=speech, during=dial)
    assert call.established
    wait_for(lambda: len(odd_server.events("call_ended")) > calls, "the end of the call")
    log = odd_server.last_call()
    (cut,) = interruptions(log)
    assert cut["cause"] == "speech"
    assert [line["digit"] for line in log if line["event"] == "digit"] == ["3", "#"]
    assert {line["source"] for line in log if line["event"] == "digit_received"} == {"rfc4733"}
    spoke_s = onset_s(call.encoded)
    silent_s = silent_from(call.decoded, 4.0)
    print(f"silent {1000 * (silent_s - spoke_s):.0f} ms after the caller's first sound")
    assert 0 < silent_s - spoke_s < SILENT_WITHIN_S
    assert heard_between(call.decoded, silent_s, 5.0) == 0
