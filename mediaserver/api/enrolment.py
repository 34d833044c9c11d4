"""Making a voice of a recording: `chatterline voices add` in a process of its own.

The encoders take seconds of all cores and gigabytes of memory, and recordings from outside go through native decoders:
nothing of that belongs into the process that has calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from mediaserver.config import ENV_PREFIX, Config
from mediaserver.engines import voices_directory

_log = structlog.get_logger("voices")

COMMAND = (sys.executable, "-m", "mediaserver")
TIMEOUT_S = 600.0
NICENESS = 10
VOICES_DIR = f"{ENV_PREFIX}TTS__CHATTERBOX__VOICES_DIR"
_SAID_PREFIX = "chatterline: "
_MAX_SAID_CHARS = 500


class EnrolmentBusyError(Exception):
    """Another voice is being made."""


class EnrolmentFailedError(Exception):
    """No voice was made; why, in words for who sent the recording."""


@dataclass(frozen=True, slots=True)
class EnrolmentOrder:
    """What a voice is to be made of."""

    name: str
    "Checked: no path, no option."
    clip: Path
    consent: str = ""
    replace: bool = False


class Enroller:
    """Makes one voice at a time. Belongs to the event loop."""

    def __init__(self, config: Config, *, command: Sequence[str] = COMMAND, timeout_s: float = TIMEOUT_S) -> None:
        self.directory = voices_directory(config.tts)
        self._model = config.tts.chatterbox.model
        self._command = tuple(command)
        self._timeout_s = timeout_s
        self._busy = False

    def exists(self, name: str) -> bool:
        """Whether a voice of that name, usable or not, is there. Name as for an EnrolmentOrder."""
        return (self.directory / f"{name}.safetensors").exists()

    async def enrol(self, order: EnrolmentOrder) -> list[str]:
        """Make the voice; what will be heard of the recording's faults. Raises EnrolmentBusyError, -FailedError."""
        if self._busy:
            raise EnrolmentBusyError("another voice is being made")
        self._busy = True
        try:
            code, said = await self._run(order)
        finally:
            self._busy = False
        lines = _said(said, order.clip.parent, self.directory)
        if code:
            _log.warning("voice_not_made", voice=order.name, code=code)
            raise EnrolmentFailedError(lines[-1] if lines else f"enrolment ended with code {code}")
        _log.info("voice_made", voice=order.name)
        return [line.removeprefix(f"{order.clip.name}: ") for line in lines]

    async def _run(self, order: EnrolmentOrder) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *_arguments(order, self._model),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment(os.environ),
            start_new_session=True,
        )
        with contextlib.suppress(OSError):  # it may have ended
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        try:
            async with asyncio.timeout(self._timeout_s):
                _, said = await process.communicate()
        except TimeoutError:
            raise EnrolmentFailedError(f"enrolment took more than {self._timeout_s:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return process.returncode or 0, said.decode(errors="replace")

    def _environment(self, ours: Mapping[str, str]) -> dict[str, str]:
        """Ours without our configuration and its secrets: what it needs of that it is told."""
        kept = {name: value for name, value in ours.items() if not name.upper().startswith(ENV_PREFIX)}
        threads = max(1, (os.cpu_count() or 2) // 2)  # the rest is for calls
        return kept | {VOICES_DIR: str(self.directory), "OMP_NUM_THREADS": str(threads)}


def _arguments(order: EnrolmentOrder, model: str) -> list[str]:
    options = [f"--model={model}", f"--consent={order.consent}", *(["--replace"] if order.replace else [])]
    return ["voices", "add", *options, "--", order.name, str(order.clip)]


def _said(output: str, *directories: Path) -> list[str]:
    """Its messages: one a line, without paths of this machine; what libraries write besides is left out."""
    lines = [line.removeprefix(_SAID_PREFIX) for line in output.splitlines() if line.startswith(_SAID_PREFIX)]
    for directory in directories:
        lines = [line.replace(f"{directory}/", "") for line in lines]
    return [line[:_MAX_SAID_CHARS] for line in lines]
