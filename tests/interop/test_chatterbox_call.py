"""Calls to a server that speaks with Chatterbox: a small model of random weights, so what is heard is no speech."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from mediaserver.phone import CallReport, place_call
from mediaserver.phone.local_server import LocalServer
from mediaserver.phone.recording import read_wav
from tests.interop.server import check_end
from tests.interop.test_speech_heard import hear, payload_in_order
from tests.tts_engine.serving.small_model import small_model, store_voice

__all__ = ["small_model"]

needs_pjsip = pytest.mark.skipif(sys.version_info >= (3, 13), reason="pjsua2-python has no wheel for 3.13")

TEXT = "Thank you for calling Harbour Bank. Please hold, and someone will be with you in a moment."


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("voices")
    store_voice(directory, "anna")
    return directory


@pytest.fixture(scope="module")
def server(small_model: Path, voices: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    settings = {
        "LOG__LEVEL": "info",  # at debug level a failure is logged with its traceback
        "TTS__ENGINE": "chatterbox",
        "TTS__CHATTERBOX__MODEL": str(small_model),
        "TTS__CHATTERBOX__VOICES_DIR": str(voices),
        "TTS__CHATTERBOX__DEVICES": "cpu",
        "TTS__CHATTERBOX__DEFAULT_VOICE": "anna",
    }
    with LocalServer(tmp_path_factory.mktemp("server") / "server.log", settings) as running:
        yield running
        check_end(running)


def assert_heard(report: CallReport) -> None:
    """Answered, audible, ended by the server, and no packet lost or repeated."""
    assert (report.status, report.answered, report.ended_by) == (200, True, "server"), report
    assert report.audible_s > 0.3, report
    assert (report.received.lost, report.received.duplicated) == (0, 0), report
    assert report.received.bytes == 160 * report.received.packets


@needs_pjsip
def test_a_call_is_answered_heard_and_ended(server: LocalServer, tmp_path: Path) -> None:
    wav = tmp_path / "heard.wav"
    report = place_call(server.uri, say=TEXT, record=wav, max_seconds=30)
    assert_heard(report)
    samples, rate = read_wav(wav)
    assert rate == 8000
    assert np.abs(samples.astype(int)).max() > 1000
    assert "engine=chatterbox reason=configured" in server.log
    assert TEXT not in server.log


@needs_pjsip
def test_a_call_with_a_stored_voice(server: LocalServer, voices: Path) -> None:
    store_voice(voices, "bob", seed=2)  # while the server runs
    for voice in ("anna", "bob", "default"):
        assert_heard(place_call(server.uri, say="Please hold.", headers={"X-TTS-Voice": voice}, max_seconds=30))


@needs_pjsip
@pytest.mark.parametrize("voice", ["nobody", "../anna", "ANNA", "anna.safetensors"])
def test_a_voice_that_nobody_has(server: LocalServer, voice: str) -> None:
    report = place_call(server.uri, say="Please hold.", headers={"X-TTS-Voice": voice}, max_seconds=10)
    assert (report.status, report.answered) == (400, False), report
    assert report.reason == f"Unknown Voice '{voice}'"


@needs_pjsip
def test_a_broken_voice_is_refused_with_the_reason(server: LocalServer, voices: Path) -> None:
    broken = store_voice(voices, "cut", seed=3)
    broken.write_bytes(broken.read_bytes()[:3000])
    try:
        report = place_call(server.uri, say="Please hold.", headers={"X-TTS-Voice": "cut"}, max_seconds=10)
        assert (report.status, report.answered) == (503, False), report
        assert report.reason.startswith("Speech Engine: cut.safetensors is cut short"), report
        assert_heard(place_call(server.uri, say="Please hold.", max_seconds=30))
    finally:
        broken.unlink()


async def test_what_is_sent_is_what_the_engine_made(
    server: LocalServer, small_model: Path, voices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, streamed in chunks as it is; but for the frame that fades in where a busy machine ran dry."""
    from mediaserver.rtp.codec import PCMU
    from tts_engine.chatterbox.cfg import cfg_scale
    from tts_engine.engine import SpeechRequest
    from tts_engine.serving.engine import ChatterboxEngine
    from tts_engine.serving.settings import ChatterboxSettings

    packets = await hear(server.port, TEXT)
    monkeypatch.delenv("CHATTERBOX_CFG_SCALE", raising=False)
    cfg_scale.cache_clear()
    settings = ChatterboxSettings(str(small_model), voices, devices=("cpu",), default_voice="anna")
    engine = ChatterboxEngine("chatterbox", settings, max_streams=1, max_text_chars=200)
    await engine.start()
    pcm = b"".join([chunk.pcm async for chunk in engine.synthesize(SpeechRequest(TEXT))])
    await engine.stop()
    expected = PCMU.encode(pcm + bytes(-len(pcm) % 320))
    made = _sound(expected)
    assert len(made) > 20
    assert len(_missing(made, _sound(payload_in_order(packets)))) <= MAX_UNDERRUNS


MAX_UNDERRUNS = 3


def _missing(made: list[bytes], sent: list[bytes]) -> list[bytes]:
    """The frames of `made` that do not stand in `sent` in their order."""
    missing, at = [], 0
    for frame in made:
        try:
            at = sent.index(frame, at) + 1
        except ValueError:
            missing.append(frame)
    return missing


def _sound(payload: bytes) -> list[bytes]:
    """Frames that are not silence: on a busy machine the engine may be late, and whole frames of silence are sent."""
    frames = [payload[at : at + 160] for at in range(0, len(payload), 160)]
    return [frame for frame in frames if frame.strip(b"\xff")]
