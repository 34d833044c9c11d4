from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.tts_engine.serving.served import settings_for
from tts_engine.serving import worker, worker_host
from tts_engine.serving.settings import WorkerSettings
from tts_engine.serving.worker_host import ProcessHost, ThreadHost

SETTINGS = WorkerSettings(settings_for(Path("model"), Path("voices")), "cpu", 0.0, 4)


def received(connection: Connection) -> object:
    """What comes next; the end of file as such."""
    assert connection.poll(10), "nothing has come"
    try:
        return connection.recv()
    except EOFError:
        return EOFError


class TestThread:
    @pytest.fixture
    def hosting(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Connection], object]], ThreadHost]:
        """A host of a worker that runs this function."""

        def host(run: Callable[[Connection], object]) -> ThreadHost:
            class Fake:
                def __init__(self, settings: WorkerSettings, connection: Connection) -> None:
                    assert settings is SETTINGS
                    self._connection = connection

                def run(self) -> None:
                    run(self._connection)

            monkeypatch.setattr(worker, "Worker", Fake)
            return ThreadHost(SETTINGS)

        return host

    def test_they_talk(self, hosting: Callable[[Callable[[Connection], object]], ThreadHost]) -> None:
        host = hosting(lambda connection: connection.send(connection.recv() + 1))
        host.connection.send(6)
        assert received(host.connection) == 7
        assert received(host.connection) is EOFError
        assert host.join(10)

    def test_its_end_is_seen_though_a_thread_of_its_own_still_reads(
        self, hosting: Callable[[Callable[[Connection], object]], ThreadHost]
    ) -> None:
        """A worker that failed: closing the pipe alone would tell nobody as long as its reader waits."""
        reading, ended = threading.Event(), threading.Event()

        def read(connection: Connection) -> None:
            reading.set()
            with pytest.raises((EOFError, OSError)):
                connection.recv()
            ended.set()

        def run(connection: Connection) -> None:
            threading.Thread(target=read, args=(connection,), daemon=True).start()
            assert reading.wait(10)
            time.sleep(0.05)  # nothing tells when it waits within the system

        host = hosting(run)
        assert received(host.connection) is EOFError
        assert ended.wait(10)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_one_that_raises_has_ended(self, hosting: Callable[[Callable[[Connection], object]], ThreadHost]) -> None:
        def run(connection: Connection) -> None:
            raise RuntimeError("for the test")

        host = hosting(run)
        assert received(host.connection) is EOFError
        assert host.join(10)

    def test_one_that_hangs_is_left_alone(
        self, hosting: Callable[[Callable[[Connection], object]], ThreadHost]
    ) -> None:
        go_on, heard = threading.Event(), []

        def run(connection: Connection) -> None:
            assert go_on.wait(10)
            heard.append(received(connection))

        host = hosting(run)
        assert not host.join(0.01)
        host.kill()
        host.kill()
        go_on.set()
        assert host.join(10)
        assert heard == [EOFError]


class TestProcess:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker_host, "PROCESS_MODULE", "tests.tts_engine.serving.echo_process")

    def test_it_is_another_process_that_gets_the_settings_and_ends_by_itself(self) -> None:
        host = ProcessHost(SETTINGS)
        first = received(host.connection)
        assert isinstance(first, tuple)
        assert first[0] != os.getpid()
        assert first[1] > 100
        assert len(first[2]) == 1, "nothing but the pipe is on its command line"
        host.connection.send("hello")
        assert received(host.connection) == "hello"
        assert not host.join(0.01)
        host.connection.send("end")
        assert host.join(10)
        assert received(host.connection) is EOFError
        host.kill()

    @pytest.mark.parametrize("killed_by", ["host", "system"])
    def test_it_can_be_killed(self, killed_by: str) -> None:
        host = ProcessHost(SETTINGS)
        process = received(host.connection)[0]  # type: ignore[index]
        if killed_by == "system":
            os.kill(process, signal.SIGKILL)
            assert received(host.connection) is EOFError
        host.kill()
        host.kill()
        assert host.join(10)
        assert host.connection.closed
