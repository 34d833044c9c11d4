"""Enrolment in a process of its own; a script stands in for the command line."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from mediaserver.api.enrolment import Enroller, EnrolmentBusyError, EnrolmentFailedError, EnrolmentOrder
from mediaserver.config import Config

SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
name, clip = sys.argv[-2:]
Path(os.environ["XDG_CONFIG_HOME"], "seen.json").write_text(json.dumps(
    {"arguments": sys.argv[1:], "environment": dict(os.environ), "nice": os.getpriority(os.PRIO_PROCESS, 0)}))
say = lambda text: print(text, file=sys.stderr, flush=True)
say("some library: a warning")
if name == "bad":
    say(f"chatterline: {clip} is silent: 3.0 s, and nothing above -60 dBFS")
    sys.exit(1)
if name == "mute":
    sys.exit(3)
if name == "slow":
    Path(clip).with_name("child").write_text(str(os.getpid()))
    time.sleep(60)
say(f"chatterline: {clip}: it was recorded at 8000 Hz: the voice will sound like a telephone")
print("done")
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("CHATTERLINE_WEBHOOKS__SECRET", "hush")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "take 1.wav").write_bytes(b"RIFF")
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def enroller(home: Path, timeout_s: float = 30) -> Enroller:
    config = Config(tts={"chatterbox": {"voices_dir": str(home / "voices"), "model": "some/model"}}, webhooks={})
    return Enroller(config, command=(sys.executable, str(home / "script.py")), timeout_s=timeout_s)


def order(home: Path, name: str, **more: object) -> EnrolmentOrder:
    return EnrolmentOrder(name, home / "clips" / "take 1.wav", **more)  # type: ignore[arg-type]


async def test_what_the_command_is_given(home: Path) -> None:
    warnings = await enroller(home).enrol(order(home, "anna", consent="--signed", replace=True))
    assert warnings == ["it was recorded at 8000 Hz: the voice will sound like a telephone"]
    seen = json.loads((home / "seen.json").read_text())
    clip = str(home / "clips" / "take 1.wav")
    options = ["--model=some/model", "--consent=--signed", "--replace"]
    assert seen["arguments"] == ["voices", "add", *options, "--", "anna", clip]
    ours = {name: value for name, value in seen["environment"].items() if name.startswith("CHATTERLINE_")}
    assert ours == {"CHATTERLINE_TTS__CHATTERBOX__VOICES_DIR": str(home / "voices")}  # no secrets
    assert int(seen["environment"]["OMP_NUM_THREADS"]) >= 1


async def test_a_recording_that_no_voice_can_be_made_of(home: Path) -> None:
    with pytest.raises(EnrolmentFailedError) as raised:
        await enroller(home).enrol(order(home, "bad"))
    assert str(raised.value) == "take 1.wav is silent: 3.0 s, and nothing above -60 dBFS"  # no path of this machine


async def test_a_command_that_says_nothing(home: Path) -> None:
    with pytest.raises(EnrolmentFailedError, match="ended with code 3"):
        await enroller(home).enrol(order(home, "mute"))


async def test_one_that_takes_too_long_is_ended(home: Path) -> None:
    making = enroller(home, timeout_s=0.0)
    with pytest.raises(EnrolmentFailedError, match="more than 0 s"):
        await making.enrol(order(home, "slow"))
    assert await making_again(home, making)


async def making_again(home: Path, making: Enroller) -> bool:
    """It takes the next order: it is not busy, though it has no time for this one either."""
    with pytest.raises(EnrolmentFailedError):
        await making.enrol(order(home, "anna"))
    return True


async def test_one_at_a_time_and_cancelling_ends_the_process(home: Path) -> None:
    making = enroller(home)
    first = asyncio.create_task(making.enrol(order(home, "slow")))
    child = home / "clips" / "child"
    while not child.exists() or not child.read_text():
        await asyncio.sleep(0.01)
    with pytest.raises(EnrolmentBusyError):
        await making.enrol(order(home, "anna"))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(ProcessLookupError):
        os.kill(int(child.read_text()), 0)
    assert await making.enrol(order(home, "anna"))


def test_whether_a_voice_is_there(home: Path) -> None:
    making = enroller(home)
    assert not making.exists("anna")
    (home / "voices").mkdir()
    (home / "voices" / "anna.safetensors").touch()
    assert making.exists("anna")
