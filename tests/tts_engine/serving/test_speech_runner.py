"""S3Gen's runner without graphs, on the CPU: batches of chunks against one utterance at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tests.tts_engine.chatterbox.voices import make_voice
from tests.tts_engine.serving.runner_cases import (
    Sounding,
    fresh_chance,
    next_row,
    pcm_of,
    random_soundings,
    speak_together,
)
from tests.tts_engine.serving.served import Pcm, assert_same_sound, pcm_array
from tts_engine.chatterbox.assembler import SpeechAssembler
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.model import Chatterbox
from tts_engine.chatterbox.padded import PaddedFlow, PaddedVocoder
from tts_engine.chatterbox.streaming import synthesise_chunks
from tts_engine.chatterbox.voice import Voice
from tts_engine.chatterbox.windows import SpeechState
from tts_engine.resample import Resampler, to_pcm16
from tts_engine.serving.speech_runner import SpeechRunner
from tts_engine.serving.speech_shapes import EngineShapes
from tts_engine.tensorrt.engine_flow import EngineFlow
from tts_engine.tensorrt.engine_vocoder import EngineVocoder
from tts_engine.tensorrt.flow_stages import encoder_stage, estimator_stage
from tts_engine.tensorrt.session import ModuleSession
from tts_engine.tensorrt.vocoder_stage import vocoder_stage

SLOTS = 4
POLICIES = (ChunkPolicy(sizes=(20, 40)), ChunkPolicy(sizes=(14,)), ChunkPolicy(sizes=(500,)))


@pytest.fixture(scope="module")
def voices() -> list[Voice]:
    return [make_voice(1, flow, seed) for seed, flow in enumerate((2, 13))]


def make(
    model: Chatterbox, voices: list[Voice], rows: int = 6, *, engines: tuple[bool, bool] = (False, False)
) -> tuple[SpeechRunner, SpeechState]:
    """`engines`: whether flow and vocoder are behind sessions, which are their modules'."""
    state = SpeechState(SLOTS, ChunkPolicy())
    for held in (state.mel, state.f0, state.phase, state.tail):
        held.fill_(torch.nan)  # what nobody has kept must not be used
    encoder, estimator = ModuleSession(encoder_stage(model.flow)), ModuleSession(estimator_stage(model.flow))
    vocoder = ModuleSession(vocoder_stage(model.vocoder))
    runner = SpeechRunner(
        EngineFlow(model.flow, encoder, estimator, voices=len(voices))
        if engines[0]
        else PaddedFlow(model.flow, voices=len(voices)),
        EngineVocoder(vocoder) if engines[1] else PaddedVocoder(model.vocoder),
        state,
        slots=SLOTS,
        rows=rows,
        tokens=800,
        frames=1200,
        device=torch.device("cpu"),
        graphs=False,
        shapes=EngineShapes(800, 1200, flow=engines[0], vocoder=engines[1]) if any(engines) else None,
    )
    for index, voice in enumerate(voices):
        runner.set_voice(index, voice)
    return runner, state


def speak_alone(model: Chatterbox, utterance: Sounding, voice: Voice, rate: int) -> Pcm:
    chunks = []
    for seed, tokens, policy in utterance.sequences:
        assembler = SpeechAssembler(voice, Draws(seed), policy)
        chunks += [chunk.numpy() for chunk in synthesise_chunks(model.flow, model.vocoder, assembler, tokens)]
    return pcm_array(to_pcm16(Resampler(24000, rate).process(np.concatenate(chunks), final=True)))


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_batches_say_what_each_would_alone(steady: Chatterbox, voices: list[Voice], rate: int) -> None:
    chance = fresh_chance()
    runner, _ = make(steady, voices)
    runner.capture()  # nothing to do
    utterances = random_soundings(chance, 3, voices=len(voices), policies=POLICIES)
    speak_together(runner, utterances, voices, rate, chance)
    for utterance in utterances:
        assert_same_sound(pcm_of(utterance), speak_alone(steady, utterance, voices[utterance.voice], rate))
    assert runner.tokens > 0
    assert runner.frames > 0
    assert (runner.padded_tokens, runner.padded_frames) == (0, 0)


