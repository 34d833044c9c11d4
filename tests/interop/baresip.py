"""baresip, headless: one call without sound hardware, everything it decodes kept as WAV."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mediaserver.phone.local_server import HOST
from mediaserver.phone.recording import Loudness, measure, read_wav
from tests.interop.server import free_tcp_port, wait_for

MODULES = Path("/usr/lib/baresip/modules")
# aubridge is a sound device of memory: it gives the pipeline its clock. sndfile records what is decoded.
CONFIG = """\
poll_method epoll
sip_listen {host}:0
net_interface {host}
call_max_calls 1
audio_player aubridge,loop
audio_source {source}
ausrc_srate 8000
auplay_srate 8000
ausrc_channels 1
auplay_channels 1
audio_txmode poll
rtp_ports 12000-12998
jitter_buffer_delay 1-5
rtp_stats yes
module_path {modules}
module g711.so
module aubridge.so
module aufile.so
module sndfile.so
module ctrl_tcp.so
ctrl_tcp_listen {host}:{control_port}
module_app account.so
module_app menu.so
snd_path {directory}
"""


Command = Callable[[str, str], None]
"Gives baresip a command of its menu: (name, argument)."


@dataclass(frozen=True)
class BaresipCall:
    """What baresip told of its call: its terminal output, and the recordings of what was decoded and encoded."""

    output: str
    heard: Loudness
    decoded: Path
    encoded: Path

    @property
    def established(self) -> bool:
        return "Call established" in self.output

    @property
    def ended_by_server(self) -> bool:
        """Whether the server's BYE ended it: baresip shows one as a connection that was reset."""
        return "session closed: Connection reset by peer" in self.output

    @property
    def packets_received(self) -> int:
        """From the summary at the end of the call."""
        match = re.search(r"(?m)^packets:\s+(\d+)\s+(\d+)", self.output)
        assert match, self.output
        return int(match[2])


def call(
    uri: str,
    directory: Path,
    *,
    codec: str = "pcmu",
    speech: Path | None = None,
    during: Callable[[Command], None] | None = None,
    limit_s: float = 30.0,
) -> BaresipCall:
    """Call `uri` and stay until the server hangs up; fails the test where it does not within `limit_s`.

    `speech` is a WAV file at 8 kHz that is played to the server, and at whose end baresip hangs up. `during` is
    called at the beginning of the call.
    """
    program = shutil.which("baresip")
    assert program, "baresip is not installed: apt-get install baresip-core"
    control_port = free_tcp_port()
    source = f"aufile,{speech}" if speech is not None else "aubridge,loop"
    (directory / "config").write_text(
        CONFIG.format(host=HOST, modules=MODULES, directory=directory, source=source, control_port=control_port)
    )
    (directory / "accounts").write_text(f"<sip:phone@{HOST}>;regint=0;audio_codecs={codec}/8000/1\n")
    (directory / "contacts").touch()
    terminal = directory / "baresip.log"

    def output() -> str:
        return terminal.read_text(encoding="utf-8", errors="replace")

    with terminal.open("wb") as log:
        process = subprocess.Popen(
            [program, "-f", str(directory), "-e", f"/dial {uri}"],
            stdin=subprocess.PIPE,  # at its end baresip quits
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"HOME": str(directory), "TERM": "dumb"},
        )
    try:
        if during is not None:
            wait_for(lambda: "Call established" in output() or process.poll() is not None, "the answer", limit_s)
            during(lambda name, argument: _command(control_port, name, argument))
        # The summary is the last thing it writes of a call.
        wait_for(lambda: "packets: " in output() or process.poll() is not None, "the end of the call", limit_s)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin
        process.stdin.close()
    decoded, encoded = (list(directory.glob(f"dump-*-{kind}.wav")) for kind in ("dec", "enc"))
    assert len(decoded) == len(encoded) == 1, f"{len(decoded)} recordings:\n{output()}"
    return BaresipCall(output(), measure(*read_wav(decoded[0])), decoded[0], encoded[0])


def _command(port: int, name: str, argument: str) -> None:
    """Over the control port of module ctrl_tcp: netstrings of JSON."""
    text = json.dumps({"command": name, "params": argument}).encode()
    with socket.create_connection((HOST, port), timeout=5) as control:
        control.sendall(b"%d:%s," % (len(text), text))
        answer = control.recv(4096)
    assert b'"ok":true' in answer, answer
