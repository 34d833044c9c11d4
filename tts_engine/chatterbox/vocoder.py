"""HiFT: mel spectrogram to waveform (hifigan.py HiFTGenerator at 24 kHz).

A frame becomes 8, 40, then 120 columns; at each step the spectrum of the harmonic source is added, and three residual
blocks are averaged. The 120 columns (and one more, for the edge) are frames of a 16-point inverse Fourier transform
with hop 4: 480 samples a frame.

How far a sample reads (tests measure it): `DECODER_REACH_FRAMES` of mel and `SOURCE_REACH_FRAMES` of source on either
side. F0 reads `F0_REACH_FRAMES` more, and the phase everything before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from tts_engine.chatterbox.constants import MEL_BINS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.f0 import F0Predictor
from tts_engine.chatterbox.istft import BINS, Istft, Stft
from tts_engine.chatterbox.source import HarmonicSource, frame_phases

DECODER_REACH_FRAMES = 14  # 13.1
SOURCE_REACH_FRAMES = 15  # 14.2

_RATES = (8, 5, 3)
_UP_KERNELS = (16, 11, 7)
_SOURCE_KERNELS = (7, 7, 11)
_KERNELS = (3, 7, 11)
_DILATIONS = (1, 3, 5)
_COLUMNS = (8, 40, 120)  # a frame, after each step
_SLOPE = 0.1
_LAST_SLOPE = 0.01
_MAX_MAGNITUDE = 100.0
_LIMIT = 0.99


def fold_weight_norm(original0: torch.Tensor, original1: torch.Tensor) -> torch.Tensor:
    """The weight that weight norm stands for: direction original1, length original0 over all axes but the first.

    Released files hold `X.parametrizations.weight.original0` (n, 1, 1) and `original1` (n, ...) in place of `X.weight`.
    """
    return torch._weight_norm(original1, original0, 0)


@dataclass(frozen=True)
class VocoderSizes:
    """Widths; the shape of the network is fixed."""

    width: int = 512
    "Channels after the first convolution; each of the three steps halves them."
    f0_width: int = 512

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> VocoderSizes:
        """From a checkpoint's tensor shapes, names without `mel2wav.`. Raises ValueError where they are no HiFT's."""
        try:
            return cls(shapes["conv_pre.bias"][0], shapes["f0_predictor.condnet.0.bias"][0])
        except (KeyError, IndexError) as error:
            raise ValueError(f"not the vocoder of Chatterbox: no usable shape for {error}") from error


class Snake(nn.Module):
    """x + sin^2(a x) / a, a per channel. Zero stays zero, so it needs no mask."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        alpha = self.alpha[:, None]
        sine = (x * alpha).sin_()
        return torch.addcmul(x, sine, sine / (alpha + 1e-9))


