"""`chatterline fetch-model`: download a Chatterbox model from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mediaserver.cli_support import fail
from tts_engine.chatterbox.hub import fetch_model
from tts_engine.errors import EngineError


def fetch_model_command(
    model: Annotated[str, typer.Argument(help="turbo, nano, or a repository: OWNER/NAME.")] = "turbo",
    to: Annotated[Path | None, typer.Option(help="Directory for the files; by default the hub's cache.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Download a Chatterbox model (about 4 GB), or complete an interrupted download.

    Token for gated repositories: HF_TOKEN.
    """
    try:
        directory = fetch_model(model, to=to, progress=not quiet)
    except EngineError as error:
        fail(str(error))
    except KeyboardInterrupt:
        typer.secho("chatterline: interrupted; the same command fetches what is missing", err=True)
        raise typer.Exit(130) from None
    typer.echo(directory)
