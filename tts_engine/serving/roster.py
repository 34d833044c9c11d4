"""Who is spoken for on a device: utterances that wait, those that have begun, and the sequences of each."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable

import torch

from tts_engine.chatterbox.chunk_plan import ladder
from tts_engine.errors import EngineError
from tts_engine.serving.messages import Audio, Failed, Report, Speak
from tts_engine.serving.scheduler import Scheduler, Sequence
from tts_engine.serving.serving_measures import ServingMeasures
from tts_engine.serving.utterance import Finish, Segment, Speaking, Utterance
from tts_engine.serving.voice_bank import BankedVoice, VoiceBank

logger = logging.getLogger(__name__)

HELD_BETWEEN = 2.0
"Seconds that the listener is taken to hold when a segment follows another: the same whatever the load, as chunks are."

VOICE_WAIT_S = 5.0
"For room among the voices on the device; then the utterance fails."

OUT_OF_MEMORY = "the GPU's memory is used up"


class Roster:
    """Gives utterances what they need (a speech slot, a voice), takes it back once, and tells the scheduler."""

    def __init__(
        self,
        scheduler: Scheduler,
        bank: VoiceBank,
        measures: ServingMeasures,
        send: Callable[[Report], None],
        streams: int,
    ) -> None:
        """`streams`: utterances at once; more wait. `send` takes what is to be told to the engine."""
        self.utterances: dict[int, Utterance] = {}
        self.speaking: dict[int, Speaking] = {}
        "Sequences that are not done, by their own number."
        self.bank = bank
        self.free_slots = list(range(streams))
        self._scheduler = scheduler
        self._measures = measures
        self._send = send
        self._numbers = itertools.count(1)
        self._waiting: deque[tuple[Speak, list[Segment], Finish]] = deque()
        self._voices: dict[int, BankedVoice] = {}

    def __len__(self) -> int:
        """Utterances taken and not finished."""
        return len(self.utterances) + len(self._waiting)

    @property
    def waiting(self) -> int:
        """Those that have not begun."""
        return len(self._waiting)

    def take(self, order: Speak, segments: list[Segment], finish: Finish) -> None:
        """An utterance; it waits if there is no room."""
        if segments:
            self._waiting.append((order, segments, finish))
        else:
            self._send(Audio(order.id, b"", final=True, deadline=order.deadline))

    def begin_waiting(self, now: float) -> bool:
        """As many as there is room for; whether any. Who waits for a voice's room keeps nobody else waiting."""
        if not self._waiting or not self.free_slots:
            return False
        entries, self._waiting = self._waiting, deque()
        before = len(self.utterances)
        for entry in entries:
            if not self.free_slots or not self._settled(*entry, now):
                self._waiting.append(entry)
        return len(self.utterances) > before

    def _settled(self, order: Speak, segments: list[Segment], finish: Finish, now: float) -> bool:
        """Whether it was begun or refused; else its voice has no room yet."""
        try:
            voice = self.bank.acquire(order.voice)
        except EngineError as error:
            self._refuse(order, "voice", str(error))
            return True
        except torch.OutOfMemoryError:
            logger.error("the device has no memory for a voice")  # noqa: TRY400 - it says all itself
            self._refuse(order, "memory", OUT_OF_MEMORY)
            return True
        if voice is not None:
            self._begin(order, segments, finish, voice)
            return True
        if now - order.arrived > VOICE_WAIT_S:
            self._refuse(order, "voice", "as many different voices are spoken as the GPU has room for")
            return True
        return False

    def begin_segment(self, utterance: Utterance, after: int | None) -> None:
        """The next segment of a begun utterance, behind the sequence `after`."""
        segment = utterance.segments.popleft()
        speaking = Speaking(next(self._numbers), utterance, segment)
        self.speaking[speaking.id] = speaking
        utterance.sequences[speaking.id] = speaking
        held = max(0.0, utterance.order.deadline - utterance.order.arrived) if after is None else HELD_BETWEEN
        self._scheduler.add(
            Sequence(
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

    def set_deadline(self, id: int, deadline: float) -> None:
        """The listener's audio runs out at another time than was thought."""
        utterance = self.utterances.get(id)
        if utterance is not None:
            utterance.deadline = deadline
            for sequence in utterance.sequences:
                self._scheduler.set_deadline(sequence, deadline)

    def end_sequence(self, speaking: Speaking) -> None:
        """All its sound is out; with the last one the utterance is over."""
        del self.speaking[speaking.id], speaking.utterance.sequences[speaking.id]
        if speaking.last:
            self._release(speaking.utterance)

    def cancel(self, id: int) -> None:
        """Nobody listens any more: nothing of it is launched from now on."""
        if id in self.utterances:
            self._release(self.utterances[id])
        self._waiting = deque(entry for entry in self._waiting if entry[0].id != id)

    def fail(self, utterance: Utterance, kind: str, reason: str) -> None:
        """It will not be finished; the others are not affected."""
        if self.utterances.get(utterance.order.id) is not utterance:
            return  # cancelled meanwhile
        self._measures.failures[kind].add()
        self._release(utterance)
        self._send(Failed(utterance.order.id, reason))

    def _refuse(self, order: Speak, kind: str, reason: str) -> None:
        """One that has not begun."""
        self._measures.failures[kind].add()
        self._send(Failed(order.id, reason))

    def _begin(self, order: Speak, segments: list[Segment], finish: Finish, voice: BankedVoice) -> None:
        slot = self.free_slots.pop()
        utterance = Utterance(order, deque(segments), voice.index, voice.prompt, slot, order.deadline, finish)
        self.utterances[order.id] = utterance
        self._voices[order.id] = voice
        self.begin_segment(utterance, None)

    def _release(self, utterance: Utterance) -> None:
        """It is over, one way or another."""
        for sequence in utterance.sequences:
            self._scheduler.cancel(sequence)
            del self.speaking[sequence]
        utterance.sequences.clear()
        del self.utterances[utterance.order.id]
        self.bank.release(self._voices.pop(utterance.order.id))
        # What is launched later comes later on the device too: the slot can be given away at once.
        self.free_slots.append(utterance.slot)
