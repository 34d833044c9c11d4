"""T3's runner without graphs, on the CPU: the same tokens as the plain decoder's, whoever else is decoded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tts_engine.serving.runner_cases import decode_alone, decode_together, fresh_chance, random_sequences
from tts_engine.chatterbox.model import Chatterbox
from tts_engine.chatterbox.paged_t3 import PAGE, BatchDecoder, PagedCache, StepReads
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.chatterbox.t3 import VoicePrefix
from tts_engine.serving.t3_runner import Begin, T3Runner
from tts_engine.tensorrt import step_shapes
from tts_engine.tensorrt.engine_t3 import EnginePasses
from tts_engine.tensorrt.session import ModuleSession
from tts_engine.tensorrt.step_shapes import EngineShapes, StepShape
from tts_engine.tensorrt.t3_stages import prefill_stage, step_stage

SLOTS, PAGES, VOICES = 4, 40, 3


def voices(model: Chatterbox) -> list[VoicePrefix]:
    with torch.inference_mode():
        return [model.t3.prefix(torch.randn(256), torch.randint(0, 6561, (prompt,))) for prompt in (3, 40, 75)[:VOICES]]


def make(
    model: Chatterbox, prefixes: list[VoicePrefix], cfg_scale: float = 0.0, *, engines: bool = False
) -> tuple[T3Runner, PagedCache, BatchDecoder]:
    """`engines`: the stages' own modules in their place."""
    twins = bool(cfg_scale)
    cache = PagedCache(
        model.sizes,
        slots=SLOTS,
        pages=PAGES * (2 if twins else 1),
        positions=10 * PAGE,
        voices=VOICES,
        most_prefix=100,
        twins=twins,
    )
    cache.keys_values.fill_(1e4)  # what nobody has written must not be read
    passes, shapes = None, None
    if engines:
        sessions = [ModuleSession(stage(model.t3, most_prefix=100)) for stage in (prefill_stage, step_stage)]
        passes = EnginePasses(model.t3, cache, *sessions)
        shapes = EngineShapes(SLOTS, cache.positions, VOICES, twins=twins)
    decoder = BatchDecoder(model.t3, cache, SamplingSettings(), cfg_scale, most_tokens=100, passes=passes)
    runner = T3Runner(decoder, cache, graphs=False, shapes=shapes)
    for index, prefix in enumerate(prefixes):
        runner.set_voice(index, prefix)
    return runner, cache, decoder


def begin(slot: int, pages: tuple[int, ...] = (0,), voice: int = 0, text: tuple[int, ...] = (5, 6)) -> Begin:
    return Begin(slot, voice, text, pages, np.full(3, 0.5, np.float32), 2)


@pytest.mark.parametrize("cfg_scale", [0.0, 0.7])
def test_sequences_that_come_and_go_are_decoded_as_if_alone(loaded: Chatterbox, cfg_scale: float) -> None:
    chance = fresh_chance()
    prefixes = voices(loaded)
    runner, _, _ = make(loaded, prefixes, cfg_scale)
    sequences = random_sequences(chance, 9, voices=VOICES, steps=30)
    runner.capture()  # nothing to do
    decode_together(runner, sequences, slots=SLOTS, pages=PAGES, chance=chance)
    for sequence in sequences:
        assert sequence.tokens == decode_alone(loaded.t3, prefixes[sequence.voice], sequence, cfg_scale)
    assert runner.padding == 0
    assert runner.stream is None


