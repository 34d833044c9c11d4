"""Operations and bytes: against PyTorch's own count of the modules, and the figures of the design."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.make_checkpoint import released_sizes, small_sizes
from benchmarks.model import work
from benchmarks.model.work import Ceilings, Op, Stage
from tts_engine.chatterbox.constants import HARMONICS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.flow import Flow
from tts_engine.chatterbox.t3 import T3
from tts_engine.chatterbox.vocoder import Vocoder

TURBO = released_sizes("turbo")
SMALL = small_sizes()
GIGA = 1e9


def counted(call: object) -> int:
    """Operations of a call; attention as its products."""
    assert callable(call)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def test_figures_of_the_design() -> None:
    """Of a row of 325 tokens: a prompt of 10 s and 3 s more. T3's are multiplications, 25 tokens."""
    encoder = work.encoder(TURBO.flow, [325]).flop + work.position_projection(TURBO.flow, 325)

    assert encoder / GIGA == pytest.approx(44, rel=0.01)
    assert work.estimator(TURBO.flow, [650]).flop / GIGA == pytest.approx(134, rel=0.01)
    assert work.vocoder(TURBO.vocoder, 50).flop / GIGA == pytest.approx(31, rel=0.02)
    assert 25 * work.t3_step(TURBO.t3, 1, 376, 150).flop / 2 / GIGA == pytest.approx(8, rel=0.06)
    assert work.t3_block_parameters(TURBO.t3) / 1e6 == pytest.approx(302, rel=0.002)


def parameter_bytes(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters()) * work.HALF


def test_weights_are_those_of_the_modules() -> None:
    sizes = SMALL
    with torch.device("meta"):
        t3, flow, vocoder = T3(sizes.t3), Flow(sizes.flow), Vocoder(sizes.vocoder)
    blocks = sum(p.numel() for block in t3.tfmr.blocks() for p in block.parameters())
    assert work.t3_block_parameters(sizes.t3) == blocks
    read = blocks * work.HALF + parameter_bytes(t3.speech_head)
    assert work.t3_step(sizes.t3, 1, 1, 1).weights == pytest.approx(read, rel=0.01)
    # Without the projections of positions and of time, which are constants of the weights, and without norms.
    positions = (sizes.flow.layers + sizes.flow.up_layers) * sizes.flow.width**2 * work.HALF
    encoder = parameter_bytes(flow.encoder) + parameter_bytes(flow.encoder_proj) - positions
    assert work.encoder(sizes.flow, [1]).weights == pytest.approx(encoder, rel=0.02)
    estimator = flow.decoder.estimator
    times = parameter_bytes(estimator.time_mlp) + parameter_bytes(estimator.time_embed_mixer)
    stages = [*estimator.down_blocks, *estimator.mid_blocks, *estimator.up_blocks]
    times += sum(parameter_bytes(stage.resnet.mlp) for stage in stages)
    expected = parameter_bytes(estimator) - times
    assert work.estimator(sizes.flow, [1]).weights == pytest.approx(expected, rel=0.02)
    f0 = parameter_bytes(vocoder.f0_predictor)  # in float32
    assert work.vocoder(sizes.vocoder, 1).weights == pytest.approx(parameter_bytes(vocoder) + f0, rel=0.02)


def test_t3_is_counted_as_pytorch_counts_it() -> None:
    sizes, prefix, own, batch = SMALL.t3, 9, 20, 3
    t3 = T3(sizes)
    with torch.inference_mode():
        voice = t3.prefix(torch.randn(256), torch.randint(6561, (prefix - 1,)))
        cache = t3.new_cache(voice, batch, own)
        cache.lengths.fill_(own)
    step = counted(lambda: t3.step(torch.randint(6561, (batch,)), cache))
    assert work.t3_step(sizes, batch, prefix, own).flop == pytest.approx(step, rel=1e-6)

    text = 7
    lengths = torch.full((batch,), text)
    prefill = counted(lambda: t3.prefill(torch.randint(1000, (batch, text)), lengths, cache))
    # The module computes the half of the own scores that causality hides, too.
    length = text + 1
    hidden = sizes.layers * 4 * batch * length * (length - (length + 1) / 2) * sizes.width
    assert work.t3_prefill(sizes, batch, prefix, text).flop + hidden == pytest.approx(prefill, rel=1e-6)


