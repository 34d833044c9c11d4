"""When speech is decoded, and with how much context: the figures of streaming.

What is **exact**: with the mel spectrogram given, the chunks joined are the full decode's waveform, as long as the
contexts are at least `EXACT_LEFT_FRAMES` and `EXACT_RIGHT_FRAMES` (the default). No sample is lost or doubled. What
is left is float32: F0 is rounded otherwise in a window than in the whole (by some 1e-4 Hz), and the phase adds that up;
with the same F0 the waveforms agree to 1e-5 at any length.

What is **approximate**: the mel spectrogram itself. The flow's attention sees the whole utterance both ways, so what
it says of a frame changes as tokens are added; a frame is spoken as the flow saw it when its chunk was decoded. Frames
not spoken yet take the newer mel, faded in over `crossfade_frames` after the joint. `max_context_tokens` adds a second
approximation: the flow does not see the oldest tokens any more.

The trade-off of the first chunk. Of n tokens, the flow keeps `look_ahead_tokens` back and the vocoder
`right_context_frames`: what can be spoken is 2 (n - 3) - 20 frames of 20 ms. With 15 tokens that is 4 frames, 80 ms,
and the second chunk must be there within that time; with 20 tokens, the default, it is 280 ms, for 7 ms more of waiting
on an H100 (1.4 ms a token). A right context of 14 frames (the least) gives
120 ms more; then the source of the last frames of look-ahead rests on an F0 that has not seen its own, and the joint
is close, not exact (measured with random weights: 8e-7 of an amplitude of 1, below the rounding above; trained weights
were not at hand).
"""

from __future__ import annotations

from dataclasses import dataclass

from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, LOOK_AHEAD_TOKENS, TRAILING_SILENCE_TOKENS
from tts_engine.chatterbox.f0 import F0_REACH_FRAMES
from tts_engine.chatterbox.vocoder import DECODER_REACH_FRAMES, SOURCE_REACH_FRAMES

EXACT_LEFT_FRAMES = SOURCE_REACH_FRAMES
"The decoder reads less, and F0 is carried."
EXACT_RIGHT_FRAMES = SOURCE_REACH_FRAMES + F0_REACH_FRAMES
"Every frame of source that a spoken sample reads has an F0 that has seen all that it reads."


@dataclass(frozen=True)
class ChunkPolicy:
    """Sizes and contexts of an utterance's chunks. Raises ValueError where no speech could come of them."""

    sizes: tuple[int, ...] = (20, 25, 50, 100)
    "New tokens of the first, second, ... chunk; the last repeats. Small first, to be quick; then large, to be cheap."
    look_ahead_tokens: int = LOOK_AHEAD_TOKENS
    "Tokens that the flow reads but does not decode until more come. The model has 3."
    left_context_frames: int = EXACT_LEFT_FRAMES
    right_context_frames: int = EXACT_RIGHT_FRAMES
    "Frames decoded on either side of what is spoken, and thrown away."
    crossfade_frames: int = 8
    "Frames over which a newer mel replaces the one that the last chunk was spoken with; 0 for none."
    max_context_tokens: int | None = None
    "Tokens already spoken that the flow still sees, in place of all. An approximation that bounds the cost."

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"chunk sizes must be one or more positive numbers of tokens, not {self.sizes}")
        if self.look_ahead_tokens < 0:
            raise ValueError(f"look_ahead_tokens must not be negative, not {self.look_ahead_tokens}")
        for name in ("left_context_frames", "right_context_frames"):
            if getattr(self, name) < DECODER_REACH_FRAMES:
                raise ValueError(f"{name} must be at least {DECODER_REACH_FRAMES}, not {getattr(self, name)}")
        if not 0 <= self.crossfade_frames <= self.right_context_frames:
            raise ValueError(f"crossfade_frames must be 0 to {self.right_context_frames}, not {self.crossfade_frames}")
        if self.max_context_tokens is not None and self.max_context_tokens < 0:
            raise ValueError(f"max_context_tokens must not be negative, not {self.max_context_tokens}")
        if self.speakable_frames(self.sizes[0]) < 1:
            least = self.look_ahead_tokens + self.right_context_frames // FRAMES_PER_TOKEN + 1
            raise ValueError(f"a first chunk of {self.sizes[0]} tokens gives no sound: it needs at least {least}")

    @property
    def window_margin_frames(self) -> int:
        """By how much a vocoder's window is longer, at most, than what a chunk of that many tokens adds."""
        trailing = (self.look_ahead_tokens + TRAILING_SILENCE_TOKENS) * FRAMES_PER_TOKEN
        return self.left_context_frames + self.right_context_frames + trailing

    @property
    def exact_joints(self) -> bool:
        """Whether the chunks joined are the waveform of the full decode, the mel given."""
        return self.left_context_frames >= EXACT_LEFT_FRAMES and self.right_context_frames >= EXACT_RIGHT_FRAMES

    def next_target(self, chunks: int, tokens_decoded: int) -> int:
        """Tokens of the utterance at which the next chunk is decoded: after `chunks`, the last at tokens_decoded."""
        return tokens_decoded + self.sizes[min(chunks, len(self.sizes) - 1)]

    def known_frames(self, tokens: int) -> int:
        """Mel frames that the flow gives of the first `tokens` tokens of an unfinished utterance."""
        return max(0, tokens - self.look_ahead_tokens) * FRAMES_PER_TOKEN

    def speakable_frames(self, tokens: int) -> int:
        """Frames that can be spoken of them."""
        return max(0, self.known_frames(tokens) - self.right_context_frames)

    def first_context_token(self, spoken_frames: int) -> int:
        """The first token that the flow is given, that many frames being spoken."""
        if self.max_context_tokens is None:
            return 0
        return max(0, spoken_frames // FRAMES_PER_TOKEN - self.max_context_tokens)
