"""Filling a module that was made on the meta device from a checkpoint's file: first compared, then read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import nn

from tts_engine.chatterbox.checkpoint import SHOWN, named
from tts_engine.chatterbox.tensor_file import TensorFile
from tts_engine.chatterbox.vocoder import fold_weight_norm

WEIGHT_NORM = (".parametrizations.weight.original0", ".parametrizations.weight.original1")
"Magnitude and direction, as torch.nn.utils.parametrizations.weight_norm saves `.weight`."

Float32Rule = Callable[[str], bool]
"Whether a parameter, by its name, stays float32 in a half-precision model."


@dataclass(frozen=True)
class Match:
    """How a file's tensors go into a module, and what keeps them from it."""

    sources: Mapping[str, tuple[str, ...]]
    "Of each parameter: its tensor in the file, or the two that weight norm makes of it."
    problems: list[str] = field(default_factory=list)


def below(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the names that begin with `prefix`, without it."""
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def match(module: nn.Module, file: TensorFile, prefix: str = "", unread: Iterable[str] = ()) -> Match:
    """Find a module's tensors in a file, below `prefix`, whose own tensors beyond `unread` must all be wanted.

    Shapes are compared, not read; a pair that weight norm made counts as its folded weight. Dtypes must be floats.
    """
    found = below(file.shapes, prefix)
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    sources: dict[str, tuple[str, ...]] = {}
    missing, misshaped, not_float = [], [], []
    for name, shape in wanted.items():
        pair = tuple(name.removesuffix(".weight") + half for half in WEIGHT_NORM)
        parts = pair if name not in found and all(half in found for half in pair) else (name,)
        if parts[-1] not in found:
            missing.append(prefix + name)
            continue
        sources[name] = tuple(prefix + part for part in parts)
        if found[parts[-1]] != shape:
            misshaped.append(f"{prefix}{parts[-1]} is {found[parts[-1]]}, wanted {shape}")
        elif len(parts) == 2 and found[parts[0]] != (shape[0], *(1 for _ in shape[1:])):
            misshaped.append(f"{prefix}{parts[0]} is {found[parts[0]]}, wanted {(shape[0], *(1 for _ in shape[1:]))}")
        not_float += [part for part in sources[name] if not file.dtypes[part].is_floating_point]
    used = {part for parts in sources.values() for part in parts}
    extra = [prefix + name for name in found if prefix + name not in used and name not in set(unread)]
    lists = ((missing, "lacks"), (extra, "has unexpected"), (not_float, "has integers in place of floats:"))
    problems = [f"{file.path.name} {verb} {named(names)}" for names, verb in lists if names]
    problems += [f"{file.path.name}: {line}" for line in misshaped[:SHOWN]]
    if len(misshaped) > SHOWN:
        problems.append(f"{file.path.name}: and {len(misshaped) - SHOWN} more tensors of another shape")
    return Match(sources, problems)


def fill(
    module: nn.Module,
    file: TensorFile,
    found: Match,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    keep_float32: Float32Rule = lambda name: False,
) -> None:
    """Read a module's tensors, each straight into `dtype` on `device`, fold weight norm, and put them in place."""
    for prefix, unit in _units(module):
        state = {
            name.removeprefix(prefix): _read(file, sources, torch.float32 if keep_float32(name) else dtype, device)
            for name, sources in found.sources.items()
            if name.startswith(prefix)
        }
        unit.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(False).eval()
    module.to(device)  # constants that no file holds
    if left := [name for name, tensor in chain(module.named_parameters(), module.named_buffers()) if tensor.is_meta]:
        raise RuntimeError(f"still without a value: {named(left)}")


def _units(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Parts to fill one after the other, and their names' prefixes: items of lists, and what has tensors of its own.

    A module may rearrange its tensors as it is loaded; part by part, no more than one part is held twice.
    """
    if next(module.parameters(recurse=False), None) is not None:
        yield prefix, module
        return
    for name, child in module.named_children():
        if isinstance(module, nn.ModuleList):
            yield f"{prefix}{name}.", child
        else:
            yield from _units(child, f"{prefix}{name}.")


def _read(file: TensorFile, sources: tuple[str, ...], dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    if len(sources) == 1:
        return file.read(sources[0], dtype, device)
    magnitude, direction = (file.read(source, torch.float32, device) for source in sources)
    return fold_weight_norm(magnitude, direction).to(dtype)
