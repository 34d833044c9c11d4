"""The command line: `chatterline serve`, `say`, `call`, `voices`, `prompts`, `engine`, `tokens`, `fetch-model`."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from mediaserver import __version__, cli_engine, cli_prompts, cli_tokens, cli_voices, logging
from mediaserver.cli_models import fetch_model_command
from mediaserver.cli_support import fail, read_config
from mediaserver.config import TtsConfig
from mediaserver.config_section import require_ip
from mediaserver.engines import choose, make_engine
from mediaserver.phone import PhoneError, place_call
from sip.address import parse_uri
from sip.transport import source_host_towards
from tts_engine.engine import SpeechRequest
from tts_engine.errors import EngineError
from tts_engine.wav import write_mulaw_wav, write_pcm_wav

app = typer.Typer(
    name="chatterline",
    help="Telephony-native RTP/SIP media server: a PBX calls, the caller hears text spoken.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="TOML file; without one the defaults hold: loopback only.")
]


app.add_typer(cli_voices.app, name="voices")
app.add_typer(cli_prompts.app, name="prompts")
app.add_typer(cli_engine.app, name="engine")
app.add_typer(cli_tokens.app, name="tokens")
app.command("fetch-model")(fetch_model_command)


class EngineName(StrEnum):
    """What `--engine` takes."""

    AUTO = "auto"
    EMBEDDED = "embedded"
    CHATTERBOX = "chatterbox"
    CHATTERBOX_NANO = "chatterbox-nano"
    CHATTERBOX_ONNX = "chatterbox-onnx"


def main() -> None:
    """Entry point of the command."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"chatterline {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


@app.command("serve")
def serve_command(config: ConfigOption = None) -> None:
    """Run the media server until SIGTERM or Ctrl-C."""
    # Here: the other commands need none of it, and it takes most of a second.
    from mediaserver.server import StartError, serve  # noqa: PLC0415

    settings = read_config(config)
    logging.configure(settings.log)
    try:
        uvloop.run(serve(settings))
    except (StartError, ValueError) as error:
        fail(str(error))


@app.command("say")
def say_command(
    text: Annotated[str, typer.Argument(help="What to speak.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="WAV file to write.")],
    voice: Annotated[str | None, typer.Option(help="One of the configured voices.")] = None,
    engine: Annotated[
        EngineName | None, typer.Option(help="Instead of the configured one.", show_default=False)
    ] = None,
    telephone: Annotated[bool, typer.Option(help="8 kHz mu-law, as a caller hears it, instead of 24 kHz.")] = False,
    config: ConfigOption = None,
) -> None:
    """Speak a text into a WAV file."""
    settings = read_config(config).tts
    if output.is_dir() or not output.absolute().parent.is_dir():
        fail(f"{output}: {'is a directory' if output.is_dir() else 'there is no such directory'}")
    if engine is not None:
        settings = settings.model_copy(update={"engine": engine.value})
    rate = 8000 if telephone else 24000
    try:
        chunks = asyncio.run(_synthesise(settings, SpeechRequest(text, voice, rate)))
    except ValueError as error:  # of the environment: CHATTERBOX_CFG_SCALE
        fail(str(error))
    except EngineError as error:
        fail(str(error))
    if not chunks:
        fail("there is nothing speakable in this text")
    try:
        if telephone:
            write_mulaw_wav(output, b"".join(chunks))
        else:
            write_pcm_wav(output, chunks, rate)
    except OSError as error:
        fail(f"{output}: {error.strerror}")
    typer.echo(f"{output}: {sum(map(len, chunks)) / (2 * rate):.1f} s")


async def _synthesise(config: TtsConfig, request: SpeechRequest) -> list[bytes]:
    """All chunks of one utterance. Raises EngineError."""
    choice = choose(config)
    typer.echo(f"engine {choice.kind} ({choice.reason})", err=True)
    engine = make_engine(config, max_streams=1, max_text_chars=max(1, len(request.text)), choice=choice)
    await engine.start()
    try:
        return [chunk.pcm async for chunk in engine.synthesize(request)]
    finally:
        await engine.stop()


@app.command("call")
def call_command(
    uri: Annotated[str, typer.Argument(help="sip:user@host[:port]")],
    say: Annotated[str | None, typer.Option(help="Text that the server is to speak (X-TTS-Text).")] = None,
    voice: Annotated[str | None, typer.Option(help="Voice to ask for (X-TTS-Voice).")] = None,
    record: Annotated[Path | None, typer.Option(help="WAV file for what is heard.")] = None,
    max_seconds: Annotated[float, typer.Option(min=1, max=86_400, help="Hang up after this long.")] = 60.0,
    silence: Annotated[float | None, typer.Option(min=0.5, help="Hang up after that many seconds of silence.")] = None,
    local_host: Annotated[str | None, typer.Option(help="IP address to call from; by default as routed.")] = None,
) -> None:
    """Call a server with a real SIP phone (PJSIP, extra `phone`), listen, and report."""
    if record is not None and record.is_dir():
        fail(f"{record} is a directory")
    try:
        if local_host is not None:
            require_ip(local_host)
    except ValueError as error:
        fail(f"--local-host: {error}")
    try:
        report = place_call(
            uri,
            say=say,
            headers={"X-TTS-Voice": voice} if voice else None,
            record=record,
            max_seconds=max_seconds,
            hangup_after_silence=silence,
            local_host=local_host or source_host_towards(parse_uri(uri).host.strip("[]")),
        )
    except (PhoneError, ValueError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or uri}: {error.strerror or error}")
    for line in report.lines():
        typer.echo(line)
    raise typer.Exit(0 if report.answered else 1)
