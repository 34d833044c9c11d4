"""A worker's work, one turn at a time: what came in, what is due, what has come back.

Holds the utterances of one device and joins scheduler and runners. It never waits for S3Gen; for T3 it waits only with
the next step already launched.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from tts_engine.chatterbox.chunk_plan import ChunkPlan, ladder
from tts_engine.errors import EngineError
from tts_engine.serving.admission import Load
from tts_engine.serving.messages import Audio, Failed, Report, Speak
from tts_engine.serving.scheduler import ChunkJob, Prefill, Scheduler
from tts_engine.serving.sequence import Sequence as Planned
from tts_engine.serving.serving_measures import ServingMeasures
from tts_engine.serving.speech_runner import SpeechRow, SpeechRunner, Spoken
from tts_engine.serving.t3_runner import Begin, Sampled, T3Runner
from tts_engine.serving.usual import Usual
from tts_engine.serving.utterance import MODEL_RATE, Finish, Segment, Speaking, Utterance, token_array
from tts_engine.serving.voice_bank import BankedVoice, VoiceBank

logger = logging.getLogger(__name__)

HELD_BETWEEN = 2.0
"Seconds that the listener is taken to hold when a segment follows another: the same whatever the load, as chunks are."

CHUNKS_IN_FLIGHT = 2
"Batches: while one runs, the next waits in the stream, so that the device has no gap."

SAMPLES_PER_FRAME = MODEL_RATE // 50

OUT_OF_MEMORY = "the GPU's memory is used up"
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
        self._bank = bank
        self._measures = measures
        self._send = send
        self._numbers = itertools.count(1)
        self._free_slots = list(range(streams))
        self._waiting: deque[tuple[Speak, list[Segment], Finish]] = deque()
        self._utterances: dict[int, Utterance] = {}
        self._voices: dict[int, BankedVoice] = {}
        self._speaking: dict[int, Speaking] = {}
        self._tokens: deque[_TokensInFlight] = deque()
        self._sounds: deque[_SoundInFlight] = deque()
        self._usual = Usual()

    @property
    def idle(self) -> bool:
        """Whether nothing is spoken and nothing is under way."""
        return not (self._utterances or self._waiting or self._tokens or self._sounds)

    @property
    def streams(self) -> int:
        """Utterances taken and not finished."""
        return len(self._utterances) + len(self._waiting)

    def speak(self, order: Speak, segments: list[Segment], finish: Finish) -> None:
        """Take an utterance; it waits if there is no room."""
        if segments:
            self._waiting.append((order, segments, finish))
        else:
            self._send(Audio(order.id, b"", final=True, deadline=order.deadline))

    def refresh(self) -> None:
        """Set the gauges, and the totals that the runners keep."""
        measures, scheduler = self._measures, self._scheduler
        measures.waiting.set(scheduler.waiting + len(self._waiting))
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
            waiting=scheduler.waiting + len(self._waiting),
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
        utterance = self._utterances.get(id)
        if utterance is not None:
            utterance.deadline = deadline
            for sequence in utterance.sequences:
                self._scheduler.set_deadline(sequence, deadline)

    def cancel(self, id: int) -> None:
        """Nobody listens any more: nothing of it is launched from now on."""
        if id in self._utterances:
            self._release(self._utterances[id])
        self._waiting = deque(entry for entry in self._waiting if entry[0].id != id)

    def fail_all(self, reason: str) -> None:
        """The device is lost."""
        for entry in self._waiting:
            self._send(Failed(entry[0].id, reason))
        self._waiting.clear()
        for utterance in list(self._utterances.values()):
            self._fail(utterance, "device", reason)

    def turn(self, now: float) -> bool:
        """One round; False if there was nothing to do but to wait for what is under way, or for orders."""
        self._measures.turns.add()
        began = self._begin_waiting(now)
        heard = self._collect_sounds(now)
        launched = self._launch_sounds(now)
        stepped = self._launch_tokens(now)
        # The newest step runs while the tokens of the one before are looked at.
        taken = self._collect_tokens(keep=1 if stepped else 0)
        return began or heard or launched or stepped or taken

    # Utterances:

    def _begin_waiting(self, now: float) -> bool:
        began = False
        while self._waiting and self._free_slots:
            order, segments, finish = self._waiting[0]
            try:
                voice = self._bank.acquire(order.voice)
            except EngineError as error:
                self._refuse("voice", str(error))
                continue
            except torch.OutOfMemoryError:
                logger.error("the device has no memory for a voice")  # noqa: TRY400 - it says all itself
                self._refuse("memory", OUT_OF_MEMORY)
                continue
            if voice is None:
                break
            self._waiting.popleft()
            self._begin(order, segments, finish, voice)
            began = True
        return began

    def _refuse(self, kind: str, reason: str) -> None:
        """The first who waits."""
        order, _, _ = self._waiting.popleft()
        self._measures.failures[kind].add()
        self._send(Failed(order.id, reason))

    def _begin(self, order: Speak, segments: list[Segment], finish: Finish, voice: BankedVoice) -> None:
        slot = self._free_slots.pop()
        utterance = Utterance(
            order, deque(segments), voice.index, voice.prompt, slot, order.deadline, finish, heard=False
        )
        self._utterances[order.id] = utterance
        self._voices[order.id] = voice
        self._begin_segment(utterance, None)

    def _begin_segment(self, utterance: Utterance, after: int | None) -> None:
        segment = utterance.segments.popleft()
        speaking = Speaking(next(self._numbers), utterance, segment)
        self._speaking[speaking.id] = speaking
        utterance.sequences[speaking.id] = speaking
        held = max(0.0, utterance.order.deadline - utterance.order.arrived) if after is None else HELD_BETWEEN
        self._scheduler.add(
            Planned(
                id=speaking.id,
                text_tokens=len(segment.text_tokens),
                prompt_tokens=len(utterance.prompt),
                limit=segment.guard.limit,
                policy=ladder(held),
                sample_rate=utterance.finish.gpu_rate,
                deadline=utterance.deadline,
                after=after,
            )
        )

    def _release(self, utterance: Utterance) -> None:
        """It is over, one way or another."""
        for sequence in utterance.sequences:
            self._scheduler.cancel(sequence)
            del self._speaking[sequence]
        utterance.sequences.clear()
        del self._utterances[utterance.order.id]
        self._bank.release(self._voices.pop(utterance.order.id))
        # What is launched later comes later on the device too: the slot can be given away at once.
        self._free_slots.append(utterance.slot)

    def _fail(self, utterance: Utterance, kind: str, reason: str) -> None:
        if self._utterances.get(utterance.order.id) is not utterance:
            return  # cancelled meanwhile
        self._measures.failures[kind].add()
        self._release(utterance)
        self._send(Failed(utterance.order.id, reason))

    # T3:

    def _launch_tokens(self, now: float) -> bool:
        prefills = self._scheduler.plan_prefill(now)
        if prefills:
            self._guarded(partial(self._prefill, prefills), [prefill.id for prefill in prefills])
        plan = self._scheduler.plan_step(now)
        for id in plan.failed:
            self._fail(self._speaking[id].utterance, "pages", "the GPU's memory for speech under way is used up")
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
                self._fail(speaking.utterance, "overflow", OVERFLOWED)

    def _take_token(self, speaking: Speaking, token: int) -> None:
        verdict = speaking.accept(token)
        self._scheduler.sampled(speaking.id, len(verdict.tokens), speaking.ended)
        if verdict.end is not None:
            self._measures.ends[verdict.end.value].add()
            self._usual.ended(len(speaking.text_tokens) + len(speaking.tokens))
            if speaking.utterance.segments:
                self._begin_segment(speaking.utterance, speaking.id)

    # S3Gen:

    def _launch_sounds(self, now: float) -> bool:
        launched = False
        while len(self._sounds) < CHUNKS_IN_FLIGHT:
            jobs = self._scheduler.plan_chunks(now)
            if not jobs:
                break
            lengths = [self._flow_tokens(job) for job in jobs]
            for together in self._speech.batches(lengths):
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
                self._fail(utterance, "overflow", OVERFLOWED)
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
            del self._speaking[job.id], utterance.sequences[job.id]
            if ends:
                self._release(utterance)

    def _guarded(self, launch: Callable[[], None], ids: Sequence[int]) -> None:
        """Those of a launch that does not fit into the device's memory fail, and nobody else."""
        try:
            launch()
        except torch.OutOfMemoryError:
            logger.error("the device has no memory for a batch of %d", len(ids))  # noqa: TRY400
            for id in ids:
                if id in self._speaking:
                    self._fail(self._speaking[id].utterance, "memory", OUT_OF_MEMORY)
