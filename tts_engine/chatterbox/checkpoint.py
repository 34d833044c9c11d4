"""The released files: their names, which of them a directory lacks, and the error that says what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from tts_engine.errors import EngineError

Flavour = Literal["turbo", "nano"]

REPOSITORIES: dict[str, str] = {"turbo": "ResembleAI/chatterbox-turbo", "nano": "ResembleAI/chatterbox-nano"}
"Where each flavour is published on the Hugging Face hub."

T3_FILES: dict[Flavour, str] = {"turbo": "t3_turbo_v1.safetensors", "nano": "t3_nano_v1.safetensors"}
S3GEN_FILE = "s3gen_meanflow.safetensors"
CONDS_FILE = "conds.pt"
"The built-in voice; a model without it speaks with enrolled voices only."
VOICE_ENCODER_FILE = "ve.safetensors"
"For enrolment only."
TOKENIZER_FILES = ("vocab.json", "merges.txt")
TOKENIZER_FILE = "tokenizer.json"
"In place of the two, if it is there."
OTHER_TOKENIZER_FILES = (TOKENIZER_FILE, "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")

RELEASED_FILES = (
    *T3_FILES.values(),
    S3GEN_FILE,
    VOICE_ENCODER_FILE,
    CONDS_FILE,
    *TOKENIZER_FILES,
    *OTHER_TOKENIZER_FILES,
)
"All that is ever downloaded."

SHOWN = 8
"Tensors that one line of an error names; a wrong model would fill pages."


class CheckpointError(EngineError):
    """A model's files cannot be used. The message lists every problem found and says what to do."""

    def __init__(self, where: Path, problems: Sequence[str]) -> None:
        self.where = where
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(
            f"the model in {where} cannot be loaded:\n{lines}\n"
            f"`chatterline fetch-model turbo --to DIR` (or nano) downloads a whole one, and completes one that was "
            f"interrupted. A directory holds {T3_FILES['turbo']} or {T3_FILES['nano']}, {S3GEN_FILE}, "
            f"{', '.join(TOKENIZER_FILES)}, added_tokens.json and, for the built-in voice, {CONDS_FILE}."
        )


def flavours(directory: Path) -> list[Flavour]:
    """Flavours whose T3 the directory holds."""
    return [flavour for flavour, name in T3_FILES.items() if (directory / name).is_file()]


def missing_files(directory: Path) -> list[str]:
    """What serving needs and the directory does not hold, a line each; [] if it is all there.

    Looks at names only: whether the files are whole is found when they are loaded.
    """
    if not directory.is_dir():
        return ["it is not a directory" if directory.exists() else "there is no such directory"]
    missing = [name for name in (S3GEN_FILE, *tokenizer_files(directory)) if not (directory / name).is_file()]
    lines = [f"{name} is missing" for name in missing]
    if not flavours(directory):
        lines.insert(0, f"{T3_FILES['turbo']} (or {T3_FILES['nano']}) is missing{_another_model(directory)}")
    if lines and _interrupted(directory):
        lines.append("a download was interrupted here: the same fetch-model command completes it")
    return lines


def tokenizer_files(directory: Path) -> tuple[str, ...]:
    """What the tokenizer cannot do without."""
    return (TOKENIZER_FILE,) if (directory / TOKENIZER_FILE).is_file() else TOKENIZER_FILES


def _another_model(directory: Path) -> str:
    """What the directory holds instead, if that can be told from the names."""
    if (directory / "onnx").is_dir():
        return "; this is the ONNX bundle, which has other files: the plain repository is needed"
    others = sorted(path.name for path in directory.glob("t3_*.safetensors"))
    if others:
        return f"; this is the original Chatterbox ({others[0]}), which is another model than Turbo and Nano"
    return ""


def _interrupted(directory: Path) -> bool:
    """Whether huggingface_hub left unfinished files: beside a local directory's, or in its cache's blobs/."""
    places = (directory / ".cache" / "huggingface" / "download", directory.parent.parent / "blobs")
    return any(next(place.glob("*.incomplete"), None) is not None for place in places)


def named(names: Iterable[str]) -> str:
    """Names in one line, the first few of many: 'a, b, c and 40 more'."""
    listed = sorted(names)
    shown = ", ".join(listed[:SHOWN])
    return f"{shown} and {len(listed) - SHOWN} more" if len(listed) > SHOWN else shown