@pytest.mark.parametrize("cfg_scale", [0.0, 0.7])
def test_by_engines_short_and_long_rows_are_stepped_apart(
    loaded: Chatterbox, cfg_scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines of small profiles: two pages are short, two rows are many."""
    for name, value in {
        "STEP_SHORT_PAGES": 2,
        "STEP_LONG_ROWS": 4,
        "ENGINE_PAGES": (1, 2, 5),
        "_CALL_PAGES": 1,
    }.items():
        monkeypatch.setattr(step_shapes, name, value)
    chance = fresh_chance()
    prefixes = voices(loaded)
    runner, _, decoder = make(loaded, prefixes, cfg_scale, engines=True)
    called: list[StepReads] = []
    step = decoder.step

    def recorded(slots: torch.Tensor, reads: StepReads | None = None) -> torch.Tensor:
        assert reads is not None
        assert StepShape(len(slots), reads) in runner._shapes.all_steps
        called.append(reads)
        return step(slots, reads)

    monkeypatch.setattr(decoder, "step", recorded)
    sequences = random_sequences(chance, 9, voices=VOICES, steps=30)
    sequences[0].text, sequences[1].text = [3] * 140, [7]
    sequences[0].steps = sequences[1].steps = 30
    decode_together(runner, sequences, slots=SLOTS, pages=PAGES, chance=chance)
    for sequence in sequences:
        assert sequence.tokens == decode_alone(loaded.t3, prefixes[sequence.voice], sequence, cfg_scale)
    assert len({reads.pages for reads in called}) > 1
    assert runner.padding > 0


def test_by_engines_a_batch_of_several_calls_has_one_result(loaded: Chatterbox) -> None:
    runner, _, _ = make(loaded, voices(loaded), 0.5, engines=True)
    rows = [
        begin(slot, pages=tuple(range(9 * slot, 9 * slot + 9)), text=(7,) * (1, 250)[slot % 2]) for slot in range(4)
    ]
    begun = runner.begin(rows).wait()
    assert set(begun) == {0, 1, 2, 3}
    stepped = runner.step([3, 0, 2, 1])
    assert set(stepped.wait()) == {0, 1, 2, 3}
    assert stepped.seconds > 0


def test_what_the_device_is_told_of_a_sequence(loaded: Chatterbox) -> None:
    runner, cache, decoder = make(loaded, voices(loaded))
    runner.begin([begin(2, pages=(7, 3), voice=1)])
    assert cache.tables[2].tolist() == [7, 3, *[PAGES] * 8]
    assert (int(cache.voice[2]), int(decoder.forbid_until[2])) == (1, 2)
    assert decoder.draws[2, :3].tolist() == [0.5] * 3
    runner.step([2], [(2, 2, 11)])
    assert cache.tables[2, :4].tolist() == [7, 3, 11, PAGES]
    runner.begin([begin(2, pages=(5,))])
    assert cache.tables[2].tolist() == [5, *[PAGES] * 9], "nothing of who had the slot before"
    assert (cache.tables[[0, 1, 3, 4]] == PAGES).all()


def test_twins_have_pages_of_their_own(loaded: Chatterbox) -> None:
    runner, cache, _ = make(loaded, voices(loaded), 0.5)
    runner.begin([begin(1, pages=(7, 3))])
    assert cache.tables[1, :2].tolist() == [7, 3]
    assert cache.tables[1 + SLOTS + 1, :2].tolist() == [7 + PAGES, 3 + PAGES]


def test_results_are_by_slot_in_whatever_order_they_were_asked_for(loaded: Chatterbox) -> None:
    """Rows of a voice are put side by side."""
    prefixes = voices(loaded)
    asked = {}
    for slots in ([0, 1, 2, 3], [3, 1, 0, 2]):
        runner, _, _ = make(loaded, prefixes)
        runner.begin([begin(slot, pages=(slot,), voice=slot % 3, text=(slot,)) for slot in slots]).wait()
        asked[tuple(slots)] = runner.step(slots).wait()
    first, second = asked.values()
    assert first == second
    assert set(first) == {0, 1, 2, 3}


def test_time_is_taken_and_waiting_twice_is_no_harm(loaded: Chatterbox) -> None:
    runner, _, _ = make(loaded, voices(loaded))
    sampled = runner.begin([begin(0)])
    assert sampled.done
    assert sampled.wait() == sampled.wait()
    assert sampled.seconds > 0


def test_what_is_no_number_is_said_and_can_be_cleaned(loaded: Chatterbox) -> None:
    prefixes = voices(loaded)
    runner, cache, _ = make(loaded, prefixes)
    cache.keys_values.zero_()
    broken = VoicePrefix(torch.full_like(prefixes[1].keys, torch.nan), prefixes[1].values)
    runner.set_voice(1, broken)
    sampled = runner.begin([begin(0, pages=(2,)), begin(1, pages=(9, 4), voice=1)])
    assert [finite for _, (_, finite) in sorted(sampled.wait().items())] == [True, False]
    kept = cache.keys_values[:, 2].clone()
    assert not cache.keys_values[:, [9, 4]].isfinite().all()
    runner.clean(1)
    assert cache.keys_values.isfinite().all()
    assert torch.equal(cache.keys_values[:, 2], kept)
