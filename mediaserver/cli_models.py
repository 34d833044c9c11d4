"""`chatterline fetch-model`: download a Chatterbox model from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from mediaserver.cli_support import fail
from mediaserver.onnx_engine import Precision
from tts_engine.chatterbox.hub import fetch_model
from tts_engine.errors import EngineError
from tts_engine.onnx_bundle.files import REPOSITORY
from tts_engine.onnx_bundle.hub import fetch_bundle

BUNDLE = "onnx"


def fetch_model_command(
    model: Annotated[str, typer.Argument(help="turbo, nano, onnx (its bundle), or a repository OWNER/NAME.")] = "turbo",
    to: Annotated[Path | None, typer.Option(help="Directory for the files; by default the hub's cache.")] = None,
    precision: Annotated[str, typer.Option(help="Of the ONNX bundle: fp32, fp16, q8, q4, q4f16.")] = "q4",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Download a Chatterbox model (about 4 GB), or complete an interrupted download.

    Token for gated repositories: HF_TOKEN.
    """
    if precision not in get_args(Precision):
        fail(f"there is no precision {precision!r}: {', '.join(get_args(Precision))}")
    try:
        if model in {BUNDLE, REPOSITORY}:
            directory = fetch_bundle(precision=precision, to=to, progress=not quiet)
        else:
            directory = fetch_model(model, to=to, progress=not quiet)
    except EngineError as error:
        fail(str(error))
    except KeyboardInterrupt:
        typer.secho("chatterline: interrupted; the same command fetches what is missing", err=True)
        raise typer.Exit(130) from None
    typer.echo(directory)
