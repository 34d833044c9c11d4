"""Flow.forward over packed rows (packing.py): any mix of lengths and voices in one batch, no frame wasted on padding.

For CUDA, with kernels in Triton. Each row equals what Flow gives for it alone, to the dtype's rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN
from tts_engine.chatterbox.estimator import STEP_TIMES
from tts_engine.chatterbox.flow import Flow, FlowSizes
from tts_engine.chatterbox.flow_voices import MOST_PROMPT_FRAMES, FlowVoices
from tts_engine.chatterbox.kernels.flow_attention import HEAD
from tts_engine.chatterbox.kernels.flow_tiles import interpreting
from tts_engine.chatterbox.packed_encoder import PackedEncoder
from tts_engine.chatterbox.packed_estimator import PackedEstimator, Tuning
from tts_engine.chatterbox.packing import BatchShape, Packing, pack
from tts_engine.chatterbox.voice import Voice


class PackedFlow:
    """A flow's parameters as they are (device, dtype), and a bank of voices on their device."""

    @torch.no_grad()
    def __init__(
        self,
        flow: Flow,
        *,
        voices: int,
        most_prompt_frames: int = MOST_PROMPT_FRAMES,
        tuning: Tuning | None = None,
    ) -> None:
        """`voices` that there is room for, with prompts of up to `most_prompt_frames`.

        Raises ValueError if the flow's sizes do not suit the kernels, RuntimeError where they cannot run.
        """
        weight = flow.encoder_proj.weight
        if not weight.is_cuda and not interpreting():
            raise RuntimeError("the packed flow needs a GPU: its kernels are Triton's")
        if fault := unsuited(flow.sizes):
            raise ValueError(fault)
        self._embedding, self._project = flow.input_embedding, flow.encoder_proj
        self._encoder = PackedEncoder(flow.encoder)
        self._estimator = PackedEstimator(flow.decoder.estimator, tuning or Tuning())
        self._voices = FlowVoices(flow, voices=voices, most_prompt_frames=most_prompt_frames, dtype=weight.dtype)
        self._prepared: set[int] = set()

    def set_voice(self, index: int, voice: Voice) -> None:
        """Put a voice (of any dtype and device) into the bank. Raises ValueError if it has no room there."""
        self._voices.set(index, voice)

    def prepare(self, most: int) -> None:
        """Compute the constants of rows of up to `most` tokens; the first call does it, if it is not in a graph."""
        if most in self._prepared:
            return
        if self._project.weight.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(f"prepare({most}) must come before the graph")
        self._encoder.prepare(most)
        self._prepared.add(most)

    @torch.no_grad()
    def __call__(
        self, tokens: Tensor, starts: Tensor, look_ahead: Tensor, voices: Tensor, noise: Tensor, shape: BatchShape
    ) -> Tensor:
        """Mel (2N, 80) float32 of packed rows of [prompt | new] tokens; row r's frames from 2 starts[r] on.

        tokens (N,) int64, anything at padding; starts (R+1,) int32; look_ahead (R,) int32: last tokens of each row that
        are heard by the others but not rendered; voices (R,) int32: of the bank, anything for empty rows;
        noise (2N, 80) float32: by frame, packed as the result is. No row has more than `shape.longest` tokens.

        Frames beyond a row's 2 (length - look_ahead), and padding, are 0. A row gives the same in any packing.
        """
        size, most = len(tokens), shape.longest
        self.prepare(most)
        heard = pack(starts, size, most)
        heard_frames = pack(FRAMES_PER_TOKEN * starts, FRAMES_PER_TOKEN * size, FRAMES_PER_TOKEN * most)
        rendered = heard_frames.shortened(FRAMES_PER_TOKEN * look_ahead)

        embedded = self._embedding(tokens.masked_fill(~heard.inside, 0))
        mu = self._project(self._encoder(embedded, heard, heard_frames))
        conditions = self._conditions(mu, voices, rendered)
        sides = self._estimator.gather_conditions(conditions, rendered)
        outside = ~rendered.inside[:, None]
        frames = noise.float().masked_fill(outside, 0)
        for step, (start, end) in enumerate(STEP_TIMES):
            frames.add_(self._estimator(frames, sides, step, rendered), alpha=end - start)
        return frames.masked_fill_(outside, 0)

    def _conditions(self, mu: Tensor, voices: Tensor, frames: Packing) -> Tensor:
        """(2N, 240): [mu | speaker | prompt], the prompt being 0 where it has ended."""
        bank = self._voices
        count, most, _ = bank.prompts.shape
        voice = voices.clamp(0, count - 1)[frames.row]
        prompt = bank.prompts[voice, frames.position.clamp(max=most - 1)]
        prompt = prompt.masked_fill((frames.position >= bank.prompt_frames[voice])[:, None], 0)
        return torch.cat((mu, bank.speakers[voice], prompt), dim=-1)


def unsuited(sizes: FlowSizes) -> str | None:
    """What in a flow's sizes the kernels were not made for; None if nothing is."""
    for name in ("width", "channels"):
        value = getattr(sizes, name)
        if value < 16 or value & (value - 1):
            return f"the packed flow wants a power of two from 16 on as {name}, not {value}"
    if sizes.width != sizes.heads * HEAD:
        return f"the packed flow wants attention heads of {HEAD}, not {sizes.width} / {sizes.heads}"
    if sizes.estimator_feed_forward % 16:
        return f"the packed flow wants a multiple of 16 as estimator_feed_forward, not {sizes.estimator_feed_forward}"
    return None
