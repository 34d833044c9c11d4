"""Which graphs of the flow there are: every batch that can come up finds one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tts_engine.serving.graphs import bucket_of
from tts_engine.serving.loading import CHUNK_TOKENS
from tts_engine.serving.speech_runner import LONGEST, TOKENS, SpeechRunner, flow_graphs

SIZES = (*(size for size in TOKENS if size < CHUNK_TOKENS), CHUNK_TOKENS)
PAIRS = flow_graphs(SIZES)


def test_a_row_alone_of_any_length() -> None:
    for length in range(1, LONGEST[-1] + 1):
        assert (bucket_of(length, SIZES), bucket_of(length, LONGEST)) in PAIRS, length


@given(st.lists(st.integers(1, LONGEST[-1]), min_size=1, max_size=64))
def test_any_batch_that_is_decoded_together(lengths: list[int]) -> None:
    batches = SpeechRunner.batches(None, lengths)  # type: ignore[arg-type]  # it has no use for the runner
    assert sorted(at for batch in batches for at in batch) == list(range(len(lengths)))
    for batch in batches:
        together = [lengths[at] for at in batch]
        if sum(together) <= CHUNK_TOKENS:
            assert (bucket_of(sum(together), SIZES), bucket_of(max(together), LONGEST)) in PAIRS


def test_long_rows_are_few_so_that_their_tables_are_small() -> None:
    assert max(size for size, most in PAIRS if most == LONGEST[-1]) <= 2 * LONGEST[-1]
    assert len(PAIRS) == len(set(PAIRS)) < 3 * len(SIZES)
