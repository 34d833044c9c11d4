from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from tests.tts_engine.chatterbox import triton_interpreter
from tests.tts_engine.chatterbox.flow_modules import liven
from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, ROUNDING
from tts_engine.chatterbox.flow import Flow, FlowSizes
from tts_engine.chatterbox.voice import Voice

pytestmark = triton_interpreter.NEEDED
pytest.importorskip("triton")

from tts_engine.chatterbox import packed_flow  # noqa: E402
from tts_engine.chatterbox.packed_encoder import PackedEncoder, _folded  # noqa: E402
from tts_engine.chatterbox.packed_estimator import Tuning  # noqa: E402
from tts_engine.chatterbox.packed_flow import PackedFlow, unsuited  # noqa: E402
from tts_engine.chatterbox.packing import BatchShape, pack  # noqa: E402

SIZES = FlowSizes(
    vocabulary=50,
    x_vector=12,
    mel_bins=6,
    width=64,
    heads=1,
    feed_forward=48,
    layers=1,
    up_layers=1,
    channels=32,
    time_width=40,
    estimator_heads=1,
    estimator_feed_forward=48,
    mid_blocks=1,
    transformers=1,
)
BINS = SIZES.mel_bins


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """All memory is NaN when allocated, so what is read must have been written."""
    torch.set_deterministic_debug_mode("warn")
    yield
    torch.set_deterministic_debug_mode("default")


def small(sizes: FlowSizes = SIZES, dtype: torch.dtype = torch.float32) -> Flow:
    return liven(Flow(sizes)).requires_grad_(False).to(DEVICE, dtype)


def voice(prompt_tokens: int, sizes: FlowSizes = SIZES) -> Voice:
    return Voice(
        torch.zeros(256),
        torch.zeros(0, dtype=torch.int64),
        torch.randint(sizes.vocabulary, (prompt_tokens,)),
        torch.randn(2 * prompt_tokens, sizes.mel_bins),
        5 * torch.randn(sizes.x_vector),
    )


def shape(longest: int) -> BatchShape:
    return BatchShape(0, 0, longest)  # the rest is of no use to packed rows


class Batch:
    """Rows of (tokens, look-ahead, voice), then padding; what must not be read is NaN or no token at all."""

    def __init__(
        self, rows: list[tuple[int, int, int]], voices: list[Voice], *, padding: int = 3, sizes: FlowSizes = SIZES
    ) -> None:
        self.rows, self.voices = rows, voices
        lengths = [row[0] for row in rows]
        self.starts = [sum(lengths[:row]) for row in range(len(rows) + 1)]
        self.most = max(lengths)
        count = self.starts[-1] + padding
        self.tokens = torch.randint(sizes.vocabulary, (count,), device=DEVICE)
        self.noise = torch.randn(2 * count, sizes.mel_bins, device=DEVICE)
        self.tokens[self.starts[-1] :] = 1 << 40
        self.noise[2 * self.starts[-1] :] = torch.nan
        for end, (length, look_ahead, _) in zip(self.starts[1:], rows, strict=True):
            self.noise[2 * (end - min(look_ahead, length)) : 2 * end] = torch.nan

    def run(self, flow: PackedFlow, most: int | None = None) -> torch.Tensor:
        def int32(values: list[int]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.int32, device=DEVICE)

        look_ahead, voices = int32([row[1] for row in self.rows]), int32([row[2] for row in self.rows])
        return flow(self.tokens, int32(self.starts), look_ahead, voices, self.noise, shape(most or self.most))

    def alone(self, flow: Flow, row: int) -> torch.Tensor:
        """(frames, 80) of Flow.forward for one row."""
        length, look_ahead, number = self.rows[row]
        tokens = slice(self.starts[row], self.starts[row] + length)
        frames = slice(2 * tokens.start, 2 * tokens.stop)
        voice = self.voices[number].to(DEVICE, flow.encoder_proj.weight.dtype)
        with torch.no_grad():
            return flow(
                self.tokens[None, tokens],
                None,
                voice.flow_prompt_mel[None],
                None,
                voice.x_vector[None],
                self.noise[None, frames].transpose(1, 2),
                look_ahead=look_ahead,
            )[0].T

    def check(self, mel: torch.Tensor, flow: Flow, bound: float) -> None:
        assert mel.shape == (2 * len(self.tokens), flow.sizes.mel_bins)
        assert mel.dtype == torch.float32
        for row, (length, look_ahead, _) in enumerate(self.rows):
            start, frames = 2 * self.starts[row], 2 * max(0, length - look_ahead)
            if frames:
                expected = self.alone(flow, row)
                assert len(expected) == frames
                error = (mel[start : start + frames] - expected).abs().max() / expected.abs().max()
                assert error < bound, (row, float(error))
            assert mel[start + frames : start + 2 * length].eq(0).all()
        assert mel[2 * self.starts[-1] :].eq(0).all()


