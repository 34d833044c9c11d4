"""Loading a model directory: what comes out, and what is said of directories that are not whole."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.make_checkpoint import small_sizes, write_checkpoint
from tts_engine.chatterbox.checkpoint import SHOWN, CheckpointError, named
from tts_engine.chatterbox.conds import read_conds
from tts_engine.chatterbox.model import UNREAD_T3, Chatterbox, load
from tts_engine.chatterbox.tensor_file import TensorFile
from tts_engine.errors import EngineError

T3_FILE, S3GEN = "t3_turbo_v1.safetensors", "s3gen_meanflow.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    write_checkpoint(directory, sizes=small_sizes(), dtype=torch.float16)
    return directory


@pytest.fixture
def directory(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(whole, tmp_path / "model")
    return tmp_path / "model"


def problems(directory: Path) -> tuple[str, ...]:
    with pytest.raises(CheckpointError) as caught:
        load(directory)
    assert str(directory) in str(caught.value)
    assert "chatterline fetch-model" in str(caught.value)
    for problem in caught.value.problems:
        assert problem in str(caught.value)
        assert "\n" not in problem
    return caught.value.problems


def change(path: Path, how: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    how(tensors)
    save_file(tensors, path)


def without(*names: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in names:
            del tensors[name]

    return drop


def modules(model: Chatterbox) -> list[torch.nn.Module]:
    return [model.t3, model.flow, model.vocoder]


def test_a_whole_model(whole: Path) -> None:
    model = load(whole)
    assert model.flavour == "turbo"
    assert model.sizes == small_sizes().t3
    assert model.flow.sizes == small_sizes().flow
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    assert len(model.tokenizer) == 50276
    expected = read_conds(whole / "conds.pt")
    assert model.default_voice is not None
    assert torch.equal(model.default_voice.flow_prompt_mel, expected.flow_prompt_mel)
    for module in modules(model):
        assert not module.training
        assert not any(tensor.is_meta or tensor.requires_grad for tensor in module.parameters())
    assert torch.equal(model.t3.text_emb.weight, load_file(whole / T3_FILE)["text_emb.weight"].float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(whole: Path, dtype: torch.dtype) -> None:
    model = load(whole, dtype=dtype)
    assert model.dtype == dtype
    for module in (model.t3, model.flow):
        assert {parameter.dtype for parameter in module.parameters()} == {dtype}
    for name, parameter in model.vocoder.named_parameters():
        kept = name.startswith(("f0_predictor.", "m_source."))
        assert parameter.dtype == (torch.float32 if kept else dtype), name
    assert model.default_voice is not None
    assert model.default_voice.x_vector.dtype == torch.float32


def test_it_speaks(whole: Path) -> None:
    model = load(whole)
    voice = model.default_voice
    assert voice is not None
    new = torch.arange(20)
    tokens = torch.cat((voice.flow_prompt_tokens, new))[None]
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, 80, 2 * tokens.shape[1], generator=generator)
    with torch.inference_mode():
        prefix = model.t3.prefix(voice.speaker_embedding, voice.prompt_tokens)
        cache = model.t3.new_cache(prefix, 1, 40)
        logits = model.t3.prefill(torch.tensor([model.tokenizer.encode("Hello.")]), torch.tensor([2]), cache)
        mel = model.flow(tokens, None, voice.flow_prompt_mel[None], None, voice.x_vector[None], noise)[:, :, -40:]
        source_noise = torch.randn(1, 9, 40 * 480, generator=generator)
        wave = model.vocoder(mel, torch.zeros(1, 9), torch.zeros(1, 9), source_noise)
    assert logits.shape == (1, 6563) and bool(logits.isfinite().all())
    assert wave.shape == (1, 40 * 480) and bool(wave.isfinite().all())


def test_tables_that_inference_does_not_use_may_be_missing_and_are_never_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    original = TensorFile.read

    def noted(self: TensorFile, name: str, *arguments: object) -> torch.Tensor:
        read.append(name)
        return original(self, name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TensorFile, "read", noted)
    load(directory)
    assert not set(UNREAD_T3) & set(read)
    assert len(read) == len(set(read))
    change(directory / T3_FILE, without(*UNREAD_T3))
    load(directory)


def test_the_encoders_of_enrolment_are_ignored(directory: Path) -> None:
    change(
        directory / S3GEN,
        lambda tensors: tensors.update({"speaker_encoder.x": torch.zeros(1), "tokenizer.n": torch.tensor(1)}),
    )
    load(directory)


def test_nano_is_known_by_its_file(directory: Path) -> None:
    (directory / T3_FILE).rename(directory / "t3_nano_v1.safetensors")
    assert load(directory).flavour == "nano"


def test_two_models_in_one_directory(directory: Path) -> None:
    shutil.copy(directory / T3_FILE, directory / "t3_nano_v1.safetensors")
    assert problems(directory) == (
        "t3_turbo_v1.safetensors and t3_nano_v1.safetensors: one directory is for one model",
    )


def test_without_a_built_in_voice(directory: Path) -> None:
    (directory / "conds.pt").unlink()
    assert load(directory).default_voice is None


def test_no_such_directory(tmp_path: Path) -> None:
    assert problems(tmp_path / "none") == ("there is no such directory",)
    (tmp_path / "file").write_text("")
    assert problems(tmp_path / "file") == ("it is not a directory",)


def test_an_empty_directory(tmp_path: Path) -> None:
    assert problems(tmp_path) == (
        "t3_turbo_v1.safetensors (or t3_nano_v1.safetensors) is missing",
        "s3gen_meanflow.safetensors is missing",
        "vocab.json is missing",
        "merges.txt is missing",
    )


def test_a_half_downloaded_directory(directory: Path) -> None:
    (directory / S3GEN).unlink()
    partial = directory / ".cache" / "huggingface" / "download"
    partial.mkdir(parents=True)
    (partial / "abc.incomplete").write_bytes(b"12")
    assert problems(directory) == (
        "s3gen_meanflow.safetensors is missing",
        "a download was interrupted here: the same fetch-model command completes it",
    )


def test_the_original_chatterbox_by_its_file_names(directory: Path) -> None:
    (directory / T3_FILE).rename(directory / "t3_cfg.safetensors")
    (found,) = problems(directory)
    assert "this is the original Chatterbox (t3_cfg.safetensors), which is another model" in found


def test_the_onnx_bundle(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    assert "this is the ONNX bundle" in problems(tmp_path)[0]


def test_the_original_chatterbox_under_turbos_name(directory: Path) -> None:
    save_file({"tfmr.layers.0.mlp.up_proj.weight": torch.zeros(4, 4)}, directory / T3_FILE)
    (found,) = problems(directory)
    assert found.startswith("t3_turbo_v1.safetensors is the original Chatterbox")


def test_a_decoder_without_meanflow(directory: Path) -> None:
    change(directory / S3GEN, without("flow.decoder.estimator.time_embed_mixer.weight"))
    (found,) = problems(directory)
    assert found.startswith("s3gen_meanflow.safetensors: ") and "meanflow" in found


def test_files_exchanged(directory: Path) -> None:
    shutil.copy(directory / S3GEN, directory / T3_FILE)
    (found,) = problems(directory)
    assert found.startswith("t3_turbo_v1.safetensors: not a T3 checkpoint")


def test_everything_wrong_is_said_at_once(directory: Path) -> None:
    def spoil_t3(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["tfmr.ln_f.bias"]
        tensors["tfmr.h.0.mlp.c_fc.bias"] = torch.zeros(7)
        tensors["surprise"] = torch.zeros(1)

    def spoil_s3gen(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["flow.encoder_proj.bias"]
        del tensors["mel2wav.conv_pre.parametrizations.weight.original1"]
        tensors["mel2wav.conv_post.bias"] = torch.zeros(18, dtype=torch.int64)
        tensors["other.module"] = torch.zeros(1)

    change(directory / T3_FILE, spoil_t3)
    change(directory / S3GEN, spoil_s3gen)
    (directory / "vocab.json").write_text("{")
    (directory / "conds.pt").write_bytes(b"")
    found = problems(directory)
    expected = (
        "t3_turbo_v1.safetensors lacks tfmr.ln_f.bias",
        "t3_turbo_v1.safetensors has unexpected surprise",
        "t3_turbo_v1.safetensors: tfmr.h.0.mlp.c_fc.bias is (7,), wanted (256,)",
        "s3gen_meanflow.safetensors lacks flow.encoder_proj.bias",
        "s3gen_meanflow.safetensors lacks mel2wav.conv_pre.weight",
        "s3gen_meanflow.safetensors has unexpected mel2wav.conv_pre.parametrizations.weight.original0",
        "s3gen_meanflow.safetensors has integers in place of floats: mel2wav.conv_post.bias",
        "s3gen_meanflow.safetensors has unexpected other.module",
        "conds.pt is not a PyTorch file, or is truncated",
    )
    assert [line for line in expected if line not in found] == []
    assert any("vocab.json" in line for line in found)
    assert len(found) == len(expected) + 1


@pytest.mark.parametrize("name", [T3_FILE, S3GEN])
def test_truncated_files(directory: Path, name: str) -> None:
    path = directory / name
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 1)
    assert problems(directory) == (f"{name} is truncated: {size - 1} bytes of {size}",)


def test_text_files(directory: Path) -> None:
    (directory / S3GEN).write_text("<html>Not found</html>")
    assert problems(directory) == (
        "s3gen_meanflow.safetensors is a text file, not a safetensors file; it begins '<html>Not found</html>'",
    )


def test_a_file_that_is_cut_while_it_is_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = TensorFile.read

    def cutting(self: TensorFile, *arguments: object) -> torch.Tensor:
        with (directory / T3_FILE).open("r+b") as file:
            file.truncate(1000)
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TensorFile, "read", cutting)
    assert problems(directory) == ("t3_turbo_v1.safetensors was cut short while it was read",)


def test_shapes_that_promise_more_than_memory(directory: Path) -> None:
    """Nothing is made of what a header says before the file is known to hold it."""
    header = json.dumps(
        {"text_emb.weight": {"dtype": "F32", "shape": [1 << 40, 1 << 10], "data_offsets": [0, 1 << 52]}}
    )
    (directory / T3_FILE).write_bytes(struct.pack("<Q", len(header)) + header.encode())
    assert problems(directory)[0].startswith("t3_turbo_v1.safetensors is truncated")


def test_devices_and_dtypes_that_are_not_there(whole: Path) -> None:
    with pytest.raises(EngineError, match="'gpu' is not the name of a device"):
        load(whole, device="gpu")
    with pytest.raises(EngineError, match=r"there is no device cuda:99: PyTorch sees \d+ CUDA devices"):
        load(whole, device="cuda:99")
    with pytest.raises(ValueError, match=r"torch\.int8"):
        load(whole, dtype=torch.int8)


def test_names_in_one_line() -> None:
    assert named(["b", "a"]) == "a, b"
    assert named(str(at) for at in range(SHOWN)).count(",") == SHOWN - 1
    assert named(f"{at:02}" for at in range(20)) == "00, 01, 02, 03, 04, 05, 06, 07 and 12 more"
