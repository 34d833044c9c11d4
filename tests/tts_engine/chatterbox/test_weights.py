"""Comparing a module with a file, and filling it: dtypes, prefixes, weight norm, memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from tts_engine.chatterbox.tensor_file import TensorFile
from tts_engine.chatterbox.vocoder import fold_weight_norm
from tts_engine.chatterbox.weights import Match, below, fill, match


class Toy(nn.Module):
    """As saved (with weight norm), or as served (folded)."""

    def __init__(self, *, folded: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.conv = nn.Conv1d(4, 6, 3)
        self.up = nn.ConvTranspose1d(6, 4, 4, stride=2)
        if not folded:
            self.conv = weight_norm(self.conv)
            self.up = weight_norm(self.up)
        self.f0 = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.f0(self.up(self.conv(self.norm(x).mT)).mT)


@pytest.fixture
def saved() -> Toy:
    torch.manual_seed(5)
    toy = Toy(folded=False)
    with torch.no_grad():
        for parameter in toy.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return toy


def write(path: Path, tensors: dict[str, torch.Tensor]) -> TensorFile:
    save_file(tensors, path)
    return TensorFile(path)


def served() -> Toy:
    with torch.device("meta"):
        return Toy(folded=True)


def matched(tmp_path: Path, tensors: dict[str, torch.Tensor], prefix: str = "", unread: tuple[str, ...] = ()) -> Match:
    with write(tmp_path / "toy.safetensors", tensors) as file:
        return match(served(), file, prefix, unread)


def test_the_filled_module_computes_the_same(tmp_path: Path, saved: Toy) -> None:
    toy = served()
    with write(tmp_path / "toy.safetensors", saved.state_dict()) as file:
        found = match(toy, file)
        assert found.problems == []
        fill(toy, file, found, dtype=torch.float32)
    x = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(toy(x), saved(x), atol=1e-6)
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in toy.parameters())
    assert not toy.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_parts_that_stay_float32(tmp_path: Path, saved: Toy, dtype: torch.dtype) -> None:
    toy = served()
    with write(tmp_path / "toy.safetensors", saved.state_dict()) as file:
        fill(toy, file, match(toy, file), dtype=dtype, keep_float32=lambda name: name.startswith("f0."))
    assert {name for name, tensor in toy.named_parameters() if tensor.dtype == torch.float32} == {
        "f0.weight",
        "f0.bias",
    }
    assert all(tensor.dtype in (dtype, torch.float32) for tensor in toy.parameters())
    # Folded in float32 and rounded once.
    assert torch.equal(toy.conv.weight, saved.conv.weight.to(dtype))


def test_weight_norm_is_folded_over_the_first_dimension(saved: Toy) -> None:
    for module in (saved.conv, saved.up):
        parts = module.parametrizations.weight
        assert torch.allclose(fold_weight_norm(parts.original0, parts.original1), module.weight, atol=1e-7)


def test_an_already_folded_file_is_taken_too(tmp_path: Path, saved: Toy) -> None:
    folded = {
        name: tensor
        for name, tensor in {**saved.state_dict(), "conv.weight": saved.conv.weight.detach()}.items()
        if not name.startswith("conv.parametrizations")
    }
    found = matched(tmp_path, folded)
    assert found.problems == []
    assert found.sources["conv.weight"] == ("conv.weight",)


def test_prefix(tmp_path: Path, saved: Toy) -> None:
    tensors = {f"mel2wav.{name}": tensor for name, tensor in saved.state_dict().items()}
    tensors["flow.other"] = torch.zeros(3)  # another module's
    toy = served()
    with write(tmp_path / "toy.safetensors", tensors) as file:
        found = match(toy, file, "mel2wav.")
        assert found.problems == []
        fill(toy, file, found, dtype=torch.float32)
    assert torch.equal(toy.f0.weight, saved.f0.weight)


def test_below() -> None:
    assert below({"a.b": (1,), "c.a.d": (2,)}, "a.") == {"b": (1,)}


def test_missing_and_unexpected_are_named(tmp_path: Path, saved: Toy) -> None:
    tensors = dict(saved.state_dict())
    del tensors["norm.bias"], tensors["up.parametrizations.weight.original0"]
    tensors |= {"text_head.weight": torch.zeros(2), "strange": torch.zeros(2)}
    problems = matched(tmp_path, tensors, unread=("text_head.weight",)).problems
    assert problems == [
        "toy.safetensors lacks norm.bias, up.weight",
        "toy.safetensors has unexpected strange, up.parametrizations.weight.original1",
    ]


def test_shapes_are_named(tmp_path: Path, saved: Toy) -> None:
    tensors = dict(saved.state_dict())
    tensors["f0.weight"] = torch.zeros(3, 4)
    tensors["conv.parametrizations.weight.original0"] = torch.zeros(5, 1, 1)
    assert sorted(matched(tmp_path, tensors).problems) == [
        "toy.safetensors: conv.parametrizations.weight.original0 is (5, 1, 1), wanted (6, 1, 1)",
        "toy.safetensors: f0.weight is (3, 4), wanted (2, 4)",
    ]


def test_integers_are_refused(tmp_path: Path, saved: Toy) -> None:
    tensors = dict(saved.state_dict())
    tensors["f0.weight"] = torch.zeros(2, 4, dtype=torch.int64)
    assert matched(tmp_path, tensors).problems == ["toy.safetensors has integers in place of floats: f0.weight"]


def test_long_lists_are_cut(tmp_path: Path) -> None:
    class Many(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(30))

    with write(tmp_path / "many.safetensors", {f"other.{at:02}": torch.zeros(1) for at in range(20)}) as file:
        problems = match(Many(2), file).problems
    assert problems[0].startswith("many.safetensors lacks layers.0.weight") and problems[0].endswith(" and 22 more")
    assert problems[1].endswith("other.07 and 12 more")
    with write(tmp_path / "wide.safetensors", Many(3).state_dict()) as file:
        problems = match(Many(2), file).problems
    assert len(problems) == 9
    assert problems[-1] == "wide.safetensors: and 22 more tensors of another shape"


_LOAD = """
import json, resource, sys
from pathlib import Path
import torch
from torch import nn
from tts_engine.chatterbox.tensor_file import TensorFile
from tts_engine.chatterbox.weights import fill, match

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.set_num_threads(1)
with torch.device("meta"):
    module = nn.ModuleList(nn.Linear(1024, 1024) for _ in range(60))
torch.ones(1 << 20).to(torch.bfloat16).sum()  # what torch itself takes on first use
before = peak()
with TensorFile(Path(sys.argv[1])) as file:
    fill(module, file, match(module, file), dtype=getattr(torch, sys.argv[2]))
touched = sum(float(parameter.sum()) for parameter in module.parameters())
weights = sum(parameter.nbytes for parameter in module.parameters())
print(json.dumps({"taken": peak() - before, "weights": weights}))
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_takes_little_more_memory_than_the_weights(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "large.safetensors"
    save_file(nn.ModuleList(nn.Linear(1024, 1024) for _ in range(60)).state_dict(), path)
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(path), dtype], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["weights"] > 120e6
    assert figures["taken"] <= 1.2 * figures["weights"]
