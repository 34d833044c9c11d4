from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.tts_engine.chatterbox.flow_modules import SMALL, small_flow
from tts_engine.chatterbox.estimator import Estimator
from tts_engine.chatterbox.flow import Flow, FlowSizes, MeanFlow

BINS = SMALL.mel_bins


def shapes_of(sizes: FlowSizes) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Flow(sizes).state_dict().items()}


@lru_cache(maxsize=1)
def released_shapes() -> dict[str, tuple[int, ...]]:
    return shapes_of(FlowSizes())


@lru_cache(maxsize=1)
def shared_flow() -> Flow:
    return small_flow()


class Inputs:
    """Arguments of Flow.forward for rows of these lengths, prompts a third of each."""

    def __init__(self, lengths: list[int], size: int | None = None, seed: int = 7) -> None:
        generator = torch.Generator().manual_seed(seed)
        batch, size = len(lengths), size or max(lengths)
        self.tokens = torch.randint(0, SMALL.vocabulary, (batch, size), generator=generator)
        self.lengths = torch.tensor(lengths)
        self.prompt_frames = 2 * (self.lengths // 3)
        self.prompt_mel = torch.randn(batch, int(self.prompt_frames.max()), BINS, generator=generator)
        self.x_vector = torch.randn(batch, SMALL.x_vector, generator=generator)
        self.noise = torch.randn(batch, BINS, 2 * size, generator=generator)

    def run(self, flow: Flow, look_ahead: int = 0) -> torch.Tensor:
        with torch.inference_mode():
            return flow(
                self.tokens,
                self.lengths,
                self.prompt_mel,
                self.prompt_frames,
                self.x_vector,
                self.noise,
                look_ahead=look_ahead,
            )

    def run_alone(self, flow: Flow, row: int, look_ahead: int = 0) -> torch.Tensor:
        """One row without its padding, without masks: (80, frames)."""
        only, length = slice(row, row + 1), int(self.lengths[row])
        with torch.inference_mode():
            mel: torch.Tensor = flow(
                self.tokens[only, :length],
                None,
                self.prompt_mel[only, : int(self.prompt_frames[row])],
                None,
                self.x_vector[only],
                self.noise[only, :, : 2 * length],
                look_ahead=look_ahead,
            )
        return mel[0]


def test_sizes_are_read_from_shapes() -> None:
    assert FlowSizes.from_shapes(released_shapes()) == FlowSizes()


def test_sizes_of_another_depth() -> None:
    sizes = FlowSizes(layers=3, up_layers=2, mid_blocks=5, transformers=1, channels=128, estimator_heads=4)
    assert FlowSizes.from_shapes(shapes_of(sizes)) == sizes


def test_names_may_carry_their_prefix() -> None:
    shapes = {f"flow.{name}": shape for name, shape in released_shapes().items()}
    shapes["mel2wav.encoder.encoders.9.x"] = (1,)
    shapes["tokenizer.encoder.blocks.0.x"] = (1,)
    assert FlowSizes.from_shapes(shapes) == FlowSizes()


def test_parameters_are_as_many_as_released() -> None:
    with torch.device("meta"):
        flow = Flow(FlowSizes())
    assert round(sum(weight.numel() for weight in flow.encoder.parameters()) / 1e6, 1) == 37.8
    assert round(sum(weight.numel() for weight in flow.decoder.parameters()) / 1e6, 1) == 73.4


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"decoder.estimator.time_embed_mixer.weight": None}, "not a meanflow model"),
        ({"input_embedding.weight": None}, "no tensor input_embedding.weight"),
        ({"decoder.estimator.mid_blocks.0.1.0.attn1.to_q.weight": (500, 256)}, "500 is no whole number"),
        ({"decoder.estimator.down_blocks.1.0.mlp.1.weight": (256, 1024)}, "2 down_blocks"),
        ({"decoder.estimator.up_blocks.2.0.mlp.1.weight": (256, 1024)}, "3 up_blocks"),
    ],
)
def test_what_is_wrong_with_a_checkpoint(change: dict[str, tuple[int, ...] | None], complaint: str) -> None:
    shapes: dict[str, tuple[int, ...] | None] = {**released_shapes(), **change}
    with pytest.raises(ValueError, match=complaint):
        FlowSizes.from_shapes({name: shape for name, shape in shapes.items() if shape is not None})


