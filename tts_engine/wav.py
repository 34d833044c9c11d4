"""WAV files: 16-bit PCM, and G.711 mu-law as telephony tools take it."""

from __future__ import annotations

import audioop
import struct
import wave
from collections.abc import Iterable
from pathlib import Path

from tts_engine.engine import BYTES_PER_SAMPLE

MULAW_RATE = 8000
WAVE_FORMAT_MULAW = 7  # RFC 2361, Multimedia Programming Interface and Data Specifications 1.0


def write_pcm_wav(path: str | Path, chunks: Iterable[bytes], sample_rate: int) -> None:
    """Write 16-bit little-endian mono PCM as it comes. Raises OSError."""
    # Opened here: wave.open() on a path that cannot be opened leaves a traceback behind when it is collected.
    with Path(path).open("wb") as raw, wave.open(raw, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(BYTES_PER_SAMPLE)
        file.setframerate(sample_rate)
        for pcm in chunks:
            file.writeframes(pcm)


def write_mulaw_wav(path: str | Path, pcm8k: bytes) -> None:
    """Write 16-bit little-endian mono PCM of 8 kHz as G.711 mu-law (format tag 7). Raises OSError."""
    data = audioop.lin2ulaw(pcm8k, BYTES_PER_SAMPLE)
    # tag, channels, rate, bytes a second, bytes a frame, bits a sample, size of the extension (none)
    fmt = struct.pack("<HHIIHHH", WAVE_FORMAT_MULAW, 1, MULAW_RATE, MULAW_RATE, 1, 8, 0)
    fact = struct.pack("<I", len(data))  # samples; required of every format but PCM
    body = b"WAVE" + _chunk(b"fmt ", fmt) + _chunk(b"fact", fact) + _chunk(b"data", data)
    Path(path).write_bytes(_chunk(b"RIFF", body))


def _chunk(name: bytes, body: bytes) -> bytes:
    padding = b"\0" * (len(body) % 2)  # chunks begin on even offsets; the size leaves the padding out
    return name + struct.pack("<I", len(body)) + body + padding
