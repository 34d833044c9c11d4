"""Speech as a file or stream of a common format, piece by piece as it is synthesised.

Compressed formats are FFmpeg's, through PyAV, which is imported with the first of them: it takes 30 MB of memory.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np

from mediaserver.rtp.codec import audioop
from tts_engine.engine import BYTES_PER_SAMPLE

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame

AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm", "ulaw"]
FORMATS: tuple[AudioFormat, ...] = get_args(AudioFormat)
RATE = 24_000
"Hz, of all formats but ulaw."
ULAW_RATE = 8000
UNKNOWN_SIZE = 0xFFFFFFFF
"In a WAV header that is sent before its length is known."
BLOCK_SAMPLES = 4800
"That FFmpeg is given at once: what comes out lags by less."

MEDIA_TYPES: dict[AudioFormat, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",  # RFC 7845: Opus in Ogg
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
    "ulaw": "audio/basic",  # RFC 2046 section 4.3: mu-law, 8000 Hz, one channel
}


class Encoder(Protocol):
    """Takes 16-bit little-endian mono PCM, gives the bytes that it completes. Used by one thread at a time."""

    @property
    def sample_rate(self) -> int:
        """Hz, of the PCM to be given."""

    @property
    def heavy(self) -> bool:
        """Whether encoding takes so long that an event loop must not do it."""

    def encode(self, pcm: bytes) -> bytes: ...

    def finish(self) -> bytes:
        """The bytes held back, and what ends the file. Nothing may follow."""


def make_encoder(audio_format: AudioFormat) -> Encoder:
    """An encoder for one file. May take a tenth of a second the first time."""
    match audio_format:
        case "pcm":
            return PcmEncoder()
        case "wav":
            return WavEncoder()
        case "ulaw":
            return UlawEncoder()
        case _:
            return CompressedEncoder(_COMPRESSED[audio_format])


class PcmEncoder:
    """24 kHz, signed 16-bit little-endian, mono, no header."""

    sample_rate = RATE
    heavy = False

    def encode(self, pcm: bytes) -> bytes:
        return pcm

    def finish(self) -> bytes:
        return b""


class UlawEncoder:
    """G.711 mu-law, 8 kHz, no header: what telephones take."""

    sample_rate = ULAW_RATE
    heavy = False

    def encode(self, pcm: bytes) -> bytes:
        return bytes(audioop.lin2ulaw(pcm, BYTES_PER_SAMPLE))

    def finish(self) -> bytes:
        return b""


class WavEncoder:
    """A RIFF file of PCM. Its sizes are the largest there are, as streams have them: players read to the end."""

    sample_rate = RATE
    heavy = False

    def __init__(self) -> None:
        self._header = wav_header(RATE)

    def encode(self, pcm: bytes) -> bytes:
        header, self._header = self._header, b""
        return header + pcm

    def finish(self) -> bytes:
        return self.encode(b"")


def wav_header(sample_rate: int) -> bytes:
    """Of 16-bit mono PCM of unknown length."""
    rate = sample_rate * BYTES_PER_SAMPLE
    # tag (PCM), channels, rate, bytes a second, bytes a frame, bits a sample
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, rate, BYTES_PER_SAMPLE, 8 * BYTES_PER_SAMPLE)
    return struct.pack("<4sI4s", b"RIFF", UNKNOWN_SIZE, b"WAVE") + fmt + struct.pack("<4sI", b"data", UNKNOWN_SIZE)


@dataclass(frozen=True, slots=True)
class _Compressed:
    container: str
    codec: str
    bit_rate: int
    "Bits a second; 0 where the codec is lossless."
    options: tuple[tuple[str, str], ...] = ()
    "Of the container."


_COMPRESSED: dict[str, _Compressed] = {
    # No tag, and no frame that would be filled in at the end: a stream cannot go back.
    "mp3": _Compressed("mp3", "libmp3lame", 96_000, (("write_xing", "0"), ("id3v2_version", "0"))),
    # Pages of 100 ms: by default FFmpeg collects a second.
    "opus": _Compressed("ogg", "libopus", 48_000, (("page_duration", "100000"),)),
    "aac": _Compressed("adts", "aac", 96_000),
    "flac": _Compressed("flac", "flac", 0),
}


class _Sink:
    """A file that can only be written; what was written is taken."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


class CompressedEncoder:
    """FFmpeg's. It is never closed from outside: a thread may be in it; it goes with its last reference."""

    sample_rate = RATE
    heavy = True

    def __init__(self, kind: _Compressed) -> None:
        import av  # noqa: PLC0415 - see above
        from av.audio.stream import AudioStream  # noqa: PLC0415

        self._sink = _Sink()
        self._container = av.open(self._sink, "w", format=kind.container, options=dict(kind.options))
        stream = self._container.add_stream(kind.codec, rate=RATE)
        if not isinstance(stream, AudioStream):  # what add_stream() gives follows from the codec
            raise TypeError(f"{kind.codec} is no audio codec")
        stream.layout = "mono"
        if kind.bit_rate:
            stream.bit_rate = kind.bit_rate
        self._stream = stream
        self._samples = 0

    def encode(self, pcm: bytes) -> bytes:
        samples = np.frombuffer(pcm, "<i2")
        for at in range(0, len(samples), BLOCK_SAMPLES):
            self._container.mux(self._stream.encode(self._frame(samples[at : at + BLOCK_SAMPLES])))
        return self._sink.take()

    def finish(self) -> bytes:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take()

    def _frame(self, samples: np.ndarray[tuple[int], np.dtype[np.int16]]) -> AudioFrame:
        from av.audio.frame import AudioFrame  # noqa: PLC0415

        frame = AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
        frame.sample_rate = RATE
        frame.pts = self._samples
        frame.time_base = Fraction(1, RATE)
        self._samples += len(samples)
        return frame
