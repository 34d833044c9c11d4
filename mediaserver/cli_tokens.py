"""The command line's `tokens`: add, list, remove. What they allow: docs/control-api.md."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from mediaserver.api.tokens import SCOPES, Token, TokenError, TokenStore, tokens_path
from mediaserver.cli_support import fail, read_config

app = typer.Typer(
    name="tokens",
    help="Bearer tokens of the control interfaces.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file that names the tokens' file.")]

UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
MAX_EXPIRY_S = 100 * 366 * 86_400


@app.command("add")
def add_command(
    name: Annotated[str, typer.Argument(help="Who uses it, for lists and logs.")],
    scope: Annotated[
        list[str], typer.Option("--scope", "-s", help=f"What it allows; may be repeated: {', '.join(SCOPES)}.")
    ],
    expires: Annotated[str | None, typer.Option(help="In how long, such as 12h, 30d or 8w; by default never.")] = None,
    config: ConfigOption = None,
) -> None:
    """Make a token, and print it: it is shown this once."""
    with _told() as now:
        unknown = [each for each in scope if each not in SCOPES]
        if unknown:
            raise TokenError(f"unknown scope {unknown[0]!r}; there are: {', '.join(SCOPES)}")
        scopes = [known for known in SCOPES if known in scope]
        token, secret = _store(config).add(name, scopes, now, None if expires is None else now + parse_span(expires))
    typer.echo(_described(token, now), err=True)
    typer.echo(secret)


@app.command("list")
def list_command(config: ConfigOption = None) -> None:
    """Show the tokens; not the secrets, which nobody knows any more."""
    with _told() as now:
        store = _store(config)
        tokens = store.list()
    if not tokens:
        typer.echo(f"no tokens in {store.path}")
    for token in tokens:
        typer.echo(_described(token, now))


@app.command("remove")
def remove_command(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")], config: ConfigOption = None
) -> None:
    """Take a token back; servers that run refuse it at once."""
    with _told():
        token = _store(config).remove(token_id)
    typer.echo(f"{token.id}: removed ({token.name})")


def parse_span(text: str) -> float:
    """Seconds in a time such as "30d". Raises TokenError."""
    match = re.fullmatch(r"([0-9]{1,9})([mhdw])", text.strip())
    seconds = int(match[1]) * UNITS_S[match[2]] if match else 0
    if not 0 < seconds <= MAX_EXPIRY_S:
        raise TokenError(f"{text!r} is no time such as 90m, 12h, 30d or 8w")
    return seconds


def _store(config: Path | None) -> TokenStore:
    return TokenStore(tokens_path(read_config(config)))


def _described(token: Token, now: float) -> str:
    parts = [", ".join(sorted(token.scopes)), f"made {_day(token.created)}"]
    if token.expires is not None:
        parts.append(f"{'EXPIRED' if token.expired(now) else 'expires'} {_day(token.expires)}")
    return f"{token.id} {token.name}: {'; '.join(parts)}"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="minutes").removesuffix("+00:00") + " UTC"


@contextmanager
def _told() -> Iterator[float]:
    """The time; what goes wrong ends the command with a line."""
    try:
        yield time.time()
    except TokenError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'the file'}: {error.strerror}")
