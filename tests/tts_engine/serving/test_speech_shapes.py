"""How batches for S3Gen are cut and rounded up: every one finds a graph and fits an engine, and little is padding."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.chatterbox.packing import BatchShape, bucket_of
from tts_engine.serving.loading import CHUNK_TOKENS, WINDOW_FRAMES
from tts_engine.serving.speech_shapes import (
    BATCH_COST,
    FRAME_COST,
    LONGEST,
    ROW_FRAMES,
    ROW_TOKENS,
    TOKENS,
    EngineShapes,
    PackedShapes,
    PackedTokens,
    SpeechShapes,
    flow_graphs,
    limits_of,
)
from tts_engine.tensorrt.profiles import PROFILES, Profile

SIZES = (*(size for size in TOKENS if size < CHUNK_TOKENS), CHUNK_TOKENS)
PAIRS = flow_graphs(SIZES)
PACKED = PackedShapes(CHUNK_TOKENS, WINDOW_FRAMES)
ENGINES = EngineShapes(CHUNK_TOKENS, WINDOW_FRAMES)
MIXED = {
    "flow": EngineShapes(CHUNK_TOKENS, WINDOW_FRAMES, vocoder=False),
    "vocoder": EngineShapes(CHUNK_TOKENS, WINDOW_FRAMES, flow=False),
    "both": ENGINES,
}
MOST_TOKENS, MOST_FRAMES = (max(shape.longest for shape in each) for each in (ENGINES.flows, ENGINES.vocoders))

rows = st.lists(st.tuples(st.integers(1, MOST_TOKENS), st.integers(1, MOST_FRAMES)), min_size=1, max_size=64)
"(tokens, frames) of each row."
usual_rows = st.lists(
    st.tuples(st.sampled_from((120, 250)), st.integers(20, 220), st.integers(0, 200)).map(
        lambda row: (row[0] + row[1] + row[2], min(34 + 2 * row[1], 441))
    ),
    min_size=1,
    max_size=64,
)
"Prompts of 5 and 10 s, new tokens, and older ones that the vocoder does not see again."


def fits(stage: str, sizes: dict[str, int]) -> bool:
    """Whether one of the stage's profiles holds all of them."""
    return any(
        all(profile.dims[name][0] <= size <= profile.dims[name][-1] for name, size in sizes.items())
        for profile in PROFILES[stage]
    )


def batches_of(shapes: SpeechShapes, lengths: list[tuple[int, int]]) -> list[list[int]]:
    return shapes.batches([tokens for tokens, _ in lengths], [frames for _, frames in lengths])


def cost(shapes: SpeechShapes, lengths: list[tuple[int, int]]) -> float:
    flow, vocoder = shapes.flow([row[0] for row in lengths]), shapes.vocoder([row[1] for row in lengths])
    assert flow is not None
    assert vocoder is not None
    return flow.size + FRAME_COST * vocoder.size + BATCH_COST


