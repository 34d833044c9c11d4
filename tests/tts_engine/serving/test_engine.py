"""The engine: with workers in threads that speak for the small model, with the test's own, and with a real process."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tts_engine.serving.engine as engine_module
from tests.tts_engine.serving.fake_host import IDLE, FakeHost, Hosts, until
from tests.tts_engine.serving.runner_cases import relative_error
from tests.tts_engine.serving.served import Plain, assert_same_sound, pcm_array, settings_for, write_voices
from tests.tts_engine.serving.small_model import BRIEF_SAMPLES, linked, store_voice
from tts_engine.chatterbox.cfg import VARIABLE
from tts_engine.chatterbox.guards import TokenGuard
from tts_engine.chatterbox.model import Chatterbox
from tts_engine.chatterbox.text import prepare
from tts_engine.chatterbox.voice_store import VoiceStore
from tts_engine.engine import Engine, PcmChunk, SpeechRequest, SpeechStream
from tts_engine.errors import (
    EngineBusyError,
    EngineError,
    EngineNotReadyError,
    SynthesisError,
    TextTooLongError,
    UnknownVoiceError,
    UnsupportedSampleRateError,
)
from tts_engine.measures import Histogram
from tts_engine.serving import loading, worker_handle
from tts_engine.serving.engine import ChatterboxEngine
from tts_engine.serving.messages import Cancel, CannotStart, Deadline, Failed, Speak, Status
from tts_engine.serving.serving_measures import ServingMeasures
from tts_engine.serving.synthesiser import Synthesiser
from tts_engine.serving.texts import Texts

HELLO, BYE = "Hold the line.", "Good morning."
LONG = "An agent will be with you in just a moment, so please hold the line until then."

Running = Callable[..., AbstractAsyncContextManager[ChatterboxEngine]]


@pytest.fixture(autouse=True)
def unset(fresh_cfg_scale: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """No guidance, and no pause before a lost worker is started again."""
    pause = (worker_handle.WorkerHandle.__init__.__kwdefaults__ or {}) | {"first_pause_s": 0.01}
    monkeypatch.setattr(worker_handle.WorkerHandle.__init__, "__kwdefaults__", pause)


@pytest.fixture
def running(small_model: Path, steady: Chatterbox, voices_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Running:
    """Engines in a thread over the steady model, or another, none of which is read again."""

    @asynccontextmanager
    async def run(model: Chatterbox = steady, /, **changes: Any) -> AsyncIterator[ChatterboxEngine]:
        monkeypatch.setattr(loading, "load_model", lambda *_, **__: model)
        settings = settings_for(small_model, voices_dir, **changes)
        engine = ChatterboxEngine("chatterbox", settings, max_streams=20, max_text_chars=10_000)
        await engine.start()
        try:
            yield engine
        finally:
            await asyncio.wait_for(engine.stop(), 20)

    return run


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch, voices_dir: Path) -> Callable[..., Any]:
    """An engine whose workers are the test's, and these."""

    @asynccontextmanager
    async def run(
        *devices: str, max_streams: int = 20, **changes: Any
    ) -> AsyncIterator[tuple[ChatterboxEngine, Hosts]]:
        hosts = Hosts()
        monkeypatch.setattr(engine_module, "ThreadHost", hosts)
        settings = settings_for(Path("model"), voices_dir, devices=devices or ("cpu",), **changes)
        engine = ChatterboxEngine("chatterbox", settings, max_streams=max_streams, max_text_chars=1000)
        await engine.start()
        try:
            yield engine, hosts
        finally:
            await asyncio.wait_for(engine.stop(), 20)

    return run


async def read(stream: SpeechStream) -> list[PcmChunk]:
    return [chunk async for chunk in stream]


async def pcm_of(engine: ChatterboxEngine, text: str, *, voice: str | None = None, sample_rate: int = 8000) -> Any:
    chunks = await asyncio.wait_for(read(engine.synthesize(SpeechRequest(text, voice, sample_rate))), 30)
    return pcm_array(b"".join(chunk.pcm for chunk in chunks))


def measured(engine: ChatterboxEngine, name: str, **labels: str) -> float:
    """The value of a measure, or of a histogram the count; summed over all that have these labels."""
    return sum(
        each.count if isinstance(each, Histogram) else each.value
        for each in engine.measures
        if each.name == name and labels.items() <= each.labels.items()
    )


