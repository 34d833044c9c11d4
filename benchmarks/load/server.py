"""Starts the server under test, waits until it is ready, watches it, reads its metrics, and ends it."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import procfs, uac

READY_SECONDS = 60.0
STOP_SECONDS = 10.0
PROBE_SECONDS = 0.25

METRICS = {
    "packets_sent": "chatterline_rtp_packets_sent_total",
    "packets_received": "chatterline_rtp_packets_received_total",
    "send_errors": "chatterline_rtp_send_errors_total",
    "underruns": "chatterline_rtp_underruns_total",
    "underrun_frames": "chatterline_rtp_underrun_frames_total",
    "pacer_skipped": "chatterline_pacer_skipped_total",
    "speech_failed": "chatterline_speech_failed_total",
    "accepted_retransmissions": "chatterline_sip_accepted_retransmissions_total",
    "acks_missing": "chatterline_sip_acks_missing_total",
}
"Figures that the server counts itself, over the run: our name, the name it exposes."


class ServerError(Exception):
    """The server did not start, or did not become ready."""


@dataclass(frozen=True, slots=True)
class Target:
    """The server under test; `pid` None if its process is not known."""

    address: tuple[str, int]
    pid: int | None
    metrics_port: int | None


def loopback(host: str) -> str:
    """The host, if it is an IPv4 loopback address. Raises ValueError otherwise: load is for our own machine only."""
    address = ipaddress.ip_address(host)
    if address.version != 4 or not address.is_loopback:
        raise ValueError(f"{host} is no IPv4 loopback address; this benchmark calls nothing else")
    return host


def free_port(kind: socket.SocketKind, host: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str], settings: Mapping[str, str], target: tuple[str, int], metrics_port: int | None, log: Path
) -> Iterator[Target]:
    """The server as a process group of its own, ready to be called; gone when the block is left, however it is.

    Its output goes to `log`. Raises ServerError with the last lines of it if the server does not become ready.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_ready(target, READY_SECONDS, process)
        yield Target(target, process.pid, metrics_port)
    except ServerError as error:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
        raise ServerError(f"{error}; its last words:\n{tail}") from error
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the whole group: politely, then for good, which also reaches children that outlived their parent."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


def wait_until_ready(
    target: tuple[str, int], seconds: float = READY_SECONDS, process: subprocess.Popen[bytes] | None = None
) -> float:
    """Send OPTIONS until it is answered 200; returns how long that took. Raises ServerError after `seconds`."""
    start = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((target[0], 0))
        while (waited := time.monotonic() - start) < seconds:
            if process is not None and process.poll() is not None:
                raise ServerError(f"the server ended with status {process.returncode}")
            sock.sendto(uac.options(sock.getsockname(), target, secrets.token_hex(6)), target)
            if _answered(sock, PROBE_SECONDS):
                return waited
    raise ServerError(f"the server did not answer OPTIONS with 200 in {seconds:.0f} s")


def _answered(sock: socket.socket, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            message = uac.parse(sock.recv(65535))
        except (TimeoutError, ValueError):
            continue
        if message.method == "OPTIONS" and message.status == 200:
            return True
    return False


def parse_metrics(text: str) -> dict[str, float]:
    """Sum over all labels of every sample of a Prometheus text page."""
    totals: dict[str, float] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name_and_labels, _, rest = line.rpartition("} ") if "}" in line else line.partition(" ")
        name = name_and_labels.partition("{")[0]
        with contextlib.suppress(ValueError, IndexError):
            totals[name] = totals.get(name, 0.0) + float(rest.split()[0])
    return totals


def read_page(port: int | None) -> dict[str, float]:
    """All that the server counts, by its own names; empty if it exposes nothing."""
    if port is None:
        return {}
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            return parse_metrics(page.read().decode("utf-8"))
    except (OSError, urllib.error.URLError):
        return {}


def counted(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """METRICS from one page to a later one."""
    return {ours: after[theirs] - before.get(theirs, 0.0) for ours, theirs in METRICS.items() if theirs in after}


def counters(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Every counter that moved, by the server's own name."""
    moved = {name: after[name] - before.get(name, 0.0) for name in after if name.endswith("_total")}
    return {name: value for name, value in moved.items() if value}


class Watch:
    """CPU and memory of the server over the window in which all calls are up."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._resident: list[float] = []
        self._peak = 0.0
        self._idle = procfs.memory(pid).resident
        self._marks: list[tuple[float, float, dict[int, procfs.ThreadTime], procfs.HostTime]] = []

    def sample(self) -> None:
        """Note the memory."""
        memory = procfs.memory(self._pid)
        self._resident.append(memory.resident)
        self._peak = max(self._peak, memory.peak)

    def mark(self, now: float) -> None:
        """Note the CPU time: once where the window begins, once where it ends; and the memory."""
        self.sample()
        self._marks.append((now, procfs.cpu_seconds(self._pid), procfs.thread_times(self._pid), procfs.host_time()))

    def figures(self, threads: int = 8, calls: int = 0) -> dict[str, Any]:
        """CPU in percent of one core, with the busiest threads; memory in MB. Of `calls` calls a call's share, too:
        what the process grew by since the watch began, when no call was up.
        """
        found: dict[str, Any] = {
            "rss_mb": round(max(self._resident, default=0.0), 1),
            "rss_idle_mb": round(self._idle, 1),
            "rss_peak_mb": round(self._peak, 1),
            "cpu_percent": None,
            "threads": [],
        }
        if len(self._marks) < 2:
            return found
        (begin, cpu0, before, host0), (end, cpu1, after, host1) = self._marks[0], self._marks[-1]
        found["cpu_percent"] = round(100 * (cpu1 - cpu0) / (end - begin), 1)
        if calls:
            found["cpu_percent_a_call"] = round(100 * (cpu1 - cpu0) / (end - begin) / calls, 4)
            found["memory_kb_a_call"] = round((self._resident[-1] - self._idle) * 1024 / calls, 1)
        # Of all cores: far above what server and generator take, others were at work and the timing is not ours.
        found["host_busy_percent"] = round(100 * (host1.busy - host0.busy) / (end - begin), 1)
        found["host_steal_percent"] = round(100 * (host1.steal - host0.steal) / (end - begin), 1)
        shares = []
        for tid, thread in after.items():
            earlier = before[tid].seconds if tid in before else 0.0
            name = f"{thread.name}{' (main)' if tid == thread.process else ''}"
            shares.append((round(100 * (thread.seconds - earlier) / (end - begin), 1), name))
        shares.sort(reverse=True)
        found["threads"] = [{"name": name, "cpu_percent": share} for share, name in shares[:threads] if share > 0]
        return found
