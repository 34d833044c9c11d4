"""Starting, watching and replacing a worker; the workers are the test's."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tts_engine.serving.fake_host import IDLE, FakeHost, Hosts, until
from tests.tts_engine.serving.served import settings_for
from tts_engine.errors import EngineError
from tts_engine.serving import worker_handle
from tts_engine.serving.messages import Audio, Cancel, CannotStart, Failed, Logged, Ready, Report, Status, Stop
from tts_engine.serving.settings import WorkerSettings
from tts_engine.serving.worker_handle import WorkerHandle

SETTINGS = WorkerSettings(settings_for(Path("model"), Path("voices")), "cpu", 0.0, 4)
AUDIO = Audio(1, b"\x01\x02", final=True, deadline=0.0)


class Told:
    """What the handle tells."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.lost = 0

    def lose(self) -> None:
        self.lost += 1


@asynccontextmanager
async def started(
    hosts: Callable[[WorkerSettings], FakeHost], told: Told | None = None, *, silence_s: float = 30.0
) -> AsyncIterator[WorkerHandle]:
    told = told or Told()
    handle = WorkerHandle(SETTINGS, hosts, told.reports.append, told.lose, silence_s=silence_s, first_pause_s=0.01)
    await asyncio.wait_for(handle.start(), 10)
    try:
        yield handle
    finally:
        await asyncio.wait_for(handle.stop(), 10)


class TestStart:
    async def test_it_is_ready_when_the_worker_says_so(self) -> None:
        hosts = Hosts(lambda host: None)
        handle = WorkerHandle(SETTINGS, hosts, lambda report: None, lambda: None)
        starting = asyncio.create_task(handle.start())
        await until(lambda: hosts.made)
        hosts.made[0].say(Logged("tts_engine", logging.INFO, "loading"))
        assert not handle.ready
        hosts.made[0].say(Ready(built_in_voice=True, summary="all well"))
        assert await asyncio.wait_for(starting, 10) == Ready(built_in_voice=True, summary="all well")
        assert handle.ready
        await handle.stop()
        assert not handle.ready

    async def test_what_is_missing_is_said_and_the_worker_may_end_by_itself(self) -> None:
        def script(host: FakeHost) -> None:
            host.say(CannotStart("there is no model"))
            host.end()

        hosts = Hosts(script)
        handle = WorkerHandle(SETTINGS, hosts, lambda report: None, lambda: None)
        with pytest.raises(EngineError, match=r"^there is no model$"):
            await handle.start()
        assert not hosts.made[0].killed
        assert not handle.ready
        await handle.stop()

    async def test_one_that_ends_while_it_loads(self) -> None:
        handle = WorkerHandle(SETTINGS, Hosts(FakeHost.end), lambda report: None, lambda: None)
        with pytest.raises(EngineError, match="ended while it was loading"):
            await asyncio.wait_for(handle.start(), 10)

    async def test_who_gives_up_waiting_leaves_nothing_behind(self) -> None:
        hosts = Hosts(lambda host: None)
        handle = WorkerHandle(SETTINGS, hosts, lambda report: None, lambda: None)
        starting = asyncio.create_task(handle.start())
        await until(lambda: hosts.made and handle._host)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert hosts.made[0].killed
        await handle.stop()


class TestEnginesThatFail:
    """Whatever TensorRT did to a worker, the next does without it; it does not go on for ever."""

    GPU = replace(SETTINGS, device="cuda:0", engine=replace(SETTINGS.engine, engines_dir=Path("engines")))

    @pytest.mark.parametrize("word", [True, False])
    async def test_the_next_start_goes_without(self, word: bool, caplog: pytest.LogCaptureFixture) -> None:
        def script(host: FakeHost) -> None:
            if host.settings.engines_failed:
                host.ready()
                return
            if word:
                host.say(CannotStart("useless", engines_failed=True))
            host.end()

        hosts = Hosts(script)
        handle = WorkerHandle(self.GPU, hosts, lambda report: None, lambda: None)
        await asyncio.wait_for(handle.start(), 10)
        assert [bool(host.settings.engines_failed) for host in hosts.made] == [False, True]
        assert "it is started once more, without TensorRT's engines" in caplog.text
        await handle.stop()

    async def test_and_no_more_than_once(self) -> None:
        hosts = Hosts(FakeHost.end)
        handle = WorkerHandle(self.GPU, hosts, lambda report: None, lambda: None)
        with pytest.raises(EngineError, match="ended while it was loading"):
            await asyncio.wait_for(handle.start(), 10)
        assert len(hosts.made) == 2
        await handle.stop()

    def test_systemd_waits_for_two_starts(self) -> None:
        text = (Path(__file__).parents[3] / "systemd" / "chatterline-gpu.conf").read_text()
        (seconds,) = re.findall(r"^TimeoutStartSec=(\d+)$", text, re.MULTILINE)
        assert int(seconds) > 2 * worker_handle.START_S


