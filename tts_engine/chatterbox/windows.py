"""What S3Gen keeps of each speech slot from chunk to chunk, and the packed moves in and out of it.

`SpeechAssembler` does this for one utterance at a time; here it is index arithmetic over all rows of a batch, on the
device, without waiting for it: a CUDA graph can hold it. Positions are frames of the row's sequence, without the
prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import HARMONICS, MEL_BINS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.packing import row_of
from tts_engine.chatterbox.polyphase import TAIL_SAMPLES


@dataclass(frozen=True)
class Windows:
    """The vocoder's windows of a batch of R rows: (R,) int32 tensors. Unused rows: the idle slot, no frames."""

    slot: Tensor
    base: Tensor
    "First frame of the window."
    spoken: Tensor
    "First frame that is spoken now; those before keep the mel and the F0 that they were spoken with."
    known: Tensor
    "Frame at which the window ends."
    until: Tensor
    "Frame at which what is spoken now ends."
    next_base: Tensor
    "First frame of the next chunk's window."
    fade: Tensor
    "Frames from `spoken` on over which the newer mel is faded in."
    flow_at: Tensor
    "Where frame `spoken` lies in the flow's packed mel."
    begins: Tensor
    "1: the first chunk of a sequence. Nothing of the slot's state is used."
    starts: Tensor
    "(R + 1,): where the rows lie in the packed windows."

    def places(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of `size` packed frames the row, (size,) int64, the frame in the row's sequence, and whether it is of a row.

        In the padding behind the rows the last row goes on.
        """
        rows = row_of(self.starts, size)
        used, rows = rows < len(self.slot), rows.clamp(max=len(self.slot) - 1)
        return rows, torch.arange(size, device=rows.device) - self.starts[rows] + self.base[rows], used


class SpeechState:
    """State of `slots` speech slots, and of an idle one behind them that unused rows write to."""

    def __init__(
        self, slots: int, policy: ChunkPolicy, device: torch.device | str = "cpu", tail: int = TAIL_SAMPLES
    ) -> None:
        """`policy`: its contexts and crossfade are the most that any sequence has. `tail`: samples, see Polyphase."""
        width = policy.left_context_frames + policy.crossfade_frames
        rows = slots + 1
        self.slots = slots
        self.mel = torch.zeros(rows, width, MEL_BINS, device=device)
        "From the next window's first frame on: what was spoken, then what the newer mel is faded in over."
        self.f0 = torch.zeros(rows, width, device=device)
        self.phase = torch.zeros(rows, HARMONICS, device=device)
        self.tail = torch.zeros(rows, tail, device=device)
        "The utterance's last samples at 24 kHz, across its sequences."

    def clear(self, slot: int) -> None:
        """Zero all that the slot holds. Not needed between utterances, unless what it holds may be NaN."""
        for held in (self.mel, self.f0, self.phase, self.tail):
            held[slot].zero_()

    def gather(self, flow_mel: Tensor, w: Windows, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the vocoder is given.

        flow_mel (2N, 80) float32 is the flow's packed mel, `size` = M the frames of all windows and the padding.
        Gives mel (M, 80) float32, known_f0 (M,) Hz, known (R,) int32: how many of a row's first frames have one, and
        phase (R, 9), cycles before each window. Padding is zero.
        """
        rows = row_of(w.starts, size)
        used, rows = rows < len(w.slot), rows.clamp(max=len(w.slot) - 1)
        fresh = (w.begins != 0) | (w.starts[1:] == w.starts[:-1])
        fades = torch.where(fresh, 0, w.fade)
        slot, base, spoken, fade, flow_at, start = torch.stack(
            (w.slot, w.base, w.spoken, fades, w.flow_at, w.starts[:-1])
        )[:, rows].long()
        at = torch.arange(size, device=rows.device) - start
        past = base + at - spoken  # frames past the joint
        kept = self.mel[slot, at.clamp(max=self.mel.shape[1] - 1)]
        newer = flow_mel[(flow_at + past).clamp(0, len(flow_mel) - 1)]
        blend = torch.lerp(kept, newer, ((past + 1).float() / (fade + 1))[:, None])
        past = past[:, None]
        mel = torch.where(past < 0, kept, torch.where(past < fade[:, None], blend, newer))
        mel = torch.where(used[:, None], mel, 0.0)
        f0 = self.f0[slot, at.clamp(max=self.f0.shape[1] - 1)]
        known_f0 = torch.where(used & (past[:, 0] < 0), f0, 0.0)
        phase = torch.where(fresh[:, None], 0.0, self.phase[w.slot.long()])
        return mel, known_f0, torch.where(fresh, 0, w.spoken - w.base), phase

    def keep(self, w: Windows, mel: Tensor, f0: Tensor, phases: Tensor) -> None:
        """What the next chunk needs of mel (M, 80), f0 (M,), phases (M, 9), which were this chunk's windows."""
        first = w.starts[:-1] + w.next_base - w.base
        frames = first[:, None] + torch.arange(self.mel.shape[1], device=first.device, dtype=first.dtype)
        # Beyond the window's end nothing will be read.
        frames = torch.minimum(frames, w.starts[1:, None] - 1).clamp(0, len(f0) - 1).long()
        slot = w.slot.long()
        self.mel[slot] = mel[frames]
        self.f0[slot] = f0[frames]
        self.phase[slot] = phases[frames[:, 0]]


def fade_head(wave: Tensor, w: Windows) -> Tensor:
    """Silences the first frame of each sequence and fades in the second: the prompt's last sounds spill over there.

    wave (480 M,) float32 of the packed windows, to a tensor of its own (s3gen.py trim_fade).
    """
    frames = wave.view(-1, SAMPLES_PER_FRAME)
    _, frame, used = w.places(len(frames))
    frame = frame[:, None]
    rise = (torch.cos(torch.linspace(math.pi, 0, SAMPLES_PER_FRAME, device=wave.device)) + 1) / 2
    level = torch.where(frame == 0, 0.0, torch.where(frame == 1, rise, 1.0))
    return (frames * torch.where(used[:, None], level, 1.0)).view(-1)