def packed(flow: Flow, voices: list[Voice], tuning: Tuning | None = None, most_prompt_frames: int = 20) -> PackedFlow:
    bank = PackedFlow(flow, voices=len(voices), most_prompt_frames=most_prompt_frames, tuning=tuning)
    for index, one in enumerate(voices):
        bank.set_voice(index, one)
    return bank


MIXED = [(9, 3, 1), (0, 0, 77), (1, 0, 0), (21, 3, 1), (0, 3, -5), (5, 3, 2), (3, 3, 0), (2, 3, 0)]


def test_each_row_is_as_alone() -> None:
    flow, voices = small(), [voice(3), voice(7), voice(0)]
    batch = Batch(MIXED, voices)
    batch.check(batch.run(packed(flow, voices)), flow, 1e-5)


@pytest.mark.parametrize("tuning", [Tuning("fused", "split"), Tuning("split", "split"), Tuning("split", "fused")])
def test_every_way_to_compute_it(tuning: Tuning) -> None:
    flow, voices = small(), [voice(2)]
    batch = Batch([(4, 0, 0), (3, 1, 0)], voices)
    batch.check(batch.run(packed(flow, voices, tuning)), flow, 1e-5)


def test_deeper_and_wider() -> None:
    sizes = dataclasses.replace(
        SIZES, width=128, heads=2, layers=2, up_layers=2, estimator_heads=2, mid_blocks=2, mel_bins=10, look_ahead=2
    )
    flow, voices = small(sizes), [voice(2, sizes)]
    batch = Batch([(6, 2, 0), (3, 0, 0)], voices, sizes=sizes)
    batch.check(batch.run(packed(flow, voices)), flow, 1e-5)


def test_neither_neighbours_nor_room_for_longer_rows_change_a_row() -> None:
    flow, voices = small(), [voice(2), voice(1)]
    batch, bank = Batch([(6, 3, 0), (8, 3, 1)], voices), packed(flow, voices)
    mel = batch.run(bank)
    batch.tokens[:6] = torch.randint(SIZES.vocabulary, (6,), device=DEVICE)
    batch.noise[:12] = 100 * torch.randn(12, BINS, device=DEVICE)
    batch.rows[0] = (6, 0, 1)
    again = batch.run(bank, most=11)
    torch.testing.assert_close(again[12:], mel[12:], atol=1e-5, rtol=1e-5)
    assert (again[:6] - mel[:6]).abs().max() > 1


def test_a_voice_can_be_replaced_and_fill_its_room() -> None:
    flow, first, second, full = small(), voice(3), voice(2), voice(3)
    bank = packed(flow, [first, full], most_prompt_frames=6)
    bank.set_voice(0, second)
    batch = Batch([(6, 3, 0), (5, 0, 1)], [second, full])
    batch.check(batch.run(bank), flow, 1e-5)


def test_what_does_not_fit_the_bank() -> None:
    bank = packed(small(), [voice(1)])
    with pytest.raises(ValueError, match="voice 1 of a bank of 1"):
        bank.set_voice(1, voice(1))
    with pytest.raises(ValueError, match="22 frames, the bank's have up to 20"):
        bank.set_voice(0, voice(11))