class TestPacked:
    def test_a_row_alone_of_any_length(self) -> None:
        for length in range(1, LONGEST[-1] + 1):
            assert (bucket_of(length, SIZES), bucket_of(length, LONGEST)) in PAIRS, length

    @given(st.lists(st.integers(1, LONGEST[-1]), min_size=1, max_size=64))
    def test_any_batch_that_is_decoded_together(self, lengths: list[int]) -> None:
        batches = PACKED.batches(lengths, [1] * len(lengths))
        assert sorted(at for batch in batches for at in batch) == list(range(len(lengths)))
        for batch in batches:
            together = [lengths[at] for at in batch]
            if sum(together) <= CHUNK_TOKENS:
                assert (bucket_of(sum(together), SIZES), bucket_of(max(together), LONGEST)) in PAIRS
                assert PACKED.flow(together) in PACKED.flows

    @given(st.lists(st.integers(1, 1500), max_size=20))
    def test_a_very_long_row_goes_alone_and_none_is_left_out(self, lengths: list[int]) -> None:
        batches = PACKED.batches(lengths, [1] * len(lengths))
        assert sorted(at for batch in batches for at in batch) == list(range(len(lengths)))
        assert all(batch for batch in batches)
        assert all(len(batch) == 1 for batch in batches for at in batch if lengths[at] > LONGEST[-2])
        assert sum(max(lengths[at] for at in batch) <= LONGEST[-2] for batch in batches) <= 1

    def test_long_rows_are_few_so_that_their_tables_are_small(self) -> None:
        assert max(size for size, most in PAIRS if most == LONGEST[-1]) <= 2 * LONGEST[-1]
        assert len(PAIRS) == len(set(PAIRS)) < 3 * len(SIZES)

    def test_what_is_captured(self) -> None:
        assert [(shape.size, shape.longest) for shape in PACKED.flows] == PAIRS
        assert PACKED.flow([290, 300]) == PACKED.flow([300, 290]) == BatchShape(704, 704, 448)
        assert PACKED.vocoder([30, 1, 2]) == BatchShape(40, 40, 40)
        assert PACKED.vocoder([41]) == BatchShape(64, 64, 64)

    def test_what_is_too_large_for_any_graph(self) -> None:
        assert PACKED.flow([CHUNK_TOKENS // 40] * 41) is None
        assert PACKED.flow([LONGEST[-1] + 1]) is None
        assert PACKED.vocoder([WINDOW_FRAMES, 1]) is None

    def test_the_most_that_a_batch_may_hold_is_a_size(self) -> None:
        small = PackedShapes(300, 50)
        assert {shape.size for shape in small.flows} == {288, 300}
        assert [shape.size for shape in small.vocoders] == [40, 50]


class TestEngines:
    @given(rows)
    def test_every_row_is_in_one_batch_and_each_batch_fits_a_profile_of_every_stage(
        self, lengths: list[tuple[int, int]]
    ) -> None:
        batches = batches_of(ENGINES, lengths)
        assert sorted(at for batch in batches for at in batch) == list(range(len(lengths)))
        for batch in batches:
            tokens, frames = [lengths[at][0] for at in batch], [lengths[at][1] for at in batch]
            flow, vocoder = ENGINES.flow(tokens), ENGINES.vocoder(frames)
            assert flow in ENGINES.flows
            assert vocoder in ENGINES.vocoders
            assert flow is not None
            assert vocoder is not None
            assert len(batch) <= min(flow.rows, vocoder.rows)
            assert max(tokens) <= flow.longest
            assert max(frames) <= vocoder.longest

    @given(rows)
    def test_no_batch_is_worse_than_each_row_alone(self, lengths: list[tuple[int, int]]) -> None:
        batches = batches_of(ENGINES, lengths)
        together = sum(cost(ENGINES, [lengths[at] for at in batch]) for batch in batches)
        alone = sum(cost(ENGINES, [row]) for row in lengths)
        assert together <= alone + 1e-6

    @given(usual_rows)
    def test_of_usual_rows_little_is_padding(self, lengths: list[tuple[int, int]]) -> None:
        batches = batches_of(ENGINES, lengths)
        padded = 0
        for batch in batches:
            shape = ENGINES.flow([lengths[at][0] for at in batch])
            assert shape is not None
            padded += shape.size
        assert padded <= 1.6 * sum(tokens for tokens, _ in lengths)

    @given(rows)
    def test_the_most_urgent_come_first(self, lengths: list[tuple[int, int]]) -> None:
        batches = batches_of(ENGINES, lengths)
        assert [min(batch) for batch in batches] == sorted(min(batch) for batch in batches)
        assert all(batch == sorted(batch) for batch in batches)

    @given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 4)), min_size=1, max_size=7))
    def test_no_cut_of_the_rows_in_order_of_length_is_cheaper(self, picks: list[tuple[int, int]]) -> None:
        lengths = sorted((ROW_TOKENS[a - 1], ROW_FRAMES[b - 1]) for a, b in picks)
        found = sum(cost(ENGINES, [lengths[at] for at in batch]) for batch in batches_of(ENGINES, lengths))
        best = min(
            sum(cost(ENGINES, part) for part in parts)
            for parts in cuts(lengths)
            if all(ENGINES.flow([a for a, _ in part]) and ENGINES.vocoder([b for _, b in part]) for part in parts)
        )
        assert found == pytest.approx(best)

    def test_all_that_is_captured_fits_a_profile_of_every_stage(self) -> None:
        for shape in ENGINES.flows:
            assert fits("flow_encoder", {"rows": shape.rows, "tokens": shape.longest}), shape
            assert fits("estimator", {"rows": shape.rows, "frames": 2 * shape.longest}), shape
            assert shape.size == shape.rows * shape.longest <= CHUNK_TOKENS
        for shape in ENGINES.vocoders:
            assert fits("vocoder", {"rows": shape.rows, "frames": shape.longest}), shape
            assert shape.size == shape.rows * shape.longest <= WINDOW_FRAMES
        for shapes in (ENGINES.flows, ENGINES.vocoders):
            assert len(set(shapes)) == len(shapes) < 64

    def test_the_profiles_are_used_to_their_limits(self) -> None:
        for stage, name, shapes in (("flow_encoder", "tokens", ENGINES.flows), ("vocoder", "frames", ENGINES.vocoders)):
            for profile in PROFILES[stage]:
                most = (profile.dims["rows"][-1], profile.dims[name][-1])
                assert most in {(shape.rows, shape.longest) for shape in shapes}, profile.name

    def test_a_row_longer_than_any_profile_goes_alone(self) -> None:
        tokens, frames = [300, MOST_TOKENS + 1, 300], [60, 60, 60]
        assert ENGINES.batches(tokens, frames) == [[0, 2], [1]]
        assert ENGINES.flow(tokens[1:2]) is None
        assert ENGINES.batches(frames, [60, MOST_FRAMES + 1, 60]) == [[0, 2], [1]]

    def test_equal_rows_go_together(self) -> None:
        assert ENGINES.batches([300] * 16, [90] * 16) == [list(range(16))]
        assert ENGINES.flow([300] * 16) == BatchShape(16 * 320, 16, 320)
        assert ENGINES.flow([300] * 17) is None
        assert ENGINES.batches([], []) == []

    def test_less_room_means_fewer_shapes(self) -> None:
        small = EngineShapes(800, 300)
        assert max(shape.size for shape in small.flows) <= 800
        assert max(shape.size for shape in small.vocoders) <= 300
        assert small.flow([700]) == BatchShape(704, 1, 704)
        assert small.flow([900]) is None

    def test_without_graphs_batches_are_cut_all_the_same(self) -> None:
        bare = EngineShapes(CHUNK_TOKENS, WINDOW_FRAMES, capture_flow=False, capture_vocoder=False)
        assert (list(bare.flows), list(bare.vocoders)) == ([], [])
        assert bare.flow([300]) == BatchShape(320, 1, 320)
        assert bare.batches([300] * 20, [90] * 20) == ENGINES.batches([300] * 20, [90] * 20)


