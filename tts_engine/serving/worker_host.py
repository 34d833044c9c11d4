"""Where a worker runs: in a thread of this process, or in a process of its own.

A process keeps the worker's Python from the interpreter lock that paces RTP, survives what is final for a CUDA context,
and can be killed when a kernel hangs. A thread starts at once and is what a CPU needs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Protocol

from tts_engine.serving.settings import WorkerSettings

logger = logging.getLogger(__name__)

PROCESS_MODULE = "tts_engine.serving.worker_process"


class WorkerHost(Protocol):
    """A worker that runs, or has run."""

    connection: Connection
    "Our end of the pipe: settings have been sent; end of file when the worker has ended."

    def kill(self) -> None:
        """End it now, as far as that is possible. Idempotent."""

    def join(self, timeout: float) -> bool:
        """Wait for its end; whether it came."""


class ThreadHost:
    """A hanging worker cannot be killed; it is left alone, and nobody listens to it."""

    def __init__(self, settings: WorkerSettings) -> None:
        # Here, as torch takes seconds to load, which an engine in processes does not need.
        from tts_engine.serving.worker import Worker  # noqa: PLC0415

        self.connection, theirs = Pipe()
        worker = Worker(settings, theirs)

        def run() -> None:
            try:
                worker.run()
            finally:
                _hang_up(theirs)

        self._thread = threading.Thread(target=run, name=f"tts-{settings.device}", daemon=True)
        self._thread.start()

    def kill(self) -> None:
        _hang_up(self.connection)

    def join(self, timeout: float) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()


class ProcessHost:
    """A fresh interpreter, not a fork: CUDA does not survive one."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.connection, theirs = Pipe()
        descriptor = theirs.fileno()
        # It imports what this interpreter would, and none of the service's secrets are on its command line.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", PROCESS_MODULE, str(descriptor)], pass_fds=(descriptor,), env=environment
        )
        theirs.close()
        self.connection.send(settings)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        _hang_up(self.connection)

    def join(self, timeout: float) -> bool:
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True


def _hang_up(connection: Connection) -> None:
    """Close it so that both ends know: where a thread of this process reads, closing alone tells nobody. Idempotent."""
    if connection.closed:
        return
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as pipe:
        pipe.shutdown(socket.SHUT_RDWR)
    connection.close()
