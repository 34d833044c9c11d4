"""Phones that are called: baresip, which answers by itself and does what it is asked to; and scenarios of SIPp."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mediaserver.phone.local_server import HOST, free_udp_port
from tests.interop.baresip import CONFIG, MODULES
from tests.interop.server import free_tcp_port, wait_for

SCENARIOS = Path(__file__).parent / "sipp_scenarios"


@dataclass(frozen=True)
class BaresipCallee:
    """What is called, and what it tells."""

    directory: Path
    port: int

    @property
    def output(self) -> str:
        return (self.directory / "baresip.log").read_text(encoding="utf-8", errors="replace")

    @property
    def calls_ended(self) -> int:
        """Whose recordings are complete."""
        return self.output.count(" terminated (duration")

    def recordings(self) -> list[Path]:
        """Of what was decoded, a file for each call, in order."""
        return sorted(self.directory.glob("dump-*-dec.wav"))


@contextlib.contextmanager
def baresip_callee(directory: Path, *, port: int | None = None, answers: bool = True) -> Iterator[BaresipCallee]:
    """baresip on a port of the loopback interface; `answers`: by itself, else it rings."""
    program = shutil.which("baresip")
    assert program, "baresip is not installed: apt-get install baresip-core"
    directory.mkdir(parents=True, exist_ok=True)
    callee = BaresipCallee(directory, port or free_udp_port())
    config = CONFIG.format(
        host=HOST, modules=MODULES, directory=directory, source="aubridge,loop", control_port=free_tcp_port()
    )
    config = config.replace(f"sip_listen {HOST}:0", f"sip_listen {HOST}:{callee.port}")
    (directory / "config").write_text(config.replace("call_max_calls 1", "call_max_calls 4"))
    mode = "auto" if answers else "manual"
    account = f"<sip:phone@{HOST}:{callee.port}>;regint=0;answermode={mode};audio_codecs=pcmu/8000/1\n"
    (directory / "accounts").write_text(account)
    (directory / "contacts").touch()
    with (directory / "baresip.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-f", str(directory)],
            stdin=subprocess.PIPE,  # at its end baresip quits
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"HOME": str(directory), "TERM": "dumb"},
        )
    try:
        wait_for(lambda: "baresip is ready" in callee.output or process.poll() is not None, "baresip's start", 10)
        assert process.poll() is None, callee.output
        yield callee
    finally:
        _end(process)


@contextlib.contextmanager
def sipp_callee(scenario: Path, directory: Path, *, port: int, calls: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    """SIPp on that port, which ends with 0 when `calls` calls have gone as the scenario says."""
    program = shutil.which("sipp")
    assert program, "SIPp is not installed: apt-get install sip-tester"
    directory.mkdir(parents=True, exist_ok=True)
    command = [
        program, "-sf", str(scenario), "-i", HOST, "-mi", HOST, "-p", str(port), "-m", str(calls), "-nostdin",
        "-timeout", "40s", "-timeout_error", "-trace_err", "-error_file", str(directory / "errors"),
        "-trace_msg", "-message_file", str(directory / "messages"),
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: not _is_free(port) or process.poll() is not None, "SIPp's start", 10)
        yield process
    finally:
        _end(process)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin:
        process.stdin.close()
