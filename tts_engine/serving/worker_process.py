"""The main program of a worker in a process of its own: `python -m tts_engine.serving.worker_process FD`."""

from __future__ import annotations

import logging
import os
import signal
import sys
from multiprocessing.connection import Connection

from tts_engine.serving.messages import Logged
from tts_engine.serving.settings import WorkerSettings

# Before torch is loaded, see mediaserver/engines.py.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


class _ToEngine(logging.Handler):
    """Log records go where the engine's go."""

    def __init__(self, worker: object) -> None:
        super().__init__(logging.INFO)
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        self._worker.report(Logged(record.name, record.levelno, message))  # type: ignore[attr-defined]


def main() -> None:
    """Entry point."""
    # The engine decides when the worker ends; a signal to the process group is meant for it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    connection: Connection = Connection(int(sys.argv[1]))
    settings = connection.recv()
    if not isinstance(settings, WorkerSettings):
        raise SystemExit("the first message of the engine is not the settings")
    from tts_engine.serving.worker import Worker  # noqa: PLC0415  torch

    worker = Worker(settings, connection)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(_ToEngine(worker))
    raise SystemExit(0 if worker.run() else 1)


if __name__ == "__main__":
    main()
