from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tts_engine.chatterbox import clip as clip_module
from tts_engine.chatterbox.clip import ClipError, read_clip
from tts_engine.errors import EngineError
from tts_engine.resample import Samples

RATE = 24_000


def speechlike(seconds: float, rate: int = RATE, peak: float = 0.5) -> Samples:
    """Syllables: a harmonic tone that swells and fades five times a second."""
    time = np.arange(round(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * 130 * harmonic * time) / harmonic for harmonic in range(1, 12))
    envelope = 0.55 - 0.45 * np.cos(2 * np.pi * 5 * time)
    wave = tone * envelope
    return (peak * wave / np.abs(wave).max()).astype(np.float32)


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.float32)


def written(path: Path, samples: Samples, rate: int = RATE, **options: str) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def refused(path: Path) -> str:
    with pytest.raises(ClipError) as caught:
        read_clip(path)
    assert isinstance(caught.value, EngineError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_good_clip(tmp_path: Path) -> None:
    clip = read_clip(written(tmp_path / "anna.wav", speechlike(12.0), subtype="FLOAT"))
    assert clip.name == "anna.wav"
    assert clip.samples.dtype == np.float32
    np.testing.assert_array_equal(clip.samples, speechlike(12.0))
    assert clip.seconds == 12.0
    assert clip.speech_seconds == pytest.approx(12.0, abs=0.3)
    assert clip.warnings == ()


@pytest.mark.parametrize(
    ("name", "rate", "channels", "options"),
    [
        ("a.wav", 44_100, 2, {"subtype": "PCM_16"}),
        ("a.wav", 48_000, 1, {"subtype": "PCM_24"}),
        ("a.wav", 22_050, 3, {"subtype": "FLOAT"}),
        ("a.wav", 16_000, 1, {"subtype": "PCM_U8"}),
        ("a.wav", 24_000, 2, {"subtype": "PCM_16"}),
        ("a.flac", 44_100, 2, {}),
        ("a.ogg", 44_100, 2, {}),
        ("a.mp3", 44_100, 2, {}),
    ],
)
def test_reads_what_librosa_reads(tmp_path: Path, name: str, rate: int, channels: int, options: dict[str, str]) -> None:
    librosa = pytest.importorskip("librosa")
    mono = speechlike(6.01, rate)
    path = written(
        tmp_path / name, np.stack([mono * gain for gain in (1, 0.3, -0.2)[:channels]], axis=1), rate, **options
    )
    expected, _ = librosa.load(path, sr=RATE)
    samples = read_clip(path).samples
    assert samples.dtype == expected.dtype
    np.testing.assert_array_equal(samples, expected)


def test_speech_is_measured_not_the_length_of_the_file(tmp_path: Path) -> None:
    two_seconds = written(tmp_path / "short.wav", speechlike(2.0))
    assert "2.0 s of speech in 2.0 s; a voice needs at least 5 s" in refused(two_seconds)
    padded = written(tmp_path / "padded.wav", np.concatenate([speechlike(2.0), silence(10.0), speechlike(2.0)]))
    assert "4.0 s of speech in 14.0 s" in refused(padded)
    enough = written(tmp_path / "enough.wav", np.concatenate([speechlike(3.0), silence(4.0), speechlike(3.0)]))
    assert read_clip(enough).speech_seconds == pytest.approx(6.0, abs=0.3)


def test_short_gaps_are_part_of_speech_and_long_ones_are_not(tmp_path: Path) -> None:
    def with_gaps(gap: float) -> Path:
        words = [part for _ in range(10) for part in (speechlike(0.6), silence(gap))]
        return written(tmp_path / "words.wav", np.concatenate(words))

    assert read_clip(with_gaps(0.2)).speech_seconds == pytest.approx(10 * 0.6 + 9 * 0.2, abs=0.3)
    assert read_clip(with_gaps(0.6)).speech_seconds == pytest.approx(10 * 0.6, abs=0.3)


def test_background_is_not_speech(tmp_path: Path) -> None:
    hiss = np.random.default_rng(0).normal(0, 0.002, 12 * RATE).astype(np.float32)
    hiss[: 3 * RATE] += speechlike(3.0)
    assert "3.0 s of speech in 12.0 s" in refused(written(tmp_path / "noisy.wav", hiss))


@pytest.mark.parametrize("level", [0.0, 1e-4, 5e-4])
def test_silence(tmp_path: Path, level: float) -> None:
    noise = np.random.default_rng(0).normal(0, level, 8 * RATE).astype(np.float32)
    assert "is silent: 8.0 s, and nothing above -60 dBFS" in refused(
        written(tmp_path / "quiet.wav", noise, subtype="FLOAT")
    )


def test_a_quiet_clip_is_as_good_as_a_loud_one(tmp_path: Path) -> None:
    quiet = read_clip(written(tmp_path / "quiet.wav", speechlike(8.0, peak=0.02), subtype="FLOAT"))
    assert quiet.speech_seconds == pytest.approx(8.0, abs=0.3)


def test_clipping_is_told(tmp_path: Path) -> None:
    clipped = np.clip(4 * speechlike(8.0), -1, 1)
    (warning,) = read_clip(written(tmp_path / "loud.wav", clipped)).warnings
    assert "clipped" in warning
    # A clip normalised to full scale touches it without being cut.
    assert read_clip(written(tmp_path / "peak.wav", speechlike(8.0, peak=1.0))).warnings == ()


def test_what_will_be_heard_is_told(tmp_path: Path) -> None:
    (warning,) = read_clip(written(tmp_path / "phone.wav", speechlike(8.0, 8000), 8000)).warnings
    assert "recorded at 8000 Hz" in warning
    late = np.concatenate([silence(2.5), speechlike(8.0)])
    (warning,) = read_clip(written(tmp_path / "late.wav", late)).warnings
    assert "starts with 2.5 s without speech" in warning


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"This is a text file that somebody named .wav\n" * 50, "is not a sound file that can be read"),
        (b"RIFF", "is not a sound file that can be read"),
        (b"\x89PNG\r\n\x1a\n" + bytes(1000), "is not a sound file that can be read"),
    ],
)
def test_a_file_without_sound(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    assert said in refused(path)


def test_a_place_without_a_file(tmp_path: Path) -> None:
    assert "No such file or directory" in refused(tmp_path / "none.wav")
    assert "is a directory, not a clip" in refused(tmp_path)
    assert "is not a file name" in refused(Path("a\0b.wav"))


def test_a_header_without_samples(tmp_path: Path) -> None:
    assert "has no samples in it" in refused(written(tmp_path / "none.wav", silence(0)))


def test_a_truncated_clip_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = written(tmp_path / "cut.wav", speechlike(12.0), subtype="PCM_16")
    path.write_bytes(path.read_bytes()[: 44 + 2 * 7 * RATE])
    assert read_clip(path).seconds == pytest.approx(7.0, abs=0.01)


def test_not_a_number(tmp_path: Path) -> None:
    samples = speechlike(6.0)
    samples[5000] = np.nan
    assert "samples that are not numbers" in refused(written(tmp_path / "nan.wav", samples, subtype="FLOAT"))


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "long.wav", speechlike(61.0))
    assert "sample rate of 4000 Hz" in refused(written(tmp_path / "slow.wav", speechlike(6.0), 4000))
    wide = np.repeat(speechlike(6.0)[:, None], 9, axis=1)
    assert "has 9 channels, more than 8" in refused(written(tmp_path / "wide.wav", wide))
    monkeypatch.setattr(clip_module, "MAX_CLIP_S", 60.0)
    assert "is longer than 1 minutes" in refused(path)
    monkeypatch.setattr(clip_module, "MAX_BYTES", 1 << 20)
    assert "is over 1 MB" in refused(path)


def test_a_header_that_promises_more_than_there_is(tmp_path: Path) -> None:
    path = written(tmp_path / "liar.wav", speechlike(6.0), subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[40:44] = (0xFFFFFFF0).to_bytes(4, "little")  # the size of the data chunk
    path.write_bytes(data)
    assert read_clip(path).seconds == pytest.approx(6.0, abs=0.01)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    path = written(tmp_path / "clip.flac", speechlike(5.5))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        clip = read_clip(path)
    except ClipError:
        return
    assert np.isfinite(clip.samples).all()


def test_without_soundfile_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "clip.wav", speechlike(6.0))
    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert "needs the package soundfile: pip install soundfile" in refused(path)


def test_torch_is_not_needed_to_judge_a_clip() -> None:
    program = "import sys, tts_engine.chatterbox.clip; print('torch' in sys.modules, 'soundfile' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
