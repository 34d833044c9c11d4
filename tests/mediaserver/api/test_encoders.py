"""Encoders: what comes out is the format it says, and sounds as what went in."""

from __future__ import annotations

import audioop
import io
import wave

import av
import numpy as np
import pytest

from mediaserver.api.encoders import FORMATS, MEDIA_TYPES, RATE, ULAW_RATE, AudioFormat, make_encoder, wav_header

SECONDS = 1.5
COMPRESSED: tuple[AudioFormat, ...] = ("mp3", "opus", "aac", "flac")
CODECS = {"mp3": "mp3", "opus": "opus", "aac": "aac", "flac": "flac"}


def tone(rate: int = RATE, seconds: float = SECONDS) -> bytes:
    at = np.arange(int(seconds * rate)) / rate
    return (8000 * np.sin(2 * np.pi * 440 * at)).astype("<i2").tobytes()


def encoded(audio_format: AudioFormat, pcm: bytes, step: int) -> list[bytes]:
    encoder = make_encoder(audio_format)
    return [*(encoder.encode(pcm[at : at + step]) for at in range(0, len(pcm), step)), encoder.finish()]


def decoded(data: bytes) -> tuple[str, np.ndarray, int]:
    with av.open(io.BytesIO(data)) as file:
        stream = file.streams.audio[0]
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        frames = [part for frame in file.decode(stream) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
        samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
        return stream.codec_context.name, samples, stream.channels


@pytest.mark.parametrize("audio_format", COMPRESSED)
def test_compressed_formats_sound_as_what_went_in(audio_format: AudioFormat) -> None:
    data = b"".join(encoded(audio_format, tone(), 9600))
    codec, samples, channels = decoded(data)
    assert codec.removesuffix("float") == CODECS[audio_format]
    assert channels == 1
    assert len(samples) / RATE == pytest.approx(SECONDS, abs=0.12)
    middle = samples[RATE // 2 : RATE].astype(float)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * RATE / len(middle) == pytest.approx(440, abs=3)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(8000 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("audio_format", COMPRESSED)
def test_they_come_piece_by_piece(audio_format: AudioFormat) -> None:
    """After half a second of speech there is something to hear."""
    pieces = encoded(audio_format, tone(), RATE)  # 0.5 s each
    assert all(pieces[:3])
    assert len(pieces[0]) < sum(map(len, pieces)) * 0.6


@pytest.mark.parametrize("audio_format", COMPRESSED)
@pytest.mark.parametrize("step", [14, 7002])
def test_pieces_of_any_size_make_the_same_file(audio_format: AudioFormat, step: int) -> None:
    pcm = tone(seconds=0.2)
    _, expected, _ = decoded(b"".join(encoded(audio_format, pcm, len(pcm))))
    _, samples, _ = decoded(b"".join(encoded(audio_format, pcm, step)))
    assert np.array_equal(samples, expected)


def test_flac_is_lossless() -> None:
    _, samples, _ = decoded(b"".join(encoded("flac", tone(), 4000)))
    assert samples.astype("<i2").tobytes() == tone()


@pytest.mark.parametrize("audio_format", FORMATS)
def test_no_speech_is_no_error(audio_format: AudioFormat) -> None:
    encoder = make_encoder(audio_format)
    data = encoder.encode(b"") + encoder.finish()
    assert (audio_format in ("wav", "flac")) == bool(data)  # the others have no header of their own


@pytest.mark.parametrize("audio_format", COMPRESSED)
def test_an_encoder_that_is_dropped_half_way(audio_format: AudioFormat) -> None:
    encoder = make_encoder(audio_format)
    encoder.encode(tone())
    del encoder


def test_pcm_is_as_it_was() -> None:
    assert encoded("pcm", tone(), 4000) == [tone()[at : at + 4000] for at in range(0, len(tone()), 4000)] + [b""]


def test_ulaw() -> None:
    pcm = tone(ULAW_RATE)
    assert make_encoder("ulaw").sample_rate == ULAW_RATE
    assert b"".join(encoded("ulaw", pcm, 4000)) == audioop.lin2ulaw(pcm, 2)


def test_wav_of_unknown_length_is_read_to_its_end() -> None:
    data = b"".join(encoded("wav", tone(), 4000))
    assert data == wav_header(RATE) + tone()
    codec, samples, channels = decoded(data)
    assert (codec, channels) == ("pcm_s16le", 1)
    assert samples.astype("<i2").tobytes() == tone()


def test_wav_header_is_one_for_other_readers() -> None:
    with wave.open(io.BytesIO(wav_header(RATE))) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (RATE, 2, 1)


def test_every_format_has_a_media_type_and_says_whether_it_is_heavy() -> None:
    assert set(MEDIA_TYPES) == set(FORMATS)
    assert {name for name in FORMATS if make_encoder(name).heavy} == set(COMPRESSED)