async def nothing_is_held(engine: ChatterboxEngine) -> None:
    """Until the worker says so."""
    names = ("sequences_waiting", "sequences_decoding", "sequences_speaking", "kv_pages_used")
    handle = engine._members[0].handle
    before = handle.status
    await until(
        lambda: (
            (status := handle.status)
            and status is not before
            and not status.load.streams
            and not sum(measured(engine, name) for name in names)
        )
    )


class TestInterface:
    def test_is_an_engine(self, tmp_path: Path) -> None:
        engine: Engine = ChatterboxEngine("chatterbox-nano", settings_for(Path("m"), tmp_path), 5, 99)
        assert (engine.name, engine.default_voice) == ("chatterbox-nano", "anna")
        assert engine.limits.sample_rates == (8000, 16000, 24000)
        assert (engine.limits.max_streams, engine.limits.max_text_chars) == (5, 99)
        assert (engine.ready, engine.voices) == (False, ())
        assert not engine.features & {"rate", "phonemes"}
        refused = engine.available()
        assert isinstance(refused, EngineNotReadyError)
        assert str(refused) == "the chatterbox-nano engine is not running"
        with pytest.raises(EngineNotReadyError):
            engine.synthesize(SpeechRequest(HELLO))

    async def test_start_and_stop_and_start_again(self, running: Running) -> None:
        heard = []
        async with running() as engine:
            for _ in range(2):
                await engine.start()
                await engine.start()
                assert engine.ready
                assert engine.available() is None
                assert engine.voices == ("default", "anna", "bob", "carol")
                heard.append(await pcm_of(engine, HELLO))
                await engine.stop()
                await engine.stop()
                assert not engine.ready
                with pytest.raises(EngineNotReadyError, match="is not running"):
                    engine.synthesize(SpeechRequest(HELLO))
        assert np.array_equal(*heard)
        await until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("tts-")])

    async def test_after_a_failure_it_can_be_started(self, small_model: Path, voices_dir: Path, tmp_path: Path) -> None:
        directory = linked(small_model, tmp_path / "model", without=("vocab.json",))
        engine = ChatterboxEngine("chatterbox", settings_for(directory, voices_dir), 5, 100)
        with pytest.raises(EngineError, match=r"vocab\.json"):
            await engine.start()
        assert not engine.ready
        (directory / "vocab.json").symlink_to(small_model / "vocab.json")
        await engine.start()
        assert len(await pcm_of(engine, HELLO)) > 4000
        await engine.stop()

    @pytest.mark.parametrize("scale", ["high", "-1", "nan", "inf", "11"])
    def test_unfit_guidance(self, scale: str, tmp_path: Path, fresh_cfg_scale: pytest.MonkeyPatch) -> None:
        fresh_cfg_scale.setenv(VARIABLE, scale)
        for kind in (ValueError, EngineError):
            with pytest.raises(kind, match=f"CHATTERBOX_CFG_SCALE is '{scale}'; it must be a number from 0"):
                ChatterboxEngine("chatterbox", settings_for(Path("m"), tmp_path), 5, 100)

    async def test_guidance_is_the_environment_s(
        self, running: Running, plain: Plain, fresh_cfg_scale: pytest.MonkeyPatch
    ) -> None:
        fresh_cfg_scale.setenv(VARIABLE, "0.7")
        async with running() as engine:
            assert_same_sound(await pcm_of(engine, HELLO), plain(HELLO, cfg_scale=0.7))


