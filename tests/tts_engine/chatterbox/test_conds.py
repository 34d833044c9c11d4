"""conds.pt: the built-in voice, and what is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tts_engine.chatterbox.conds import CondsError, read_conds


def conditionals() -> dict[str, Any]:
    """As the reference's Conditionals.save leaves it."""
    torch.manual_seed(4)
    return {
        "t3": {
            "speaker_emb": torch.randn(1, 256),
            "clap_emb": None,
            "cond_prompt_speech_tokens": torch.randint(6561, (1, 375)),
            "cond_prompt_speech_emb": None,
            "emotion_adv": 0.5 * torch.ones(1, 1, 1),
        },
        "gen": {
            "prompt_token": torch.randint(6561, (1, 250)),
            "prompt_token_len": torch.tensor([250]),
            "prompt_feat": torch.randn(1, 500, 80),
            "prompt_feat_len": None,
            "embedding": torch.randn(1, 192),
        },
    }


def saved(path: Path, conds: object) -> Path:
    torch.save(conds, path / "conds.pt")
    return path / "conds.pt"


def refused(path: Path, said: str) -> None:
    with pytest.raises(CondsError) as caught:
        read_conds(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith("conds.pt")


def test_all_tensors_arrive(tmp_path: Path) -> None:
    conds = conditionals()
    voice = read_conds(saved(tmp_path, conds))
    assert torch.equal(voice.speaker_embedding, conds["t3"]["speaker_emb"][0])
    assert torch.equal(voice.prompt_tokens, conds["t3"]["cond_prompt_speech_tokens"][0])
    assert torch.equal(voice.flow_prompt_tokens, conds["gen"]["prompt_token"][0])
    assert torch.equal(voice.flow_prompt_mel, conds["gen"]["prompt_feat"][0])
    assert torch.equal(voice.x_vector, conds["gen"]["embedding"][0])
    assert voice.prompt_seconds == 10


def test_other_dtypes_are_normalised(tmp_path: Path) -> None:
    conds = conditionals()
    conds["gen"]["prompt_token"] = conds["gen"]["prompt_token"].int()
    conds["gen"]["prompt_feat"] = conds["gen"]["prompt_feat"].half()
    voice = read_conds(saved(tmp_path, conds))
    assert voice.flow_prompt_tokens.dtype == torch.int64
    assert voice.flow_prompt_mel.dtype == torch.float32


def test_one_mel_frame_too_many_is_cut(tmp_path: Path) -> None:
    conds = conditionals()
    conds["gen"]["prompt_feat"] = torch.randn(1, 501, 80)
    voice = read_conds(saved(tmp_path, conds))
    assert torch.equal(voice.flow_prompt_mel, conds["gen"]["prompt_feat"][0, :500])


@pytest.mark.parametrize(
    ("group", "name", "value", "said"),
    [
        ("t3", "speaker_emb", torch.zeros(1, 192), "speaker_emb is (1, 192)"),
        ("t3", "speaker_emb", torch.full((1, 256), float("nan")), "not finite"),
        ("t3", "cond_prompt_speech_tokens", torch.tensor([[6561]]), "outside 0 to 6560"),
        ("t3", "cond_prompt_speech_tokens", torch.tensor([[-1]]), "outside 0 to 6560"),
        ("t3", "cond_prompt_speech_tokens", torch.zeros(1, 376, dtype=torch.int64), "376 tokens"),
        ("t3", "cond_prompt_speech_tokens", torch.zeros(1, 10), "integers"),
        ("t3", "cond_prompt_speech_tokens", torch.zeros(1, 0, dtype=torch.int64), "(1, 0)"),
        ("t3", "cond_prompt_speech_tokens", None, "lacks"),
        ("gen", "prompt_feat", torch.zeros(1, 400, 80), "prompt_feat is (1, 400, 80) torch.float32, wanted (1, 500,"),
        ("gen", "prompt_feat", torch.zeros(500, 80), "prompt_feat is (500, 80)"),
        ("gen", "embedding", torch.zeros(1, 80), "embedding is (1, 80)"),
        ("gen", "embedding", "text", "lacks"),
    ],
)
def test_voices_of_another_model(tmp_path: Path, group: str, name: str, value: object, said: str) -> None:
    conds = conditionals()
    conds[group][name] = value
    refused(saved(tmp_path, conds), said)


@pytest.mark.parametrize("conds", [{}, {"t3": {}, "gen": {}}, {"t3": None, "gen": []}, [1, 2], torch.zeros(3), 5, "x"])
def test_other_contents(tmp_path: Path, conds: object) -> None:
    refused(saved(tmp_path, conds), "lacks")


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("hostile code ran",)


@pytest.mark.parametrize("as_archive", [True, False])
def test_code_in_the_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_archive: bool) -> None:
    monkeypatch.chdir(tmp_path)
    conds = conditionals() | {"surprise": Hostile()}
    if as_archive:
        refused(saved(tmp_path, conds), "could run code")
    else:
        (tmp_path / "conds.pt").write_bytes(pickle.dumps(conds))
        refused(tmp_path / "conds.pt", "not a PyTorch file")
    assert [path.name for path in tmp_path.iterdir()] == ["conds.pt"]


def test_files_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "conds.pt"
    refused(path, "No such file")
    for content in (b"", b"text", b"PK\x03\x04", b"\x80\x02garbage"):
        path.write_bytes(content)
        refused(path, "not a PyTorch file")


def test_truncated_and_damaged_files(tmp_path: Path) -> None:
    path = saved(tmp_path, conditionals())
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        refused(path, "truncated")
    damaged = bytearray(whole)
    at = whole.index(b"data.pkl")
    damaged[at + 64 : at + 200] = bytes(136)
    path.write_bytes(damaged)
    refused(path, "")
