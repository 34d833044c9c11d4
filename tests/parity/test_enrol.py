"""Our enrolment against the reference's `prepare_conditionals`: the encoders at real widths, seeded.

Two of the tokenizer's six blocks are left: the code around them is the same for any number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from tts_engine.chatterbox import torchaudio_stand_in
from tts_engine.chatterbox.clip import read_clip
from tts_engine.chatterbox.enrol import Encoders, Enrolment, EnrolmentError, enrol, load_encoders
from tts_engine.chatterbox.voice import Voice
from tts_engine.chatterbox.voice_file import VoiceMetadata
from tts_engine.chatterbox.voice_store import VoiceStore
from tts_engine.embedded.model import load_models, speak
from tts_engine.embedded.waveform import FULL_RATE as SPEECH_RATE
from tts_engine.resample import FULL_SCALE, Samples

torchaudio_stand_in.install()

SENTENCES = (
    "The harbour master keeps a careful record of every ship that comes in with the morning tide.",
    "My daughter would rather walk to school than wait for the bus in this kind of weather.",
    "Please bring two forms of identification, one of which should carry a photograph.",
)


@dataclass(frozen=True)
class Workshop:
    """What enrolment needs: a model directory, a clip, and the reference that holds the same weights."""

    model: Path
    encoders: Encoders
    reference: Any
    speech: Samples
    "(n,) at 24 kHz, over 12 s."
    full: Enrolment
    "Of its first 12 s, with a prompt of 10 s."


TOKENIZER_BLOCKS = 2


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    from s3tokenizer.model_v2 import S3TokenizerV2

    with pytest.MonkeyPatch.context() as patch:
        # The one default configuration that every tokenizer is built with.
        patch.setattr(S3TokenizerV2.__init__.__defaults__[0], "n_audio_layer", TOKENIZER_BLOCKS)
        reference = _reference()
        model = tmp_path_factory.mktemp("model")
        save_file(reference.ve.state_dict(), model / "ve.safetensors")
        weights = {f"tokenizer.{name}": tensor for name, tensor in reference.s3gen.tokenizer.state_dict().items()}
        encoder = reference.s3gen.speaker_encoder.state_dict()
        weights |= {f"speaker_encoder.{name}": tensor for name, tensor in encoder.items()}
        # Not of the flow's shape: whoever took it for the flow would fail.
        weights["flow.input_embedding.weight"] = torch.zeros(3, 3)
        save_file(weights, model / "s3gen_meanflow.safetensors")
        encoders = load_encoders(model)
        speech = _speech()
        yield Workshop(model, encoders, reference, speech, enrol(speech[: 12 * SPEECH_RATE], encoders))


def _reference() -> Any:
    """What `prepare_conditionals` takes of a ChatterboxTurboTTS, without its T3, flow and vocoder."""
    from chatterbox.models.s3gen.s3gen import S3Token2Mel
    from chatterbox.models.s3gen.utils.mel import mel_spectrogram
    from chatterbox.models.s3gen.xvector import CAMPPlus
    from chatterbox.models.s3tokenizer import S3Tokenizer
    from chatterbox.models.voice_encoder import VoiceEncoder
    from chatterbox.tts_turbo import ChatterboxTurboTTS

    torch.manual_seed(11)
    s3gen = SimpleNamespace(
        tokenizer=S3Tokenizer("speech_tokenizer_v2_25hz").eval(),
        speaker_encoder=CAMPPlus(memory_efficient=False).eval(),
        mel_extractor=mel_spectrogram,
        dtype=torch.float32,
    )
    _spread_tokens(s3gen.tokenizer)
    _settle_batch_norms(s3gen.speaker_encoder)
    s3gen.embed_ref = partial(S3Token2Mel.embed_ref, s3gen)
    reference = object.__new__(ChatterboxTurboTTS)
    reference.s3gen = s3gen
    reference.ve = VoiceEncoder().eval()
    reference.device = "cpu"
    reference.t3 = SimpleNamespace(hp=SimpleNamespace(speech_cond_prompt_len=375))
    return reference


def _spread_tokens(tokenizer: Any) -> None:
    """Random weights leave every token next to the same code; wider ones make them differ as speech's do."""
    with torch.no_grad():
        tokenizer.quantizer._codebook.project_down.weight.mul_(4)