@pytest.mark.parametrize("engines", [(True, True), (True, False), (False, True)])
def test_by_engines_they_say_the_same(steady: Chatterbox, voices: list[Voice], engines: tuple[bool, bool]) -> None:
    chance = fresh_chance()
    runner, _ = make(steady, voices, engines=engines)
    utterances = random_soundings(chance, 3, voices=len(voices), policies=POLICIES)
    speak_together(runner, utterances, voices, 8000, chance)
    for utterance in utterances:
        assert_same_sound(pcm_of(utterance), speak_alone(steady, utterance, voices[utterance.voice], 8000))


class Shapes(EngineShapes):
    """Notes what it is asked."""

    def __init__(self) -> None:
        super().__init__(800, 1200)
        self.asked: list[tuple[Sequence[int], Sequence[int]]] = []

    def batches(self, tokens: Sequence[int], frames: Sequence[int]) -> list[list[int]]:
        self.asked.append((tokens, frames))
        return super().batches(tokens, frames)


def test_shapes_say_which_rows_go_together(steady: Chatterbox) -> None:
    shapes = Shapes()
    runner = SpeechRunner(
        PaddedFlow(steady.flow, voices=1),
        PaddedVocoder(steady.vocoder),
        SpeechState(1, ChunkPolicy()),
        slots=1,
        rows=4,
        tokens=800,
        frames=1200,
        device=torch.device("cpu"),
        graphs=False,
        shapes=shapes,
    )
    assert runner.batches([300, 700, 310], [90, 300, 91]) == [[0, 2], [1]]
    assert shapes.asked == [([300, 700, 310], [90, 300, 91])]


def test_a_slot_is_given_to_another_after_the_end_and_in_the_middle(steady: Chatterbox, voices: list[Voice]) -> None:
    runner, _ = make(steady, voices)
    left = Sounding(0, 1, [(7, list(range(100, 145)), POLICIES[0])])
    runner.speak([next_row(runner, left, voices[0], 8000)], 8000)  # and cancelled
    other = Sounding(1, 1, [(8, list(range(500, 530)), POLICIES[0])])
    speak_together(runner, [other], voices, 8000, fresh_chance())
    assert_same_sound(pcm_of(other), speak_alone(steady, other, voices[1], 8000))


def test_numbers_that_are_none_are_said_of_their_row_alone(steady: Chatterbox, voices: list[Voice]) -> None:
    broken = Voice(**{**vars(voices[1]), "x_vector": torch.full((192,), torch.nan)})
    runner, state = make(steady, [voices[0], broken])
    good = Sounding(0, 0, [(1, list(range(10)), POLICIES[2])])
    bad = Sounding(1, 2, [(2, list(range(30)), POLICIES[0])])
    rows = [next_row(runner, bad, broken, 8000), next_row(runner, good, voices[0], 8000)]
    (pcm, bad_finite), (heard, good_finite) = runner.speak(rows, 8000).rows()
    assert (bad_finite, good_finite) == (False, True)
    assert len(pcm) == 2 * rows[0].out
    assert_same_sound(pcm_array(heard), speak_alone(steady, good, voices[0], 8000))
    assert not state.tail[2].isfinite().all()
    runner.forget(2)
    assert all(held[2].eq(0).all() for held in (state.mel, state.f0, state.phase, state.tail))


def test_a_batch_has_room_for_so_many_rows(steady: Chatterbox, voices: list[Voice]) -> None:
    runner, _ = make(steady, voices, rows=1)
    rows = [next_row(runner, Sounding(0, slot, [(1, [5] * 9, POLICIES[0])]), voices[0], 8000) for slot in (0, 1)]
    with pytest.raises(ValueError, match="a batch of 2 chunks is over 1"):
        runner.speak(rows, 8000)
    spoken = runner.speak(rows[:1], 8000)
    assert spoken.done
    assert len(list(spoken.rows())) == 1
    assert min(spoken.seconds) > 0
    assert (runner.tokens, runner.frames) == (2 + 12, 24)
    assert runner.stream is None
