"""The command line, as a user types it."""

from __future__ import annotations

import os
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from mediaserver import __version__


def chatterline(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHATTERLINE_")}
    return subprocess.run(
        [sys.executable, "-m", "mediaserver", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**kept, **environment},
        check=False,
    )


def refused(result: subprocess.CompletedProcess[str], said: str) -> None:
    """A message for a person: on standard error, without a traceback."""
    assert result.returncode != 0
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_version() -> None:
    assert chatterline("--version").stdout.strip() == f"chatterline {__version__}"


def test_help_names_the_commands() -> None:
    text = chatterline("--help").stdout
    for command in ("serve", "say", "call"):
        assert command in text


def test_say(tmp_path: Path) -> None:
    file = tmp_path / "out.wav"
    result = chatterline("say", "Hello from the command line.", "-o", str(file))
    assert result.returncode == 0, result.stderr
    assert str(file) in result.stdout
    with wave.open(str(file)) as wav:
        assert (wav.getframerate(), wav.getnchannels(), wav.getsampwidth()) == (24_000, 1, 2)
        assert wav.getnframes() > 24_000


def test_say_for_the_telephone(tmp_path: Path) -> None:
    file = tmp_path / "out.wav"
    assert chatterline("say", "Hello.", "-o", str(file), "--telephone").returncode == 0
    data = file.read_bytes()
    assert data[20:22] == b"\x07\x00"  # WAVE_FORMAT_MULAW
    assert int.from_bytes(data[24:28], "little") == 8000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("say", "Hello.", "-o", "{tmp}/x.wav", "--voice", "bob"), "unknown voice 'bob'; available: heart"),
        (("say", "...", "-o", "{tmp}/x.wav"), "nothing speakable"),
        (("say", "Hello.", "-o", "{tmp}/no/such/place.wav"), "there is no such directory"),
        (("serve", "--config", "{tmp}/none.toml"), "none.toml: No such file"),
        (("call", "nonsense"), "URI scheme is not supported"),
        (("call", "sip:a@127.0.0.1", "--local-host", "here"), "--local-host: 'here' is not an IP address"),
        (("call", "sip:a@127.0.0.1", "--record", "{tmp}"), "is a directory"),
        (("call", "sip:a@127.0.0.1", "--max-seconds", "-3"), "--max-seconds"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    refused(chatterline(*(argument.format(tmp=tmp_path) for argument in arguments)), said)


def test_a_wrong_configuration_names_the_key() -> None:
    refused(chatterline("serve", CHATTERLINE_SIP__PORT="70000"), "[sip] port")
    refused(chatterline("serve", CHATTERLINE_SIP__PROT="1"), "[sip] prot: unknown key")


def test_an_address_that_is_not_ours() -> None:
    settings = {"CHATTERLINE_SIP__HOST": "192.0.2.1", "CHATTERLINE_API__PORT": "0"}
    refused(chatterline("serve", **settings), "[sip] cannot listen on 192.0.2.1:5060")


def test_a_voice_model_that_is_not_here() -> None:
    voices = '{"heart": {}, "emma": {"model": "emma"}}'
    refused(chatterline("serve", CHATTERLINE_TTS__VOICES=voices, HIBARI_HOME="/nonexistent"), "emma")
