"""In place of worker_process, for tests of the host: it says what it is told, without torch."""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection


def main() -> None:
    connection: Connection = Connection(int(sys.argv[1]))
    settings = connection.recv_bytes()
    connection.send((os.getpid(), len(settings), sys.argv[1:]))
    while True:
        order = connection.recv()
        if order == "end":
            return
        connection.send(order)


if __name__ == "__main__":
    main()
