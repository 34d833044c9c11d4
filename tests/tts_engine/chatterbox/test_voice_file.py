from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.tts_engine.chatterbox.voices import make_voice
from tts_engine.chatterbox.voice import Voice
from tts_engine.chatterbox.voice_file import MAX_BYTES, VoiceFileError, VoiceMetadata, read_voice, write_voice
from tts_engine.errors import EngineError

METADATA = VoiceMetadata(
    name="anna",
    source="anna take 3.wav",
    source_seconds=14.25,
    source_loudness=-22.5,
    prompt_seconds=10.0,
    created="2026-01-02T03:04:05+00:00",
    encoders_sha256="ab" * 32,
    consent="signed 2026-01-01, é ü 漢",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "anna.safetensors"
    write_voice(path, make_voice(), METADATA)
    return path


def rewritten(file: Path, tensors: dict[str, torch.Tensor] | None = None, **metadata: str | None) -> Path:
    """The file with other tensors or other metadata (None: without it)."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        text = dict(opened.metadata(), **metadata)
    save_file({**load_file(file), **(tensors or {})}, file, {k: v for k, v in text.items() if v is not None})
    return file


def refused(path: Path) -> str:
    with pytest.raises(VoiceFileError) as caught:
        read_voice(path)
    assert isinstance(caught.value, EngineError)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_written_is_read(file: Path) -> None:
    voice, metadata = read_voice(file)
    assert metadata == METADATA
    for field in fields(Voice):
        assert torch.equal(getattr(voice, field.name), getattr(make_voice(), field.name)), field.name


def test_a_voice_on_the_way_in_half_precision_is_stored_in_float32(tmp_path: Path) -> None:
    path = tmp_path / "anna.safetensors"
    write_voice(path, make_voice().to("cpu", torch.bfloat16), METADATA)
    voice, _ = read_voice(path)
    assert voice.x_vector.dtype == torch.float32
    assert torch.equal(voice.x_vector, make_voice().x_vector.bfloat16().float())


def test_a_view_is_stored_as_it_looks(tmp_path: Path) -> None:
    path = tmp_path / "anna.safetensors"
    voice = make_voice()
    mel = voice.flow_prompt_mel.T.contiguous().T  # strides of a transpose
    write_voice(path, replace(voice, flow_prompt_mel=mel), METADATA)
    assert torch.equal(read_voice(path)[0].flow_prompt_mel, voice.flow_prompt_mel)


def test_the_file_is_whole_readable_and_alone(file: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]
    assert file.stat().st_size < 200_000


def test_nothing_is_overwritten_unless_asked(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(VoiceFileError, match="exists already; --replace"):
        write_voice(file, make_voice(seed=1), METADATA)
    assert file.read_bytes() == before
    write_voice(file, make_voice(seed=1), METADATA, replace=True)
    assert torch.equal(read_voice(file)[0].x_vector, make_voice(seed=1).x_vector)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VoiceFileError, match="No space left on device"):
        write_voice(file, make_voice(seed=1), METADATA, replace=True)
    assert file.read_bytes() == before
    assert len(list(file.parent.iterdir())) == 1


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VoiceFileError, match="No such file or directory"):
        write_voice(tmp_path / "no" / "anna.safetensors", make_voice(), METADATA)
    assert "No such file or directory" in refused(tmp_path / "anna.safetensors")
    assert "Is a directory" in refused(tmp_path)


def test_a_voice_that_cannot_be_read_again_is_not_written(tmp_path: Path) -> None:
    voice = replace(make_voice(), x_vector=torch.full((192,), torch.nan))
    with pytest.raises(VoiceFileError, match="cannot be stored: x_vector has values that are not finite"):
        write_voice(tmp_path / "anna.safetensors", voice, METADATA)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [1, 8, 9, 300, -1, -70_000])
def test_a_truncated_file(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    message = refused(file)
    assert "cut short" in message or kept == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"hello", "is not a voice file"),
        (b"This is only a text file, renamed.\n" * 20, "is not a voice file"),
        (b"RIFF\x24\x08\x00\x00WAVEfmt " + bytes(100), "is not a voice file"),
        (b"PK\x03\x04" + bytes(200), "is not a voice file"),
        ((5).to_bytes(8, "little") + b"{oops", "header is damaged"),
        ((4).to_bytes(8, "little") + b"{}  ", "not a voice"),
        ((20).to_bytes(8, "little") + b'{"a":{"dtype":"F32"}', "header is damaged"),
        ((3000).to_bytes(8, "little") + b"{" + b'"a":{' * 599 + b"    ", "header is damaged"),
        (bytes(MAX_BYTES + 1), "over 4 MB"),
    ],
)
def test_a_file_that_is_no_voice(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert said in refused(path)


def test_a_safetensors_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"weight": torch.zeros(4)}, path)
    assert "is a safetensors file, but not a voice" in refused(path)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"version": "2"}, "a newer Chatterline made it"),
        ({"version": "9" * 5000}, "a newer Chatterline made it"),
        ({"version": "0"}, "there is no such version"),
        ({"version": "one"}, "there is no such version"),
        ({"version": None}, "there is no such version"),
        ({"model": "kokoro"}, "made for another model: kokoro, not chatterbox-turbo"),
        ({"model": None}, "no model named"),
        ({"source_seconds": "long"}, "damaged metadata"),
        ({"name": None}, "damaged metadata"),
    ],
)
def test_metadata_of_another_program(file: Path, metadata: dict[str, str | None], said: str) -> None:
    message = refused(rewritten(file, **metadata))
    assert said in message
    assert len(message) < 500


def test_metadata_to_come_is_no_obstacle(file: Path) -> None:
    assert read_voice(rewritten(file, licence="CC0"))[1] == METADATA


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"speaker_embedding": torch.zeros(512)}, "speaker_embedding is float32 [512], not float32 [256]"),
        ({"x_vector": torch.zeros(192).half()}, "x_vector is float16 [192], not float32 [192]"),
        ({"flow_prompt_mel": torch.zeros(499, 80)}, "flow_prompt_mel is float32 [499, 80], not float32 [500, 80]"),
        ({"flow_prompt_mel": torch.full((500, 80), torch.inf)}, "flow_prompt_mel has values that are not finite"),
        ({"prompt_tokens": torch.tensor([1, 6561])}, "prompt_tokens has tokens from 1 to 6561, outside 0 to 6560"),
        ({"prompt_tokens": torch.tensor([-1, 5])}, "tokens from -1 to 5"),
        ({"prompt_tokens": torch.zeros(376, dtype=torch.int64)}, "prompt_tokens has 376 tokens, not 1 to 375"),
        ({"prompt_tokens": torch.zeros(0, dtype=torch.int64)}, "prompt_tokens has 0 tokens"),
        ({"prompt_tokens": torch.zeros(9)}, "prompt_tokens is float32 [9], not a row of int64"),
        ({"flow_prompt_tokens": torch.zeros(1, 250, dtype=torch.int64)}, "not a row of int64"),
        ({"clap_embedding": torch.zeros(3)}, "unexpected clap_embedding"),
    ],
)
def test_tensors_of_another_model(file: Path, tensors: dict[str, torch.Tensor], said: str) -> None:
    message = refused(rewritten(file, tensors))
    assert "made for another model" in message
    assert said in message


def test_all_problems_are_told_at_once(file: Path) -> None:
    message = refused(rewritten(file, {"x_vector": torch.zeros(7), "prompt_tokens": torch.tensor([9999])}))
    assert "x_vector" in message
    assert "prompt_tokens" in message


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    metadata = {"format": "chatterline-voice", "version": "1", "model": "chatterbox-turbo", "name": "x"}
    save_file({"x_vector": torch.zeros(192)}, path, metadata)
    assert "no flow_prompt_mel; no flow_prompt_tokens; no prompt_tokens; no speaker_embedding" in refused(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever a few bytes are changed to: a voice of the right shape, or one sentence."""
    path = tmp_path / "x.safetensors"
    write_voice(path, make_voice(3, 2), METADATA, replace=True)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        voice, _ = read_voice(path)
    except VoiceFileError:
        return
    assert voice.speaker_embedding.shape == (256,)
    assert len(voice.flow_prompt_mel) == 2 * len(voice.flow_prompt_tokens)


def test_reading_needs_torch_and_safetensors_alone(file: Path) -> None:
    program = """
import sys
from pathlib import Path
from tts_engine.chatterbox.voice_file import read_voice
read_voice(Path(sys.argv[1]))
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    result = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True)
    loaded: Any = result.stdout.split()
    assert {"torch", "safetensors"} <= set(loaded)
    assert not {"chatterbox", "librosa", "soundfile", "transformers", "torchaudio", "perth"} & set(loaded)


def test_a_header_with_a_number_beyond_all_bounds_is_damage(tmp_path: Path) -> None:
    header = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}'
    path = tmp_path / "anna.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(VoiceFileError, match="damaged"):
        read_voice(path)
