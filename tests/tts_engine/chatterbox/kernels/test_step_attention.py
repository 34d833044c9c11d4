"""A step's attention against PyTorch's, in float64: mixed voices, lengths, pages in any order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, NEEDED

pytest.importorskip("triton")

from tts_engine.chatterbox.kernels import step_attention
from tts_engine.chatterbox.kernels.step_attention import TILE, attend_step, parts_of

pytestmark = NEEDED
PAGE, HEAD, HEADS = 32, 64, 2
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16
ERROR = {torch.float32: 1e-5, HALF: 0.02}


class Case:
    """Rows at random lengths, in pages at random places; all that is not theirs is NaN."""

    def __init__(self, lengths: list[int], voices: list[int], prefix_lengths: list[int], dtype: torch.dtype) -> None:
        batch, most = len(lengths), max(prefix_lengths) + 3
        width = max(lengths) // PAGE + 1
        self.at = torch.tensor(lengths, dtype=torch.int32)
        self.voice = torch.tensor(voices, dtype=torch.int32)
        self.prefix_lengths = torch.tensor(prefix_lengths, dtype=torch.int32)
        self.projected = torch.randn(batch, 3 * HEADS * HEAD).to(dtype)
        prefixes = torch.randn(len(prefix_lengths), 3, 2, HEADS, most, HEAD).to(dtype)
        self.prefixes = prefixes[:, 1]  # as one layer lies among others
        for index, length in enumerate(prefix_lengths):
            self.prefixes[index, :, :, length:] = torch.nan
        self.own = torch.randn(batch, 2, HEADS, width * PAGE, HEAD).to(dtype)
        self.rows = torch.randperm(batch + 2)[:batch].to(torch.int32)
        self.pages = torch.full((batch * width + 3, 2, HEADS, PAGE, HEAD), torch.nan, dtype=dtype)
        free = torch.randperm(len(self.pages)).tolist()
        self.tables = torch.full((batch + 2, width), free.pop(), dtype=torch.int32)
        for index, length in enumerate(lengths):
            for page in range(length // PAGE + 1):
                number = free.pop()
                self.tables[int(self.rows[index]), page] = number
                filled = min(length - page * PAGE, PAGE)
                first = page * PAGE
                self.pages[number, :, :, :filled] = self.own[index, :, :, first : first + filled]

    def run(self) -> tuple[Tensor, Tensor]:
        pages = self.pages.to(DEVICE)
        arguments = (self.projected, self.rows, self.at, self.voice, self.tables)
        moved = [tensor.to(DEVICE) for tensor in arguments]
        prefixes = torch.empty(len(self.prefixes), 2, *self.prefixes.shape[1:], dtype=pages.dtype)
        prefixes[:, 1] = self.prefixes
        out = attend_step(*moved, pages, prefixes.to(DEVICE)[:, 1], self.prefix_lengths.to(DEVICE))
        return out.cpu(), pages.cpu()

    def expected(self, row: int) -> Tensor:
        query, key, value = self.projected[row].double().view(3, HEADS, 1, HEAD)
        reach, at = int(self.prefix_lengths[self.voice[row]]), int(self.at[row])
        prefix = self.prefixes[int(self.voice[row]), :, :, :reach].double()
        keys = torch.cat((prefix[0], self.own[row, 0, :, :at].double(), key), 1)
        values = torch.cat((prefix[1], self.own[row, 1, :, :at].double(), value), 1)
        return F.scaled_dot_product_attention(query, keys, values).flatten()

    def check(self) -> None:
        out, pages = self.run()
        for row, at in enumerate(self.at.tolist()):
            torch.testing.assert_close(
                out[row].double(), self.expected(row), atol=ERROR[out.dtype], rtol=0.01, msg=f"row {row}"
            )
            page, place = int(self.tables[int(self.rows[row]), at // PAGE]), at % PAGE
            new = self.projected[row].view(3, HEADS, HEAD)[1:]
            assert torch.equal(pages[page, :, :, place], new)
            self.pages[page, :, :, place] = new
        # Nothing else was written.
        assert torch.equal(pages.nan_to_num(7.5), self.pages.nan_to_num(7.5))


@pytest.mark.parametrize("dtype", ERROR)
def test_mixed_voices_lengths_and_pages(dtype: torch.dtype) -> None:
    Case([0, 33, 31, 140, 64], [1, 0, 1, 2, 0], [70, 5, 0], dtype).check()


def test_more_rows_than_a_tile_with_voices_across_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_attention, "_OWN_PROGRAMS", 0)
    monkeypatch.setattr(step_attention, "_PREFIX_PROGRAMS", 0)
    batch = TILE + 2
    assert parts_of(batch, HEADS) == (1, 1)
    voices = torch.randint(2, (batch,)).tolist()
    Case(torch.randint(0, 40, (batch,)).tolist(), voices, [66, 9], torch.float32).check()


def test_one_row_far_on_is_shared_by_many_programs() -> None:
    prefix, own = parts_of(1, 16)
    assert prefix == 6
    assert own == 8
    Case([333], [0], [376], torch.float32).check()


def test_large_batches_have_one_program_a_row_and_head() -> None:
    assert parts_of(200, 16) == (1, 1)
    assert all(part >= 1 for batch in (1, 8, 64, 1000) for part in parts_of(batch, 12))


def test_scores_beyond_what_exp_can_hold() -> None:
    case = Case([40, 2], [0, 0], [20], torch.float32)
    case.projected[:, : HEADS * HEAD] *= 60
    case.check()


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
@pytest.mark.parametrize("batch", [1, 3, 16, 33, 200])
def test_every_size_of_batch(batch: int) -> None:
    lengths = torch.randint(0, 700, (batch,)).tolist()
    Case(lengths, torch.randint(3, (batch,)).tolist(), [376, 120, 1], HALF).check()
