from __future__ import annotations

import audioop
import struct
import wave
from pathlib import Path

import pytest

from tts_engine.wav import write_mulaw_wav, write_pcm_wav


def test_pcm_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    write_pcm_wav(path, iter([b"\x01\x00\x02\x00", b"", b"\x03\x00"]), 24000)
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24000)
        assert file.readframes(99) == b"\x01\x00\x02\x00\x03\x00"


def test_no_chunks(tmp_path: Path) -> None:
    write_pcm_wav(tmp_path / "empty.wav", [], 8000)
    with wave.open(str(tmp_path / "empty.wav")) as file:
        assert file.getnframes() == 0


@pytest.mark.parametrize("samples", [0, 1, 7, 8])
def test_mulaw_chunks(tmp_path: Path, samples: int) -> None:
    pcm = struct.pack(f"<{samples}h", *range(-400, -400 + 100 * samples, 100))
    path = tmp_path / "telephone.wav"
    write_mulaw_wav(path, pcm)
    raw = path.read_bytes()
    riff, size, kind = struct.unpack_from("<4sI4s", raw)
    assert (riff, size, kind) == (b"RIFF", len(raw) - 8, b"WAVE")
    chunks = {}
    at = 12
    while at < len(raw):
        name, length = struct.unpack_from("<4sI", raw, at)
        chunks[name] = raw[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    assert struct.unpack("<HHIIHHH", chunks[b"fmt "]) == (7, 1, 8000, 8000, 1, 8, 0)
    assert struct.unpack("<I", chunks[b"fact"]) == (samples,)
    assert chunks[b"data"] == audioop.lin2ulaw(pcm, 2)


def test_mulaw_is_read_by_another_program(tmp_path: Path) -> None:
    av = pytest.importorskip("av")  # FFmpeg, which faster-whisper brings
    pcm = struct.pack("<800h", *(1000 - abs(i % 200 - 100) * 20 for i in range(800)))
    write_mulaw_wav(tmp_path / "telephone.wav", pcm)
    with av.open(str(tmp_path / "telephone.wav")) as file:
        stream = file.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.channels) == ("pcm_mulaw", 8000, 1)
        decoded = b"".join(frame.to_ndarray().tobytes() for frame in file.decode(stream))
    assert decoded == audioop.ulaw2lin(audioop.lin2ulaw(pcm, 2), 2)
