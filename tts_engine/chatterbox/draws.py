"""All random draws of an utterance's sequence, from its seed alone.

Each draw belongs to an absolute position (a step of T3, a frame or a sample of the sequence) and is a hash of the seed
and that position (`counter`): it does not matter in which order, in which chunks, in whose company or how often draws
are asked for, and nothing is kept. So speech can be repeated whatever else was on the machine at the time, and a
chunk decoded again meets the same noise; on a CPU and on a GPU the same to float32's rounding.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tts_engine.chatterbox import counter
from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, HARMONICS, MEL_BINS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.packing import row_of
from tts_engine.chatterbox.step_attention import fused_fault


class Draws:
    """Draws of one sequence. All tensors are float32 on `device`."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self._device = torch.device(device)

    def key(self, stream: int) -> int:
        """The counter's key of one of this seed's streams (counter.UNIFORM ... counter.SOURCE)."""
        return counter.key(self.seed, stream)

    def uniform(self, step: int) -> float:
        """Draw in [0, 1) of a step of T3: a float32 number that is never 1."""
        # counter.bits in Python's integers, a microsecond in place of a dozen calls of torch: the hash that makes
        # a stream's key of a seed makes a stream's numbers of its key.
        word = counter.key(self.key(counter.UNIFORM), step - 1) % (1 << 64)
        return float((word >> 40) * 2.0**-24)

    def uniforms(self, count: int) -> npt.NDArray[np.float32]:
        """(count,) float32: the draws of the first steps, as `uniform` gives them."""
        drawn: npt.NDArray[np.float32] = counter.uniform(self.key(counter.UNIFORM), torch.arange(count)).numpy()
        return drawn

    def prompt_noise(self, frames: int) -> Tensor:
        """(80, frames): the flow's noise of the voice prompt."""
        return self._columns(counter.PROMPT, MEL_BINS, 0, frames)

    def flow_noise(self, start: int, stop: int) -> Tensor:
        """(80, stop - start): the flow's noise of frames of the sequence, counted without the prompt."""
        return self._columns(counter.FLOW, MEL_BINS, start, stop)

    def phase_offsets(self) -> Tensor:
        """(9,) radians: where each sine of the source starts; the fundamental at 0, the others in [-pi, pi)."""
        return phase_offsets(torch.tensor([self.key(counter.PHASE)], device=self._device))[0]

    def source_noise(self, start_frame: int, stop_frame: int) -> Tensor:
        """(9, 480 n): the source's noise of n frames of the sequence."""
        samples = (start_frame * SAMPLES_PER_FRAME, stop_frame * SAMPLES_PER_FRAME)
        return self._columns(counter.SOURCE, HARMONICS, *samples)

    def _columns(self, stream: int, rows: int, start: int, stop: int) -> Tensor:
        """(rows, stop - start) normal: number r of position p is the stream's number `p rows + r`."""
        if not 0 <= start <= stop:
            raise ValueError(f"no such range of positions: {start} to {stop}")
        row, position = torch.arange(rows, device=self._device), torch.arange(start, stop, device=self._device)
        return counter.normal(self.key(stream), position * rows + row[:, None])


def phase_offsets(keys: Tensor) -> Tensor:
    """(R, 9) radians of keys (R,) int64, as Draws.phase_offsets of each."""
    harmonic = torch.arange(HARMONICS, device=keys.device)
    offsets = (counter.uniform(keys[:, None], harmonic) * 2 - 1) * math.pi
    return torch.where(harmonic == 0, 0.0, offsets)


def packed_noise(
    prompt_keys: Tensor, flow_keys: Tensor, starts: Tensor, prompt: Tensor, first_token: Tensor, size: int
) -> Tensor:
    """The flow's noise of packed rows [prompt | new tokens], (2 size, 80) float32; zero in the padding.

    prompt_keys and flow_keys (R,) int64: counter keys of PROMPT and FLOW; starts (R + 1,) int32 in tokens; prompt (R,)
    int32: the row's prompt tokens; first_token (R,) int32: the sequence's token that its new ones begin with.
    Position 2 starts[r] + f is frame f of row r. One pass over memory on CUDA.
    """
    if starts.is_cuda and fused_fault() is None:
        from tts_engine.chatterbox.kernels import noise  # noqa: PLC0415  only where there is Triton

        return noise.packed_noise(prompt_keys, flow_keys, starts, prompt, first_token, size)
    return plain_packed_noise(prompt_keys, flow_keys, starts, prompt, first_token, size)


def plain_packed_noise(
    prompt_keys: Tensor, flow_keys: Tensor, starts: Tensor, prompt: Tensor, first_token: Tensor, size: int
) -> Tensor:
    """`packed_noise` without Triton, on any device."""
    frames = torch.arange(FRAMES_PER_TOKEN * size, device=starts.device)
    rows = row_of(FRAMES_PER_TOKEN * starts, len(frames))
    used, rows = rows < len(prompt), rows.clamp(max=len(prompt) - 1)
    frame = frames - FRAMES_PER_TOKEN * starts[rows]
    spoken = frame - FRAMES_PER_TOKEN * prompt[rows]
    key = torch.where(spoken < 0, prompt_keys[rows], flow_keys[rows])
    frame = torch.where(spoken < 0, frame, spoken + FRAMES_PER_TOKEN * first_token[rows])
    index = frame[:, None] * MEL_BINS + torch.arange(MEL_BINS, device=starts.device)
    return torch.where(used[:, None], counter.normal(key[:, None], index), 0.0)