def test_a_gap_in_the_numbering_shows_as_depth() -> None:
    shapes = {name: shape for name, shape in released_shapes().items() if not name.startswith("encoder.encoders.2.")}
    assert FlowSizes.from_shapes(shapes).layers == 6  # so that loading names what is missing


class Growing(Estimator):
    """Says that frames grow by themselves, so that after steps of a half they are 1.5 * 1.5 as large."""

    def __init__(self) -> None:
        super().__init__(4, 1, channels=2, time_width=2, heads=1, inner=2, hidden=2, mid_blocks=1, transformers=1)
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, time: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        self.seen.append(time)
        return x[..., :1]


def test_two_steps_of_a_half() -> None:
    estimator = Growing()
    noise = torch.randn(2, 5, 1)
    frames = MeanFlow(estimator)(noise, torch.zeros(2, 5, 3), None)
    torch.testing.assert_close(frames, 2.25 * noise)
    assert torch.equal(torch.stack(estimator.seen), estimator.times())


def test_frames_are_carried_in_float32() -> None:
    frames = MeanFlow(Growing().bfloat16())(torch.randn(1, 5, 1), torch.zeros(1, 5, 3, dtype=torch.bfloat16), None)
    assert frames.dtype == torch.float32


def test_encode_gives_two_frames_a_token() -> None:
    inputs, flow = Inputs([5, 3]), shared_flow()
    with torch.inference_mode():
        mu = flow.encode(inputs.tokens, inputs.lengths)
        assert mu.shape == (2, 10, BINS)
        expected = flow.encoder_proj(flow.encoder(flow.input_embedding(inputs.tokens[1:, :3])))
    torch.testing.assert_close(mu[1, :6], expected[0], atol=2e-5, rtol=1e-4)


def test_conditions_are_encoding_speaker_and_prompt() -> None:
    inputs, flow = Inputs([6, 4]), shared_flow()
    with torch.inference_mode():
        mu = flow.encode(inputs.tokens, inputs.lengths)
        conditions = flow._conditions(mu, inputs.prompt_mel, inputs.prompt_frames, inputs.x_vector)
        assert conditions.shape == (2, 12, 3 * BINS)
        speaker = flow.spk_embed_affine_layer(F.normalize(inputs.x_vector, dim=1))
    assert torch.equal(conditions[..., :BINS], mu)
    assert torch.equal(conditions[:, 7, BINS : 2 * BINS], speaker)
    for row, frames in enumerate(inputs.prompt_frames.tolist()):
        assert torch.equal(conditions[row, :frames, 2 * BINS :], inputs.prompt_mel[row, :frames])
        assert conditions[row, frames:, 2 * BINS :].eq(0).all()


@settings(deadline=None, max_examples=12)
@given(
    lengths=st.lists(st.integers(4, 12), min_size=1, max_size=4),
    extra=st.integers(0, 3),
    look_ahead=st.sampled_from([0, 3]),
)
def test_a_padded_batch_equals_single_rows(lengths: list[int], extra: int, look_ahead: int) -> None:
    inputs, flow = Inputs(lengths, max(lengths) + extra), shared_flow()
    mel = inputs.run(flow, look_ahead)
    assert mel.shape == (len(lengths), BINS, 2 * (max(lengths) + extra - look_ahead))
    for row, length in enumerate(lengths):
        frames = 2 * (length - look_ahead)
        alone = inputs.run_alone(flow, row, look_ahead)
        assert alone.shape == (BINS, frames)
        torch.testing.assert_close(mel[row, :, :frames], alone, atol=2e-5, rtol=1e-4)
        assert mel[row, :, frames:].eq(0).all()


def test_padding_does_not_matter() -> None:
    inputs, flow = Inputs([9, 5], 10), shared_flow()
    mel = inputs.run(flow, 3)
    inputs.tokens[1, 5:] = 3
    inputs.noise[1, :, 4:] = torch.inf
    inputs.prompt_mel[1, int(inputs.prompt_frames[1]) :] = torch.nan
    again = inputs.run(flow, 3)
    torch.testing.assert_close(again, mel, atol=1e-5, rtol=1e-4)


