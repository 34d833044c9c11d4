"""The reference loads what make_checkpoint writes, and our loader what the reference's state_dict() gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.synthetic_tokenizer import write_tokenizer
from tests.parity.pair import LAYERS, Pair
from tests.parity.reference import MID_BLOCKS, reference_s3gen, reference_t3
from tts_engine.chatterbox.model import load


def same(module: torch.nn.Module, expected: torch.nn.Module, tolerance: float = 0.0) -> None:
    """Every tensor of ours is one of the reference's; a weight that is computed there (weight norm) counts too."""
    for name, tensor in module.state_dict().items():
        path, _, leaf = name.rpartition(".")
        assert torch.allclose(tensor, getattr(expected.get_submodule(path), leaf), rtol=tolerance, atol=tolerance), name


def test_both_have_the_same_weights(pair: Pair) -> None:
    ours, reference = pair.ours, pair.reference
    assert ours.flavour == "turbo"
    depth = (ours.sizes.layers, len(ours.flow.decoder.estimator.mid_blocks))
    assert depth == ((24, 12) if pair.released else (LAYERS, MID_BLOCKS))
    with torch.inference_mode():
        same(ours.t3, reference.t3)
        same(ours.flow, reference.s3gen.flow)
        same(ours.vocoder, reference.s3gen.mel2wav, tolerance=1e-6)


def test_both_have_the_same_voice(pair: Pair) -> None:
    voice, t3, gen = pair.ours.default_voice, pair.reference.conds.t3, pair.reference.conds.gen
    assert voice is not None
    assert torch.equal(voice.speaker_embedding, t3.speaker_emb[0])
    assert torch.equal(voice.prompt_tokens, t3.cond_prompt_speech_tokens[0])
    assert torch.equal(voice.flow_prompt_tokens, gen["prompt_token"][0])
    assert torch.equal(voice.flow_prompt_mel, gen["prompt_feat"][0])
    assert torch.equal(voice.x_vector, gen["embedding"][0])


def test_both_read_text_alike(pair: Pair) -> None:
    for text in ("Hello there, friend.", "Oh [laugh] that's 12.50, isn't it?"):
        assert pair.ours.tokenizer.encode(text) == pair.reference.tokenizer(text).input_ids
    assert len(pair.ours.tokenizer) == len(pair.reference.tokenizer)


def test_the_reference_speaks_with_it(pair: Pair) -> None:
    """Tokens to waveform: the random model is heard, and does not overflow."""
    if pair.released:
        pytest.skip("released weights make what they will of random tokens")
    tokens = torch.randint(6561, (20,), generator=torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    with torch.inference_mode():
        wave, _ = pair.reference.s3gen.inference(
            speech_tokens=tokens, ref_dict=pair.reference.conds.gen, n_cfm_timesteps=2
        )
    assert wave.shape == (1, 20 * 960)
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
