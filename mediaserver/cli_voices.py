"""The command line's `voices`: add, list, remove. Cloned voices are for Chatterbox; the embedded engine has its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mediaserver.cli_support import fail, read_config
from mediaserver.config import Config
from mediaserver.engines import voices_directory
from tts_engine.errors import EngineError

if TYPE_CHECKING:
    from tts_engine.chatterbox.clip import Clip
    from tts_engine.chatterbox.enrol import Enrolment
    from tts_engine.chatterbox.voice_file import VoiceMetadata
    from tts_engine.chatterbox.voice_store import VoiceStore

EXAMPLE_PROMPT_S = 3.0

app = typer.Typer(
    name="voices",
    help="Voices cloned from recordings, for Chatterbox.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

NameArgument = Annotated[str, typer.Argument(help="1 to 64 of a-z, 0-9, - and _.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file that names the voices directory.")]


@app.command("add")
def add_command(
    name: NameArgument,
    clip: Annotated[
        Path, typer.Argument(help="WAV, FLAC, Ogg or MP3 with 5 s of clean speech or more; best 10 to 15.")
    ],
    prompt_seconds: Annotated[
        float, typer.Option(min=2, max=10, help="Length of the prompt that every chunk is decoded with.")
    ] = 10.0,
    model: Annotated[str | None, typer.Option(help="Directory or Hugging Face repository of the model.")] = None,
    consent: Annotated[str, typer.Option(help="Note to keep with the voice: who agreed to it, and when.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a voice of that name.")] = False,
    config: ConfigOption = None,
) -> None:
    """Make a voice of a recording."""
    settings = read_config(config)
    with _told():
        # What is quick to refuse is refused before the encoders take their time.
        store = _store(settings)
        _refuse_existing(store, name, replace=replace)
        recording = _clip(clip)
        enrolment, encoders = _enrol(recording, model or settings.tts.chatterbox.model, prompt_seconds)
        metadata = _metadata(name, recording, enrolment, encoders, consent)
        path = store.add(name, enrolment.voice, metadata, replace=replace)
    typer.echo(
        f"{path}: voice {name!r}, prompt {enrolment.voice.prompt_seconds:g} s, "
        f"from {recording.speech_seconds:.1f} s of speech at {enrolment.loudness:.1f} LUFS"
    )
    typer.echo(cost_of(enrolment.voice.prompt_seconds))


@app.command("list")
def list_command(config: ConfigOption = None) -> None:
    """Show the voices; exit code 1 if one of them cannot be used."""
    settings = read_config(config)
    with _told():
        store = _store(settings)
        entries = store.list()
    if not entries:
        typer.echo(f"no voices in {store.directory}")
    for entry in entries:
        if entry.metadata is not None:
            typer.echo(_described(entry.name, entry.metadata))
    typer.echo("default: the voice that comes with the model")
    broken = [entry for entry in entries if entry.metadata is None]
    for entry in broken:
        typer.secho(f"{entry.name}: {entry.problem}", err=True, fg=typer.colors.RED)
    raise typer.Exit(1 if broken else 0)


@app.command("remove")
def remove_command(name: NameArgument, config: ConfigOption = None) -> None:
    """Delete a voice."""
    settings = read_config(config)
    with _told():
        store = _store(settings)
        store.remove(name)
    typer.echo(f"{name}: removed from {store.directory}")


def cost_of(prompt_seconds: float) -> str:
    """What a prompt costs on every chunk, beside a shorter one or the full one."""
    from tts_engine.chatterbox.enrol import MAX_PROMPT_S, chunk_gflop  # noqa: PLC0415 - torch

    other = MAX_PROMPT_S if prompt_seconds < MAX_PROMPT_S else EXAMPLE_PROMPT_S
    return (
        f"each chunk of 1 s decodes {prompt_seconds:g} s of prompt too: {chunk_gflop(prompt_seconds):.0f} GFLOP "
        f"instead of {chunk_gflop(other):.0f} with a prompt of {other:g} s"
    )


@contextmanager
def _told() -> Iterator[None]:
    """Errors as one message. PyTorch is an extra, imported only inside."""
    try:
        yield
    except EngineError as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        fail(f"cloned voices need the extra `chatterbox`: pip install 'chatterline[chatterbox]' ({error})")


def _store(settings: Config) -> VoiceStore:
    from tts_engine.chatterbox.voice_store import VoiceStore  # noqa: PLC0415 - torch

    return VoiceStore(voices_directory(settings.tts))


def _refuse_existing(store: VoiceStore, name: str, *, replace: bool) -> None:
    path = store.path(name)
    if path.exists() and not replace:
        raise EngineError(f"there is a voice {name!r} already; --replace overwrites it")


def _clip(path: Path) -> Clip:
    from tts_engine.chatterbox.clip import read_clip  # noqa: PLC0415 - torch

    clip = read_clip(path)
    for warning in clip.warnings:
        typer.secho(f"chatterline: {path}: {warning}", err=True, fg=typer.colors.YELLOW)
    return clip


def _enrol(clip: Clip, model: str, prompt_seconds: float) -> tuple[Enrolment, str]:
    """The voice, and the SHA-256 of the encoders that made it. Raises EngineError."""
    from tts_engine.chatterbox.enrol import enrol, load_encoders  # noqa: PLC0415 - torch
    from tts_engine.chatterbox.hub import find_model  # noqa: PLC0415 - torch

    directory = find_model(model)
    if directory is None:
        raise EngineError(f"the model {model} is not here: `chatterline fetch-model` fetches it")
    encoders = load_encoders(directory)
    return enrol(clip.samples, encoders, prompt_seconds), encoders.sha256


def _metadata(name: str, clip: Clip, enrolment: Enrolment, encoders: str, consent: str) -> VoiceMetadata:
    from tts_engine.chatterbox.voice_file import VoiceMetadata  # noqa: PLC0415 - torch

    return VoiceMetadata(
        name=name,
        source=clip.name,
        source_seconds=round(clip.seconds, 3),
        source_loudness=round(enrolment.loudness, 2),
        prompt_seconds=enrolment.voice.prompt_seconds,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        encoders_sha256=encoders,
        consent=consent,
    )


def _described(name: str, metadata: VoiceMetadata) -> str:
    parts = [f"prompt {metadata.prompt_seconds:g} s"]
    if metadata.source:
        parts.append(f"from {metadata.source} ({metadata.source_seconds:.1f} s)")
    if metadata.created:
        parts.append(f"made {metadata.created}")
    if metadata.consent:
        parts.append(f"consent: {metadata.consent}")
    return f"{name}: {', '.join(parts)}"
