"""A prefill's attention against PyTorch's, in float64, and what it leaves in the pages."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, NEEDED

pytest.importorskip("triton")

from tts_engine.chatterbox.kernels.prefill_attention import attend_prefill

pytestmark = NEEDED
PAGE, HEAD, HEADS = 32, 64, 2
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16
ERROR = {torch.float32: 1e-5, HALF: 0.02}


def check(lengths: list[int], padded: int, voices: list[int], prefixes: list[int], dtype: torch.dtype) -> None:
    """Texts of `lengths` padded to `padded` tokens; what nobody should read is NaN."""
    batch, length = len(lengths), padded + 1
    width = padded // PAGE + 1
    projected = torch.randn(batch, length, 3 * HEADS * HEAD).to(dtype)
    for row, text in enumerate(lengths):
        projected[row, text + 1 :] = torch.nan
    bank = torch.randn(len(prefixes), 2, 2, HEADS, max(prefixes) + 5, HEAD).to(dtype)
    for index, reach in enumerate(prefixes):
        bank[index, :, :, :, reach:] = torch.nan
    pages = torch.full((batch * width + 2, 2, HEADS, PAGE, HEAD), torch.nan, dtype=dtype)
    numbers = torch.randperm(len(pages))[: batch * width].to(torch.int32)
    rows = torch.randperm(batch + 1)[:batch].to(torch.int32)
    tables = torch.full((batch + 1, width + 1), len(pages) - 1, dtype=torch.int32)
    tables[rows.long(), :width] = numbers.view(batch, width)
    after = pages.to(DEVICE)
    out = attend_prefill(
        projected.to(DEVICE),
        rows.to(DEVICE),
        torch.tensor(lengths, dtype=torch.int32, device=DEVICE),
        torch.tensor(voices, dtype=torch.int32, device=DEVICE),
        tables.to(DEVICE),
        after,
        bank.to(DEVICE)[:, 1],
        torch.tensor(prefixes, dtype=torch.int32, device=DEVICE),
    ).cpu()
    for row, text in enumerate(lengths):
        filled, reach = text + 1, prefixes[voices[row]]
        query, key, value = projected[row, :filled].view(filled, 3, HEADS, HEAD).permute(1, 2, 0, 3)
        prefix = bank[voices[row], 1, :, :, :reach]
        visible = torch.ones(filled, filled, dtype=torch.bool).tril()
        mask = torch.cat((torch.ones(filled, reach, dtype=torch.bool), visible), 1)
        keys, values = torch.cat((prefix[0], key), 1), torch.cat((prefix[1], value), 1)
        expected = F.scaled_dot_product_attention(query.double(), keys.double(), values.double(), attn_mask=mask)
        torch.testing.assert_close(
            out[row, :filled].double(), expected.transpose(0, 1).flatten(1), atol=ERROR[dtype], rtol=0.01
        )
        for at in range(filled):
            page = pages[int(tables[rows[row], at // PAGE])]
            page[0, :, at % PAGE], page[1, :, at % PAGE] = key[:, at], value[:, at]
    # Nothing else was written.
    assert torch.equal(after.cpu().nan_to_num(7.5), pages.nan_to_num(7.5))


# Padding is NaN here, in the model it is not: NumPy says what the interpreter does with it.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", ERROR)
def test_texts_of_any_length_and_voice(dtype: torch.dtype) -> None:
    check([0, 20, 37], 40, [1, 0, 1], [70, 9], dtype)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_voice_without_prefix_and_a_text_that_fills_its_bucket() -> None:
    check([31, 4], 31, [1, 0], [3, 0], torch.float32)


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
@pytest.mark.parametrize(("batch", "padded"), [(1, 32), (1, 400), (8, 32), (32, 128), (33, 200)])
def test_every_size_of_batch(batch: int, padded: int) -> None:
    lengths = torch.randint(0, padded + 1, (batch,)).tolist()
    check(lengths, padded, torch.randint(3, (batch,)).tolist(), [376, 120, 1], HALF)
