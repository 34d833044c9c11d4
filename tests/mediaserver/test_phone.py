"""The phone, against a far end whose every packet is known."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.phone import (
    Action,
    CallReport,
    Dtmf,
    FarReport,
    HangUp,
    Hold,
    MediaOptions,
    PhoneError,
    Play,
    PressedDigit,
    Resume,
    SendInfo,
    StreamCounts,
    place_call,
)
from mediaserver.phone.local_server import LocalServer, ServerStartError, free_udp_port, options
from mediaserver.phone.media import shape_sdp
from mediaserver.phone.recording import Samples, measure, read_wav
from mediaserver.rtp.codec import PCMU
from tests.mediaserver.far_end import SILENCE, FarEnd, Packet, header, tone

no_wheel = pytest.mark.skipif(sys.version_info >= (3, 13), reason="pjsua2-python has no wheel for 3.13")


def talk(frames: int, silent: int = 0) -> list[Packet]:
    """`frames` frames, the first `silent` of them silence, the others a tone."""
    return [Packet(i, SILENCE if i < silent else tone(i)) for i in range(frames)]


def digit(event: int, frame: int) -> list[Packet]:
    """A telephone-event of five packets and two more copies of the end (RFC 4733 section 2.5.1)."""
    durations = [160, 320, 480, 640, 800, 800, 800]
    return [
        Packet(frame + i, struct.pack("!BBH", event, 10 | (0x80 if i >= 4 else 0), duration), event_frame=frame)
        for i, duration in enumerate(durations)
    ]


def received(far_end: FarEnd) -> Samples:
    """What the phone sent, as PCM."""
    payloads = b"".join(packet[12:] for packet in far_end.rtp_received if packet[1] & 0x7F == 0)
    return np.frombuffer(PCMU.decode(payloads), "<i2").astype(np.int16)


# The recording's measures


def test_measure_finds_the_first_audible_window() -> None:
    silence = np.full(8000, 8, np.int16)
    sine = (8000 * np.sin(2 * np.pi * 440 * np.arange(4000) / 8000)).astype(np.int16)
    heard = measure(np.concatenate([silence, sine]), 8000)
    assert heard.duration_s == 1.5
    assert heard.first_audible_s == 1.0
    assert heard.audible_s == pytest.approx(0.5)
    assert heard.peak_dbfs == pytest.approx(20 * math.log10(8000 / 32768), abs=0.1)


def test_measure_of_silence_is_not_audible() -> None:
    heard = measure(np.zeros(8000, np.int16), 8000)
    assert heard.first_audible_s is None
    assert heard.audible_s == 0
    assert heard.peak_dbfs == -math.inf


def test_measure_of_nothing() -> None:
    heard = measure(np.zeros(0, np.int16), 8000)
    assert (heard.duration_s, heard.first_audible_s, heard.audible_s) == (0, None, 0)


@given(st.integers(0, 200), st.integers(1, 50), st.integers(0, 79), st.sampled_from([-32768, -5000, 5000, 32767]))
def test_measure_counts_whole_windows(silent: int, loud: int, rest: int, level: int) -> None:
    samples = np.concatenate(
        [np.zeros(80 * silent, np.int16), np.full(80 * loud, level, np.int16), np.zeros(rest, np.int16)]
    )
    heard = measure(samples, 8000)
    assert heard.first_audible_s == pytest.approx(silent * 0.01)
    assert heard.audible_s == pytest.approx(loud * 0.01)
    assert heard.duration_s == pytest.approx(len(samples) / 8000)


def test_read_wav_refuses_stereo(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(8))
    with pytest.raises(ValueError, match="2 channels of 16 bits"):
        read_wav(path)


def test_read_wav_gives_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "ramp.wav"
    ramp = np.arange(-400, 400, dtype="<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(ramp.tobytes())
    samples, rate = read_wav(path)
    assert rate == 8000
    np.testing.assert_array_equal(samples, ramp)


# The report

counts = st.builds(
    StreamCounts,
    packets=st.integers(0, 10000),
    bytes=st.integers(0, 10**7),
    lost=st.integers(0, 100),
    duplicated=st.integers(0, 100),
    discarded=st.integers(0, 100),
    jitter_mean_ms=st.floats(0, 100),
    jitter_max_ms=st.floats(0, 1000),
)


@given(counts, counts)
def test_counts_of_two_streams_add_up(first: StreamCounts, second: StreamCounts) -> None:
    both = first + second
    assert both.packets == first.packets + second.packets
    assert both.lost == first.lost + second.lost
    assert both.jitter_max_ms == max(first.jitter_max_ms, second.jitter_max_ms)
    low, high = sorted([first.jitter_mean_ms, second.jitter_mean_ms])
    if both.packets:
        assert low - 1e-6 <= both.jitter_mean_ms <= high + 1e-6
    else:
        assert both.jitter_mean_ms == 0


def report(**changes: object) -> CallReport:
    values: dict[str, object] = {
        "uri": "sip:x@y",
        "status": 200,
        "reason": "OK",
        "answered": True,
        "ended_by": "server",
        "setup_ms": 12.0,
        "first_audio_ms": 80.0,
        "codec": "PCMU",
        "received": StreamCounts(packets=100),
        "audible_s": 1.0,
    }
    return CallReport(**(values | changes))  # type: ignore[arg-type]


def test_a_call_without_faults_is_clean() -> None:
    assert report().clean


@pytest.mark.parametrize(
    "changes",
    [
        {"answered": False},
        {"audible_s": 0.0},
        {"received": StreamCounts()},
        {"received": StreamCounts(packets=100, lost=1)},
        {"received": StreamCounts(packets=100, duplicated=1)},
        {"received": StreamCounts(packets=100, discarded=1)},
    ],
)
def test_one_fault_is_enough(changes: dict[str, object]) -> None:
    assert not report(**changes).clean


def test_lines_tell_the_figures() -> None:
    text = "\n".join(report(received=StreamCounts(packets=100, lost=3, jitter_max_ms=4.5)).lines())
    for part in ("12.0 ms", "80 ms", "PCMU", "100 packets", "3 lost", "4.50 ms", "server"):
        assert part in text


def test_lines_tell_of_the_far_end_only_what_is_known() -> None:
    assert "round trip" not in "\n".join(report().lines())
    known = report(far=FarReport(2, lost=7, round_trip_ms=12.34), digits=(PressedDigit(1.0, "9", "rfc4733"),))
    text = "\n".join(known.lines())
    assert "round trip: 12.3 ms" in text
    assert "missed 7" in text
    assert "digits received: 1" in text
    assert "9" not in text.partition("digits received")[2]  # it may be of a PIN


def test_far_reports_of_two_streams_add_up() -> None:
    both = FarReport(2, 3, 1.5, 10.0) + FarReport(1, 4, 2.5, 20.0)
    assert both == FarReport(3, 7, 2.5, 20.0)
    # A stream too short for a report tells nothing.
    assert FarReport(2, 3, 1.5, 10.0) + FarReport() == FarReport(2, 3, 1.5, 10.0)


OFFER = (
    "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8 101 96\r\n"
    "a=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\n"
    "a=rtpmap:96 telephone-event/16000\r\na=fmtp:96 0-16\r\na=ptime:20\r\na=sendrecv\r\n"
)


def test_sdp_is_left_as_it_is() -> None:
    assert shape_sdp(OFFER, MediaOptions()) == OFFER


def test_sdp_without_telephone_events() -> None:
    shaped = shape_sdp(OFFER, MediaOptions(telephone_events=False))
    assert "m=audio 4000 RTP/AVP 0 8\r\n" in shaped
    assert "telephone-event" not in shaped
    assert "fmtp" not in shaped
    assert "a=rtpmap:0 PCMU/8000\r\n" in shaped
    assert shaped.endswith("a=sendrecv\r\n")


@given(st.sampled_from([10, 20, 30, 40, 60]))
def test_sdp_with_a_packet_time(ptime: int) -> None:
    lines = shape_sdp(OFFER, MediaOptions(ptime_ms=ptime)).splitlines()
    assert [line for line in lines if line.startswith("a=ptime")] == [f"a=ptime:{ptime}"]
    assert set(OFFER.splitlines()) - {"a=ptime:20"} < set(lines)


def test_lines_of_a_refused_call_tell_why() -> None:
    refused = report(answered=False, status=486, reason="Busy Here")
    assert refused.lines() == ["not answered: 486 Busy Here"]


def test_the_server_does_not_load_pjsip() -> None:
    code = "import sys, mediaserver.phone; sys.exit('pjsua2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_pjsip_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['pjsua2'] = None\n"
        "from mediaserver.phone import PhoneUnavailableError, place_call\n"
        "try: place_call('sip:x@127.0.0.1')\n"
        "except PhoneUnavailableError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "chatterline[phone]" in done.stdout


def test_a_line_break_in_a_header_is_refused() -> None:
    with pytest.raises(ValueError, match="X-A holds a line break"):
        place_call("sip:x@127.0.0.1", headers={"X-A": "one\r\nX-B: two"})


def test_a_recording_needs_its_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such directory"):
        place_call("sip:x@127.0.0.1", record=tmp_path / "absent" / "heard.wav")


# The server in a subprocess


def test_options_are_answered() -> None:
    with FarEnd() as far_end:
        assert options(far_end.port, timeout_s=5) == 200
    assert header(far_end.sent("OPTIONS")[0], "CSeq") == "1 OPTIONS"


def test_options_to_nobody_are_not_answered() -> None:
    assert options(free_udp_port(), timeout_s=0.05) is None


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    server = LocalServer(tmp_path / "server.log", {"CALLS__MAX_CALLS": "none"})
    with pytest.raises(ServerStartError, match=r"(?s)ended at once.*max_calls"), server:
        pass
    assert not server.alive
    assert server.exit_code != 0


# Calls


@no_wheel
def test_a_call_is_heard_and_counted(tmp_path: Path) -> None:
    wav = tmp_path / "heard.wav"
    with FarEnd(talk(60, silent=25)) as far_end:
        heard = place_call(far_end.uri, say="Grüße,\n  caller", record=wav)
    assert heard.answered
    assert (heard.status, heard.reason, heard.codec) == (200, "OK", "PCMU")
    assert heard.ended_by == "server"
    assert heard.setup_ms is not None
    assert 0 < heard.setup_ms < 5000
    # The tone starts in frame 25, 500 ms after the answer; the phone's buffer may hold some frames.
    assert heard.first_audio_ms is not None
    assert 480 <= heard.first_audio_ms < 2000
    # PJSIP may be told to stop before it has read the packet sent just before the BYE.
    assert heard.received.packets in (59, 60)
    assert heard.received.bytes == 160 * heard.received.packets
    assert (heard.received.lost, heard.received.duplicated, heard.received.discarded) == (0, 0, 0)
    assert heard.clean
    samples, rate = read_wav(wav)
    assert rate == 8000
    assert heard.heard_s == pytest.approx(1.2, abs=0.1)
    assert heard.audible_s == pytest.approx(0.7, abs=0.1)
    # Nothing between the wire and the file changes the level.
    assert np.max(np.abs(samples.astype(int))) == pytest.approx(8000, abs=200)
    spectrum = np.abs(np.fft.rfft(samples[-4000:].astype(float)))
    assert np.argmax(spectrum) * 8000 / 4000 == pytest.approx(440, abs=4)
    invite = far_end.sent("INVITE")[0]
    assert header(invite, "X-TTS-Text") == "Grüße, caller"
    assert header(invite, "X-TTS-Hangup") == "yes"
    assert "X-TTS-Hangup" not in far_end.sent("ACK")[0]


@no_wheel
def test_lost_packets_are_counted() -> None:
    with FarEnd([packet for packet in talk(40) if packet.frame not in (10, 11, 12)]) as far_end:
        heard = place_call(far_end.uri, server_hangs_up=False)
    assert (heard.received.lost, heard.received.duplicated) == (3, 0)
    assert not heard.clean


@no_wheel
def test_duplicated_packets_are_counted() -> None:
    plan = talk(40)
    plan.insert(20, plan[20])
    with FarEnd(plan) as far_end:
        heard = place_call(far_end.uri)
    assert heard.received.duplicated == 1
    assert not heard.clean


@no_wheel
def test_silence_is_not_speech() -> None:
    with FarEnd(talk(15, silent=15)) as far_end:
        heard = place_call(far_end.uri)
    assert heard.received.packets >= 14
    assert heard.first_audio_ms is None
    assert heard.audible_s == 0
    assert not heard.clean


@no_wheel
def test_the_phone_hangs_up_when_told() -> None:
    with FarEnd(talk(200)) as far_end:
        heard = place_call(far_end.uri, actions=[HangUp(at=0.3)])
    assert heard.ended_by == "phone"
    assert heard.duration_s == pytest.approx(0.3, abs=0.25)
    assert far_end.sent("BYE")


@no_wheel
def test_the_phone_hangs_up_after_silence() -> None:
    plan = [Packet(i, tone(i) if 10 <= i < 30 else SILENCE) for i in range(250)]
    with FarEnd(plan) as far_end:
        heard = place_call(far_end.uri, hangup_after_silence=0.4)
    assert heard.ended_by == "phone"
    # 0.2 s of silence, 0.4 s of tone, 0.4 s of silence.
    assert 0.9 < heard.duration_s < 2.0


@no_wheel
def test_a_call_ends_at_its_limit() -> None:
    with FarEnd(talk(500)) as far_end:
        heard = place_call(far_end.uri, max_seconds=0.4)
    assert heard.ended_by == "phone"
    assert 0.4 <= heard.duration_s < 3.0


@no_wheel
def test_actions_reach_the_far_end_in_order() -> None:
    actions: list[Action] = [
        Resume(at=0.8),
        SendInfo(at=0.1, body="Noch ein Satz, größer.", headers={"X-TTS-Voice": "heart"}),
        SendInfo(at=0.2, headers={"X-TTS-Action": "clear"}),
        Hold(at=0.5),
    ]
    with FarEnd(talk(70)) as far_end:
        heard = place_call(far_end.uri, actions=actions)
    text, clear = far_end.sent("INFO")
    assert text.endswith("Noch ein Satz, größer.")
    assert header(text, "Content-Type") == "text/plain"
    assert header(text, "X-TTS-Voice") == "heart"
    assert header(clear, "X-TTS-Action") == "clear"
    first, hold, resume = far_end.sent("INVITE")
    assert "a=sendrecv" in first
    assert "a=sendonly" in hold
    assert "a=sendrecv" in resume
    assert [(reply.method, reply.status) for reply in heard.replies] == [
        ("INVITE", 200),
        ("INFO", 200),
        ("INFO", 200),
        ("INVITE", 200),
        ("INVITE", 200),
    ]
    # The counts go on over the two re-INVITEs.
    assert heard.received.packets > 60


@no_wheel
def test_digits_are_sent_as_telephone_events() -> None:
    with FarEnd(talk(60)) as far_end:
        place_call(far_end.uri, actions=[Dtmf(at=0.2, digits="5")])
    events = [packet for packet in far_end.rtp_received if packet[1] & 0x7F not in (0, 8)]
    assert events
    event, flags, _duration = struct.unpack("!BBH", events[-1][12:16])
    assert event == 5
    assert flags & 0x80, "no end bit"


@no_wheel
def test_digits_are_sent_by_info() -> None:
    with FarEnd(talk(60)) as far_end:
        heard = place_call(far_end.uri, actions=[Dtmf(at=0.2, digits="5#", method="info")])
    five, pound = far_end.sent("INFO")
    for info, digit in ((five, "5"), (pound, "#")):
        assert header(info, "Content-Type") == "application/dtmf-relay"
        assert f"Signal={digit}" in info.replace(" ", "")
    assert [reply.status for reply in heard.replies if reply.method == "INFO"] == [200, 200]
    assert {packet[1] & 0x7F for packet in far_end.rtp_received} == {0}


@no_wheel
def test_telephone_events_that_come_are_reported() -> None:
    with FarEnd([*talk(20), *digit(7, frame=20), *(Packet(i, SILENCE) for i in range(30, 50))]) as far_end:
        heard = place_call(far_end.uri)
    (pressed,) = heard.digits
    assert (pressed.digit, pressed.method) == ("7", "rfc4733")
    assert pressed.at == pytest.approx(0.4, abs=0.2)


@no_wheel
def test_a_recording_is_played_to_the_far_end(tmp_path: Path) -> None:
    wav = tmp_path / "said.wav"
    said = (6000 * np.sin(2 * np.pi * 1000 * np.arange(4000) / 8000)).astype("<i2")
    with wave.open(str(wav), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(said.tobytes())
    with FarEnd(talk(80, silent=80)) as far_end:
        heard = place_call(far_end.uri, actions=[Play(at=0.3, path=wav)])
    (at,) = heard.playing_at
    assert at == pytest.approx(0.3, abs=0.1)
    loudness = measure(received(far_end), 8000)
    assert loudness.audible_s == pytest.approx(0.5, abs=0.03)
    assert loudness.first_audible_s == pytest.approx(at, abs=0.15)
    assert loudness.peak_dbfs == pytest.approx(20 * math.log10(6000 / 32768), abs=0.5)


@no_wheel
def test_a_recording_that_is_absent(tmp_path: Path) -> None:
    with FarEnd(talk(40)) as far_end, pytest.raises(PhoneError, match="Play"):
        place_call(far_end.uri, actions=[Play(at=0.1, path=tmp_path / "absent.wav")])


@no_wheel
def test_the_phone_returns_what_it_hears() -> None:
    with FarEnd(talk(60, silent=20)) as far_end:
        place_call(far_end.uri, media=MediaOptions(echo_db=-12))
    loudness = measure(received(far_end), 8000)
    assert loudness.audible_s > 0.4
    assert loudness.first_audible_s is not None
    assert 0.4 <= loudness.first_audible_s < 0.8
    assert loudness.peak_dbfs == pytest.approx(20 * math.log10(8000 / 32768) - 12, abs=1)


@no_wheel
def test_the_media_are_offered_as_chosen() -> None:
    chosen = MediaOptions(ptime_ms=30, telephone_events=False, rtcp_mux=True)
    with FarEnd(talk(10)) as far_end:
        place_call(far_end.uri, media=chosen)
    (invite,) = far_end.sent("INVITE")
    assert "a=ptime:30" in invite
    assert "a=rtcp-mux" in invite
    assert "telephone-event" not in invite


@no_wheel
def test_a_refused_call_is_a_report() -> None:
    with FarEnd(status=486, reason="Busy Here") as far_end:
        heard = place_call(far_end.uri)
    assert not heard.answered
    assert (heard.status, heard.reason) == (486, "Busy Here")
    assert heard.setup_ms is None
    assert far_end.sent("ACK")


@no_wheel
def test_a_silent_host_is_given_up() -> None:
    with FarEnd(answers=False) as far_end:
        started = time.monotonic()
        heard = place_call(far_end.uri, answer_timeout=0.3)
    assert time.monotonic() - started < 8
    assert (heard.answered, heard.status, heard.reason) == (False, 408, "no answer within 0.3 s")


@no_wheel
def test_an_answer_with_another_codec_ends_the_call() -> None:
    with FarEnd(talk(100), payload_type=0) as far_end:
        heard = place_call(far_end.uri, codecs=["PCMA"])
    assert heard.ended_by == "phone"
    assert heard.received.packets == 0
    assert not heard.clean


@no_wheel
@pytest.mark.parametrize("uri", ["", "nonsense", "sip:", "http://127.0.0.1"])
def test_a_bad_uri_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="not a SIP URI"):
        place_call(uri)


@no_wheel
def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no codec 'AMR'; it has .*PCMU"):
        place_call("sip:x@127.0.0.1", codecs=["AMR"])


@no_wheel
def test_an_address_of_another_host_is_refused() -> None:
    with pytest.raises(PhoneError, match="assign requested address"):
        place_call("sip:x@127.0.0.1", local_host="192.0.2.1")


@no_wheel
def test_text_too_long_for_one_packet_is_refused_and_the_next_call_works() -> None:
    with FarEnd(talk(10)) as far_end:
        with pytest.raises(PhoneError, match="too long"):
            place_call(far_end.uri, say="x" * 9000)
        assert place_call(far_end.uri).answered