def test_bfloat16() -> None:
    flow, voices = small(dtype=torch.bfloat16), [voice(3), voice(1)]
    batch = Batch([(7, 3, 0), (3, 0, 1)], voices)
    mel = batch.run(packed(flow, voices))
    exact = small()
    exact.load_state_dict({name: tensor.float() for name, tensor in flow.state_dict().items()})
    batch.check(mel, exact, 0.02 * ROUNDING)


def test_the_folded_upsampling() -> None:
    conv = small().encoder.up_layer.conv
    x = torch.randn(1, 6, SIZES.width, device=DEVICE)
    expected = conv(x.repeat_interleave(2, dim=1))
    padded = F.pad(x, (0, 0, 2, 0))
    sides = torch.cat([padded[:, tap : tap + 6] for tap in range(3)], dim=-1)
    got = F.linear(sides, _folded(conv.weight)).view(1, 12, -1) + conv.bias
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_the_encoder_alone() -> None:
    encoder, lengths = small().encoder, [5, 0, 11]
    starts = torch.tensor([0, *lengths], device=DEVICE).cumsum(0).to(torch.int32)
    x = torch.randn(18, SIZES.width, device=DEVICE)
    x[16:] = torch.nan
    ours = PackedEncoder(encoder)
    ours.prepare(12)
    with torch.no_grad():
        out = ours(x, pack(starts, 18, 12), pack(2 * starts, 36, 24))
        for start, length in ((0, 5), (5, 11)):
            expected = encoder(x[None, start : start + length])[0]
            torch.testing.assert_close(out[2 * start : 2 * (start + length)], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"channels": 24}, "power of two from 16 on as channels, not 24"),
        ({"width": 96}, "power of two from 16 on as width, not 96"),
        ({"heads": 4}, "heads of 64, not 64 / 4"),
        ({"estimator_feed_forward": 40}, "multiple of 16 as estimator_feed_forward, not 40"),
    ],
)
def test_sizes_that_do_not_suit(change: dict[str, int], complaint: str) -> None:
    sizes = dataclasses.replace(SIZES, **change)
    assert complaint in (unsuited(sizes) or "")
    with torch.device("meta"):
        flow = Flow(sizes)
    with pytest.raises((ValueError, RuntimeError)):
        PackedFlow(flow, voices=1)


def test_the_released_sizes_suit() -> None:
    assert unsuited(FlowSizes()) is None
    assert unsuited(SIZES) is None


def test_without_a_gpu_or_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_flow, "interpreting", lambda: False)
    with pytest.raises(RuntimeError, match="needs a GPU"):
        PackedFlow(liven(Flow(SIZES)), voices=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_in_a_graph() -> None:
    flow, voices = small(), [voice(3), voice(7)]
    bank = packed(flow, voices)
    batch, other = Batch([(9, 3, 1), (6, 0, 0)], voices), Batch([(4, 0, 0), (11, 3, 1)], voices)
    tokens, noise = torch.zeros_like(batch.tokens), torch.zeros_like(batch.noise)
    starts, look_ahead, rows = (torch.zeros(size, dtype=torch.int32, device=DEVICE) for size in (3, 2, 2))
    with pytest.raises(RuntimeError, match="before the graph"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        bank(tokens, starts, look_ahead, rows, noise, shape(12))
    bank(tokens, starts, look_ahead, rows, noise, shape(12))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mel = bank(tokens, starts, look_ahead, rows, noise, shape(12))
    for one in (batch, other, batch):
        mel.fill_(torch.nan)
        tokens.copy_(one.tokens)
        noise.copy_(one.noise)
        starts.copy_(torch.tensor(one.starts))
        look_ahead.copy_(torch.tensor([row[1] for row in one.rows]))
        rows.copy_(torch.tensor([row[2] for row in one.rows]))
        graph.replay()
        one.check(mel, flow, 1e-4)
