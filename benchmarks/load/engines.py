"""The engine that a benchmark drives, from its command line."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from tts_engine.engine import Engine

MAX_TEXT_CHARS = 5000


def add_options(parser: argparse.ArgumentParser) -> None:
    """--weights, --device, --precision, --set, --own-length."""
    group = parser.add_argument_group("Chatterbox")
    group.add_argument("--weights", type=Path, help="directory in the released layout")
    group.add_argument("--device", default="auto", help="every GPU, or the CPU where there is none")
    group.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="auto", help="by device")
    group.add_argument(
        "--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help="a field of ChatterboxSettings"
    )
    group.add_argument(
        "--own-length", action="store_true", help="utterances end by STOP, not by their text's length: released weights"
    )


def setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE; the value a Python literal, or else a string."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def embedded(streams: int) -> Engine:
    from tts_engine.embedded.engine import EmbeddedEngine  # noqa: PLC0415

    return EmbeddedEngine(max_streams=streams)


def chatterbox(args: argparse.Namespace, streams: int) -> Engine:
    """SystemExit for settings that it does not have."""
    if args.weights is None:
        raise SystemExit("--weights says where the model is; benchmarks/make_checkpoint.py makes random ones")
    from benchmarks.model.fixed_length import FixedLengthGuard  # noqa: PLC0415
    from tts_engine.serving.engine import ChatterboxEngine  # noqa: PLC0415
    from tts_engine.serving.settings import ChatterboxSettings  # noqa: PLC0415

    values: dict[str, Any] = {
        "model": str(args.weights.resolve()),
        "voices_dir": Path(tempfile.gettempdir()) / "no-voices-of-a-benchmark",
        "devices": () if args.device == "auto" else (args.device,),
        "precision": args.precision,
        **dict(args.set),
    }
    if not args.own_length:
        values["guard"] = FixedLengthGuard.for_text
    known = {field.name for field in dataclasses.fields(ChatterboxSettings)}
    if unknown := sorted(values.keys() - known):
        raise SystemExit(f"ChatterboxSettings has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return ChatterboxEngine("chatterbox", ChatterboxSettings(**values), streams, MAX_TEXT_CHARS)