class TestRequests:
    @pytest.mark.parametrize(
        ("request_", "error"),
        [
            (SpeechRequest("Hi.", voice="nobody"), UnknownVoiceError),
            (SpeechRequest("Hi.", voice="../anna"), UnknownVoiceError),
            (SpeechRequest("Hi.", voice="Anna"), UnknownVoiceError),
            (SpeechRequest("Hi.", voice=""), UnknownVoiceError),
            (SpeechRequest("x" * 1001), TextTooLongError),
            (SpeechRequest("Hi.", sample_rate=44100), UnsupportedSampleRateError),
        ],
    )
    async def test_refused(self, faked: Callable[..., Any], request_: SpeechRequest, error: type[EngineError]) -> None:
        async with faked() as (engine, hosts):
            with pytest.raises(error):
                engine.check(request_)
            with pytest.raises(error):
                engine.synthesize(request_)
            assert engine.open_streams == 0
        assert hosts.made[0].told(Speak) == []

    async def test_no_more_than_max_streams(self, faked: Callable[..., Any]) -> None:
        async with faked(max_streams=3) as (engine, _):
            streams = [engine.synthesize(SpeechRequest(HELLO)) for _ in range(3)]
            with pytest.raises(EngineBusyError, match="speaks 3 utterances"):
                engine.synthesize(SpeechRequest(HELLO))
            assert isinstance(engine.available(), EngineBusyError)
            streams[1].cancel()
            assert engine.available() is None
            engine.synthesize(SpeechRequest(HELLO)).cancel()
            assert engine.open_streams == 2

    async def test_a_busy_gpu_refuses_before_it_is_full(self, faked: Callable[..., Any]) -> None:
        async with faked("cuda:0", isolation="thread", max_first_audio_seconds=0.3) as (engine, hosts):
            await until(lambda: engine._members[0].handle.status)
            assert engine.available() is None
            hosts.made[0].say(Status(replace(IDLE, streams=3, decoding=3, slots=100, step_seconds=0.1), ()))
            await until(engine.available)
            refused = engine.available()
            assert isinstance(refused, EngineBusyError)
            assert "first audio would take" in str(refused)
            assert refused.retry_after is not None
            assert refused.retry_after >= 1
            hosts.made[0].say(Status(IDLE, ()))
            await until(lambda: engine.available() is None)

    async def test_a_cpu_is_late_for_everybody(self, faked: Callable[..., Any]) -> None:
        async with faked(max_first_audio_seconds=0.3) as (engine, hosts):
            slow = Status(replace(IDLE, step_seconds=10.0, slack=-100.0), ())
            hosts.made[0].say(slow)
            await until(lambda: engine._members[0].handle.status == slow)
            assert engine.available() is None
            hosts.made[0].say(Status(replace(IDLE, decoding=1, pages_free=1), ()))
            await until(engine.available)
            assert "the KV cache has 1 pages free" in str(engine.available())

    async def test_who_came_since_the_worker_told_its_load_is_counted(self, faked: Callable[..., Any]) -> None:
        """A hundred calls may come within a tenth of a second."""
        load = replace(IDLE, prefill_rows=1, prefill_seconds=0.1, slots=100, streams=1)
        async with faked("cuda:0", isolation="thread", max_first_audio_seconds=0.5) as (engine, hosts):
            hosts.made[0].say(Status(load, ()))
            status = Status(load, ())
            await until(lambda: engine._members[0].handle.status == status)
            streams = []
            while engine.available() is None:
                streams.append(engine.synthesize(SpeechRequest(HELLO)))
            assert len(streams) == 5, "one that the worker knows of, and four that wait 0.1 s each"
            streams.pop().cancel()
            assert engine.available() is None


