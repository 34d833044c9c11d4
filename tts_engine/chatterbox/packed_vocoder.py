"""HiFT over packed rows: Vocoder.render row by row, for any mixture of lengths, in some forty kernels.

Tensors are (columns, channels), rows of the packing one after the other (kernels/conv.py, kernels/frames.py). Products
accumulate in float32, and what is pointwise after one is done before its result is rounded: less is rounded than in
the plain module. Shapes depend on those of the inputs only, and nothing waits for the device: it can be captured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import triton
from torch import Tensor, nn

from tts_engine.chatterbox.istft import BINS, POINTS
from tts_engine.chatterbox.kernels import conv_weights, frames, source, spectrum
from tts_engine.chatterbox.kernels.conv import convolve
from tts_engine.chatterbox.packing import BatchShape
from tts_engine.chatterbox.vocoder import ResBlock, Vocoder

_RATES = (8, 40, 120)
_SLOPE = 0.1
_LAST_SLOPE = 0.01
_MEL_WIDTH = 96
"The 80 bins of mel and zeros: three times 32."


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter (TRITON_INTERPRET=1), which needs no GPU."""
    return not isinstance(frames._place, triton.JITFunction)


class Blocks:
    """Residual blocks of one width side by side, and the mean of what they give."""

    def __init__(self, blocks: Sequence[ResBlock], rate: int, edge: bool) -> None:
        # The longest first: it takes longest.
        blocks = sorted(blocks, key=lambda block: -_convolutions(block.convs1)[0].kernel_size[0])
        depth = len(blocks[0].convs1)
        pairs = [
            [[_convolutions(getattr(block, name))[at] for block in blocks] for name in ("convs1", "convs2")]
            for at in range(depth)
        ]
        self.first = [conv_weights.branches(pair[0], rate, edge=edge) for pair in pairs]
        self.second = [
            conv_weights.branches(pair[1], rate, edge=edge, joined=at == depth - 1) for at, pair in enumerate(pairs)
        ]
        self.scales = _snakes(blocks, "activations1", 0)
        "Of the first Snake of each block, which is for the caller to apply: (blocks, 2, channels)."
        self._outer = [_snakes(blocks, "activations1", at) for at in range(1, depth)]
        self._inner = [_snakes(blocks, "activations2", at) for at in range(depth)]

    def __call__(
        self,
        x: Tensor,
        activated: Tensor,
        bounds: Tensor,
        *,
        out: Tensor | None = None,
        leaky: Tensor | None = None,
        slope: float = 0.0,
    ) -> None:
        """Of x (1, columns, channels) and Snake of it (blocks, columns, channels), which is overwritten, the mean to
        `out`, or a leaky ReLU of it to `leaky`, both as x.
        """
        inner = torch.empty_like(activated)
        each = torch.empty_like(activated)
        *pairs, last = zip(self.first, self._inner, self.second, strict=True)
        for (first, scales, second), outer in zip(pairs, self._outer, strict=True):
            convolve(first, activated, bounds, activated=inner, scales=scales)
            convolve(second, inner, bounds, residual=x, out=each, activated=activated, scales=outer)
            x = each
        first, scales, second = last
        convolve(first, activated, bounds, activated=inner, scales=scales)
        convolve(second, inner, bounds, residual=x, out=out, activated=leaky, slope=slope)


class Step:
    """One of the three steps: mel's branch comes up, the source's comes down, and they are added."""

    def __init__(self, vocoder: Vocoder, at: int, rate_before: int) -> None:
        self.last = at == len(_RATES) - 1
        up, down = cast(nn.ConvTranspose1d, vocoder.ups[at]), cast(nn.Conv1d, vocoder.source_downs[at])
        source_block = cast(ResBlock, vocoder.source_resblocks[at])
        count = len(vocoder.resblocks) // len(_RATES)
        blocks = [cast(ResBlock, block) for block in vocoder.resblocks[count * at : count * (at + 1)]]
        self.columns = _RATES[at]
        self.width = conv_weights.padded(up.out_channels)
        self._down = conv_weights.plain(down, _RATES[-1], spectrum.WIDTH, edge=True, out_edge=self.last)
        self._source = Blocks([source_block], self.columns, self.last)
        self.up = conv_weights.transposed(up, rate_before)
        self.blocks = Blocks(blocks, self.columns, self.last)

    def __call__(self, x: Tensor, spectrum_: Tensor, bounds: Tensor) -> Tensor:
        """From (1, columns before, channels) and the source's spectrum to (1, columns, half the channels)."""
        shape = (1, bounds.shape[1] * self.columns, self.width)
        excited, activated, beside = (x.new_empty(shape) for _ in range(3))
        convolve(self._down, spectrum_, bounds, out=excited, activated=activated, scales=self._source.scales)
        self._source(excited, activated, bounds, out=beside)
        scales = self.blocks.scales
        each = x.new_empty(len(scales), *shape[1:])
        convolve(
            self.up, x, bounds, residual=beside, out=excited, activated=each, scales=scales, reflect=self.last
        )  # fmt: skip
        self.blocks(excited, each, bounds, leaky=activated, slope=_LAST_SLOPE if self.last else _SLOPE)
        return activated


