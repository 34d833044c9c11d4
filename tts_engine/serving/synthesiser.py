"""A worker's work, one turn at a time: what came in, what is due, what has come back.

Joins the roster of utterances, the scheduler and the runners. It never waits for S3Gen; for T3 it waits only with
the next step already launched.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from tts_engine.chatterbox.chunk_plan import ChunkPlan
from tts_engine.serving.admission import Load
from tts_engine.serving.messages import Audio, Report, Speak
from tts_engine.serving.roster import OUT_OF_MEMORY, Roster
from tts_engine.serving.scheduler import ChunkJob, Prefill, Scheduler
from tts_engine.serving.serving_measures import ServingMeasures
from tts_engine.serving.speech_rows import SpeechRow
from tts_engine.serving.speech_runner import SpeechRunner, Spoken
from tts_engine.serving.t3_runner import Begin, Sampled, T3Runner
from tts_engine.serving.usual import Usual
from tts_engine.serving.utterance import MODEL_RATE, Finish, Segment, Speaking, Utterance, token_array
from tts_engine.serving.voice_bank import VoiceBank

logger = logging.getLogger(__name__)

CHUNKS_IN_FLIGHT = 2
"Batches: while one runs, the next waits in the stream, so that the device has no gap."

SAMPLES_PER_FRAME = MODEL_RATE // 50

OVERFLOWED = "the model's numbers overflowed; try another precision (bfloat16 or float32)"


@dataclass(frozen=True)
class _TokensInFlight:
    rows: tuple[tuple[int, int], ...]
    "(sequence, slot)."
    sampled: Sampled
    prefill: bool


@dataclass(frozen=True)
class _SoundInFlight:
    jobs: tuple[ChunkJob, ...]
    spoken: Spoken
    utterances: tuple[Utterance, ...]
    ends: tuple[bool, ...]
    tokens: int


class Synthesiser:
    """One device's. Times are of the caller's clock."""

    def __init__(
        self,
        scheduler: Scheduler,
        t3: T3Runner,
        speech: SpeechRunner,
        bank: VoiceBank,
        measures: ServingMeasures,
        send: Callable[[Report], None],
        *,
        streams: int,
    ) -> None:
        """`streams`: utterances at once; more wait. `send` takes what is to be told to the engine."""
        self._scheduler = scheduler
        self._t3 = t3
        self._speech = speech
        self._measures = measures
        self._send = send
        self._roster = Roster(scheduler, bank, measures, send, streams)
        self._speaking = self._roster.speaking
        self._tokens: deque[_TokensInFlight] = deque()
        self._sounds: deque[_SoundInFlight] = deque()
        self._usual = Usual()

    @property
    def idle(self) -> bool:
        """Whether nothing is spoken and nothing is under way."""
        return not (len(self._roster) or self._tokens or self._sounds)

    @property
    def streams(self) -> int:
        """Utterances taken and not finished."""
        return len(self._roster)

    def speak(self, order: Speak, segments: list[Segment], finish: Finish) -> None:
        """Take an utterance; it waits if there is no room."""
        self._roster.take(order, segments, finish)

    def refresh(self) -> None:
        """Set the gauges, and the totals that the runners keep."""
        measures, scheduler = self._measures, self._scheduler
        measures.waiting.set(scheduler.waiting + self._roster.waiting)
        measures.decoding.set(scheduler.decoding)
        measures.speaking.set(scheduler.speaking)
        measures.pages.set(scheduler.limits.pages)
        measures.pages_used.set(scheduler.pages_used)
        for counter, total in (
            (measures.step_padding, self._t3.padding),
            (measures.flow_padding, self._speech.padded_tokens),
            (measures.vocoder_frames, self._speech.frames),
            (measures.vocoder_padding, self._speech.padded_frames),
        ):
            counter.add(total - counter.value)

    def load(self, now: float) -> Load:
        """What admission wants to know."""
        scheduler, limits = self._scheduler, self._scheduler.limits
        return Load(
            streams=self.streams,
            waiting=scheduler.waiting + self._roster.waiting,
            decoding=scheduler.decoding,
            slots=limits.slots,
            pages_free=limits.pages - scheduler.pages_used,
            pages_a_sequence=self._usual.tokens / limits.page + 1,
            tokens_a_sequence=self._usual.tokens,
            prefill_seconds=self._usual.prefill_seconds,
            prefill_rows=limits.prefill_rows,
            step_seconds=self._usual.step_seconds,
            chunk_backlog_tokens=scheduler.chunk_tokens(now),
            chunk_seconds_a_token=self._usual.token_seconds,
            chunk_fixed_seconds=self._usual.fixed_seconds,
            slack=scheduler.slack(now),
        )

    def next_wake(self, now: float) -> float | None:
        """When something that is held back, as it is far ahead, becomes due; None: nothing is, or more is under way."""
        return None if self._tokens or self._sounds else self._scheduler.next_wake(now)

    def set_deadline(self, id: int, deadline: float) -> None:
        """The listener's audio runs out at another time than was thought."""
        self._roster.set_deadline(id, deadline)

    def cancel(self, id: int) -> None:
        """Nobody listens any more: nothing of it is launched from now on."""
        self._roster.cancel(id)

    def turn(self, now: float) -> bool:
        """One round; False if there was nothing to do but to wait for what is under way, or for orders."""
        self._measures.turns.add()
        began = self._roster.begin_waiting(now)
        heard = self._collect_sounds(now)
        launched = self._launch_sounds(now)
        stepped = self._launch_tokens(now)
        # The newest step runs while the tokens of the one before are looked at.
        taken = self._collect_tokens(keep=1 if stepped else 0)
        return began or heard or launched or stepped or taken

    # T3:

    def _launch_tokens(self, now: float) -> bool:
        prefills = self._scheduler.plan_prefill(now)
        if prefills:
            self._guarded(partial(self._prefill, prefills), [prefill.id for prefill in prefills])
        plan = self._scheduler.plan_step(now)
        for id in plan.failed:
            self._roster.fail(self._speaking[id].utterance, "pages", "the GPU's memory for speech under way is used up")
        if plan.rows:
            self._guarded(partial(self._step, plan.rows, plan.new_pages), [id for id, _ in plan.rows])
        return bool(prefills or plan.rows)

    def _prefill(self, prefills: Sequence[Prefill]) -> None:
        rows = [self._begin_row(prefill) for prefill in prefills]
        sampled = self._t3.begin(rows)
        self._measures.prefill_rows.observe(len(rows))
        self._tokens.append(_TokensInFlight(tuple((p.id, p.slot) for p in prefills), sampled, prefill=True))

    def _begin_row(self, prefill: Prefill) -> Begin:
        speaking = self._speaking[prefill.id]
        return Begin(
            slot=prefill.slot,
            voice=speaking.utterance.voice,
            text=speaking.text_tokens,
            pages=prefill.pages,
            draws=speaking.uniforms(),
            forbid_until=speaking.guard.min_tokens,
        )

    def _step(self, rows: Sequence[tuple[int, int]], new_pages: Sequence[tuple[int, int, int]]) -> None:
        sampled = self._t3.step([slot for _, slot in rows], new_pages)
        self._measures.step_rows.observe(len(rows))
        self._tokens.append(_TokensInFlight(tuple(rows), sampled, prefill=False))

    def _collect_tokens(self, keep: int) -> bool:
        taken = False
        while len(self._tokens) > keep:
            self._take_tokens(self._tokens.popleft())
            taken = True
        return taken

    def _take_tokens(self, flight: _TokensInFlight) -> None:
        chosen = flight.sampled.wait()
        seconds = flight.sampled.seconds
        if flight.prefill:
            self._measures.prefill_seconds.observe(seconds)
            self._usual.prefilled(seconds)
        else:
            self._measures.step_seconds.observe(seconds)
            self._usual.stepped(seconds)
        for id, slot in flight.rows:
            speaking = self._speaking.get(id)
            if speaking is None or speaking.ended:
                continue  # cancelled, or ended with the step before
            token, finite = chosen[slot]
            if finite:
                self._take_token(speaking, token)
            else:
                self._t3.clean(slot)
                self._roster.fail(speaking.utterance, "overflow", OVERFLOWED)

    def _take_token(self, speaking: Speaking, token: int) -> None:
        verdict = speaking.accept(token)
        self._scheduler.sampled(speaking.id, len(verdict.tokens), speaking.ended)
        if verdict.end is not None:
            self._measures.ends[verdict.end.value].add()
            self._usual.ended(len(speaking.text_tokens) + len(speaking.tokens))
            if speaking.utterance.segments:
                self._roster.begin_segment(speaking.utterance, speaking.id)

    # S3Gen:

    def _launch_sounds(self, now: float) -> bool:
        launched = False
        while len(self._sounds) < CHUNKS_IN_FLIGHT:
            jobs = self._scheduler.plan_chunks(now)
            if not jobs:
                break
            tokens = [self._flow_tokens(job) for job in jobs]
            for together in self._speech.batches(tokens, [job.plan.window_frames for job in jobs]):
                batch = [jobs[at] for at in together]
                self._guarded(partial(self._decode, batch), [job.id for job in batch])
            launched = True
        return launched

    def _flow_tokens(self, job: ChunkJob) -> int:
        return len(self._speaking[job.id].utterance.prompt) + job.plan.given_tokens

    def _decode(self, jobs: Sequence[ChunkJob]) -> None:
        utterances = tuple(self._speaking[job.id].utterance for job in jobs)
        ends = tuple(job.plan.final and self._speaking[job.id].last for job in jobs)
        rows = [self._speech_row(self._speaking[job.id], job.plan, end) for job, end in zip(jobs, ends, strict=True)]
        spoken = self._speech.speak(rows, utterances[0].finish.gpu_rate)
        tokens = sum(len(row.prompt) + len(row.tokens) for row in rows)
        self._measures.chunk_rows.observe(len(rows))
        self._measures.flow_tokens.observe(tokens)
        self._sounds.append(_SoundInFlight(tuple(jobs), spoken, utterances, ends, tokens))

    def _speech_row(self, speaking: Speaking, plan: ChunkPlan, ends: bool) -> SpeechRow:
        utterance = speaking.utterance
        before, out_before = utterance.samples, utterance.out
        # Chunks of an utterance are decoded one after the other, so its totals can be counted on already.
        utterance.samples += (plan.until - plan.spoken) * SAMPLES_PER_FRAME
        utterance.out = self._speech.polyphase(utterance.finish.gpu_rate).outputs(utterance.samples, ends)
        begins = speaking.chunks == 0
        speaking.chunks += 1
        return SpeechRow(
            slot=utterance.slot,
            voice=utterance.voice,
            prompt=utterance.prompt,
            tokens=token_array(speaking.tokens[plan.first_token : plan.tokens]),
            plan=plan,
            keys=speaking.keys,
            begins=begins,
            before=before,
            out_before=out_before,
            out=utterance.out - out_before,
        )

    def _collect_sounds(self, now: float) -> bool:
        heard = False
        while self._sounds and self._sounds[0].spoken.done:
            self._deliver(self._sounds.popleft(), now)
            heard = True
        return heard

    def _deliver(self, flight: _SoundInFlight, now: float) -> None:
        rows = list(flight.spoken.rows())
        flow, vocoder = flight.spoken.seconds
        self._measures.flow_seconds.observe(flow)
        self._measures.vocoder_seconds.observe(vocoder)
        self._usual.decoded(flow + vocoder, flight.tokens)
        for job, utterance, ends, (pcm, finite) in zip(flight.jobs, flight.utterances, flight.ends, rows, strict=True):
            if job.id not in self._speaking:
                continue  # cancelled meanwhile
            if not finite:
                self._speech.forget(utterance.slot)
                self._roster.fail(utterance, "overflow", OVERFLOWED)
                continue
            self._hear(utterance, job, pcm, now, ends=ends)

    def _hear(self, utterance: Utterance, job: ChunkJob, pcm: bytes, now: float, *, ends: bool) -> None:
        pcm = utterance.finish(pcm, final=ends)
        seconds = job.plan.speech_frames / 50
        measures, order = self._measures, utterance.order
        measures.audio_seconds.add(seconds)
        if utterance.heard:
            measures.slack.observe(utterance.deadline - now)
            if utterance.deadline < now:
                measures.late_chunks.add()
        else:
            utterance.heard = True
            measures.first_chunk.observe(now - order.arrived)
        deadline = max(utterance.deadline, now) + seconds
        self._send(Audio(order.id, pcm, ends, deadline))
        self.set_deadline(order.id, deadline)
        self._scheduler.chunk_done(job.id)
        if job.plan.final:
            self._roster.end_sequence(self._speaking[job.id])

    def _guarded(self, launch: Callable[[], None], ids: Sequence[int]) -> None:
        """Those of a launch that does not fit into the device's memory fail, and nobody else."""
        try:
            launch()
        except torch.OutOfMemoryError:
            logger.error("the device has no memory for a batch of %d", len(ids))  # noqa: TRY400
            for id in ids:
                if id in self._speaking:
                    self._roster.fail(self._speaking[id].utterance, "memory", OUT_OF_MEMORY)