def _settle_batch_norms(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(12)
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            norm.running_mean.copy_(0.1 * torch.randn(norm.running_mean.shape, generator=generator))
            norm.running_var.copy_(1 + 0.2 * torch.rand(norm.running_var.shape, generator=generator))


def _speech() -> Samples:
    model = load_models({"heart"})["heart"]
    pcm = b"".join(piece.pcm for text in SENTENCES for piece in speak(model, text, 1.0, SPEECH_RATE, 5))
    speech: Samples = np.frombuffer(pcm, "<i2").astype(np.float32) / FULL_SCALE
    assert len(speech) > 12 * SPEECH_RATE
    return speech


def _reference_conds(workshop: Workshop, file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import pyloudnorm

    measured = pyloudnorm.Meter.integrated_loudness
    # Written for NumPy 1, where float32 x float64 scalar stays float32. A Python float makes it so in NumPy 2.
    monkeypatch.setattr(pyloudnorm.Meter, "integrated_loudness", lambda meter, wav: float(measured(meter, wav)))
    workshop.reference.prepare_conditionals(str(file))
    return workshop.reference.conds


def _assert_equal(voice: Voice, conds: Any) -> None:
    torch.testing.assert_close(voice.speaker_embedding, conds.t3.speaker_emb[0], atol=1e-5, rtol=0)
    assert torch.equal(voice.prompt_tokens, conds.t3.cond_prompt_speech_tokens[0])
    assert torch.equal(voice.flow_prompt_tokens, conds.gen["prompt_token"][0])
    mel = conds.gen["prompt_feat"][0]
    torch.testing.assert_close(voice.flow_prompt_mel, mel[: len(voice.flow_prompt_mel)], atol=1e-5, rtol=0)
    assert len(mel) - len(voice.flow_prompt_mel) in (0, 1)  # the odd frame of a clip that is no whole number of tokens
    torch.testing.assert_close(voice.x_vector, conds.gen["embedding"][0], atol=1e-5, rtol=0)


def test_a_clip_of_12_s_gives_the_reference_conditioning(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stereo at 44.1 kHz in 16 bits: reading, mixing and resampling have to agree too.
    import soxr

    mono = soxr.resample(workshop.speech[: 12 * SPEECH_RATE], SPEECH_RATE, 44_100)
    file = tmp_path / "clip.wav"
    soundfile.write(file, np.stack([mono, 0.6 * mono], axis=1), 44_100, subtype="PCM_16")

    voice = enrol(read_clip(file).samples, workshop.encoders).voice
    _assert_equal(voice, _reference_conds(workshop, file, monkeypatch))
    assert (len(voice.prompt_tokens), len(voice.flow_prompt_tokens)) == (300, 250)
    assert len(voice.flow_prompt_mel) == 500
    # Otherwise the equality above would say little.
    assert len(set(voice.prompt_tokens.tolist())) > 50
    assert float(voice.x_vector.std()) > 0.01


def test_a_short_odd_clip_gives_the_reference_conditioning(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "clip.flac"
    soundfile.write(file, workshop.speech[: int(6.487 * SPEECH_RATE)], SPEECH_RATE)
    voice = enrol(read_clip(file).samples, workshop.encoders).voice
    _assert_equal(voice, _reference_conds(workshop, file, monkeypatch))
    assert len(voice.flow_prompt_mel) == 2 * len(voice.flow_prompt_tokens) == 324


def test_a_shorter_prompt_shortens_the_flows_prompt_alone(workshop: Workshop, tmp_path: Path) -> None:
    speech = workshop.speech[: 12 * SPEECH_RATE]
    full = workshop.full
    short = enrol(speech, workshop.encoders, prompt_seconds=3.0)
    assert short.voice.prompt_seconds == 3.0
    assert (len(short.voice.flow_prompt_tokens), len(short.voice.flow_prompt_mel)) == (75, 150)
    # But for the frames that see past its end, it is the start of the longer one.
    torch.testing.assert_close(short.voice.flow_prompt_mel[:145], full.voice.flow_prompt_mel[:145], atol=1e-5, rtol=0)
    for same in ("speaker_embedding", "prompt_tokens", "x_vector"):
        assert torch.equal(getattr(short.voice, same), getattr(full.voice, same))
    assert short.loudness == full.loudness

    store = VoiceStore(tmp_path)
    store.add("short", short.voice, VoiceMetadata("short"))
    assert torch.equal(store.read("short")[0].flow_prompt_mel, short.voice.flow_prompt_mel)


def test_loudness_of_the_clip_does_not_matter(workshop: Workshop) -> None:
    speech = workshop.speech[: 3 * SPEECH_RATE]
    loud, quiet = (enrol(gain * speech, workshop.encoders, 2.0) for gain in (1.0, 0.1))
    assert loud.loudness - quiet.loudness == pytest.approx(20.0, abs=0.05)
    torch.testing.assert_close(loud.voice.flow_prompt_mel, quiet.voice.flow_prompt_mel, atol=1e-2, rtol=0)
    torch.testing.assert_close(loud.voice.speaker_embedding, quiet.voice.speaker_embedding, atol=1e-3, rtol=0)


def test_encoders_are_named_by_their_weights(workshop: Workshop, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    other = load_file(workshop.model / "ve.safetensors")
    other["proj.bias"] = other["proj.bias"] + 1e-3
    save_file(other, tmp_path / "ve.safetensors")
    (tmp_path / "s3gen_meanflow.safetensors").symlink_to(workshop.model / "s3gen_meanflow.safetensors")
    changed = load_encoders(tmp_path).sha256
    assert len(changed) == 64
    assert changed != workshop.encoders.sha256


def test_a_model_without_its_encoders_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(EnrolmentError, match=r"ve\.safetensors is missing.*fetch-model"):
        load_encoders(tmp_path)
    (tmp_path / "ve.safetensors").symlink_to(workshop.model / "ve.safetensors")
    with pytest.raises(EnrolmentError, match=r"s3gen_meanflow\.safetensors is missing"):
        load_encoders(tmp_path)
    s3gen = tmp_path / "s3gen_meanflow.safetensors"
    s3gen.write_text(json.dumps({"not": "a model"}))
    with pytest.raises(EnrolmentError, match="cannot be read as safetensors"):
        load_encoders(tmp_path)
    s3gen.unlink()
    save_file({"flow.input_embedding.weight": torch.zeros(1)}, s3gen)  # a checkpoint without its encoders
    with pytest.raises(EnrolmentError, match=r"does not hold the encoders.*\d+ tensors missing \(encoder\.blocks"):
        load_encoders(tmp_path)


def test_the_command_makes_a_voice_that_serving_can_read(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from mediaserver.cli_voices import app

    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    clip = tmp_path / "anna.ogg"
    soundfile.write(clip, workshop.speech[: 8 * SPEECH_RATE], SPEECH_RATE)
    arguments = ["add", "anna", str(clip), "--model", str(workshop.model), "--prompt-seconds", "4"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    voice, metadata = VoiceStore(tmp_path / "voices").read("anna")
    assert voice.prompt_seconds == metadata.prompt_seconds == 4.0
    assert metadata.encoders_sha256 == workshop.encoders.sha256
    assert f"{metadata.source_loudness:.1f} LUFS" in result.stdout
