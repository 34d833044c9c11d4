"""Every row in one call, every call within a profile of its engine, and no more read than need be."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.chatterbox.paged_t3 import PAGE, StepReads
from tts_engine.tensorrt.prefix_tiles import most_tiles
from tts_engine.tensorrt.profiles import MOST_VOICES, PREFIX_TILE, PROFILES, Profile
from tts_engine.tensorrt.step_shapes import (
    BEGIN_ROWS,
    STEP_ROWS,
    TEXT_TOKENS,
    Call,
    EngineShapes,
    ExactShapes,
    FusedShapes,
    PrefillShape,
    StepShape,
)

POSITIONS = 1401
WIDTH = -(-POSITIONS // PAGE)

engines = st.builds(
    EngineShapes,
    st.integers(1, 256),
    st.sampled_from([POSITIONS, 320, 33, 12 * PAGE, 12 * PAGE + 1]),
    st.integers(1, MOST_VOICES),
    twins=st.booleans(),
)


def fits(profile: Profile, **sizes: int) -> bool:
    return all(profile.dims[name][0] <= size <= profile.dims[name][2] for name, size in sizes.items())


def step_fits(shape: StepShape, lines: int) -> bool:
    assert shape.reads is not None
    rows = shape.rows * lines
    return any(fits(each, rows=rows, pages=shape.reads.pages, tiles=shape.reads.tiles) for each in PROFILES["t3_step"])


def cost(calls: list[Call[StepShape]]) -> int:
    return sum(64 + call.shape.rows * call.shape.reads.pages for call in calls if call.shape.reads)


class TestEngineSteps:
    @given(engines, st.data())
    def test_each_row_is_in_one_call_that_holds_all_it_reads(self, shapes: EngineShapes, data: st.DataObject) -> None:
        rows = data.draw(st.integers(1, shapes._slots))
        width, lines = shapes._pages[-1], shapes._lines
        chance = data.draw(st.randoms(use_true_random=False))
        long = chance.random() ** 3
        own = [chance.randint(0, width * PAGE if chance.random() < long else min(width, 6) * PAGE) for _ in range(rows)]
        heard = chance.randint(1, shapes._voices)
        voices = sorted(chance.randrange(heard) for _ in range(rows))
        calls = shapes.steps(own, voices)
        assert sorted(place for call in calls for place in call.places) == list(range(rows))
        for call in calls:
            assert call.shape in shapes.all_steps
            assert step_fits(call.shape, lines)
            assert call.shape.rows >= len(call.places)
            assert call.shape.reads is not None
            assert call.shape.reads.pages * PAGE >= max(own[place] for place in call.places)
            spoken = Counter([voices[place] for place in call.places] + [0] * (call.shape.rows - len(call.places)))
            tiles = sum(-(-lines * count // PREFIX_TILE) for count in spoken.values())
            assert tiles <= call.shape.reads.tiles <= most_tiles(lines * call.shape.rows, shapes._voices)

    @given(engines)
    def test_all_that_is_captured_fits_the_engine(self, shapes: EngineShapes) -> None:
        assert len(set(shapes.all_steps)) == len(shapes.all_steps) < 120
        assert all(step_fits(shape, shapes._lines) for shape in shapes.all_steps)
        for begin in shapes.all_prefills:
            assert fits(PROFILES["t3_prefill"][0], rows=begin.rows * shapes._lines, text=begin.text)
            assert begin.text + 1 <= shapes._pages[-1] * PAGE

    def test_rows_of_like_length_are_one_call_and_a_long_one_among_many_is_apart(self) -> None:
        shapes = EngineShapes(256, POSITIONS, 16)
        (call,) = shapes.steps([100] * 90, [3] * 90)
        assert (list(call.places), call.shape) == (list(range(90)), StepShape(96, StepReads(4, most_tiles(96, 4))))
        own = [100] * 90
        own[17] = 900
        short, long = shapes.steps(own, [3] * 90)
        assert (len(short.places), list(long.places)) == (89, [17])
        assert long.shape.rows == 1

    @given(st.lists(st.integers(0, POSITIONS), min_size=1, max_size=64))
    def test_short_and_long_are_together_only_where_that_reads_less(self, own: list[int]) -> None:
        shapes = EngineShapes(64, POSITIONS, 1)
        calls = shapes.steps(own, [0] * len(own))
        groups = [[each for each in own if (each > 12 * PAGE) == long] for long in (False, True)]
        apart = [call for group in groups if group for call in shapes.steps(group, [0] * len(group))]
        assert cost(calls) <= cost(apart)
        assert len(calls) <= 2

    def test_two_short_rows_and_a_long_one_are_one_call(self) -> None:
        (call,) = EngineShapes(256, POSITIONS, 16).steps([10, 700, 30], [0, 0, 1])
        assert list(call.places) == [0, 1, 2]
        assert call.shape.rows == 4
        assert call.shape.reads is not None
        assert call.shape.reads.pages == 24

    def test_few_tiles_for_few_voices_and_many_for_many(self) -> None:
        shapes = EngineShapes(256, POSITIONS, 16)
        tiles = [
            shapes.steps([90] * 64, sorted(each % voices for each in range(64)))[0].shape.reads for voices in (1, 16)
        ]
        assert [each and each.tiles for each in tiles] == [most_tiles(64, 4), most_tiles(64, 16)]

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(ValueError, match="a bank of 65 voices: the engines are built for 64"):
            EngineShapes(8, POSITIONS, 65)
        with pytest.raises(ValueError, match="rows of 1409 positions: the engines are built for 1408"):
            EngineShapes(8, 1409, 1)
        with pytest.raises(ValueError, match="a step of 9 rows: there are 8 slots"):
            EngineShapes(8, POSITIONS, 1).steps([1] * 9, [0] * 9)
        with pytest.raises(ValueError, match="a text of 401 tokens: the engines and the cache take 400"):
            EngineShapes(8, POSITIONS, 1).prefills([3, 401])
        with pytest.raises(ValueError, match="the engines and the cache take 89"):
            EngineShapes(8, 90, 1).prefills([90])


class TestEnginePrefills:
    @given(engines, st.lists(st.integers(1, 400), min_size=1, max_size=8))
    def test_each_row_is_in_one_call_that_holds_its_text(self, shapes: EngineShapes, lengths: list[int]) -> None:
        lengths = [min(length, shapes._texts[-1]) for length in lengths]
        calls = shapes.prefills(lengths)
        assert sorted(place for call in calls for place in call.places) == list(range(len(lengths)))
        for call in calls:
            assert call.shape in shapes.all_prefills
            assert len(call.places) <= call.shape.rows
            assert max(lengths[place] for place in call.places) <= call.shape.text
        spent = sum(64 + call.shape.rows * call.shape.text for call in calls)
        assert spent <= sum(64 + call.shape.text for length in lengths for call in shapes.prefills([length]))

    def test_like_texts_go_together_and_a_long_one_alone(self) -> None:
        calls = EngineShapes(256, POSITIONS, 16).prefills([20, 390, 25, 17, 30])
        assert [(list(call.places), call.shape) for call in calls] == [
            ([3, 0, 2, 4], PrefillShape(4, 32)),
            ([1], PrefillShape(1, 400)),
        ]

    def test_of_long_texts_few_go_together(self) -> None:
        calls = EngineShapes(256, POSITIONS, 16).prefills([390] * 5)
        assert [call.shape for call in calls].count(PrefillShape(2, 400)) == 2
        assert sum(len(call.places) for call in calls) == 5


class TestFused:
    @given(st.integers(1, 256), st.data())
    def test_one_call_in_the_smallest_bucket(self, slots: int, data: st.DataObject) -> None:
        rows = data.draw(st.integers(1, slots))
        shapes = FusedShapes(slots)
        (call,) = shapes.steps([5000] * rows, [0] * rows)
        assert list(call.places) == list(range(rows))
        assert call.shape == StepShape(min(each for each in (*STEP_ROWS, slots) if rows <= each), None)
        assert call.shape in shapes.all_steps or call.shape.rows > slots

    def test_a_bucket_for_every_slot_and_more_are_refused(self) -> None:
        shapes = FusedShapes(100)
        assert [shape.rows for shape in shapes.all_steps] == [100, 96, 64, 48, 32, 24, 16, 12, 8, 4, 2, 1]
        with pytest.raises(ValueError, match="a step of 101 rows: there are 100 slots"):
            shapes.steps([0] * 101, [0] * 101)

    def test_prefills_beyond_the_buckets_are_not_padded(self) -> None:
        shapes = FusedShapes(100)
        assert shapes.prefills([3, 17, 5]) == [Call(range(3), PrefillShape(4, 32))]
        assert shapes.prefills([3, 129, 5]) == [Call(range(3), PrefillShape(3, 129))]
        assert shapes.prefills([3] * 9) == [Call(range(9), PrefillShape(9, 3))]
        assert len(shapes.all_prefills) == len(BEGIN_ROWS) * len(TEXT_TOKENS)


def test_without_buckets_nothing_is_padded() -> None:
    shapes = ExactShapes()
    assert shapes.steps([9, 4, 77], [0, 1, 1]) == [Call(range(3), StepShape(3))]
    assert shapes.prefills([9, 4, 77]) == [Call(range(3), PrefillShape(3, 77))]
    assert not shapes.all_steps
    assert not shapes.all_prefills
