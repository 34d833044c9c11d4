"""The vocoder by a session, called as PackedVocoder is: windows are padded, rendered as one batch and packed again."""

from __future__ import annotations

import torch
from torch import Tensor

from tts_engine.chatterbox.constants import SAMPLES_PER_FRAME
from tts_engine.chatterbox.packing import BatchShape
from tts_engine.chatterbox.padded import source_noise
from tts_engine.tensorrt.padding import Padding, first_rows
from tts_engine.tensorrt.session import Session


class EngineVocoder:
    """Free of host synchronisation: a CUDA graph can hold it if it can hold the session."""

    def __init__(self, session: Session) -> None:
        """A session of vocoder_stage."""
        self._session = session

    @torch.no_grad()
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
        """See PackedVocoder. Only the first `shape.rows` rows may hold anything, each up to `shape.longest` frames."""
        rows, longest = shape.rows, shape.longest
        padding = Padding.of(starts, len(mel), rows, longest)
        given = {
            "mel": padding.pad(mel).transpose(1, 2).contiguous(),
            "phase": first_rows(phase, rows),
            "offsets": first_rows(offsets, rows),
            "noise": source_noise(first_rows(keys, rows), first_rows(first_frame, rows), longest),
            "lengths": padding.lengths,
            "known_f0": padding.pad(known_f0),
            "known": first_rows(known, rows),
        }
        rendered = self._session.run(given)
        wave = padding.pack(rendered["wave"].view(rows, longest, SAMPLES_PER_FRAME))
        return wave.flatten(), padding.pack(rendered["f0"]), padding.pack(rendered["phases"].transpose(1, 2))
