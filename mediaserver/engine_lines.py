"""What the command line's `engine` shows: progress while engines are built, and what there is, as lines of text."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from tts_engine.tensorrt.build_all import Outcome
    from tts_engine.tensorrt.manifest import Manifest, Plan


class Progress:
    """A line for each stage: rewritten in place on a terminal, elsewhere written once, when it is done."""

    def __init__(self, stages: Sequence[str]) -> None:
        self._width = max(map(len, stages), default=0)
        self._live = sys.stdout.isatty()
        self._lock = threading.Lock()
        self._shown = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            typer.echo()  # what failed half way keeps its line

    def report(self, stage: str, what: str, part: float | None) -> None:
        """See build_all.Report."""
        done = part == 1.0
        share = f" {part:4.0%}" if part is not None and not done else ""
        line = f"{stage:{self._width}}  {what}{share}"
        with self._lock:
            if self._live and line != self._shown:
                typer.echo(f"\r\x1b[K{line}", nl=done)
                self._shown = "" if done else line
            elif not self._live and done and what != "building":
                typer.echo(line)


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    rows = [["stage", "plan MB", "weights MB", "scratch MB", "fused attention", "seconds", ""]]
    for outcome in outcomes:
        plan = outcome.plan
        sizes = (f"{size / 1e6:.1f}" for size in (plan.bytes, plan.weights_bytes, plan.scratch_bytes))
        attention, was_there = str(plan.kernels.get("attention", 0)), "" if outcome.built else "was there"
        rows.append([plan.stage, *sizes, attention, f"{plan.seconds:.0f}", was_there])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        aligned = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        yield "  ".join((name.ljust(widths[0]), *aligned)).rstrip()


def described(manifest: Manifest) -> str:
    also = " and later GPUs" if manifest.hardware_compatible else ""
    return f"{manifest.folder}: {manifest.model} for {manifest.target}{also}, {manifest.flavour} {manifest.version}"


def described_plan(plan: Plan) -> str:
    sizes = "; ".join(
        f"{profile.name}: " + ", ".join(f"{name} up to {most}" for name, (_, _, most) in profile.dims.items())
        for profile in plan.profiles
    )
    return f"{plan.stage}: {plan.bytes / 1e6:.0f} MB, scratch {plan.scratch_bytes / 1e6:.0f} MB ({sizes})"