class TestOneUnitByAnEngine:
    @given(rows, st.sampled_from(sorted(MIXED)))
    def test_batches_suit_both(self, lengths: list[tuple[int, int]], which: str) -> None:
        shapes = MIXED[which]
        batches = batches_of(shapes, lengths)
        assert sorted(at for batch in batches for at in batch) == list(range(len(lengths)))
        for batch in batches:
            flow = shapes.flow([lengths[at][0] for at in batch])
            vocoder = shapes.vocoder([lengths[at][1] for at in batch])
            assert flow in shapes.flows
            assert vocoder in shapes.vocoders

    def test_the_other_is_captured_as_ever(self) -> None:
        assert list(MIXED["vocoder"].flows) == list(PACKED.flows)
        assert list(MIXED["flow"].vocoders) == list(PACKED.vocoders)
        assert list(MIXED["flow"].flows) == list(ENGINES.flows)
        assert PackedTokens(CHUNK_TOKENS).captured == PACKED.flows


def test_limits_are_those_of_all_stages_that_a_batch_goes_through() -> None:
    profiles = {
        "first": (Profile("a", {"rows": (1, 1, 8), "tokens": (1, 1, 100)}),),
        "second": (
            Profile("a", {"rows": (1, 1, 4), "frames": (2, 2, 300)}),
            Profile("b", {"rows": (1, 1, 16), "frames": (2, 2, 40)}),
        ),
    }
    assert limits_of(profiles, {"first": ("tokens", 1)}) == [(8, 100)]
    assert limits_of(profiles, {"first": ("tokens", 1), "second": ("frames", 2)}) == [(4, 100), (8, 20)]


def cuts(lengths: list[tuple[int, int]]) -> list[list[list[tuple[int, int]]]]:
    """Every way to cut a list into parts."""
    if not lengths:
        return [[]]
    return [[lengths[:first], *rest] for first in range(1, len(lengths) + 1) for rest in cuts(lengths[first:])]