class PackedVocoder:
    """Vocoder.render for packed rows. On CUDA, or in Triton's interpreter."""

    def __init__(self, vocoder: Vocoder) -> None:
        """Takes the parameters as they are: convolutions in any one dtype, F0 and source in float32.

        Raises RuntimeError on a device without Triton's kernels; the plain module serves there.
        """
        weight = vocoder.conv_pre.weight
        if not weight.is_cuda and not interpreted():
            raise RuntimeError(f"the packed vocoder needs a CUDA device, not {weight.device.type}")
        self._device, self._dtype = weight.device, weight.dtype
        with torch.no_grad():
            self._pre = conv_weights.plain(vocoder.conv_pre, 1, _MEL_WIDTH)
            self.steps = [Step(vocoder, at, before) for at, before in enumerate((1, *_RATES[:-1]))]
            "From 1 to 8, 40 and 120 columns a frame: of x, the source's spectrum, and bounds."
            self._post = conv_weights.polar(vocoder.conv_post, _RATES[-1])
            self._prepare_f0(vocoder)
            mixer = vocoder.m_source.l_linear
            self._mixer, self._mixer_bias = mixer.weight.detach().flatten().contiguous(), mixer.bias.detach()
        self._prepare_transforms(vocoder)

    def _prepare_f0(self, vocoder: Vocoder) -> None:
        predictor = vocoder.f0_predictor
        convolutions = [layer for layer in predictor.condnet if isinstance(layer, nn.Conv1d)]
        self._f0_weights = [conv.weight.detach().permute(2, 1, 0).flatten(0, 1).contiguous() for conv in convolutions]
        self._f0_biases = [conv.bias.detach() for conv in convolutions if conv.bias is not None]
        self._pitch_weight = predictor.classifier.weight.detach().flatten().contiguous()
        self._pitch_bias = predictor.classifier.bias.detach()

    def _prepare_transforms(self, vocoder: Vocoder) -> None:
        analysis = torch.zeros(POINTS, spectrum.WIDTH, device=self._device)
        analysis[:, : 2 * BINS] = vocoder.stft._at("kernel", self._device)[:, 0].T
        self._analysis = analysis
        self._synthesis = vocoder.istft._at("kernel", self._device)[:, 0].contiguous()
        self._left = vocoder.istft._at("left", self._device)
        self._right = vocoder.istft._at("right", self._device)

    @torch.inference_mode()
    def __call__(
        self,
        mel: Tensor,
        starts: Tensor,
        phase: Tensor,
        offsets: Tensor,
        known_f0: Tensor,
        known: Tensor,
        keys: Tensor,
        first_frame: Tensor,
        shape: BatchShape,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Windows of utterances, each with its own edges: everything from mel to waveform.

        mel (M, 80) float32, of which row r is frames starts[r] .. starts[r + 1] (starts (R + 1,) int32, from 0); phase
        (R, 9) float32 cycles before each row's first frame; offsets (R, 9) float32 radians; known_f0 (M,) float32, of
        which the first known[r] (R,) int32 frames of each row count; keys (R,) int64: the counter's key of the noise;
        first_frame (R,) int32: the row's first frame in its sequence. All contiguous, on the module's device. `shape`
        is of no use here.

        Gives the waveform (480 M,), the F0 (M,) Hz and the phases before each frame (M, 9) cycles, float32; zero in
        padding.
        """
        bounds, taps, packed = self.place(mel, starts)
        f0 = self.f0(taps, bounds, known_f0, known)
        heard, phases = self.spectrum(f0, starts, phase, offsets, keys, first_frame, bounds)
        x = self.before(packed, bounds)
        for step in self.steps:
            x = step(x, heard, bounds)
        return self.after(x, bounds, len(mel)), f0, phases

    def place(self, mel: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See frames.place: the bounds of rows, what the F0 predictor reads, and mel (slots, 96)."""
        return frames.place(mel, starts, len(mel) + len(starts) - 1, _MEL_WIDTH, self._dtype)

    def f0(self, taps: Tensor, bounds: Tensor, known_f0: Tensor, known: Tensor) -> Tensor:
        """(M,) Hz, of what `place` gives. In float32: TF32 is for the caller to forbid (serving/device.py)."""
        y = torch.addmm(self._f0_biases[0], taps, self._f0_weights[0])
        for bias, weight in zip(self._f0_biases[1:], self._f0_weights[1:], strict=True):
            y = torch.addmm(bias, frames.spread(y, bounds), weight)
        return frames.pitch(y, bounds, self._pitch_weight, self._pitch_bias, known_f0, known, len(known_f0))

    def spectrum(
        self,
        f0: Tensor,
        starts: Tensor,
        phase: Tensor,
        offsets: Tensor,
        keys: Tensor,
        first_frame: Tensor,
        bounds: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Of the excitation: (slots * 120, 32), and the phases (M, 9)."""
        phases = source.frame_phases(f0, starts, phase)
        excitation = source.excitation(f0, phases, offsets, keys, first_frame, bounds, self._mixer, self._mixer_bias)
        return spectrum.stft(excitation, self._analysis, bounds, self._dtype), phases

    def before(self, packed: Tensor, bounds: Tensor) -> Tensor:
        """What the first of `steps` reads, of mel (slots, 96)."""
        x = packed.new_empty(1, bounds.shape[1], self._pre.shape.channels)
        convolve(self._pre, packed, bounds, activated=x, slope=_SLOPE)
        return x

    def after(self, x: Tensor, bounds: Tensor, count: int) -> Tensor:
        """From what the last of `steps` gives to the waveform of `count` frames."""
        polar = torch.empty(2 * BINS, bounds.shape[1] * _RATES[-1], dtype=torch.float32, device=x.device)
        convolve(self._post, x, bounds, out=polar, polar=True)
        return spectrum.istft(polar, self._synthesis, self._left, self._right, bounds, count)


def _convolutions(layers: nn.ModuleList) -> list[nn.Conv1d]:
    return [layer for layer in layers if isinstance(layer, nn.Conv1d)]


def _snakes(blocks: Sequence[ResBlock], name: str, at: int) -> Tensor:
    return conv_weights.snakes([getattr(block, name)[at].alpha for block in blocks])
