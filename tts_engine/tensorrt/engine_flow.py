"""The flow by sessions, called as PackedFlow is: rows are padded for them, and what they give is packed again."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN
from tts_engine.chatterbox.estimator import STEP_TIMES
from tts_engine.chatterbox.flow import Flow
from tts_engine.chatterbox.flow_voices import MOST_PROMPT_FRAMES, FlowVoices
from tts_engine.chatterbox.packing import BatchShape
from tts_engine.chatterbox.voice import Voice
from tts_engine.tensorrt.padding import Padding, first_rows
from tts_engine.tensorrt.session import Session


class EngineFlow:
    """Free of host synchronisation: a CUDA graph can hold it if it can hold the sessions."""

    @torch.no_grad()
    def __init__(
        self,
        flow: Flow,
        encoder: Session,
        estimator: Session,
        *,
        voices: int,
        most_prompt_frames: int = MOST_PROMPT_FRAMES,
    ) -> None:
        """Sessions of encoder_stage and estimator_stage. Of `flow`, on their device, constants are taken, no more."""
        self._encoder = encoder
        self._estimator = estimator
        self._voices = FlowVoices(flow, voices=voices, most_prompt_frames=most_prompt_frames, dtype=torch.float32)
        self._times = [time.float().contiguous() for time in flow.decoder.estimator.times()]

    def set_voice(self, index: int, voice: Voice) -> None:
        """Put a voice (of any dtype and device) into the bank. Raises ValueError if it has no room there."""
        self._voices.set(index, voice)

    @torch.no_grad()
    def __call__(
        self, tokens: Tensor, starts: Tensor, look_ahead: Tensor, voices: Tensor, noise: Tensor, shape: BatchShape
    ) -> Tensor:
        """See PackedFlow. Only the first `shape.rows` rows may hold anything, each up to `shape.longest` tokens."""
        size, rows, longest = len(tokens), shape.rows, shape.longest
        heard = Padding.of(starts, size, rows, longest)
        rendered = Padding.of(
            FRAMES_PER_TOKEN * starts,
            FRAMES_PER_TOKEN * size,
            rows,
            FRAMES_PER_TOKEN * longest,
            shorter=FRAMES_PER_TOKEN * look_ahead,
        )
        mu = self._encoder.run({"tokens": heard.pad(tokens), "lengths": heard.lengths})["mu"]
        conditions = rendered.mask(self._conditions(mu, first_rows(voices, rows)))
        frames = rendered.pad(noise.float())
        for (start, end), time in zip(STEP_TIMES, self._times, strict=True):
            given = {"frames": frames, "conditions": conditions, "time": time, "lengths": rendered.lengths}
            # An engine may leave anything where a row has ended, NaN too.
            frames = rendered.mask(frames.add(self._estimator.run(given)["change"], alpha=end - start))
        return rendered.pack(frames)

    def _conditions(self, mu: Tensor, voices: Tensor) -> Tensor:
        """(rows, F, 240): [mu | speaker | prompt], the prompt being 0 where it has ended."""
        bank, count = self._voices, mu.shape[1]
        voices = voices.clamp(0, len(bank.speakers) - 1).long()
        speaker = bank.speakers[voices, None].expand(-1, count, -1)
        prompt = bank.prompts[:, :count][voices]
        return torch.cat((mu, speaker, F.pad(prompt, (0, 0, 0, count - prompt.shape[1]))), dim=-1)
