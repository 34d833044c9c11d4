"""Two network namespaces joined by a veth pair: a network of our own, that tc-netem(8) may impair. Takes root."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.load.impairment import Profile

SERVER_HOST, CALLER_HOST = "10.254.90.1", "10.254.90.2"
_CLONE_NEWNET = 0x40000000


def netem_works(profile: Profile) -> bool:
    """Whether this kernel and user can impair so: tried in a namespace that is gone at once."""
    script = f"ip link set lo up && tc qdisc add dev lo root netem {' '.join(profile.netem())}"
    try:
        tried = subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0


class Namespaces:
    """A server's and a caller's, each the other's only neighbour. A context manager: they exist within its block."""

    def __init__(self) -> None:
        self.server, self.caller = (f"chatterline-{side}-{os.getpid()}" for side in ("server", "caller"))

    def __enter__(self) -> Namespaces:
        try:
            for name in (self.server, self.caller):
                _run("ip", "netns", "add", name)
            _run("ip", "-n", self.server, "link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", self.caller)
            for name, host in ((self.server, SERVER_HOST), (self.caller, CALLER_HOST)):
                _run("ip", "-n", name, "address", "add", f"{host}/30", "dev", "eth0")
                for device in ("lo", "eth0"):
                    _run("ip", "-n", name, "link", "set", device, "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def impair(self, profile: Profile) -> None:
        """From now on, each way."""
        for name in (self.server, self.caller):
            _run("tc", "-n", name, "qdisc", "replace", "dev", "eth0", "root", "netem", *profile.netem())

    def clear(self) -> None:
        """Impair no more."""
        for name in (self.server, self.caller):
            subprocess.run(
                ["tc", "-n", name, "qdisc", "del", "dev", "eth0", "root"], capture_output=True, check=False, timeout=10
            )

    def _remove(self) -> None:
        for name in (self.server, self.caller):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False, timeout=10)


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Sockets that this thread opens within the block belong to that namespace, and stay in it (setns(2))."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        within = os.open(Path("/run/netns") / name, os.O_RDONLY)
        try:
            _enter(within)
        finally:
            os.close(within)
        try:
            yield
        finally:
            _enter(before)
    finally:
        os.close(before)


def _enter(descriptor: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)  # os.setns is there from Python 3.12 on
    if library.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=10)
