"""The random checkpoint: whole, repeatable, and behaving like a model."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from benchmarks.common import ROOT
from benchmarks.make_checkpoint import Tensor, released_sizes, small_sizes, write_checkpoint, write_safetensors
from benchmarks.random_weights import F0_MEAN, MEL_MEAN
from tts_engine.chatterbox.constants import STOP_TOKEN
from tts_engine.chatterbox.model import Chatterbox, load
from tts_engine.chatterbox.sampling import pick, process
from tts_engine.chatterbox.sampling_settings import SamplingSettings


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Chatterbox:
    """Released widths in the decoder and the vocoder, where scale matters; Nano, few blocks."""
    directory = tmp_path_factory.mktemp("nano")
    sizes = released_sizes("nano", layers=2, mid_blocks=1)
    write_checkpoint(directory, flavour="nano", sizes=sizes, dtype=torch.bfloat16, unread=False)
    return load(directory)


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_checkpoint(tmp_path / name, sizes=small_sizes(), seed=seed, unread=False)
    first = digests(tmp_path / "a")
    assert digests(tmp_path / "b") == first
    other = digests(tmp_path / "c")
    assert {name for name in first if other[name] != first[name]} >= {
        "t3_turbo_v1.safetensors",
        "s3gen_meanflow.safetensors",
        "conds.pt",
    }


def test_the_writer_and_the_library_agree(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 4),
        "b": torch.randn(5).bfloat16(),
        "count": torch.tensor(7),
    }
    planned = [
        Tensor(name, tuple(tensor.shape), lambda tensor=tensor: tensor, tensor.dtype)
        for name, tensor in tensors.items()
    ]
    write_safetensors(tmp_path / "x.safetensors", planned, torch.float32)
    got = load_file(tmp_path / "x.safetensors")
    assert got.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor)


def test_a_draw_of_the_wrong_size_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x was drawn with 3 values"):
        write_safetensors(tmp_path / "x.safetensors", [Tensor("x", (2,), lambda: torch.zeros(3))], torch.float32)


def test_the_command(tmp_path: Path) -> None:
    program = ROOT / "benchmarks" / "make_checkpoint.py"
    options = ("--flavour", "nano", "--layers", "1", "--mid-blocks", "1", "--dtype", "bfloat16", "--seed", "3")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "model"), *options],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "GB in" in done.stdout
    with safe_open(tmp_path / "model" / "t3_nano_v1.safetensors", "pt") as file:
        assert {name.split(".")[2] for name in file.keys() if name.startswith("tfmr.h.")} == {"0"}  # noqa: SIM118
        assert file.get_slice("tfmr.wte.weight").get_shape() == [50276, 768]
        assert file.get_slice("text_head.weight").get_dtype() == "BF16"


def test_stop_comes_in_good_time(model: Chatterbox) -> None:
    voice = model.default_voice
    assert voice is not None
    batch, settings, generator = 8, SamplingSettings(), torch.Generator().manual_seed(1)
    text = torch.tensor(model.tokenizer.encode("This is a sentence of a usual length, spoken by nobody."))
    with torch.inference_mode():
        prefix = model.t3.prefix(voice.speaker_embedding, voice.prompt_tokens)
        cache = model.t3.new_cache(prefix, batch, len(text) + 100)
        logits = model.t3.prefill(text.repeat(batch, 1), torch.full((batch,), len(text)), cache)
        seen = torch.zeros_like(logits, dtype=torch.bool)
        stop_probability, spoken = [], []
        for _ in range(30):
            processed = process(logits, seen, settings)
            stop_probability.append(processed.softmax(-1)[:, STOP_TOKEN].mean())
            processed[:, STOP_TOKEN] = -torch.inf
            tokens = pick(processed, torch.rand(batch, generator=generator))
            seen[torch.arange(batch), tokens] = True
            spoken.append(tokens)
            logits = model.t3.step(tokens, cache)
    mean = float(torch.stack(stop_probability).mean())
    assert 1 / 250 < mean < 1 / 50, "utterances of 2 to 10 s on average"
    # A token is rarely the one before, and rows do not say the same.
    said = torch.stack(spoken)
    assert (said[1:] == said[:-1]).float().mean() < 0.1
    assert len(said.unique()) > 100


def test_the_decoder_makes_sound(model: Chatterbox, record_property: pytest.RecordProperty) -> None:
    voice = model.default_voice
    assert voice is not None
    generator = torch.Generator().manual_seed(2)
    tokens = torch.cat((voice.flow_prompt_tokens[:50], torch.randint(6561, (50,), generator=generator)))[None]
    noise = torch.randn(1, 80, 200, generator=generator)
    with torch.inference_mode():
        mel = model.flow(tokens, None, voice.flow_prompt_mel[None, :100], None, voice.x_vector[None], noise)[:, :, 100:]
        f0 = model.vocoder.f0(mel)
        source_noise = torch.randn(1, 9, 100 * 480, generator=generator)
        wave = model.vocoder(mel, torch.zeros(1, 9), torch.zeros(1, 9), source_noise)
    level = float(wave.square().mean().sqrt())
    figures = {
        "mel mean": float(mel.mean()),
        "mel std": float(mel.std()),
        "F0 quantiles": f0.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist(),
        "level": level,
    }
    for name, value in figures.items():
        record_property(name, value)
    assert abs(float(mel.mean()) - MEL_MEAN) < 2
    assert 0.5 < float(mel.std()) < 6
    assert 80 < float(f0.median()) < 250
    assert float(f0.std()) > 30
    assert float(f0.quantile(0.95)) < 2.5 * F0_MEAN
    assert 0.02 < level < 0.4
    assert float((wave.abs() > 0.98).float().mean()) < 0.01, "hardly clipped"
    print(figures)
