"""The main program of a worker in a process of its own: `python -m tts_engine.serving.worker_process FD`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection

from tts_engine.serving.messages import Logged

ORPHAN_S = 5.0
"How long a worker whose server has gone may take to end; one that hangs would hold the GPU for ever."


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
    threading.Thread(target=_end_with, args=(os.getppid(),), name="tts-parent", daemon=True).start()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is loaded, see mediaserver/engines.py
    from tts_engine.serving.settings import WorkerSettings  # noqa: PLC0415  torch

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


def _end_with(parent: int) -> None:
    """A thread: when the server has died, in whatever way, this process ends too."""
    never = threading.Event()
    while os.getppid() == parent:
        never.wait(1.0)
    never.wait(ORPHAN_S)
    os._exit(1)


if __name__ == "__main__":
    main()
