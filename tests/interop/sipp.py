"""SIPp, headless: one scenario against a server, and every message that went over the wire."""

from __future__ import annotations

import csv
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mediaserver.phone.local_server import HOST, LocalServer

SCENARIOS = Path(__file__).parent / "sipp_scenarios"
# SIPp's own limit; the process gets a little more.
TIMEOUT_S = 30


@dataclass(frozen=True)
class Message:
    """A SIP message in SIPp's log: `at` in seconds of the wall clock, `sent` by SIPp or received."""

    at: float
    sent: bool
    text: str

    @property
    def start_line(self) -> str:
        return self.text.partition("\n")[0].strip()

    @property
    def status(self) -> int | None:
        """Status of a response, None for a request."""
        match = re.match(r"SIP/2\.0 (\d{3})", self.start_line)
        return int(match[1]) if match else None

    @property
    def method(self) -> str:
        """Method of a request, or of the request a response belongs to."""
        return self.header("CSeq").split()[1] if self.status else self.start_line.split()[0]

    @property
    def body(self) -> str:
        return self.text.replace("\r\n", "\n").partition("\n\n")[2]

    def headers(self, name: str) -> list[str]:
        """Values of all header fields of that name, in order."""
        head = self.text.replace("\r\n", "\n").partition("\n\n")[0]
        return [value.strip() for value in re.findall(rf"(?im)^{re.escape(name)}[ \t]*:(.*)$", head)]

    def header(self, name: str) -> str:
        values = self.headers(name)
        assert len(values) == 1, f"{len(values)} {name} in:\n{self.text}"
        return values[0]


@dataclass(frozen=True)
class SippRun:
    """What came of a scenario: counts of calls, and all messages in order."""

    exit_code: int
    successful: int
    failed: int
    messages: list[Message]
    errors: str

    def received(self, what: int | str) -> list[Message]:
        """Messages from the server: responses with that status, or requests of that method."""
        arrived = [message for message in self.messages if not message.sent]
        if isinstance(what, int):
            return [message for message in arrived if message.status == what]
        return [message for message in arrived if message.status is None and message.method == what]

    def answers(self, method: str, status: int = 200) -> list[Message]:
        """Responses to requests of `method`."""
        return [message for message in self.received(status) if message.method == method]

    def transcript(self) -> str:
        """For an assertion's message."""
        if not self.messages:
            return "no messages"
        start = self.messages[0].at
        lines = [
            f"{message.at - start:8.3f} {'->' if message.sent else '<-'} {message.start_line}"
            for message in self.messages
        ]
        return "\n".join(lines)


def can_play_captures() -> bool:
    """Whether this process may open the raw socket through which SIPp plays a capture."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP).close()
    except PermissionError:
        return False
    return True


def run_sipp(
    server: LocalServer,
    scenario: str,
    directory: Path,
    *,
    calls: int = 1,
    rate: int = 10,
    keys: Mapping[str, str] | None = None,
    arguments: tuple[str, ...] = (),
) -> SippRun:
    """Run `scenario`, a file of sipp_scenarios/ without its suffix or `uac` for the built-in one.

    Fails the test, with the messages, unless every call went as the scenario says.
    """
    program = shutil.which("sipp")
    assert program, "SIPp is not installed: apt-get install sip-tester"
    log, errors, statistics = (directory / f"sipp.{kind}" for kind in ("messages", "errors", "csv"))
    source = ("-sn", "uac") if scenario == "uac" else ("-sf", str(SCENARIOS / f"{scenario}.xml"))
    command = [
        program, f"{HOST}:{server.port}", *source, "-s", "tts",
        "-i", HOST, "-mi", HOST,  # ports of its own choice: it tries others where one is taken
        "-m", str(calls), "-r", str(rate), "-timeout", f"{TIMEOUT_S}s", "-timeout_error", "-nostdin",
        "-trace_msg", "-message_file", str(log), "-trace_err", "-error_file", str(errors),
        "-trace_stat", "-stf", str(statistics), "-fd", "1",
        *(part for name, value in (keys or {}).items() for part in ("-key", name, value)),
        *arguments,
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S + 15, check=False
    )
    successful, failed = _counts(statistics)
    run = SippRun(
        exit_code=done.returncode,
        successful=successful,
        failed=failed,
        messages=_messages(log),
        errors=errors.read_text(encoding="utf-8", errors="replace") if errors.exists() else "",
    )
    assert (run.exit_code, run.successful, run.failed) == (0, calls, 0), (
        f"{scenario}: exit code {run.exit_code}, {run.successful} of {calls} calls good, {run.failed} failed\n"
        f"{run.transcript()}\n{run.errors}\n{done.stderr[-2000:]}"
    )
    return run


def _counts(path: Path) -> tuple[int, int]:
    if not path.exists():
        return 0, 0
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    return (int(rows[-1]["SuccessfulCall(C)"]), int(rows[-1]["FailedCall(C)"])) if rows else (0, 0)


def _messages(path: Path) -> list[Message]:
    """Each message follows a line of dashes with the time, a line that tells the direction, and an empty one."""
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace")
    parts = re.split(r"(?m)^-{40,} (\d{4}-\d\d-\d\d[ \t]\d\d:\d\d:\d\d\.\d+)[^\n]*\n", text)[1:]
    messages = []
    for stamp, entry in zip(parts[::2], parts[1::2], strict=True):
        direction, _, message = entry.partition("\n")
        at = datetime.fromisoformat(stamp.replace("\t", " ")).timestamp()
        messages.append(Message(at, sent="sent" in direction, text=message.lstrip()))
    return messages