def test_a_free_slot_of_a_batch() -> None:
    inputs, flow = Inputs([8, 0, 2]), shared_flow()
    mel = inputs.run(flow, 3)  # the last row is shorter than the look-ahead: nothing to render yet
    torch.testing.assert_close(mel[0], inputs.run_alone(flow, 0, 3), atol=2e-5, rtol=1e-4)
    assert mel[1:].eq(0).all()


def test_held_back_tokens_are_heard_but_not_rendered() -> None:
    inputs, flow = Inputs([9]), shared_flow()
    mel = inputs.run(flow, 3)
    inputs.tokens[0, 8] = (inputs.tokens[0, 8] + 1) % SMALL.vocabulary
    assert (inputs.run(flow, 3) - mel).abs().max() > 1e-4


def test_noise_beyond_what_is_rendered_is_not_used() -> None:
    inputs, flow = Inputs([9]), shared_flow()
    mel = inputs.run(flow, 3)
    inputs.noise = torch.cat((inputs.noise[:, :, :12], torch.randn(1, BINS, 30)), dim=-1)
    assert torch.equal(inputs.run(flow, 3), mel)


def test_every_argument_counts() -> None:
    flow = shared_flow()
    mel = Inputs([9, 7]).run(flow)
    for name in ("tokens", "prompt_mel", "x_vector", "noise"):
        inputs = Inputs([9, 7])
        setattr(inputs, name, getattr(Inputs([9, 7], seed=8), name))
        assert ((inputs.run(flow) - mel).abs().amax((1, 2)) > 1e-3).all(), name


def test_the_x_vector_s_length_does_not_matter() -> None:
    inputs, flow = Inputs([6]), shared_flow()
    mel = inputs.run(flow)
    inputs.x_vector *= 40
    torch.testing.assert_close(inputs.run(flow), mel, atol=1e-5, rtol=1e-4)


def test_nothing_is_drawn() -> None:
    inputs, flow = Inputs([6, 4]), shared_flow()
    state = torch.get_rng_state()
    assert torch.equal(inputs.run(flow), inputs.run(flow))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.3), (torch.float16, 0.05)])
def test_half_precision(dtype: torch.dtype, bound: float) -> None:
    inputs = Inputs([9, 6])
    expected = inputs.run(shared_flow())
    assert (inputs.run(small_flow().to(dtype)) - expected).abs().max() < bound
    inputs.noise = inputs.noise.to(dtype)
    assert inputs.run(small_flow().to(dtype)).dtype == dtype


def test_made_on_meta_then_loaded() -> None:
    inputs, flow = Inputs([6, 4]), shared_flow()
    with torch.device("meta"):
        empty = Flow(SMALL)
    empty.load_state_dict(flow.state_dict(), assign=True)
    assert torch.equal(inputs.run(empty), inputs.run(flow))


def test_traces_for_any_batch_and_length() -> None:
    # Exported means: no reading back of values, no shape burnt in; so it can also be captured in a CUDA graph.
    flow, inputs = shared_flow(), Inputs([9, 6])
    flow.decoder.estimator.times()

    def arguments(of: Inputs) -> tuple[torch.Tensor, ...]:
        return of.tokens, of.lengths, of.prompt_mel, of.prompt_frames, of.x_vector, of.noise

    batch, size = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("size", min=8, max=2000)
    prompt = torch.export.Dim("prompt", min=2, max=8)
    shapes = ({0: batch, 1: size}, {0: batch}, {0: batch, 1: prompt}, {0: batch}, {0: batch}, {0: batch, 2: 2 * size})
    program = torch.export.export(flow, arguments(inputs), {"look_ahead": 3}, dynamic_shapes=(*shapes, None)).module()
    other = Inputs([14, 4, 11])
    with torch.no_grad():
        mel = program(*arguments(other), look_ahead=3)
    torch.testing.assert_close(mel, other.run(flow, 3), atol=2e-5, rtol=1e-4)