def test_flow_is_counted_as_pytorch_counts_it() -> None:
    sizes, tokens = SMALL.flow, 40
    flow = Flow(sizes)
    with torch.inference_mode():
        time = flow.decoder.estimator.times()[0]
    x = torch.randn(2, 50, flow.decoder.estimator.inputs)
    estimator = counted(lambda: flow.decoder.estimator(x, time))
    assert work.estimator(sizes, [50, 50]).flop == pytest.approx(estimator, rel=1e-6)

    encoder = counted(lambda: flow.encode(torch.randint(6561, (1, tokens))))
    # The module computes scores of all 2T + 1 distances, of which a row of queries has T.
    unread = sizes.layers * tokens * (tokens + 1) + sizes.up_layers * 2 * tokens * (2 * tokens + 1)
    expected = encoder - 2 * unread * sizes.width - work.position_projection(sizes, tokens)
    assert work.encoder(sizes, [tokens]).flop == pytest.approx(expected, rel=1e-6)


def test_vocoder_is_counted_as_pytorch_counts_it() -> None:
    frames = 12
    vocoder = Vocoder(SMALL.vocoder)
    zeros = torch.zeros(1, HARMONICS)
    noise = torch.randn(1, HARMONICS, SAMPLES_PER_FRAME * frames)
    found = counted(lambda: vocoder.render(torch.randn(1, 80, frames), zeros, zeros, noise))

    # The transforms have a column more than 120 a frame.
    assert work.vocoder(SMALL.vocoder, frames).flop == pytest.approx(found, rel=0.002)


def test_rows_share_weights_but_not_attention() -> None:
    alone, together, longer = (work.estimator(TURBO.flow, rows) for rows in ([600], [600] * 4, [2400]))

    assert together.flop == pytest.approx(4 * alone.flop)
    assert together.weights == alone.weights
    assert longer.flop > 1.5 * together.flop


def test_prefix_is_read_once_for_the_whole_batch() -> None:
    one, many = (work.t3_step(TURBO.t3, batch, 376, 0) for batch in (1, 100))

    assert many.outside - one.outside < 0.3 * one.outside + 99 * work.t3_cache_bytes(TURBO.t3, 1.1)
    assert work.t3_cache_bytes(TURBO.t3, 1) == 24 * 2 * 1024 * 2


def test_floor_is_the_slower_of_arithmetic_and_memory() -> None:
    ops = (Op(10.0, 1.0, 3.0), Op(2.0, 2.0, 30.0))
    stage = Stage(ops, outside=3.0)

    assert (stage.flop, stage.weights, stage.least_bytes, stage.unfused_bytes) == (12, 3, 6, 36)
    assert stage.floor(Ceilings(1.0, 1.0)) == 12
    assert stage.bound_by(Ceilings(1.0, 1.0)) == "arithmetic"
    assert stage.floor(Ceilings(100.0, 1.0)) == 6
    assert stage.bound_by(Ceilings(100.0, 1.0)) == "memory"
    assert stage.layered(Ceilings(1.0, 1.0)) == 10 + 32
    assert work.joined([stage, stage]).layered(Ceilings(1.0, 1.0)) == 84
    assert work.joined([stage, stage]).least_bytes == 12


@pytest.mark.parametrize("batch", [1, 64, 256])
def test_layered_floor_is_never_below_the_fused_one(batch: int) -> None:
    ceilings = Ceilings(800e12, 3e12)
    for stage in (
        work.t3_step(TURBO.t3, batch, 376, 100),
        work.flow(TURBO.flow, [300] * batch),
        work.vocoder(TURBO.vocoder, 100 * batch),
    ):
        assert stage.layered(ceilings) >= stage.floor(ceilings)
