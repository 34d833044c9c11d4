"""The command line's `prompts`: warm, list, clear. Speech that is synthesised before anybody calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from mediaserver.cli_support import fail, read_config
from mediaserver.config import Config
from mediaserver.engine_identity import EngineIdentity
from mediaserver.engines import Choice, choose, make_engine, make_overflow_engine
from mediaserver.prompt_file import PromptFileError, PromptLine, read_prompts
from mediaserver.prompt_warming import JOBS, LineError, Warmed, Warmer
from mediaserver.prompts import call_rates, configured_kinds, prompt_store
from tts_engine.engine import SAMPLE_RATES, Engine
from tts_engine.errors import EngineError
from tts_engine.prompts import PromptStore, StoredPrompt, StoreError

app = typer.Typer(
    name="prompts",
    help="Prompts that are synthesised before anybody calls.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="The server's TOML file.")]


@app.command("warm")
def warm_command(
    file: Annotated[Path, typer.Argument(help="UTF-8, a prompt a line, or VOICE, a tab and the prompt; # comments.")],
    rate: Annotated[
        list[int] | None,
        typer.Option(help="Sample rate in Hz; repeatable. By default what the codecs need.", show_default=False),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Synthesise prompts with the configured engines, and keep them for the server."""
    settings = read_config(config)
    if not settings.tts.prompts.memory_mb:
        fail("the server would not use them: [tts.prompts] memory_mb is 0")
    unknown = [given for given in rate or () if given not in SAMPLE_RATES]
    if unknown:
        fail(f"--rate {unknown[0]}: of {', '.join(map(str, SAMPLE_RATES))}")
    try:
        lines = read_prompts(file)
    except PromptFileError as error:
        fail(str(error))
    if not lines:
        fail(f"{file}: there is no prompt in it")
    try:
        failed = asyncio.run(_warm_all(settings, lines, tuple(dict.fromkeys(rate or call_rates(settings)))))
    except LineError as error:
        fail(f"{file}: {error}")
    except (EngineError, ValueError) as error:  # ValueError: CHATTERBOX_CFG_SCALE
        fail(str(error))
    except KeyboardInterrupt:
        typer.secho("chatterline: interrupted; what was made is kept", err=True)
        raise typer.Exit(130) from None
    raise typer.Exit(1 if failed else 0)


@app.command("list")
def list_command(config: ConfigOption = None) -> None:
    """Show what is kept; exit code 1 if a file cannot be used."""
    settings = read_config(config)
    store = prompt_store(settings.tts)
    current = _Current(settings)
    broken = 0
    seconds = 0.0
    try:
        keys = sorted(store.keys())
        for key, prompt in _stored(store, keys):
            broken += prompt is None
            if prompt is not None:
                seconds += prompt.seconds
                _show(key, prompt, stale=current.is_stale(prompt))
        typer.echo(f"{store.directory}: {len(keys)} prompts, {seconds:.1f} s, {store.size / 2**20:.1f} MB")
    except StoreError as error:
        fail(str(error))
    raise typer.Exit(1 if broken else 0)


@app.command("clear")
def clear_command(
    stale: Annotated[
        bool, typer.Option("--stale", help="Only what the configured engines and voices would not play.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Delete what is kept on disk. A running server forgets what it has in memory when it restarts."""
    settings = read_config(config)
    store = prompt_store(settings.tts)
    try:
        removed = _clear_stale(store, _Current(settings)) if stale else store.clear()
    except StoreError as error:
        fail(str(error))
    typer.echo(f"{store.directory}: {removed} removed")


async def _warm_all(settings: Config, lines: Sequence[PromptLine], rates: Sequence[int]) -> int:
    """With each engine; gives the number of prompts that failed. Raises EngineError, LineError."""
    choice = choose(settings.tts)
    limit = max(settings.calls.max_text_chars, len(settings.calls.greeting))
    typer.echo(f"engine {choice.kind} ({choice.reason})", err=True)
    failed = await _warm_with(settings, choice, make_engine(settings.tts, JOBS, limit, choice), lines, rates)
    overflow = make_overflow_engine(settings.tts, choice.kind, limit)
    if overflow is not None:
        typer.echo("engine embedded (overflow)", err=True)
        failed += await _warm_with(settings, Choice("embedded", "overflow"), overflow, lines, rates, any_voice=True)
    return failed


async def _warm_with(
    settings: Config,
    choice: Choice,
    engine: Engine,
    lines: Sequence[PromptLine],
    rates: Sequence[int],
    *,
    any_voice: bool = False,
) -> int:
    store = prompt_store(settings.tts)
    identity = EngineIdentity(settings.tts, choice.kind)
    await engine.start()
    try:
        try:
            await asyncio.to_thread(identity.load)
        except OSError as error:
            raise EngineError(f"{error.filename}: {error.strerror}") from None
        warmer = Warmer(engine, identity, store, typer.echo, _complain)
        done = await warmer.warm(lines, rates, any_voice=any_voice)
    finally:
        await engine.stop()
    typer.echo(f"{store.directory}: {_summary(done)}; {store.size / 2**20:.1f} MB in all")
    return done.failed


def _summary(done: Warmed) -> str:
    failed = f", {done.failed} failed" if done.failed else ""
    return f"{done.made} made ({done.seconds:.1f} s), {done.there} were there{failed}"


class _Current:
    """Which stored prompts the configuration would play."""

    def __init__(self, settings: Config) -> None:
        self._identities: dict[str, EngineIdentity | None] = {}
        for kind in configured_kinds(settings.tts, choose(settings.tts).kind):
            identity = EngineIdentity(settings.tts, kind)
            try:
                identity.load()
            except (OSError, EngineError, ValueError, ModuleNotFoundError) as error:
                _complain(f"what is of use to the {kind} engine cannot be told: {error}")
                self._identities[kind] = None
            else:
                self._identities[kind] = identity

    def is_stale(self, prompt: StoredPrompt) -> bool:
        """False also where it cannot be told."""
        if prompt.engine not in self._identities:
            return True
        identity = self._identities[prompt.engine]
        return identity is not None and identity.of(prompt.voice) != prompt.identity


def _clear_stale(store: PromptStore, current: _Current) -> int:
    """Unusable files too. Raises StoreError."""
    doomed = [key for key, prompt in _stored(store, store.keys()) if prompt is None or current.is_stale(prompt)]
    for key in doomed:
        store.remove(key)
    return len(doomed)


def _stored(
    store: PromptStore, keys: Sequence[bytes] | frozenset[bytes]
) -> Iterator[tuple[bytes, StoredPrompt | None]]:
    """None for a file that cannot be used, which is told."""
    for key in keys:
        try:
            prompt = store.load(key)
        except StoreError as error:
            _complain(str(error))
            yield key, None
        else:
            if prompt is not None:  # else removed meanwhile
                yield key, prompt


def _show(key: bytes, prompt: StoredPrompt, *, stale: bool) -> None:
    note = ", stale" if stale else ""
    typer.echo(
        f"{key.hex()[:12]}: {prompt.engine}, {prompt.voice}, {prompt.sample_rate} Hz, {prompt.seconds:.1f} s{note}"
    )


def _complain(message: str) -> None:
    typer.secho(f"chatterline: {message}", err=True, fg=typer.colors.YELLOW)
