"""What `engine check --run` found on this machine: read by the server, which takes no engine that is slower."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tts_engine.tensorrt.faults import TensorRtError
from tts_engine.tensorrt.manifest import Manifest

CHECK = "check.json"

FORMAT = 1


@dataclass(frozen=True)
class CheckRecord:
    """Beside the manifest of the engines that were checked."""

    gpu: str
    "Its name, as the driver says it: `NVIDIA A10G`."
    plans: Mapping[str, str]
    "By stage, the SHA-256 of the plan that was run."
    slowdowns: Mapping[str, float] = field(default_factory=dict)
    "By unit, the engines' time over that of CUDA graphs; only where both were measured."
    faults: Mapping[str, str] = field(default_factory=dict)
    "By unit, what was wrong with what its engines computed."

    def write(self, folder: Path) -> None:
        """Raises TensorRtError."""
        path = folder / CHECK
        unfinished = path.with_name(f".{os.getpid()}-{CHECK}")
        try:
            unfinished.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise TensorRtError(f"{path}: {error.strerror}") from None

    def fits(self, gpu: str, manifest: Manifest) -> bool:
        """Whether it tells of this GPU and of these plans."""
        return self.gpu == gpu and all(
            stage in manifest.plans and manifest.plans[stage].sha256 == digest for stage, digest in self.plans.items()
        )


def read_record(folder: Path) -> CheckRecord | None:
    """None if nothing was checked, or it cannot be read: then nothing is known."""
    try:
        given = json.loads((folder / CHECK).read_text(encoding="utf-8"))
        if given["format"] != FORMAT:
            return None
        return CheckRecord(
            gpu=str(given["gpu"]),
            plans={str(stage): str(digest) for stage, digest in given["plans"].items()},
            slowdowns={str(unit): float(value) for unit, value in given["slowdowns"].items()},
            faults={str(unit): str(fault) for unit, fault in given["faults"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