class TestVoices:
    async def test_each_sounds_otherwise(self, running: Running, plain: Plain) -> None:
        async with running() as engine:
            for voice in (None, "anna", "bob", "default"):
                assert_same_sound(await pcm_of(engine, HELLO, voice=voice), plain(HELLO, voice or "anna"))
        assert not np.array_equal(plain(HELLO, "bob"), plain(HELLO, "default"))

    async def test_one_that_is_added_while_it_runs(self, running: Running, tmp_path: Path) -> None:
        write_voices(tmp_path / "voices")
        async with running(voices_dir=tmp_path / "voices") as engine:
            with pytest.raises(UnknownVoiceError, match="'dora'; available: default, anna, bob, carol"):
                engine.check(SpeechRequest(HELLO, "dora"))
            store_voice(tmp_path / "voices", "dora", seed=3)
            assert not np.array_equal(await pcm_of(engine, HELLO, voice="dora"), await pcm_of(engine, HELLO))
            assert engine.voices == ("default", "anna", "bob", "carol", "dora")

    async def test_one_that_is_broken(self, running: Running, plain: Plain, tmp_path: Path) -> None:
        """It fails those who ask for it, says why, and is as good as new once it is repaired."""
        write_voices(tmp_path / "voices")
        whole = store_voice(tmp_path / "voices", "dora", seed=4)
        data = whole.read_bytes()
        whole.write_bytes(data[: len(data) // 2])
        async with running(voices_dir=tmp_path / "voices") as engine:
            other = asyncio.create_task(pcm_of(engine, HELLO))
            with pytest.raises(EngineError, match=r"^dora\.safetensors is cut short") as raised:
                await pcm_of(engine, HELLO, voice="dora")
            assert HELLO not in str(raised.value)
            assert_same_sound(await other, plain(HELLO))
            whole.write_bytes(data)
            assert len(await pcm_of(engine, HELLO, voice="dora")) > 4000
            assert engine.open_streams == 0

    async def test_one_that_was_removed(self, running: Running, tmp_path: Path) -> None:
        write_voices(tmp_path / "voices")
        async with running(voices_dir=tmp_path / "voices") as engine:
            VoiceStore(tmp_path / "voices").remove("bob")
            with pytest.raises(SynthesisError, match="unknown voice 'bob'; available: anna"):
                await pcm_of(engine, HELLO, voice="bob")


class TestAudio:
    async def test_several_at_once_and_alone_are_what_the_plain_modules_say(
        self, running: Running, plain: Plain
    ) -> None:
        requests = [(text, voice, rate) for text in (HELLO, BYE) for voice, rate in (("anna", 8000), ("bob", 24_000))]
        async with running() as engine:
            at_once = await asyncio.gather(
                *(pcm_of(engine, text, voice=voice, sample_rate=rate) for text, voice, rate in requests)
            )
            alone = await pcm_of(engine, HELLO)
            assert engine.open_streams == 0
            await nothing_is_held(engine)
        assert_same_sound(alone, plain(HELLO))
        for heard, (text, voice, rate) in zip(at_once, requests, strict=True):
            assert_same_sound(heard, plain(text, voice, rate))

    @pytest.mark.parametrize("text", ["", "...", "🙂", "\ud83d"])
    async def test_nothing_to_say(self, running: Running, text: str) -> None:
        async with running() as engine:
            assert await read(engine.synthesize(SpeechRequest(text))) == []
            assert engine.open_streams == 0

    async def test_a_long_text(self, running: Running, loaded_brief: Chatterbox) -> None:
        """Of a model that says five tokens of each segment, so that what is said can be counted."""
        text = "a word, " * 200 + "[laugh]" * 100 + "a" * 300
        segments = prepare(text)
        assert len(segments) >= 8
        async with running(loaded_brief, guard=TokenGuard.for_text, ahead_seconds=1000.0) as engine:
            stream = engine.synthesize(SpeechRequest(text))
            first = await asyncio.wait_for(anext(stream), 20)
            assert measured(engine, "sequences_ended") < len(segments), "it did not wait for the rest"
            rest = await asyncio.wait_for(read(stream), 60)
        said = sum(chunk.seconds for chunk in [first, *rest])
        assert said == pytest.approx(len(segments) * BRIEF_SAMPLES / 24_000, abs=0.001)

    async def test_figures_arrive(self, running: Running) -> None:
        async with running() as engine:
            assert measured(engine, "workers_ready") == 1
            await pcm_of(engine, HELLO)
            await until(lambda: measured(engine, "first_chunk_seconds"))
            assert measured(engine, "sequences_ended", kind="stop") == 1
            assert (measured(engine, "streams"), measured(engine, "worker_restarts")) == (0, 0)
            handle = engine._members[0].handle
            assert handle.status is not None
            assert handle.status.load.slots == 20


class TestCancel:
    async def test_it_frees_what_was_held_though_the_stream_is_kept(self, running: Running, plain: Plain) -> None:
        async with running() as engine:
            stream = engine.synthesize(SpeechRequest(LONG))
            assert (await anext(stream)).pcm
            stream.cancel()
            stream.cancel()
            assert await read(stream) == []
            assert engine.open_streams == 0
            await nothing_is_held(engine)
            assert measured(engine, "sequences_ended") == 0
            assert_same_sound(await pcm_of(engine, HELLO), plain(HELLO))

    async def test_who_reads_meanwhile_comes_to_the_end(self, faked: Callable[..., Any]) -> None:
        async with faked() as (engine, hosts):
            stream = engine.synthesize(SpeechRequest(HELLO))
            reader = asyncio.create_task(read(stream))
            await until(lambda: hosts.made[0].orders)
            stream.cancel()
            assert await asyncio.wait_for(reader, 5) == []
            (order,) = hosts.made[0].told(Speak)
            await until(lambda: hosts.made[0].told(Cancel) == [Cancel(order.id)])

    async def test_a_forgotten_stream_gives_its_place_back(self, running: Running) -> None:
        async with running() as engine:
            stream = engine.synthesize(SpeechRequest(LONG))
            await anext(stream)
            assert engine.open_streams == 1
            del stream
            gc.collect()
            assert engine.open_streams == 0
            await nothing_is_held(engine)
            assert measured(engine, "sequences_ended") == 0

    def test_a_stream_that_outlives_its_loop_is_forgotten_in_silence(self, faked: Callable[..., Any]) -> None:
        kept: list[SpeechStream] = []

        async def speak() -> None:
            async with faked() as (engine, _):
                kept.append(engine.synthesize(SpeechRequest(HELLO)))

        asyncio.run(speak())
        kept.clear()
        gc.collect()

    async def test_stop_ends_all_streams(self, faked: Callable[..., Any]) -> None:
        async with faked() as (engine, hosts):
            readers = [asyncio.create_task(read(engine.synthesize(SpeechRequest(LONG)))) for _ in range(3)]
            await until(lambda: len(hosts.made[0].told(Speak)) == 3)
            await asyncio.wait_for(engine.stop(), 10)
            assert await asyncio.gather(*readers) == [[]] * 3
            assert engine.open_streams == 0

    async def test_one_that_nobody_reads_is_not_spoken_far_ahead(self, running: Running) -> None:
        """What is unread counts as held by the listener, though time passes."""
        async with running(ahead_seconds=2.0, max_segment_chars=34) as engine:
            stream = engine.synthesize(SpeechRequest("Please hold the line. An agent comes. " * 6, "carol"))
            # Who holds three quarters of the bound is left alone: two of the segments.
            await until(lambda: stream.held_seconds > 2)
            held, began = stream.held_seconds, time.monotonic()
            await until(lambda: time.monotonic() > began + 1.6)
            assert stream.held_seconds == held
            assert stream.open
            while stream.held_seconds > 1.2:
                await anext(stream)
            await until(lambda: stream.held_seconds > 1.5)
            stream.cancel()
            await nothing_is_held(engine)


class TestDeadlines:
    async def test_a_request_says_what_its_listener_holds(self, faked: Callable[..., Any]) -> None:
        async with faked() as (engine, hosts):
            streams = []
            before = time.monotonic()
            for seconds in (3.0, -1.0):
                streams.append(engine.synthesize(SpeechRequest(HELLO, buffered_seconds=lambda held=seconds: held)))  # type: ignore[misc]
            after = time.monotonic()
            await until(lambda: len(hosts.made[0].told(Speak)) == 2)
            first, second = hosts.made[0].told(Speak)
            assert before <= first.arrived <= after
            assert first.deadline == first.arrived + 3.0
            assert second.deadline == second.arrived
            assert (first.text, first.voice, first.sample_rate) == (HELLO, "anna", 8000)

    async def test_a_pause_and_a_clear_are_told(self, faked: Callable[..., Any]) -> None:
        runs_out = 0.0
        async with faked() as (engine, hosts):
            stream = engine.synthesize(
                SpeechRequest(HELLO, buffered_seconds=lambda: max(0.0, runs_out - time.monotonic()))
            )
            worker = hosts.made[0]
            await until(lambda: worker.told(Speak))
            (order,) = worker.told(Speak)
            worker.speak(order.id, 4.0)
            await anext(stream)
            runs_out = time.monotonic() + 4  # as the worker thinks: nothing to tell
            await asyncio.sleep(3 * engine_module.WATCH_S)
            assert worker.told(Deadline) == []
            runs_out = time.monotonic() + 8  # the listener has paused
            await until(lambda: worker.told(Deadline))
            (told,) = worker.told(Deadline)
            assert told.id == order.id
            assert told.deadline == pytest.approx(runs_out, abs=0.1)
            runs_out = time.monotonic() + 1  # and was cleared
            await until(lambda: len(worker.told(Deadline)) == 2)
            assert worker.told(Deadline)[1].deadline == pytest.approx(runs_out, abs=0.1)

    async def test_what_is_unread_is_held_too(self, faked: Callable[..., Any]) -> None:
        async with faked() as (engine, hosts):
            stream = engine.synthesize(SpeechRequest(HELLO))
            worker = hosts.made[0]
            await until(lambda: worker.told(Speak))
            worker.speak(worker.told(Speak)[0].id, 0.5)
            # After 0.25 s and more the worker thinks that he has heard half of it.
            await until(lambda: worker.told(Deadline))
            assert worker.told(Deadline)[0].deadline == pytest.approx(time.monotonic() + 0.5, abs=0.4)
            stream.cancel()


class TestSeveralWorkers:
    async def test_the_least_loaded_gets_the_next(self, faked: Callable[..., Any]) -> None:
        async with faked("cpu", "cpu:1", "cpu:2", max_streams=7) as (engine, hosts):
            assert [host.settings.device for host in hosts.made] == ["cpu", "cpu:1", "cpu:2"]
            assert [host.settings.streams for host in hosts.made] == [3, 3, 3], "seven, shared out"
            streams = [engine.synthesize(SpeechRequest(HELLO)) for _ in range(6)]
            assert [len(member.streams) for member in engine._members] == [2, 2, 2]
            for stream in streams[2::3]:
                stream.cancel()
            streams.append(engine.synthesize(SpeechRequest(HELLO)))
            assert [len(member.streams) for member in engine._members] == [2, 2, 1]
            await until(lambda: len(hosts.made[2].told(Speak)) == 3)

    async def test_one_is_lost_and_the_others_go_on(self, faked: Callable[..., Any]) -> None:
        async with faked("cpu", "cpu:1") as (engine, hosts):
            lost, kept = [engine.synthesize(SpeechRequest(HELLO)) for _ in range(2)]
            await until(lambda: all(host.told(Speak) for host in hosts.made))
            hosts.script = lambda host: None
            first, second = hosts.made
            first.end()
            with pytest.raises(EngineNotReadyError, match="another is starting"):
                await asyncio.wait_for(anext(lost), 10)
            assert engine.ready
            assert engine.available() is None
            more = engine.synthesize(SpeechRequest(BYE))
            await until(lambda: len(second.told(Speak)) == 2)
            for order in second.told(Speak):
                second.speak(order.id, final=True)
            assert len(await read(kept)) == len(await read(more)) == 1
            await until(lambda: len(hosts.made) == 3)
            assert measured(engine, "workers_ready") == 1
            hosts.made[2].ready()
            await until(lambda: measured(engine, "workers_ready") == 2)
            assert hosts.made[2].settings.device == "cpu"

    async def test_measures_of_each(self, faked: Callable[..., Any]) -> None:
        async with faked("cpu", "cpu:1") as (engine, hosts):
            for number, host in enumerate(hosts.made):
                measures = ServingMeasures(f"cpu:{number}")
                measures.turns.add(number + 5)
                host.say(Status(IDLE, measures.all()))
            await until(lambda: measured(engine, "turns") == 11)
            assert measured(engine, "turns", device="cpu:1") == 6

    async def test_if_one_cannot_start_none_is_left_running(
        self, monkeypatch: pytest.MonkeyPatch, voices_dir: Path
    ) -> None:
        def script(host: FakeHost) -> None:
            if host.settings.device == "cpu":
                host.ready()
            else:
                host.say(CannotStart("there is no device cpu:1"))
                host.end()

        hosts = Hosts(script)
        monkeypatch.setattr(engine_module, "ThreadHost", hosts)
        settings = settings_for(Path("model"), voices_dir, devices=("cpu", "cpu:1"))
        engine = ChatterboxEngine("chatterbox", settings, 4, 100)
        with pytest.raises(EngineError, match=r"^there is no device cpu:1$"):
            await engine.start()
        assert (engine.ready, engine.voices) == (False, ())
        assert hosts.made[0]._ended.is_set()


class TestFailure:
    async def test_one_s_failure_is_one_s_own(self, faked: Callable[..., Any]) -> None:
        async with faked() as (engine, hosts):
            streams = [engine.synthesize(SpeechRequest(HELLO)) for _ in range(2)]
            worker = hosts.made[0]
            await until(lambda: len(worker.told(Speak)) == 2)
            first, second = (order.id for order in worker.told(Speak))
            worker.speak(first)
            worker.say(Failed(first, "the model's numbers overflowed"))
            worker.speak(second, final=True)
            assert (await anext(streams[0])).seconds == 0.5
            with pytest.raises(SynthesisError, match=r"^the model's numbers overflowed$"):
                await anext(streams[0])
            assert await read(streams[0]) == []
            assert len(await read(streams[1])) == 1
            assert engine.open_streams == 0

    async def test_an_error_of_the_device_fails_all_and_it_starts_again_by_itself(
        self, running: Running, plain: Plain, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken = threading.Event()
        step = Synthesiser._step

        def fail(self: Synthesiser, *arguments: Any) -> None:
            if broken.is_set():
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            step(self, *arguments)

        monkeypatch.setattr(Synthesiser, "_step", fail)
        async with running() as engine:
            # Nobody may load another before the test has looked.
            go_on, load = threading.Event(), loading._load
            monkeypatch.setattr(loading, "_load", lambda *given: go_on.wait(20) and load(*given))
            streams = [engine.synthesize(SpeechRequest(LONG, voice)) for voice in ("anna", "bob", "carol")]
            await anext(streams[0])
            broken.set()
            for stream in streams:
                with pytest.raises((SynthesisError, EngineNotReadyError), match="the GPU"):
                    await asyncio.wait_for(read(stream), 10)
            await until(lambda: not engine.ready)
            assert engine.open_streams == 0
            refused = engine.available()
            assert isinstance(refused, EngineNotReadyError)
            assert str(refused) == "the chatterbox engine is starting again after a failure"
            with pytest.raises(EngineNotReadyError, match="starting again"):
                engine.synthesize(SpeechRequest(HELLO))
            broken.clear()
            go_on.set()
            await until(lambda: engine.ready)
            assert measured(engine, "worker_restarts") == 1
            assert_same_sound(await pcm_of(engine, HELLO), plain(HELLO))
        assert LONG not in caplog.text

    async def test_a_message_never_holds_the_text(
        self, running: Running, plain: Plain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prepare_, message = Texts.prepare, f"cannot read {HELLO!r}"

        def fail(self: Texts, order: Speak) -> Any:
            if order.text == HELLO:
                raise ValueError(message)
            return prepare_(self, order)

        monkeypatch.setattr(Texts, "prepare", fail)
        async with running() as engine:
            with pytest.raises(SynthesisError) as raised:
                await pcm_of(engine, HELLO)
            assert str(raised.value) == "the text could not be prepared: ValueError"
            assert HELLO not in repr(SpeechRequest(HELLO))
            assert_same_sound(await pcm_of(engine, BYE), plain(BYE))

    async def test_overflow_is_said_to_be_one(self, running: Running, steady: Chatterbox) -> None:
        def spoil(t3: torch.nn.Module) -> None:
            t3.speech_head.bias.fill_(torch.nan)  # type: ignore[union-attr,operator]

        from tests.tts_engine.serving.served import changed

        async with running(changed(steady, "t3", spoil)) as engine:
            with pytest.raises(SynthesisError, match="the model's numbers overflowed; try another precision"):
                await pcm_of(engine, HELLO)


class TestProcess:
    @pytest.fixture
    def seen(self) -> Iterator[list[int]]:
        """Workers' process numbers, to be gone at the end."""
        numbers: list[int] = []
        yield numbers
        for number in numbers:
            with pytest.raises(ProcessLookupError):
                os.kill(number, 0)

    async def test_it_speaks_in_a_process_of_its_own_and_survives_its_death(
        self,
        small_model: Path,
        loaded: Chatterbox,
        voices_dir: Path,
        caplog: pytest.LogCaptureFixture,
        seen: list[int],
    ) -> None:
        settings = settings_for(small_model, voices_dir, isolation="process")
        engine = ChatterboxEngine("chatterbox", settings, max_streams=4, max_text_chars=1000)
        expected = Plain(loaded, voices_dir)(HELLO)
        with caplog.at_level(logging.INFO):
            await asyncio.wait_for(engine.start(), 60)
            for restarts in range(2):
                seen.append(engine._members[0].handle._host._process.pid)  # type: ignore[union-attr]
                heard = await pcm_of(engine, HELLO)
                assert len(heard) == len(expected)
                assert relative_error(heard, expected) < 0.01
                assert measured(engine, "worker_restarts") == restarts
                if restarts:
                    break
                stream = engine.synthesize(SpeechRequest(LONG))
                await anext(stream)
                os.kill(seen[0], signal.SIGKILL)
                with pytest.raises(SynthesisError, match=r"^the GPU's worker has failed$"):
                    await asyncio.wait_for(read(stream), 10)
                assert not engine.ready
                async with asyncio.timeout(60):
                    while not engine.ready:
                        await asyncio.sleep(0.02)
            await asyncio.wait_for(engine.stop(), 20)
        assert "ready again: turbo of" in caplog.text
        assert not [text for text in (HELLO, LONG) if text in caplog.text]
