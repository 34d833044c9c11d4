"""All random draws of one utterance, from its seed alone.

Each draw belongs to an absolute position (a step of T3, a frame of the utterance): it does not matter in which order,
in which chunks or how often the draws are asked for. So an utterance can be repeated, whatever else was on the
machine at the time, and a chunk decoded again meets the same noise. Draws are made in blocks, each from a generator
of its own; they are the same on every run on the same kind of device (CPU and CUDA generators differ).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch

from tts_engine.chatterbox.constants import HARMONICS, MEL_BINS, SAMPLES_PER_FRAME

_UNIFORM_BLOCK = 256  # steps
_FLOW_BLOCK = 128  # frames: 40 KiB
_SOURCE_BLOCK = 16  # frames: 270 KiB


class _Columns:
    """Normal noise (rows, columns) without end, in blocks of `block` positions; a position is `width` columns."""

    def __init__(self, make: Callable[[int], torch.Tensor], block: int, width: int = 1) -> None:
        self._make = make
        self._block = block
        self._width = width
        self._blocks: dict[int, torch.Tensor] = {}

    @property
    def blocks_held(self) -> int:
        return len(self._blocks)

    def slice(self, start: int, stop: int) -> torch.Tensor:
        if not 0 <= start <= stop:
            raise ValueError(f"no such range of positions: {start} to {stop}")
        first, last = start // self._block, max(start, stop - 1) // self._block
        for at in range(first, last + 1):
            if at not in self._blocks:
                self._blocks[at] = self._make(at)
        joined = torch.cat([self._blocks[at] for at in range(first, last + 1)], dim=1)
        base = first * self._block
        return joined[:, (start - base) * self._width : (stop - base) * self._width]

    def forget_before(self, position: int) -> None:
        """Drop the blocks that end before `position`. Asked for again, they are made again, the same."""
        for at in [at for at in self._blocks if (at + 1) * self._block <= position]:
            del self._blocks[at]


class Draws:
    """Draws of one utterance. All tensors are float32 on `device`; `uniform` gives a Python number."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self._device = torch.device(device)
        self._uniforms: dict[int, list[float]] = {}
        self._prompt = _Columns(lambda at: self._normal("prompt", at, MEL_BINS, _FLOW_BLOCK), _FLOW_BLOCK)
        self._flow = _Columns(lambda at: self._normal("flow", at, MEL_BINS, _FLOW_BLOCK), _FLOW_BLOCK)
        self._source = _Columns(
            lambda at: self._normal("source", at, HARMONICS, _SOURCE_BLOCK * SAMPLES_PER_FRAME),
            _SOURCE_BLOCK,
            SAMPLES_PER_FRAME,
        )

    def uniform(self, step: int) -> float:
        """Draw in [0, 1) of a step of T3. A float32 number (one that float32 cannot round to 1), made on the CPU."""
        block, offset = divmod(step, _UNIFORM_BLOCK)
        if block not in self._uniforms:
            generator = self._generator("uniform", block, torch.device("cpu"))
            self._uniforms[block] = torch.rand(_UNIFORM_BLOCK, generator=generator).tolist()
        return self._uniforms[block][offset]

    def prompt_noise(self, frames: int) -> torch.Tensor:
        """(80, frames): the flow's noise of the voice prompt."""
        return self._prompt.slice(0, frames)

    def flow_noise(self, start: int, stop: int) -> torch.Tensor:
        """(80, stop - start): the flow's noise of frames of the utterance, counted without the prompt."""
        return self._flow.slice(start, stop)

    def phase_offsets(self) -> torch.Tensor:
        """(9,) radians: where each sine of the source starts; the fundamental at 0, the others in [-pi, pi)."""
        generator = self._generator("phase", 0, self._device)
        offsets = (torch.rand(HARMONICS, generator=generator, device=self._device) * 2 - 1) * math.pi
        offsets[0] = 0.0
        return offsets

    def source_noise(self, start_frame: int, stop_frame: int) -> torch.Tensor:
        """(9, 480 n): the source's noise of n frames of the utterance."""
        return self._source.slice(start_frame, stop_frame)

    def forget_source_noise(self, before_frame: int) -> None:
        """Frees what lies behind the playhead; asked for again, it is made again."""
        self._source.forget_before(before_frame)

    @property
    def source_blocks_held(self) -> int:
        """Blocks of source noise in memory, 270 KiB each."""
        return self._source.blocks_held

    def _generator(self, stream: str, block: int, device: torch.device) -> torch.Generator:
        """Of one block: seeded by a hash, as neighbouring seeds are not independent in every generator."""
        digest = hashlib.blake2b(f"{self.seed}/{stream}/{block}".encode(), digest_size=8).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)

    def _normal(self, stream: str, block: int, rows: int, columns: int) -> torch.Tensor:
        generator = self._generator(stream, block, self._device)
        return torch.randn(rows, columns, generator=generator, device=self._device)
