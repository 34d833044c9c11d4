from __future__ import annotations

import pytest
import torch

from tests.parity import figures
from tests.parity.flow_reference import half_flow, our_flow, reference_flow

TOLERANCE = 1e-4


def tokens(batch: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 6561, (batch, size), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def reference_mu(row: torch.Tensor) -> torch.Tensor:
    """(T,) to (2T, 80)."""
    flow = reference_flow()
    hidden, _ = flow.encoder(flow.input_embedding(row[None]), torch.tensor([len(row)]))
    mu: torch.Tensor = flow.encoder_proj(hidden)[0]
    return mu


@pytest.mark.parametrize("size", [1, 2, 28, 325])
def test_encoder_is_the_reference_s(size: int, record_property: figures.Record) -> None:
    """325 tokens: a prompt of 10 s and 3 s of speech."""
    row = tokens(1, size, seed=size)
    flow = reference_flow()
    with torch.inference_mode():
        expected, _ = flow.encoder(flow.input_embedding(row), torch.tensor([size]))
        encoded = our_flow().encoder(our_flow().input_embedding(row))
    assert expected.abs().max() > 1
    figures.error(record_property, f"encoder, {size} tokens", encoded, expected)
    assert (encoded - expected).abs().max() <= TOLERANCE


def test_a_padded_batch_is_the_reference_s_single_runs() -> None:
    lengths = [40, 17, 3, 1]
    batch = tokens(4, 44)
    with torch.inference_mode():
        mu = our_flow().encode(batch, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        assert (mu[row, : 2 * length] - reference_mu(batch[row, :length])).abs().max() <= TOLERANCE


def test_the_reference_is_not_exact_in_a_padded_batch() -> None:
    """Why there is no batched reference here: its look-ahead convolution reads what the padding became."""
    batch, flow = tokens(2, 30), reference_flow()
    with torch.inference_mode():
        padded, _ = flow.encoder(flow.input_embedding(batch), torch.tensor([30, 20]))
        error = (flow.encoder_proj(padded)[1, :40] - reference_mu(batch[1, :20])).abs().max()
    assert error > 100 * TOLERANCE


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision(dtype: torch.dtype, bound: float, record_property: figures.Record) -> None:
    row = tokens(1, 40)
    expected = reference_mu(row[0])
    with torch.inference_mode():
        mu = half_flow(dtype).encode(row)[0]
    assert figures.error(record_property, "encoder", mu, expected, dtype) < bound
