"""Chatterbox as an Engine: workers, one a device; streams, each spoken by the worker that had the fewest."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from weakref import WeakValueDictionary, finalize

from tts_engine.chatterbox.cfg import cfg_scale
from tts_engine.chatterbox.voice_store import VoiceStore
from tts_engine.engine import EngineLimits, Feature, SpeechRequest
from tts_engine.errors import (
    EngineBusyError,
    EngineError,
    EngineNotReadyError,
    TextTooLongError,
    UnsupportedSampleRateError,
)
from tts_engine.measures import Counter, Gauge, Measure
from tts_engine.pooled_engine import check_voice
from tts_engine.serving.admission import AdmissionPolicy
from tts_engine.serving.device import devices_of
from tts_engine.serving.messages import Audio, Cancel, Deadline, Failed, Report, Speak
from tts_engine.serving.settings import ChatterboxSettings, WorkerSettings
from tts_engine.serving.stream import WorkerStream
from tts_engine.serving.voices import VoiceNames
from tts_engine.serving.worker_handle import WorkerHandle
from tts_engine.serving.worker_host import ProcessHost, ThreadHost, WorkerHost

logger = logging.getLogger(__name__)

WATCH_S = 0.1
"How often the workers' idea of a listener's audio is compared with the listener's own."

QUIET_S, QUIET_RETRY_S = 1.5, 10.0
"A worker on a GPU that says nothing for so long, fifteen signs of life, may be stuck: no further calls until it does."

DRIFT_S = 0.25
"What is not worth telling."


class _Member:
    """A worker and the streams that it speaks."""

    def __init__(self, handle: WorkerHandle) -> None:
        self.handle = handle
        # Weak: a stream that its reader forgot, unread and not cancelled, must not take up room for ever.
        self.streams: WeakValueDictionary[int, WorkerStream] = WeakValueDictionary()


class ChatterboxEngine:
    """An Engine over Chatterbox Turbo or Nano. Start, use and stop it on one event loop; it can be started again."""

    def __init__(self, name: str, settings: ChatterboxSettings, max_streams: int, max_text_chars: int) -> None:
        """Raises ValueError for an unfit CHATTERBOX_CFG_SCALE."""
        self._name = name
        self._settings = settings
        self._limits = EngineLimits(max_text_chars=max_text_chars, max_streams=max_streams)
        self._cfg_scale = cfg_scale()
        self._store = VoiceStore(settings.voices_dir)
        self._voices: VoiceNames | None = None
        self._members: list[_Member] = []
        self._ids = itertools.count(1)
        self._watcher: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self._own_measures: tuple[Measure, ...] = (
            Gauge("streams", "Utterances open", lambda: self.open_streams),
            Gauge("workers_ready", "Workers that take requests", lambda: sum(m.handle.ready for m in self._members)),
            Counter("worker_restarts", "Workers started again", lambda: sum(m.handle.restarts for m in self._members)),
        )

    @property
    def name(self) -> str:
        return self._name

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    @property
    def default_voice(self) -> str:
        return self._settings.default_voice

    @property
    def features(self) -> frozenset[Feature]:
        """The model does neither pace nor phonemes; voices are made by tts_engine.chatterbox.enrol."""
        return frozenset(("enrol",))

    @property
    def voices(self) -> tuple[str, ...]:
        """As they were at start, and those that were added and asked for since."""
        return () if self._voices is None else self._voices.names

    @property
    def ready(self) -> bool:
        """Whether a worker takes requests."""
        return any(member.handle.ready for member in self._members)

    @property
    def open_streams(self) -> int:
        """Streams that have, or may get, something to read."""
        return sum(len(member.streams) for member in self._members)

    @property
    def measures(self) -> Sequence[Measure]:
        """Ours, and those of each worker as it last told them."""
        told = [member.handle.status for member in self._members]
        return (*self._own_measures, *(measure for status in told if status for measure in status.measures))

    async def start(self) -> None:
        """Load every worker. Raises EngineError if what is needed cannot be had."""
        async with self._changing:
            if self._members:
                return
            devices = devices_of(self._settings.devices)
            streams = -(-self._limits.max_streams // len(devices))
            members = [_Member(self._handle(device, streams)) for device in devices]
            try:
                ready = [await member.handle.start() for member in members]
            except BaseException:
                for member in members:
                    await member.handle.stop()
                raise
            self._members = members
            self._voices = VoiceNames(self._store, built_in=ready[0].built_in_voice)
            for each in ready:
                logger.info("%s", each.summary)
            self._watcher = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Cancel all streams, end the workers. Idempotent."""
        async with self._changing:
            if self._watcher is not None:
                self._watcher.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._watcher
                self._watcher = None
            members, self._members = self._members, []
            for member in members:
                for stream in list(member.streams.values()):
                    stream.cancel()
            await asyncio.gather(*(member.handle.stop() for member in members))

    def check(self, request: SpeechRequest) -> None:
        """Raises UnknownVoiceError, TextTooLongError, UnsupportedSampleRateError; EngineError for a broken voice."""
        voice = self._voice_name(request)
        if self._voices is not None and not self._voices.has(voice):
            check_voice(voice, self._voices.names)
        if len(request.text) > self._limits.max_text_chars:
            raise TextTooLongError(len(request.text), self._limits.max_text_chars)
        if request.sample_rate not in self._limits.sample_rates:
            raise UnsupportedSampleRateError(request.sample_rate, self._limits.sample_rates)

    def available(self) -> EngineError | None:
        """See Engine."""
        member = self._least_loaded()
        if member is None:
            return self._not_ready()
        if self.open_streams >= self._limits.max_streams:
            return self._full()
        if member.handle.settings.device.startswith("cuda") and (silent := member.handle.silent_seconds) > QUIET_S:
            return EngineBusyError(f"the GPU's worker has not been heard of for {silent:.1f} s", QUIET_RETRY_S)
        status = member.handle.status
        if status is None:
            return None
        # The worker told it a moment ago; those who came since are counted here.
        load, streams = status.load, len(member.streams)
        waiting = load.waiting + max(0, streams - load.streams)
        refused = self._policy(member).refusal(replace(load, streams=streams, waiting=waiting))
        return EngineBusyError(refused.reason, refused.retry_after_seconds) if refused else None

    def synthesize(self, request: SpeechRequest) -> WorkerStream:
        """Begin an utterance; see Engine."""
        member = self._least_loaded()
        if member is None:
            raise self._not_ready()
        self.check(request)
        if self.open_streams >= self._limits.max_streams:
            raise self._full()
        id = next(self._ids)
        now = time.monotonic()
        stream = WorkerStream(request.sample_rate, request.buffered_seconds, lambda: self._ended(member, id))
        stream.deadline = now + max(0.0, request.buffered_seconds())
        member.streams[id] = stream
        finalize(stream, _forget, asyncio.get_running_loop(), member.handle, id).atexit = False
        order = Speak(id, request.text, self._voice_name(request), request.sample_rate, now, stream.deadline)
        member.handle.send(order)
        return stream

    def _handle(self, device: str, streams: int) -> WorkerHandle:
        settings = WorkerSettings(self._settings, device, self._cfg_scale, streams)
        isolation = self._settings.isolation
        in_process = isolation == "process" or (isolation == "auto" and device.startswith("cuda"))
        host: Callable[[WorkerSettings], WorkerHost] = ProcessHost if in_process else ThreadHost

        def member() -> _Member | None:
            return next((each for each in self._members if each.handle is handle), None)

        def reported(report: Report) -> None:
            found = member()
            if found is not None:
                self._take(found, report)

        def lost() -> None:
            found = member()
            for stream in list(found.streams.values()) if found else []:
                stream.lose()

        handle = WorkerHandle(settings, host, reported, lost)
        return handle

    def _take(self, member: _Member, report: Report) -> None:
        if not isinstance(report, Audio | Failed) or (stream := member.streams.get(report.id)) is None:
            return  # cancelled meanwhile
        if isinstance(report, Failed):
            stream.fail(report.reason)
        else:
            stream.deadline = report.deadline
            stream.hear(report.pcm, final=report.final)

    def _ended(self, member: _Member, id: int) -> None:
        """Nothing more is wanted of the worker; it has forgotten the utterance, or is to."""
        member.streams.pop(id, None)
        member.handle.send(Cancel(id))

    def _least_loaded(self) -> _Member | None:
        """Of the workers that are ready the one with the fewest streams."""
        return min((m for m in self._members if m.handle.ready), key=lambda m: len(m.streams), default=None)

    def _policy(self, member: _Member) -> AdmissionPolicy:
        """A CPU is for trying things out: it is late for everybody."""
        on_gpu = member.handle.settings.device.startswith("cuda")
        most = self._settings.max_first_audio_seconds if on_gpu else 0.0
        return AdmissionPolicy(
            max_streams=member.handle.settings.streams,
            max_first_audio_seconds=most or math.inf,
            most_late_seconds=max(0.5, most) if most else math.inf,
        )

    def _full(self) -> EngineBusyError:
        return EngineBusyError(
            f"the {self._name} engine speaks {self._limits.max_streams} utterances, which is its limit"
        )

    def _not_ready(self) -> EngineNotReadyError:
        what = "is starting again after a failure" if self._members else "is not running"
        return EngineNotReadyError(f"the {self._name} engine {what}")

    async def _watch(self) -> None:
        """Listeners pause, and are cleared: then their audio runs out at another time than the worker thinks."""
        while True:
            await asyncio.sleep(WATCH_S)
            self._tell_deadlines(time.monotonic())

    def _tell_deadlines(self, now: float) -> None:
        # Apart from the loop above, whose frame would keep the last stream alive though its reader forgot it.
        for member in self._members:
            for id, stream in list(member.streams.items()):
                held = stream.held_seconds
                # Who holds nothing is as urgent as it was when the audio ran out.
                if held and abs(now + held - stream.deadline) > DRIFT_S:
                    stream.deadline = now + held
                    member.handle.send(Deadline(id, stream.deadline))

    def _voice_name(self, request: SpeechRequest) -> str:
        return self._settings.default_voice if request.voice is None else request.voice


def _forget(loop: asyncio.AbstractEventLoop, handle: WorkerHandle, id: int) -> None:
    """A stream was dropped: nobody can read it. The collector may run on any thread, and after the loop has closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(handle.send, Cancel(id))