class TestReports:
    async def test_each_goes_where_it_belongs(self, caplog: pytest.LogCaptureFixture) -> None:
        hosts, told = Hosts(), Told()
        async with started(hosts, told) as handle:
            with caplog.at_level(logging.INFO):
                hosts.made[0].say(
                    Logged("tts_engine.some", logging.WARNING, "100 % slow"),
                    Status(IDLE, ()),
                    AUDIO,
                    Failed(2, "overflow"),
                )
                await until(lambda: len(told.reports) == 2)
            assert told.reports == [AUDIO, Failed(2, "overflow")]
            assert handle.status == Status(IDLE, ())
            assert ("tts_engine.some", logging.WARNING, "100 % slow") in caplog.record_tuples

    async def test_orders_go_to_the_worker(self) -> None:
        hosts = Hosts()
        async with started(hosts) as handle:
            handle.send(Cancel(5))
            await until(lambda: hosts.made[0].orders)
        assert hosts.made[0].orders == [Cancel(5), Stop()]

    async def test_an_order_for_one_that_has_gone_is_no_error(self) -> None:
        hosts = Hosts()
        async with started(hosts) as handle:
            hosts.made[0].end()
            for _ in range(3):
                handle.send(Cancel(5))
        handle.send(Cancel(5))


class TestLoss:
    async def test_it_is_told_and_another_is_started(self) -> None:
        hosts, told = Hosts(), Told()
        async with started(hosts, told) as handle:
            hosts.script = lambda host: None
            hosts.made[0].end()
            await until(lambda: told.lost and len(hosts.made) == 2)
            assert (handle.ready, handle.status) == (False, None)
            hosts.made[1].ready()
            await until(lambda: handle.ready)
            assert (handle.restarts, told.lost) == (1, 1)
            handle.send(Cancel(3))
            await until(lambda: Cancel(3) in hosts.made[1].orders)

    async def test_silence_is_a_loss(self, caplog: pytest.LogCaptureFixture) -> None:
        """A kernel that hangs: the process is there, and says nothing."""
        hosts, told = Hosts(), Told()
        async with started(hosts, told, silence_s=0.1) as handle:
            hosts.made[0].hangs = True
            await until(lambda: told.lost)
            assert not handle.ready
            await until(lambda: hosts.made[0].killed and len(hosts.made) > 1)
        assert "no sign of life from the worker on cpu" in caplog.text

    async def test_any_report_is_a_sign_of_life(self) -> None:
        hosts, told = Hosts(), Told()
        async with started(hosts, told, silence_s=1.0) as handle:
            loop = asyncio.get_running_loop()
            end = loop.time() + 1.2
            while loop.time() < end:
                hosts.made[0].say(Status(IDLE, ()))
                await asyncio.sleep(0.05)
            assert handle.ready
        assert (told.lost, len(hosts.made)) == (0, 1)

    async def test_what_a_lost_one_still_says_is_not_heard(self) -> None:
        hosts, told = Hosts(), Told()
        async with started(hosts, told) as handle:
            first = hosts.made[0]
            first.hangs = True
            handle._last_sign = float("-inf")
            handle._gone.set()
            await until(lambda: len(hosts.made) == 2 and handle.ready)
            handle._take(first.connection, AUDIO)
            handle._take(first.connection, None)
            hosts.made[1].say(Failed(9, "from the new one"))
            await until(lambda: told.reports)
        assert told.reports == [Failed(9, "from the new one")]
        assert told.lost == 1

    async def test_one_that_cannot_start_is_tried_again_ever_more_seldom(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        hosts, told, pauses = Hosts(), Told(), []
        sleep = asyncio.sleep

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            await sleep(0)

        async with started(hosts, told) as handle:
            monkeypatch.setattr(asyncio, "sleep", pause)

            def fail_twice(host: FakeHost) -> None:
                if len(hosts.made) < 4:
                    host.say(CannotStart("the GPU is gone"))
                    host.end()
                else:
                    host.ready()

            hosts.script = fail_twice
            hosts.made[0].end()
            while not handle.ready or handle.restarts < 3:
                await sleep(0.002)
            monkeypatch.undo()
        assert pauses[:3] == [0.01, 0.02, 0.04]
        assert caplog.text.count("it could not start: the GPU is gone") == 2


class TestStop:
    async def test_again_and_before_a_start(self) -> None:
        handle = WorkerHandle(SETTINGS, Hosts(), lambda report: None, lambda: None)
        await handle.stop()
        await handle.start()
        await handle.stop()
        await handle.stop()
        assert not handle.ready

    async def test_one_that_does_not_end_is_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker_handle, "STOP_S", 0.05)
        hosts = Hosts()
        async with started(hosts):
            hosts.made[0].hangs = True
        assert hosts.made[0].killed

    @pytest.mark.parametrize("moment", ["pause", "loading"])
    async def test_while_another_is_started(self, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
        hosts, told = Hosts(), Told()
        handle = WorkerHandle(
            SETTINGS, hosts, told.reports.append, told.lose, first_pause_s=60 if moment == "pause" else 0.001
        )
        monkeypatch.setattr(worker_handle, "STOP_S", 0.05)
        await handle.start()
        hosts.script = lambda host: None
        hosts.made[0].end()
        await until(lambda: told.lost and (moment == "pause" or len(hosts.made) == 2))
        await asyncio.wait_for(handle.stop(), 10)
        assert len(hosts.made) == (1 if moment == "pause" else 2)
        assert hosts.made[-1]._ended.is_set()


class Deaf(FakeHost):
    """A worker that reads nothing: its pipe fills up."""

    def _read(self) -> None:
        return


class TestStuck:
    async def test_a_full_pipe_keeps_nobody_waiting_and_is_found(self) -> None:
        hosts = Hosts(FakeHost.ready, Deaf)
        told = Told()
        async with started(hosts, told, silence_s=0.3) as handle:
            for id in range(3000):  # a pipe holds some 300
                handle.send(Cancel(id))
            await until(lambda: told.lost)
            await until(lambda: hosts.made[0].killed)
            await until(lambda: len(hosts.made) == 2)
            hosts.made[0].end()

    async def test_too_many_unsent_orders_are_a_lost_worker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker_handle, "MOST_UNSENT", 1000)
        hosts = Hosts(FakeHost.ready, Deaf)
        told = Told()
        async with started(hosts, told) as handle:
            for id in range(3000):
                handle.send(Cancel(id))
            await until(lambda: told.lost)

    async def test_a_system_without_room_for_a_worker_is_tried_again(self) -> None:
        hosts = Hosts(FakeHost.ready)
        failures = [OSError(24, "Too many open files")]

        def make(settings: WorkerSettings) -> FakeHost:
            if hosts.made and failures:
                raise failures.pop()
            return hosts(settings)

        async with started(make) as handle:
            hosts.made[0].end()
            await until(lambda: len(hosts.made) == 2 and handle.ready)
        assert not failures

    async def test_the_first_start_says_it(self) -> None:
        def make(settings: WorkerSettings) -> FakeHost:
            raise OSError(24, "Too many open files")

        handle = WorkerHandle(SETTINGS, make, lambda report: None, lambda: None)
        with pytest.raises(EngineError, match=r"a worker cannot be made: .*Too many open files"):
            await handle.start()

    async def test_what_is_made_for_nobody_is_ended(self) -> None:
        made: list[FakeHost] = []
        begun, go_on = threading.Event(), threading.Event()

        def make(settings: WorkerSettings) -> FakeHost:
            begun.set()
            go_on.wait(10)
            made.append(FakeHost(settings))
            return made[0]

        handle = WorkerHandle(SETTINGS, make, lambda report: None, lambda: None)
        starting = asyncio.create_task(handle.start())
        await until(begun.is_set)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        go_on.set()
        await until(lambda: made and made[0].killed)
