"""Speed of chatterbox-tts itself on this machine: utterances one after the other, as it ships.

    python -m benchmarks.reference --weights DIR [--device cuda] [--seconds 30] [--ratio serving-cuda.json]

Utterances are as long as those of benchmarks/serving.py. With --ratio, what that one made in a second on this machine
is compared with what the reference makes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json
from benchmarks.load.speakers import UTTERANCE_SECONDS
from benchmarks.load.texts import CHARACTERS_A_SECOND

CHARACTERS_A_TEXT_TOKEN = 4.0
"Of English, about, with GPT-2's vocabulary: decides the prompt's length only."
TEXT_VOCABULARY = 50_000
FEWEST_UTTERANCES = 3


def measure(weights: Path, device: str, seconds: float, seed: int = 1) -> dict[str, Any]:
    """Speak for about that long, at least FEWEST_UTTERANCES; audio seconds a second and times. Imports torch."""
    import torch  # noqa: PLC0415

    from benchmarks.model.reference import Reference  # noqa: PLC0415
    from benchmarks.model.timing import forget_peak, peak_mb, synchronize  # noqa: PLC0415
    from tts_engine.chatterbox.conds import read_conds  # noqa: PLC0415
    from tts_engine.chatterbox.constants import TOKEN_RATE, TRAILING_SILENCE_TOKENS  # noqa: PLC0415

    on = torch.device(device)
    forget_peak(on)
    reference = Reference(weights, on, read_conds(weights / "conds.pt"))
    rng = random.Random(seed)

    def utterance(length: float) -> float:
        """Seconds of speech, once they are on the host."""
        text = [
            rng.randrange(TEXT_VOCABULARY) for _ in range(round(length * CHARACTERS_A_SECOND / CHARACTERS_A_TEXT_TOKEN))
        ]
        wave = reference.say(text, round(TOKEN_RATE * length) + TRAILING_SILENCE_TOKENS)
        return wave.cpu().shape[-1] / 24000

    utterance(UTTERANCE_SECONDS[0])  # libraries choose their kernels
    synchronize(on)
    times: list[float] = []
    audio, start = 0.0, time.perf_counter()
    while len(times) < FEWEST_UTTERANCES or sum(times) < seconds:
        audio += utterance(rng.uniform(*UTTERANCE_SECONDS))
        times.append(time.perf_counter() - start - sum(times))
    return {
        "utterances": len(times),
        "audio_seconds": audio,
        "wall_seconds": sum(times),
        "audio_s_per_s": audio / sum(times),
        "mean_utterance_ms": 1000 * sum(times) / len(times),
        "peak_mb": peak_mb(on),
    }


def best(levels: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The level that held its bounds and made most audio in a second; None if none held."""
    return max((level for level in levels if level["held"]), key=lambda level: level["audio_s_per_s"], default=None)


def ratio(levels: list[dict[str, Any]], reference: dict[str, Any]) -> dict[str, Any] | None:
    """Of the best level's audio seconds a second to the reference's."""
    level = best(levels)
    if level is None:
        return None
    return {
        "streams": level["streams"],
        "served_audio_s_per_s": level["audio_s_per_s"],
        "reference_audio_s_per_s": reference["audio_s_per_s"],
        "ratio": level["audio_s_per_s"] / reference["audio_s_per_s"],
    }


def this_machine(device: str) -> dict[str, Any]:
    """With the GPU's name, if the device is one."""
    import torch  # noqa: PLC0415

    on = torch.device(device)
    return machine() | {"gpu": torch.cuda.get_device_name(on) if on.type == "cuda" else None}


def usual_device(name: str | None) -> str:
    """What None or "auto" stands for."""
    import torch  # noqa: PLC0415

    return ("cuda" if torch.cuda.is_available() else "cpu") if name in {None, "auto"} else str(name)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="directory in the released layout")
    parser.add_argument("--device", help="cuda where there is one, else cpu")
    parser.add_argument("--seconds", type=float, default=30.0, help="(default %(default)s)")
    parser.add_argument("--ratio", type=Path, metavar="FILE", help="result of benchmarks/serving.py on this machine")
    parser.add_argument("--json", type=Path, help="result file (default: in benchmarks/results, named by device)")
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    device = usual_device(args.device)
    served = json.loads(args.ratio.read_text(encoding="utf-8")) if args.ratio else None
    here = this_machine(device)
    if served and served["machine"] != here:
        parser.error(f"{args.ratio} was measured on another machine: {served['machine']}, this is {here}")
    found = measure(args.weights, device, args.seconds)
    compared = ratio(served["levels"], found) if served else None
    print(table(found.items(), ("chatterbox-tts", "")))
    if served:
        print(table(compared.items(), ("\nserved", "")) if compared else "no level of the serving run held its bounds")
    path = args.json or RESULTS / f"reference-{device.partition(':')[0]}.json"
    result = {"benchmark": "reference", **commit(), "machine": here, "versions": versions()}
    write_json(path, {**result, "reference": found, "ratio": compared})


if __name__ == "__main__":
    main()
