"""Receives paced RTP in a process of its own, each packet stamped by the kernel: what it does costs the sender nothing.

    python -m benchmarks.load.sink LEGS SECONDS FILE

Prints its ports as JSON, receives until its standard input is closed or SECONDS are over, then writes the records
(analysis.RECORD) to FILE and prints how many datagrams were lost on its side.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import ROOT
from benchmarks.load.receiver import Receiver

HOST = "127.0.0.1"
PORTS = range(24576, 32766, 2)
PACKETS_A_SECOND = 51
POLL_SECONDS = 0.002
"Between two looks at the sockets: their buffers hold seconds, and stamps are the kernel's."
END_SECONDS = 30.0


@dataclass
class Sink:
    """A sink that receives."""

    ports: list[int]
    _process: subprocess.Popen[str]

    def finish(self) -> dict[str, int]:
        """End it; what it lost. RuntimeError if it had failed."""
        output, _ = self._process.communicate("", timeout=END_SECONDS)
        if self._process.returncode:
            raise RuntimeError(f"the receiver ended with status {self._process.returncode}")
        return dict(json.loads(output))


@contextlib.contextmanager
def receiving(legs: int, seconds: float, path: Path) -> Iterator[Sink]:
    """A sink of that many ports on 127.0.0.1, for at most that long."""
    command = [sys.executable, "-m", "benchmarks.load.sink", str(legs), f"{seconds:.1f}", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the receiver did not start")
        yield Sink(json.loads(line), process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def main() -> None:
    """Entry point."""
    legs, seconds, path = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
    receiver = Receiver(int(legs * seconds * PACKETS_A_SECOND))
    free = iter(PORTS)
    ports = [receiver.open(leg, HOST, free).getsockname()[1] for leg in range(legs)]
    print(json.dumps(ports), flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        while receiver.drain():
            pass
        if select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
            break
    while receiver.drain():
        pass
    lost = {"kernel_drops": receiver.kernel_drops(), "no_room": receiver.overflowed}
    receiver.save(path)
    receiver.close()
    print(json.dumps(lost))


if __name__ == "__main__":
    main()
