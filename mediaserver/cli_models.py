"""`chatterline fetch-model`: download a Chatterbox model from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from mediaserver.cli_support import fail
from mediaserver.onnx_engine import Part, Precision
from tts_engine.chatterbox.hub import fetch_model
from tts_engine.errors import EngineError
from tts_engine.onnx_bundle.files import REPOSITORY
from tts_engine.onnx_bundle.hub import fetch_bundle

BUNDLE = "onnx"


def fetch_model_command(
    model: Annotated[str, typer.Argument(help="turbo, nano, onnx (its bundle), or a repository OWNER/NAME.")] = "turbo",
    to: Annotated[Path | None, typer.Option(help="Directory for the files; by default the hub's cache.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Of the ONNX bundle: fp32, fp16, q8, q4 (the default), q4f16.", show_default=False),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="One part of the bundle in another precision: conditional_decoder=fp32. Repeatable."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Download a Chatterbox model (about 4 GB), or complete an interrupted download.

    Token for gated repositories: HF_TOKEN.
    """
    bundle = model in {BUNDLE, REPOSITORY}
    if not bundle and (precision is not None or part):
        fail(f"--precision and --part are for the ONNX bundle (`chatterline fetch-model onnx`), not for {model}")
    if precision is not None and precision not in get_args(Precision):
        fail(f"there is no precision {precision!r}: {', '.join(get_args(Precision))}")
    parts = _part_precision(part or [])
    try:
        if bundle:
            directory = fetch_bundle(precision=precision or "q4", part_precision=parts, to=to, progress=not quiet)
        else:
            directory = fetch_model(model, to=to, progress=not quiet)
    except EngineError as error:
        fail(str(error))
    except KeyboardInterrupt:
        typer.secho("chatterline: interrupted; the same command fetches what is missing", err=True)
        raise typer.Exit(130) from None
    typer.echo(directory)


def _part_precision(given: list[str]) -> dict[str, str]:
    """Of NAME=PRECISION; ends the command where one is not that."""
    parts = {}
    for one in given:
        name, _, precision = one.partition("=")
        if name not in get_args(Part) or precision not in get_args(Precision):
            fail(
                f"--part {one}: NAME=PRECISION is needed, of {', '.join(get_args(Part))} "
                f"and {', '.join(get_args(Precision))}"
            )
        parts[name] = precision
    return parts
