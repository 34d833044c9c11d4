"""What all commands do alike: read the configuration, and fail with one line."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import typer

from mediaserver.config import Config, ConfigError, load


def fail(message: str) -> NoReturn:
    """End the command with a message on standard error and exit code 1."""
    typer.secho(f"chatterline: {message}", err=True, fg=typer.colors.RED)
    raise typer.Exit(1)


def read_config(path: Path | None) -> Config:
    """The configuration of a command; what is wrong with it ends the command."""
    try:
        return load(path)
    except ConfigError as error:
        fail(f"configuration: {error}")