class ResBlock(nn.Module):
    """Three pairs of convolutions, the first of each pair dilated, each pair added to its input."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel // 2)) for d in _DILATIONS
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=kernel // 2) for _ in _DILATIONS)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in _DILATIONS)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in _DILATIONS)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        layers = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for activation1, conv1, activation2, conv2 in layers:
            inner = _masked(conv1(activation1(x)), mask)
            x = x + _masked(conv2(activation2(inner)), mask)
        return x


class Vocoder(nn.Module):
    """Mel spectrogram to speech. Parameters are named as in the released file below `mel2wav.`, weight norm folded."""

    FLOAT32_PREFIXES = ("f0_predictor.", "m_source.")
    "Parameters that stay in float32 in a half model: see `cast`."

    def __init__(self, sizes: VocoderSizes | None = None) -> None:
        super().__init__()
        sizes = sizes or VocoderSizes()
        widths = [sizes.width >> step for step in range(len(_RATES) + 1)]
        self.f0_predictor = F0Predictor(sizes.f0_width)
        self.m_source = HarmonicSource()
        self.stft = Stft()
        self.istft = Istft()
        self.conv_pre = nn.Conv1d(MEL_BINS, widths[0], 7, padding=3)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(widths[at], widths[at + 1], kernel, rate, padding=(kernel - rate) // 2)
            for at, (rate, kernel) in enumerate(zip(_RATES, _UP_KERNELS, strict=True))
        )
        # The source's spectrum has 120 columns a frame: it goes down to 8 and 40.
        self.source_downs = nn.ModuleList(
            nn.Conv1d(2 * BINS, width, 2 * down if down > 1 else 1, down, padding=down // 2)
            for down, width in zip((15, 3, 1), widths[1:], strict=True)
        )
        self.source_resblocks = nn.ModuleList(
            ResBlock(width, kernel) for width, kernel in zip(widths[1:], _SOURCE_KERNELS, strict=True)
        )
        self.resblocks = nn.ModuleList(ResBlock(width, kernel) for width in widths[1:] for kernel in _KERNELS)
        self.conv_post = nn.Conv1d(widths[-1], 2 * BINS, 7, padding=3)

    def cast(self, dtype: torch.dtype) -> Vocoder:
        """Convolutions to `dtype`; F0 and the source stay in float32."""
        for name, parameter in self.named_parameters():
            parameter.data = parameter.data.to(torch.float32 if name.startswith(self.FLOAT32_PREFIXES) else dtype)
        return self

    def f0(self, mel: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Fundamental frequency. mel (B, 80, T), lengths (B,) frames, to (B, T) float32 Hz; zero beyond lengths."""
        result: torch.Tensor = self.f0_predictor(mel, _mask(lengths, mel.shape[-1], torch.float32))
        return result

    def source(
        self, f0: torch.Tensor, phase: torch.Tensor, offsets: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The excitation, and the phase to go on with.

        f0 (B, T) Hz, phase (B, 9) cycles before the first sample (0 at the start of an utterance), offsets (B, 9)
        radians, noise (B, 9, 480 T) normal, to source (B, 1, 480 T) float32 and phase_after (B, 9) cycles.
        """
        phases = frame_phases(f0.float(), phase.float())
        return self.m_source(f0.float(), phases[..., :-1], offsets, noise), phases[..., -1]

    def decode(self, mel: torch.Tensor, source: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """From mel (B, 80, T), source (B, 1, 480 T), lengths (B,) frames or None for all T, to (B, 480 T) float32.

        A row with a length is decoded as if it were alone; its samples beyond are zero.
        """
        dtype = self.conv_pre.weight.dtype
        frames = mel.shape[-1]
        samples = None if lengths is None else lengths * SAMPLES_PER_FRAME
        columns = _COLUMNS[-1] * frames + 1
        edge = None if lengths is None else _mask(lengths * _COLUMNS[-1] + 1, columns, torch.float32)
        spectrum = _masked(self.stft(source.float(), samples), edge).to(dtype)
        previous = _mask(lengths, frames, dtype)
        if previous is not None:
            mel = torch.where(previous > 0, mel, 0.0)  # Padding may hold anything, NaN too.
        x: torch.Tensor = self.conv_pre(mel.to(dtype))
        for at, (up, down, source_block) in enumerate(
            zip(self.ups, self.source_downs, self.source_resblocks, strict=True)
        ):
            x = up(functional.leaky_relu(_masked(x, previous), _SLOPE))
            mask = None if lengths is None else _mask(lengths * _COLUMNS[at], x.shape[-1], dtype)
            if at == len(_RATES) - 1:
                x = functional.pad(x, (1, 0), mode="reflect")
                mask = None if edge is None else edge.to(dtype)
            x = _masked(x, mask) + source_block(_masked(down(spectrum), mask), mask)
            x = self._residual(at, x, mask)
            previous = None  # The blocks leave zeros beyond the edge.
        x = self.conv_post(functional.leaky_relu(x, _LAST_SLOPE)).float()
        magnitude = _masked(x[:, :BINS].exp().clamp(max=_MAX_MAGNITUDE), edge)
        angle = x[:, BINS:].sin()
        spectrum = torch.cat([magnitude * angle.cos(), magnitude * angle.sin()], dim=1)
        wave: torch.Tensor = self.istft(spectrum, samples)
        return wave.clamp(-_LIMIT, _LIMIT)

    def render(
        self,
        mel: torch.Tensor,
        phase: torch.Tensor,
        offsets: torch.Tensor,
        noise: torch.Tensor,
        lengths: torch.Tensor | None = None,
        known_f0: torch.Tensor | None = None,
        known: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A window of an utterance: everything from mel to waveform in one call.

        As `forward`; besides, the first `known` (B,) frames of a row take their F0 from known_f0 (B, T), so that a
        window repeats the source of the frames it shares with the one before. Gives the waveform (B, 480 T), the F0
        (B, T) and the phases before each frame (B, 9, T), cycles.
        """
        f0 = self.f0(mel, lengths)
        if known_f0 is not None and known is not None:
            f0 = torch.where(torch.arange(f0.shape[-1], device=f0.device) < known[:, None], known_f0, f0)
        phases = frame_phases(f0, phase.float())[..., :-1]
        source = self.m_source(f0, phases, offsets, noise)
        return self.decode(mel, source, lengths), f0, phases

    def forward(
        self,
        mel: torch.Tensor,
        phase: torch.Tensor,
        offsets: torch.Tensor,
        noise: torch.Tensor,
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Waveform (B, 480 T) of mel (B, 80, T); phase, offsets and noise as for `source`, lengths as for `decode`."""
        return self.render(mel, phase, offsets, noise, lengths)[0]

    def _residual(self, at: int, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Mean of the three residual blocks of a step."""
        first = len(_KERNELS) * at
        total: torch.Tensor = self.resblocks[first](x, mask)
        for block in self.resblocks[first + 1 : first + len(_KERNELS)]:
            total = total + block(x, mask)
        return total / len(_KERNELS)


def _mask(lengths: torch.Tensor | None, size: int, dtype: torch.dtype) -> torch.Tensor | None:
    """(B, 1, size): one before each row's length, zero from there on."""
    if lengths is None:
        return None
    return (torch.arange(size, device=lengths.device) < lengths[:, None])[:, None].to(dtype)


def _masked(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return x if mask is None else x * mask
