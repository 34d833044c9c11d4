"""The plain modules behind the calls of the packed ones: rows are unpacked, padded, run as one batch and packed again.

For a CPU, and for a GPU on which the fused kernels do not work. It waits for the device, so no graph can hold it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from tts_engine.chatterbox import counter
from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, HARMONICS, MEL_BINS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.flow import Flow
from tts_engine.chatterbox.packing import BatchShape
from tts_engine.chatterbox.step_attention import fused_fault
from tts_engine.chatterbox.vocoder import Vocoder
from tts_engine.chatterbox.voice import Voice


class PaddedFlow:
    """`Flow` as PackedFlow is called."""

    def __init__(self, flow: Flow, *, voices: int) -> None:
        self._flow = flow
        self._voices: list[Voice | None] = [None] * voices

    def set_voice(self, index: int, voice: Voice) -> None:
        """What rows of this voice will be given."""
        self._voices[index] = voice

    def __call__(
        self, tokens: Tensor, starts: Tensor, look_ahead: Tensor, voices: Tensor, noise: Tensor, shape: BatchShape
    ) -> Tensor:
        """See PackedFlow; `shape` is of no use here."""
        rows = _rows(starts)
        mel = torch.zeros(FRAMES_PER_TOKEN * len(tokens), MEL_BINS, device=noise.device)
        if not rows:
            return mel
        spoken = [self._voice(int(voices[row])) for row, _, _ in rows]
        frames = [(FRAMES_PER_TOKEN * first, FRAMES_PER_TOKEN * last) for _, first, last in rows]
        prompts = [voice.flow_prompt_mel for voice in spoken]
        numbers = [row for row, _, _ in rows]
        padded = self._flow(
            _padded([tokens[first:last] for _, first, last in rows]),
            (starts[1:] - starts[:-1])[numbers].long(),
            _padded(prompts),
            torch.tensor([len(prompt) for prompt in prompts], device=mel.device),
            torch.stack([voice.x_vector for voice in spoken]),
            _padded([noise[first:last] for first, last in frames]).transpose(1, 2),
            look_ahead=look_ahead[numbers].long(),
        )
        for row, (first, last) in zip(padded, frames, strict=True):
            mel[first:last] = row[:, : last - first].T
        return mel

    def _voice(self, index: int) -> Voice:
        voice = self._voices[index]
        if voice is None:
            raise ValueError(f"voice {index} has not been set")
        return voice


class PaddedVocoder:
    """`Vocoder.render` as PackedVocoder is called."""

    def __init__(self, vocoder: Vocoder) -> None:
        self._vocoder = vocoder

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
        """See PackedVocoder; `shape` is of no use here."""
        rows = _rows(starts)
        wave = torch.zeros(SAMPLES_PER_FRAME * len(mel), device=mel.device)
        f0, phases = torch.zeros(len(mel), device=mel.device), torch.zeros(len(mel), HARMONICS, device=mel.device)
        if not rows:
            return wave, f0, phases
        numbers = [row for row, _, _ in rows]
        longest = max(last - first for _, first, last in rows)
        given = [mel[first:last] for _, first, last in rows]
        rendered = self._vocoder.render(
            _padded(given).transpose(1, 2),
            phase[numbers],
            offsets[numbers],
            source_noise(keys[numbers], first_frame[numbers], longest),
            (starts[1:] - starts[:-1])[numbers].long(),
            known_f0=_padded([known_f0[first:last] for _, first, last in rows]),
            known=known[numbers].long(),
        )
        for at, (_, first, last) in enumerate(rows):
            frames = last - first
            wave[first * SAMPLES_PER_FRAME : last * SAMPLES_PER_FRAME] = rendered[0][at, : frames * SAMPLES_PER_FRAME]
            f0[first:last] = rendered[1][at, :frames]
            phases[first:last] = rendered[2][at, :, :frames].T
        return wave, f0, phases


def source_noise(keys: Tensor, first_frame: Tensor, frames: int) -> Tensor:
    """(R, 9, 480 frames): the source's noise of each row, from its first frame on. One pass over memory on CUDA.

    keys (R,) int64: counter keys of SOURCE; first_frame (R,) int32, counted in the row's sequence.
    """
    if keys.is_cuda and fused_fault() is None:
        from tts_engine.chatterbox.kernels import noise  # noqa: PLC0415  only where there is Triton

        return noise.source_noise(keys, first_frame, frames)
    return plain_source_noise(keys, first_frame, frames)


def plain_source_noise(keys: Tensor, first_frame: Tensor, frames: int) -> Tensor:
    """`source_noise` without Triton, on any device."""
    first = first_frame.long()[:, None, None] * SAMPLES_PER_FRAME
    samples = first + torch.arange(frames * SAMPLES_PER_FRAME, device=keys.device)
    return counter.normal(
        keys[:, None, None], samples * HARMONICS + torch.arange(HARMONICS, device=keys.device)[:, None]
    )


def _rows(starts: Tensor) -> list[tuple[int, int, int]]:
    """Number, start and end of each row that is not empty."""
    bounds = starts.tolist()
    return [(row, a, b) for row, (a, b) in enumerate(pairwise(bounds)) if b > a]


def _padded(rows: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
