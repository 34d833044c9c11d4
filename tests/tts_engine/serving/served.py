"""A worker's work without the worker: turn by turn, by the test's own clock; and what the plain modules say instead."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from tests.tts_engine.chatterbox.voices import make_voice
from tests.tts_engine.serving.guards import OneTokenACharacter
from tts_engine.chatterbox.assembler import SpeechAssembler
from tts_engine.chatterbox.chunk_plan import ladder
from tts_engine.chatterbox.decoder import TokenDecoder
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.generation import TokenGenerator
from tts_engine.chatterbox.model import Chatterbox
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.chatterbox.streaming import synthesise_chunks
from tts_engine.chatterbox.text import prepare
from tts_engine.chatterbox.vocoder import Vocoder
from tts_engine.chatterbox.voice import Voice
from tts_engine.chatterbox.voice_file import VoiceMetadata
from tts_engine.chatterbox.voice_store import VoiceStore
from tts_engine.resample import Resampler, Samples, to_pcm16
from tts_engine.serving.loading import Loaded, load
from tts_engine.serving.messages import Audio, Failed, Report, Speak
from tts_engine.serving.roster import HELD_BETWEEN
from tts_engine.serving.settings import ChatterboxSettings, WorkerSettings
from tts_engine.serving.texts import Texts
from tts_engine.serving.utterance import segment_seed

Pcm = npt.NDArray[np.int16]

VOICES = {"anna": (40, 20), "bob": (75, 31), "carol": (3, 2)}
"Prompt tokens of T3 and of the flow."


def write_voices(directory: Path) -> Path:
    for seed, (name, (prompt, flow)) in enumerate(VOICES.items()):
        VoiceStore(directory).add(name, make_voice(prompt, flow, seed), VoiceMetadata(name, source=f"{name}.wav"))
    return directory


def settings_for(model: Path, voices: Path, /, **changes: Any) -> ChatterboxSettings:
    """Small, on the CPU, in a thread."""
    given: dict[str, Any] = {
        "model": str(model),
        "voices_dir": voices,
        "devices": ("cpu",),
        "isolation": "thread",
        "default_voice": "anna",
        "kv_memory_mb": 8,
        "voices": 4,
        "guard": OneTokenACharacter,
        "max_first_audio_seconds": 0.0,
    }
    return ChatterboxSettings(**(given | changes))


def pcm_array(pcm: bytes) -> Pcm:
    return np.frombuffer(pcm, "<i2")


def assert_same_sound(heard: Pcm, expected: Pcm, most: int = 2) -> None:
    """Within so many steps of 16 bits, and no silence."""
    assert len(heard) == len(expected)
    assert np.abs(expected.astype(int)).max() > 300
    assert np.abs(heard.astype(int) - expected).max() <= most


class Plain:
    """The model without any serving: one sequence after the other, eager float32 modules, soxr at the end."""

    def __init__(self, model: Chatterbox, voices_dir: Path, device: torch.device | str = "cpu") -> None:
        self._model = model
        self._device = device
        self._store = VoiceStore(voices_dir)
        self._known: dict[tuple[object, ...], Samples] = {}

    def __call__(self, text: str, voice: str = "anna", sample_rate: int = 8000, **how: Any) -> Pcm:
        """16-bit samples; `how` as signal() takes it."""
        signal = self.signal(text, voice, **how)
        return pcm_array(to_pcm16(Resampler(24000, sample_rate).process(signal, final=True)))

    def signal(
        self, text: str, voice: str = "anna", *, held: float = 0.0, cfg_scale: float = 0.0, max_chars: int = 300
    ) -> Samples:
        """At 24 kHz. `held`: seconds of audio that the listener has when the text comes."""
        wanted = (text, voice, held, cfg_scale, max_chars)
        if wanted not in self._known:
            chunks = self._chunks(prepare(text, max_chars=max_chars), self._voice(voice), held, cfg_scale)
            self._known[wanted] = np.concatenate([chunk.cpu().numpy() for chunk in chunks])
        return self._known[wanted]

    def _voice(self, name: str) -> Voice:
        voice = self._model.default_voice if name == "default" else self._store.read(name)[0]
        assert voice is not None
        return voice.to(self._device, torch.float32)

    def _chunks(self, segments: list[str], voice: Voice, held: float, cfg_scale: float) -> Iterator[torch.Tensor]:
        model = self._model
        with torch.inference_mode():
            prefix = model.t3.prefix(voice.speaker_embedding, voice.prompt_tokens)
        for number, segment in enumerate(segments):
            draws = Draws(segment_seed(0, segment, number), self._device)
            guard = OneTokenACharacter(segment)
            text_tokens = model.tokenizer.encode(segment)
            decoder = TokenDecoder(model.t3, prefix, len(text_tokens) + 1 + guard.limit, SamplingSettings(), cfg_scale)
            tokens = TokenGenerator(decoder, text_tokens, draws.uniform, guard)  # type: ignore[arg-type]
            assembler = SpeechAssembler(voice, draws, ladder(HELD_BETWEEN if number else held))
            yield from synthesise_chunks(model.flow, model.vocoder, assembler, tokens)


@dataclass
class Served:
    """A synthesiser over real runners. Time stands still unless the test moves it, or everybody rests."""

    loaded: Loaded
    texts: Texts
    reports: list[Report]
    streams: int
    now: float = 100.0
    turns: int = field(default=0, init=False)

    @classmethod
    def over(cls, settings: ChatterboxSettings, *, streams: int = 16, cfg_scale: float = 0.0) -> Served:
        reports: list[Report] = []
        given = WorkerSettings(settings, "cpu", cfg_scale, streams)
        loaded = load(given, reports.append)
        return cls(loaded, Texts(loaded.tokenizer, given, loaded.watermarker), reports, streams)

    def speak(self, id: int, text: str, voice: str = "anna", sample_rate: int = 8000, *, held: float = 0.0) -> None:
        order = Speak(id, text, voice, sample_rate, self.now, self.now + held)
        prepared = self.texts.prepare(order)
        self.loaded.synthesiser.speak(prepared.order, prepared.segments, prepared.finish)

    def turn(self) -> bool:
        self.turns += 1
        return self.loaded.synthesiser.turn(self.now)

    def run(self, until: Callable[[], bool] | None = None, most_turns: int = 3000) -> None:
        """Until all is spoken, or until then."""
        synthesiser = self.loaded.synthesiser
        for _ in range(most_turns):
            if synthesiser.idle if until is None else until():
                return
            if not self.turn():
                wake = synthesiser.next_wake(self.now)
                assert wake is not None, "nothing is under way, nothing is due, and it is not over"
                assert wake > self.now
                self.now = wake
        raise AssertionError(f"not over after {most_turns} turns")

    def heard(self, id: int) -> list[Audio]:
        return [report for report in self.reports if isinstance(report, Audio) and report.id == id]

    def pcm(self, id: int) -> Pcm:
        """All of it; it ended once."""
        heard = self.heard(id)
        assert [audio.final for audio in heard] == [False] * (len(heard) - 1) + [True]
        return pcm_array(b"".join(audio.pcm for audio in heard))

    @property
    def failed(self) -> dict[int, str]:
        return {report.id: report.reason for report in self.reports if isinstance(report, Failed)}

    def failures(self, kind: str) -> float:
        return self.loaded.measures.failures[kind].value

    def assert_nothing_is_held(self) -> None:
        synthesiser, scheduler = self.loaded.synthesiser, self.loaded.scheduler
        assert synthesiser.idle
        assert (synthesiser.streams, len(scheduler)) == (0, 0)
        assert (scheduler.slots_used, scheduler.pages_used, scheduler.chunks_due) == (0, 0, 0)
        assert sorted(synthesiser._roster.free_slots) == list(range(self.streams))
        assert not (synthesiser._roster._voices or synthesiser._speaking)
        assert all(not voice.users for voice in synthesiser._roster.bank._voices.values())


class Serve(Protocol):
    """A fixture."""

    def __call__(
        self, model: Chatterbox | None = None, /, *, streams: int = 16, cfg_scale: float = 0.0, **changes: Any
    ) -> Served: ...


def changed(model: Chatterbox, part: str, change: Callable[[torch.nn.Module], None]) -> Chatterbox:
    """A copy of the model with a part changed."""
    module = copy.deepcopy(getattr(model, part))
    with torch.no_grad():
        change(module)
    return replace(model, **{part: module})


def calm(vocoder: torch.nn.Module) -> None:
    """Let F0 stay near 120 Hz."""
    assert isinstance(vocoder, Vocoder)
    vocoder.f0_predictor.classifier.weight.mul_(0.01)
    vocoder.f0_predictor.classifier.bias.fill_(120.0)
