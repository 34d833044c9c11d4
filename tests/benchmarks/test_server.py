"""Starting, watching and ending the server under test."""

from __future__ import annotations

import http.server
import os
import socket
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.common import ROOT
from benchmarks.load import procfs, server

FAKE = [sys.executable, "-m", "tests.benchmarks.fake_server"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def settings(port: int) -> dict[str, str]:
    return {"CHATTERLINE_SIP__PORT": str(port), "PYTHONPATH": str(ROOT)}


def test_server_is_ready_inside_the_block_and_gone_after_it(tmp_path: Path) -> None:
    port = server.free_port(socket.SOCK_DGRAM)
    with server.running(FAKE, settings(port), ("127.0.0.1", port), None, tmp_path / "log") as target:
        assert target.pid is not None
        assert alive(target.pid)
        assert server.wait_until_ready(target.address, 5) < 5
        assert procfs.memory(target.pid).resident > 5

    assert not alive(target.pid)


def test_server_is_ended_when_the_block_fails(tmp_path: Path) -> None:
    port = server.free_port(socket.SOCK_DGRAM)
    pids = []
    with (
        pytest.raises(KeyboardInterrupt),
        server.running(FAKE, settings(port), ("127.0.0.1", port), None, tmp_path / "log") as target,
    ):
        pids.append(target.pid)
        raise KeyboardInterrupt

    assert not alive(pids[0])


def test_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such voice')"]
    port = server.free_port(socket.SOCK_DGRAM)
    with (
        pytest.raises(server.ServerError, match=r"(?s)status 1.*no such voice"),
        server.running(command, {}, ("127.0.0.1", port), None, tmp_path / "log"),
    ):
        pytest.fail("the block was entered")


def test_server_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STOP_SECONDS", 0.2)
    stubborn = (
        "import asyncio, signal; from tests.benchmarks import fake_server as f\n"
        "async def main():\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    import os; await f.FakeServer.start(port=int(os.environ['CHATTERLINE_SIP__PORT']))\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    port = server.free_port(socket.SOCK_DGRAM)
    command = [sys.executable, "-c", stubborn]
    with server.running(command, settings(port), ("127.0.0.1", port), None, tmp_path / "log") as target:
        assert target.pid is not None

    assert not alive(target.pid)


def test_nobody_there() -> None:
    with pytest.raises(server.ServerError, match="OPTIONS"):
        server.wait_until_ready(("127.0.0.1", server.free_port(socket.SOCK_DGRAM)), 0.4)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3"])
def test_loopback(host: str) -> None:
    assert server.loopback(host) == host


@pytest.mark.parametrize("host", ["10.0.0.1", "192.0.2.7", "0.0.0.0", "::1", "localhost", "example.com", ""])
def test_anything_else_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"loopback|not appear"):
        server.loopback(host)


METRICS_PAGE = """\
# HELP chatterline_rtp_underruns_total Frames that were due and not there.
# TYPE chatterline_rtp_underruns_total counter
chatterline_rtp_underruns_total{reason="late",text="a } b"} 3.0
chatterline_rtp_underruns_total{reason="starved"} 2.0 1700000000000
chatterline_rtp_packets_sent_total 1.5e+03
process_open_fds 12
broken
nan_metric NaN
"""


def test_metrics_are_summed_over_labels() -> None:
    totals = server.parse_metrics(METRICS_PAGE)

    assert totals["chatterline_rtp_underruns_total"] == 5.0
    assert totals["chatterline_rtp_packets_sent_total"] == 1500.0
    assert totals["process_open_fds"] == 12.0
    assert "broken" not in totals


def test_metrics_are_read_over_http() -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(METRICS_PAGE.encode())

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        page = server.read_page(web.server_port)
        web.shutdown()
        thread.join()

    assert server.counted({}, page) == {"underruns": 5.0, "packets_sent": 1500.0}


def test_counters_are_what_they_moved_by() -> None:
    before = {"chatterline_rtp_underruns_total": 3.0, "a_total": 1.0, "gauge": 1.0}
    after = {"chatterline_rtp_underruns_total": 5.0, "a_total": 1.0, "new_total": 2.0, "gauge": 7.0}

    assert server.counted(before, after) == {"underruns": 2.0}
    assert server.counters(before, after) == {"chatterline_rtp_underruns_total": 2.0, "new_total": 2.0}


def test_no_metrics() -> None:
    assert server.read_page(None) == {}
    assert server.read_page(server.free_port(socket.SOCK_STREAM)) == {}


def burn(seconds: float) -> None:
    end = os.times().user + seconds
    while os.times().user < end:
        pass


def test_watch_sees_cpu_and_memory_of_this_process() -> None:
    watch = server.Watch(os.getpid())
    watch.sample()
    watch.mark(100.0)
    burn(0.3)
    watch.mark(101.0)

    found = watch.figures(calls=10)

    assert found["cpu_percent_a_call"] == pytest.approx(found["cpu_percent"] / 10, rel=0.01)
    assert found["memory_kb_a_call"] == pytest.approx((found["rss_mb"] - found["rss_idle_mb"]) * 102.4, abs=2000)
    assert 28 <= found["cpu_percent"] <= 60
    assert found["threads"][0]["cpu_percent"] >= 28
    assert found["threads"][0]["name"].endswith("(main)")
    assert 10 < found["rss_mb"] <= found["rss_peak_mb"]


def test_watch_of_a_run_that_never_got_to_its_window() -> None:
    watch = server.Watch(os.getpid())
    watch.mark(1.0)

    assert watch.figures()["cpu_percent"] is None
