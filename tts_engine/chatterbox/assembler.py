"""From speech tokens to finished samples, chunk by chunk: what to decode next, and what to keep of what was decoded.

Pure planning. No module is called here: the assembler says what the flow and the vocoder are to be given, as plain
data, and takes back what they gave; so a runner can batch the calls of many utterances. A cycle is

    flow_input() -> FlowInput -> the flow -> take_mel() -> VocoderInput -> the vocoder -> take_speech() -> samples

and the next begins when it is done. `chunk_policy` states what is exact and what is approximate.

Positions are frames of the utterance, without the prompt. The vocoder's window starts `left_context_frames` before the
first frame to be spoken and ends with the known mel. Its frames before the joint are final: they keep the mel and
the F0 that they were spoken with, so source phase and noise run on as in one long decode.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from tts_engine.chatterbox.chunk_plan import ChunkPlan, ChunkPlanner
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import (
    FRAMES_PER_TOKEN,
    HARMONICS,
    MEL_BINS,
    SAMPLES_PER_FRAME,
    SILENCE_TOKEN,
    SPEECH_TOKENS,
    TRAILING_SILENCE_TOKENS,
)
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.voice import Voice

_FADE_SAMPLES = 480
"Half of the head's fade: first as long a silence, then a raised cosine (s3gen.py trim_fade)."


@dataclass(frozen=True)
class FlowInput:
    """One row for the flow."""

    voice: Voice
    tokens: tuple[int, ...]
    "The utterance's, without the prompt."
    noise: torch.Tensor
    "(80, 2 (prompt + tokens)) float32."
    look_ahead: int
    "Tokens at the end that are context only: 0 when the utterance is complete."
    final: bool
    "Nothing follows."

    @property
    def mel_frames(self) -> slice:
        """Where the new frames lie in the mel that the flow gives of [prompt | tokens]: what `take_mel` wants."""
        prompt = len(self.voice.flow_prompt_tokens)
        return slice(prompt * FRAMES_PER_TOKEN, (prompt + len(self.tokens) - self.look_ahead) * FRAMES_PER_TOKEN)


@dataclass(frozen=True)
class VocoderInput:
    """One row for `Vocoder.render`: a window of T frames."""

    mel: torch.Tensor
    "(80, T) float32."
    phase: torch.Tensor
    "(9,) cycles before the first frame."
    offsets: torch.Tensor
    "(9,) radians."
    noise: torch.Tensor
    "(9, 480 T)."
    known_f0: torch.Tensor
    "(K,) Hz, K <= T: F0 of the first frames, which were spoken already."
    first_frame: int
    "Position of the window in the utterance."


class SpeechAssembler:
    """One utterance: tokens in, samples out. Not thread-safe; tensors live on the device of `draws`."""

    def __init__(self, voice: Voice, draws: Draws, policy: ChunkPolicy | None = None) -> None:
        self.policy = policy or ChunkPolicy()
        self._voice = voice
        self._draws = draws
        self._offsets = draws.phase_offsets()
        device = self._offsets.device
        self._tokens: list[int] = []
        self._finished = False
        self._planner = ChunkPlanner(self.policy)
        self._spoken = 0  # frames
        # What is kept for the next window: the mel from its first frame on, F0 up to the frames spoken, the phase.
        self._mel = torch.zeros(MEL_BINS, 0, device=device)
        self._f0 = torch.zeros(0, device=device)
        self._phase = torch.zeros(HARMONICS, device=device)
        # The chunk under way, by who has it.
        self._with_flow: ChunkPlan | None = None
        self._with_vocoder: ChunkPlan | None = None
        self._done = False

    @property
    def done(self) -> bool:
        """Whether the last sample has been given."""
        return self._done

    @property
    def samples_spoken(self) -> int:
        """Samples given so far."""
        return self._spoken * SAMPLES_PER_FRAME

    @property
    def tokens_wanted(self) -> int:
        """Tokens missing before the next chunk can be decoded. Who feeds no more than that gets repeatable chunks."""
        return self._planner.wanted(len(self._tokens), self._finished)

    def feed(self, tokens: Iterable[int]) -> None:
        """More speech tokens. Raises ValueError for one that is no sound, or after finish()."""
        if self._finished:
            raise ValueError("the utterance is finished: it takes no more tokens")
        for token in tokens:
            if not 0 <= token < SPEECH_TOKENS:
                raise ValueError(f"speech token {token} is not in 0 to {SPEECH_TOKENS - 1}")
            self._tokens.append(token)

    def finish(self) -> None:
        """No more tokens come: silence is appended and the rest can be decoded. Again: no effect."""
        if not self._finished:
            self._finished = True
            self._tokens += [SILENCE_TOKEN] * TRAILING_SILENCE_TOKENS

    def flow_input(self) -> FlowInput | None:
        """The next chunk for the flow, or None: tokens are missing, a chunk is under way, or all is done."""
        if self._with_flow is not None or self._with_vocoder is not None:
            return None
        plan = self._planner.next(len(self._tokens), self._finished)
        if plan is None:
            return None
        self._with_flow = plan
        prompt = self._draws.prompt_noise(len(self._voice.flow_prompt_tokens) * FRAMES_PER_TOKEN)
        frames = (plan.first_token * FRAMES_PER_TOKEN, plan.tokens * FRAMES_PER_TOKEN)
        return FlowInput(
            voice=self._voice,
            tokens=tuple(self._tokens[plan.first_token : plan.tokens]),
            noise=torch.cat([prompt, self._draws.flow_noise(*frames)], dim=1),
            look_ahead=plan.look_ahead,
            final=plan.final,
        )

    def take_mel(self, mel: torch.Tensor) -> VocoderInput:
        """The flow's answer (80, 2 (tokens - look_ahead)) to `flow_input`, without the prompt. It is copied."""
        plan = self._with_flow
        if plan is None:
            raise ValueError("no chunk is with the flow")
        first = plan.first_token * FRAMES_PER_TOKEN
        if tuple(mel.shape) != (MEL_BINS, plan.known - first):
            raise ValueError(f"the flow's mel is to be {(MEL_BINS, plan.known - first)}, not {tuple(mel.shape)}")
        self._with_flow, self._with_vocoder = None, plan
        self._mel = self._joined(mel.float()[:, plan.spoken - first :], plan)
        return VocoderInput(
            mel=self._mel,
            phase=self._phase,
            offsets=self._offsets,
            noise=self._draws.source_noise(plan.base, plan.known),
            known_f0=self._f0,
            first_frame=plan.base,
        )

    def take_speech(self, wave: torch.Tensor, f0: torch.Tensor, phases: torch.Tensor) -> torch.Tensor:
        """The vocoder's answer to `take_mel`: wave (480 T,), f0 (T,), phases (9, T), no padding. It is copied.

        Gives the chunk's samples (n,) float32, on the vocoder's device.
        """
        plan = self._with_vocoder
        if plan is None:
            raise ValueError("no chunk is with the vocoder")
        frames = plan.window_frames
        if (len(wave), len(f0), tuple(phases.shape)) != (frames * SAMPLES_PER_FRAME, frames, (HARMONICS, frames)):
            raise ValueError(f"the vocoder's answer is to be of {frames} frames")
        at, until = plan.spoken - plan.base, plan.until - plan.base
        samples = wave[at * SAMPLES_PER_FRAME : until * SAMPLES_PER_FRAME].clone()
        self._fade_head(samples)
        drop = plan.next_base - plan.base
        self._mel = self._mel[:, drop:].clone()
        self._f0 = f0[drop:until].clone()
        self._phase = phases[:, drop].clone()
        self._spoken = plan.until
        self._with_vocoder = None
        self._done = plan.final
        return samples

    def _joined(self, fresh: torch.Tensor, plan: ChunkPlan) -> torch.Tensor:
        """The window's mel: as spoken before the joint, then the newer one (80, n) of the frames not spoken yet."""
        kept, fade = plan.spoken - plan.base, plan.fade
        if not fade:
            return torch.cat([self._mel[:, :kept], fresh], dim=1)
        weight = torch.arange(1, fade + 1, device=fresh.device, dtype=fresh.dtype) / (fade + 1)
        blend = torch.lerp(self._mel[:, kept : kept + fade], fresh[:, :fade], weight)
        return torch.cat([self._mel[:, :kept], blend, fresh[:, fade:]], dim=1)

    def _fade_head(self, samples: torch.Tensor) -> None:
        """Silences and fades in the start of the utterance, in place: the prompt's last sounds spill over there."""
        start = self.samples_spoken
        if start >= 2 * _FADE_SAMPLES:
            return
        rise = (torch.cos(torch.linspace(torch.pi, 0, _FADE_SAMPLES)) + 1) / 2
        fade = torch.cat([torch.zeros(_FADE_SAMPLES), rise])[start : start + len(samples)]
        samples[: len(fade)] *= fade.to(samples.device)
