from __future__ import annotations

import pytest
import torch

from tests.parity import figures
from tests.parity.flow_reference import Utterance, half_flow, our_flow, reference_flow
from tts_engine.chatterbox.flow import Flow, FlowSizes

TOLERANCE = 1e-4


def batch_mel(flow: Flow, rows: list[Utterance], look_ahead: int = 0) -> torch.Tensor:
    """All rows in one padded batch: (B, 80, frames)."""

    def padded(of: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(of, batch_first=True)

    with torch.inference_mode():
        mel: torch.Tensor = flow(
            padded([row.tokens for row in rows]),
            torch.tensor([len(row.tokens) for row in rows]),
            padded([row.prompt_mel for row in rows]),
            torch.tensor([len(row.prompt_mel) for row in rows]),
            torch.stack([row.x_vector for row in rows]),
            padded([row.noise.T for row in rows]).transpose(1, 2),
            look_ahead=look_ahead,
        )
    return mel


def test_state_dict_is_the_reference_s() -> None:
    """Names and shapes of all tensors, none more, none less, and the same numbers out as in."""
    expected = reference_flow().state_dict()
    state = our_flow().state_dict()
    assert set(state) == set(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_sizes_are_the_reference_s() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in reference_flow().state_dict().items()}
    assert FlowSizes.from_shapes(shapes) == FlowSizes(mid_blocks=2)


@pytest.mark.parametrize(("prompt", "new"), [(12, 21), (5, 1), (250, 75)])
def test_flow_is_the_reference_s(prompt: int, new: int, record_property: figures.Record) -> None:
    """The longest: a prompt of 10 s and 3 s of speech."""
    row = Utterance(prompt, new, seed=new)
    expected = row.reference_mel()
    with torch.inference_mode():
        mel = row.our_mel(our_flow())
    assert mel.shape == expected.shape == (80, 2 * new)
    figures.error(record_property, f"whole flow, {prompt} + {new} tokens: mel", mel, expected)
    assert (mel - expected).abs().max() <= TOLERANCE


def test_unfinished_utterance_is_the_reference_s() -> None:
    row = Utterance(8, 14)
    expected = row.reference_mel(finalize=False)
    with torch.inference_mode():
        mel = row.our_mel(our_flow(), look_ahead=3)
    assert mel.shape == expected.shape == (80, 22)
    assert (mel - expected).abs().max() <= TOLERANCE
    assert (mel - row.reference_mel()[:, :22]).abs().max() > 100 * TOLERANCE  # the last frames are heard by the others


def test_the_reference_fails_on_an_unfinished_utterance() -> None:
    """Why it is helped above. Should this pass one day, drop the help."""
    row, flow = Utterance(4, 6), reference_flow()
    with pytest.raises(RuntimeError, match="size of tensor"):
        flow.inference(
            token=row.new_tokens[None],
            token_len=torch.tensor([6]),
            prompt_token=row.prompt_tokens[None],
            prompt_token_len=torch.tensor([4]),
            prompt_feat=row.prompt_mel[None],
            prompt_feat_len=None,
            embedding=row.x_vector[None],
            finalize=False,
            n_timesteps=2,
            meanflow=True,
        )


@pytest.mark.parametrize("look_ahead", [0, 3])
def test_a_padded_batch_is_the_reference_s_single_runs(look_ahead: int) -> None:
    rows = [Utterance(9, 14, 1), Utterance(6, 20, 2), Utterance(7, 4, 3)]
    mel = batch_mel(our_flow(), rows, look_ahead)
    assert mel.shape == (3, 80, 2 * (26 - look_ahead))
    for at, row in enumerate(rows):
        start, stop = len(row.prompt_mel), 2 * (len(row.tokens) - look_ahead)
        expected = row.reference_mel(finalize=not look_ahead)
        assert (mel[at, :, start:stop] - expected).abs().max() <= TOLERANCE
        assert mel[at, :, stop:].eq(0).all()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision(dtype: torch.dtype, bound: float, record_property: figures.Record) -> None:
    row = Utterance(15, 15)
    expected = row.reference_mel()
    with torch.inference_mode():
        mel = row.our_mel(half_flow(dtype))
    assert figures.error(record_property, "whole flow: mel", mel, expected, dtype) < bound
