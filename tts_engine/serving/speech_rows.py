"""A batch for S3Gen as numbers: what each row is, and where its tokens, windows and samples lie among the others'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tts_engine.chatterbox.chunk_plan import ChunkPlan
from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN
from tts_engine.chatterbox.windows import Windows


@dataclass(frozen=True)
class SpeechRow:
    """A chunk to be decoded."""

    slot: int
    "Of the utterance: where what it keeps from chunk to chunk lies."
    voice: int
    prompt: npt.NDArray[np.int32]
    "The voice's tokens."
    tokens: npt.NDArray[np.int32]
    "The sequence's, as many as the plan says."
    plan: ChunkPlan
    keys: tuple[int, ...]
    "Counter keys: prompt, flow, source, phase."
    begins: bool
    "The first chunk of its sequence."
    before: int
    "Samples (24 kHz) of the utterance that earlier chunks gave,"
    out_before: int
    "and what they gave at the rate asked for."
    out: int
    "Samples that this chunk gives at the rate asked for."


class RowNumbers:
    """Numbers of a batch by name, in one tensor: one copy to the device instead of twenty."""

    NAMES = (
        "starts", "look_ahead", "voices", "prompt", "first_token",
        "window_starts", "slot", "base", "spoken", "known", "until", "next_base", "fade", "flow_at", "begins",
        "before", "out_before", "out_starts",
    )  # fmt: skip
    KEYS = ("prompt_key", "flow_key", "source_key", "phase_key")

    def __init__(self, numbers: Tensor, keys: Tensor) -> None:
        """`numbers` (names, R + 1) int32, of which the starts use all, the others R; `keys` (4, R) int64."""
        self._numbers = numbers
        self._keys = keys

    def __getitem__(self, name: str) -> Tensor:
        row = self._numbers[self.NAMES.index(name)]
        return row if name.endswith("starts") else row[:-1]

    def key(self, name: str) -> Tensor:
        return self._keys[self.KEYS.index(name)]

    def windows(self) -> Windows:
        return Windows(
            slot=self["slot"],
            base=self["base"],
            spoken=self["spoken"],
            known=self["known"],
            until=self["until"],
            next_base=self["next_base"],
            fade=self["fade"],
            flow_at=self["flow_at"],
            begins=self["begins"],
            starts=self["window_starts"],
        )

    def write(self, numbers: Tensor, keys: Tensor) -> None:
        """What numbers_of() gave, from the host."""
        self._numbers.copy_(numbers, non_blocking=True)
        self._keys.copy_(keys, non_blocking=True)


def numbers_of(rows: Sequence[SpeechRow], most_rows: int, idle: int) -> tuple[Tensor, Tensor, Tensor]:
    """A batch's tokens, numbers and keys, on the host. Rows that are not used name the slot `idle`."""
    names = RowNumbers.NAMES
    table = np.zeros((len(names), most_rows + 1), np.int32)
    keys = np.zeros((len(RowNumbers.KEYS), most_rows), np.int64)
    table[names.index("slot")] = idle
    parts: list[npt.NDArray[np.int32]] = []
    ends = dict.fromkeys(("starts", "window_starts", "out_starts"), 0)
    for at, row in enumerate(rows):
        plan = row.plan
        prompt_frames = FRAMES_PER_TOKEN * len(row.prompt)
        first_frame = FRAMES_PER_TOKEN * (ends["starts"] - plan.first_token) + prompt_frames
        numbers = {
            "look_ahead": plan.look_ahead,
            "voices": row.voice,
            "prompt": len(row.prompt),
            "first_token": plan.first_token,
            "slot": row.slot,
            "base": plan.base,
            "spoken": plan.spoken,
            "known": plan.known,
            "until": plan.until,
            "next_base": plan.next_base,
            "fade": plan.fade,
            "flow_at": first_frame + plan.spoken,
            "begins": row.begins,
            "before": row.before,
            "out_before": row.out_before,
        }
        for name, number in numbers.items():
            table[names.index(name), at] = number
        keys[:, at] = row.keys
        parts += [row.prompt, row.tokens]
        ends["starts"] += len(row.prompt) + len(row.tokens)
        ends["window_starts"] += plan.known - plan.base
        ends["out_starts"] += row.out
        for name, end in ends.items():
            table[names.index(name), at + 1 :] = end
    tokens = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    return torch.from_numpy(tokens), torch.from_numpy(table), torch.from_numpy(keys)
