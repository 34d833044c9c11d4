"""The reference loads what make_checkpoint writes, and our loader what the reference's state_dict() gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import perth
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.make_checkpoint import released_sizes, write_checkpoint
from benchmarks.synthetic_tokenizer import write_tokenizer
from tests.parity.reference import reference_s3gen, reference_t3
from tts_engine.chatterbox.model import Chatterbox, load

from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS  # isort: skip  # after the stand-in for torchaudio
from chatterbox.tts_turbo import ChatterboxTurboTTS  # isort: skip

LAYERS = 1

pytestmark = pytest.mark.timeout(300)  # the reference draws 260 million weights before it loads any


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("turbo")
    write_checkpoint(directory, sizes=released_sizes("turbo", layers=LAYERS), dtype=torch.bfloat16, enrolment=True)
    return directory


@pytest.fixture(scope="module")
def reference(written: Path) -> Iterator[Any]:
    """The reference's own loading, strict for all modules, of a T3 of fewer blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LLAMA_CONFIGS, "GPT2_medium", LLAMA_CONFIGS["GPT2_medium"] | {"n_layer": LAYERS})
        patch.setattr(perth, "PerthImplicitWatermarker", lambda: None)  # wants a package that Python no longer brings
        yield ChatterboxTurboTTS.from_local(written, "cpu")


@pytest.fixture(scope="module")
def ours(written: Path) -> Chatterbox:
    return load(written)


def same(module: torch.nn.Module, expected: torch.nn.Module, tolerance: float = 0.0) -> None:
    """Every tensor of ours is one of the reference's; a weight that is computed there (weight norm) counts too."""
    for name, tensor in module.state_dict().items():
        path, _, leaf = name.rpartition(".")
        assert torch.allclose(tensor, getattr(expected.get_submodule(path), leaf), rtol=tolerance, atol=tolerance), name


def test_both_have_the_same_weights(reference: Any, ours: Chatterbox) -> None:
    assert ours.flavour == "turbo"
    assert ours.sizes.layers == LAYERS
    with torch.inference_mode():
        same(ours.t3, reference.t3)
        same(ours.flow, reference.s3gen.flow)
        same(ours.vocoder, reference.s3gen.mel2wav, tolerance=1e-6)


def test_both_have_the_same_voice(reference: Any, ours: Chatterbox) -> None:
    voice, t3, gen = ours.default_voice, reference.conds.t3, reference.conds.gen
    assert voice is not None
    assert torch.equal(voice.speaker_embedding, t3.speaker_emb[0])
    assert torch.equal(voice.prompt_tokens, t3.cond_prompt_speech_tokens[0])
    assert torch.equal(voice.flow_prompt_tokens, gen["prompt_token"][0])
    assert torch.equal(voice.flow_prompt_mel, gen["prompt_feat"][0])
    assert torch.equal(voice.x_vector, gen["embedding"][0])


def test_both_read_text_alike(reference: Any, ours: Chatterbox) -> None:
    for text in ("Hello there, friend.", "Oh [laugh] that's 12.50, isn't it?"):
        assert ours.tokenizer.encode(text) == reference.tokenizer(text).input_ids
    assert len(ours.tokenizer) == len(reference.tokenizer)


def test_the_reference_speaks_with_it(reference: Any) -> None:
    """Tokens to waveform: the random model is heard, and does not overflow."""
    tokens = torch.randint(6561, (40,), generator=torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    with torch.inference_mode():
        wave, _ = reference.s3gen.inference(speech_tokens=tokens, ref_dict=reference.conds.gen, n_cfm_timesteps=2)
    assert wave.shape == (1, 40 * 960)
    level = float(wave.square().mean().sqrt())
    assert 0.01 < level < 0.5


def test_our_loader_takes_the_references_state_dict(tmp_path: Path) -> None:
    t3, s3gen = reference_t3(), reference_s3gen()
    save_file(t3.state_dict(), tmp_path / "t3_turbo_v1.safetensors")
    save_file(s3gen.state_dict(), tmp_path / "s3gen_meanflow.safetensors")
    write_tokenizer(tmp_path)
    model = load(tmp_path)
    assert (model.sizes.layers, model.sizes.width, model.sizes.heads) == (4, 1024, 16)
    assert len(model.flow.decoder.estimator.mid_blocks) == 2
    assert model.default_voice is None
    with torch.inference_mode():
        same(model.t3, t3)
        same(model.flow, s3gen.flow)
        same(model.vocoder, s3gen.mel2wav, tolerance=1e-6)
