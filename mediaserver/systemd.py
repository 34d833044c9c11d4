"""systemd's notification protocol: sd_notify(3), sd_watchdog_enabled(3).

The protocol is one datagram. The libraries for it are a C extension with a build, or unkept.
"""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Tell systemd, e.g. "READY=1"; False if it does not listen (we are not its service)."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return False
    address = "\0" + path[1:] if path[0] == "@" else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
            sock.sendall(state.encode())
        except OSError:
            return False
    return True


def watchdog_interval() -> float | None:
    """How often to send "WATCHDOG=1", in seconds: half of what systemd allows. None if it does not ask for it."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(microseconds) / 2e6 or None
