"""The bundle's files: `ResembleAI/chatterbox-turbo-ONNX` as downloaded, and what a directory lacks of it.

A part is `onnx/NAME{suffix}.onnx`, its weights beside it in `NAME{suffix}.onnx_data` (`_1`, `_2`, ... if they are
split). The suffix says how weights and caches are stored; inputs and outputs are alike, so parts of different
precision go together.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tts_engine.onnx_bundle.faults import BundleError

REPOSITORY = "ResembleAI/chatterbox-turbo-ONNX"

SPEECH_ENCODER = "speech_encoder"
EMBED_TOKENS = "embed_tokens"
LANGUAGE_MODEL = "language_model"
CONDITIONAL_DECODER = "conditional_decoder"
PARTS = (SPEECH_ENCODER, EMBED_TOKENS, LANGUAGE_MODEL, CONDITIONAL_DECODER)

SUFFIXES: dict[str, str] = {"fp32": "", "fp16": "_fp16", "q8": "_quantized", "q4": "_q4", "q4f16": "_q4f16"}

FOLDER = "onnx"
TOKENIZER = "tokenizer.json"
DEFAULT_VOICE = "default_voice.wav"


@dataclass(frozen=True)
class BundleFiles:
    """A bundle that is all there."""

    graphs: Mapping[str, Path]
    "By part."
    tokenizer: Path
    default_voice: Path | None


def graph_name(part: str, precision: str) -> str:
    """File name of a part's graph. Raises BundleError for a precision that no bundle has."""
    if precision not in SUFFIXES:
        raise BundleError(f"there is no precision {precision!r}: the bundle comes in {', '.join(SUFFIXES)}")
    return f"{part}{SUFFIXES[precision]}.onnx"


def graph_names(precision: str, part_precision: Mapping[str, str]) -> dict[str, str]:
    """File names by part. Raises BundleError for an unknown part or precision."""
    unknown = [part for part in part_precision if part not in PARTS]
    if unknown:
        raise BundleError(f"the bundle has no part {', '.join(map(repr, unknown))}: its parts are {', '.join(PARTS)}")
    return {part: graph_name(part, part_precision.get(part, precision)) for part in PARTS}


def find_files(directory: Path, precision: str, part_precision: Mapping[str, str] | None = None) -> BundleFiles:
    """The files of a bundle. Raises BundleError, which names all that is missing at once."""
    names = graph_names(precision, part_precision or {})
    graphs = {part: directory / FOLDER / name for part, name in names.items()}
    tokenizer = directory / TOKENIZER
    missing = missing_files(directory, precision, part_precision)
    if missing:
        lines = "\n".join(f"  - {name}" for name in missing)
        raise BundleError(
            f"the ONNX bundle in {directory} lacks\n{lines}\n"
            f"{_precisions_there(directory)}`{fetch_command(precision, part_precision)} --to {directory}` "
            f"downloads what is missing of {REPOSITORY}"
        )
    voice = directory / DEFAULT_VOICE
    return BundleFiles(graphs, tokenizer, voice if voice.is_file() else None)


def fetch_command(precision: str, part_precision: Mapping[str, str] | None = None) -> str:
    """What an operator types to download the bundle in these precisions."""
    parts = "".join(f" --part {part}={chosen}" for part, chosen in (part_precision or {}).items())
    return f"chatterline fetch-model onnx --precision {precision}{parts}"


def missing_files(directory: Path, precision: str, part_precision: Mapping[str, str] | None = None) -> list[str]:
    """Names, relative to the directory, of what is needed and is not there."""
    wanted = [TOKENIZER]
    for name in graph_names(precision, part_precision or {}).values():
        wanted += [f"{FOLDER}/{name}", *(f"{FOLDER}/{data}" for data in external_data(directory / FOLDER / name))]
    return [name for name in wanted if not (directory / name).is_file()]


def external_data(graph: Path) -> list[str]:
    """Names of the files that hold a graph's weights: as the graph has them, or as they should be if it is missing.

    ONNX keeps the name in each tensor, as plain bytes; a graph that holds its weights itself names none.
    """
    pattern = re.compile(re.escape(f"{graph.name}_data").encode() + rb"(?:_\d+)?")
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return sorted({match[0].decode() for match in pattern.finditer(content)})
    except FileNotFoundError:
        return [f"{graph.name}_data"]
    except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
        return []


def _precisions_there(directory: Path) -> str:
    """What the directory holds instead, in a sentence; '' if nothing whole."""
    whole = [name for name in SUFFIXES if not missing_files(directory, name)]
    return f"it is whole in precision {', '.join(whole)}; " if whole else ""
