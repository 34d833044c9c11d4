"""Chatterline's service: call legs, speech queues, operations and the command line."""

import os

# Before numpy is loaded: with threads of its own, OpenBLAS takes a second core to solve the echo guard's small systems.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
