"""A telephone line in numbers: our speech, a caller's, the echo between them, noise, and G.711.

The speech is the embedded voice's. Callers are the same voice at another pace, resampled to a lower and to a higher
pitch. The echo has a delay, a level, and the response of a handset or of a room.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from mediaserver.rtp.voice_activity import FRAME_SAMPLES, SAMPLE_RATE, level_of
from tts_engine.embedded.model import load_models, speak

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

Samples = NDArray[np.float64]

PROMPTS = (
    "Thank you for calling Harbour Bank. For opening hours, press one. For your balance, press two, or just tell me.",
    "Your appointment with Doctor Patel is on Tuesday at half past three. Please bring your insurance card with you.",
    "The balance of your savings account is four thousand two hundred and fifty dollars and eighteen cents.",
    "Please hold the line while I connect you to Michael in customer service. It may take a minute or two.",
    "Flight two three seven to Chicago now leaves from gate forty two at six fifteen in the evening.",
)
PHRASES = (
    "No, wait a moment.",
    "Yes please.",
    "I want to speak to an agent.",
    "Stop.",
    "That is not right, my name is Miller.",
    "Sorry, what was that?",
    "Half past three is fine.",
    "Can you repeat the number?",
    "Operator.",
    "Help me with my bill.",
)
# Name, pace, and how much longer the samples are made to last: deeper above 1, higher below.
CALLERS = (("plain", 1.1, 1.0), ("deep", 1.35, 1.4), ("high", 0.9, 0.87))
PROMPT_DBOV = -20.0


@dataclass(frozen=True)
class Scene:
    """What one line is like."""

    name: str
    echo_db: float | None = None
    "How far the echo lies below what was sent; None for none."
    delay_ms: float = 150
    room: str = "handset"
    caller_dbov: float = -26.0
    noise_dbov: float | None = -65.0
    noise: str = "white"
    new_delay_ms: float | None = None
    "The delay from the middle of the prompt on: the call was re-routed."


@dataclass(frozen=True)
class Clips:
    """8 kHz, in the scale of 16-bit samples."""

    prompts: Sequence[Samples]
    phrases: Sequence[Samples]


def make_clips(prompts: Sequence[str] = PROMPTS, phrases: Sequence[str] = PHRASES) -> Clips:
    """Speak everything, at PROMPT_DBOV and at 0 dBov."""
    model = load_models({"heart"})["heart"]

    def say(text: str, pace: float, seed: int) -> Samples:
        pcm = b"".join(piece.pcm for piece in speak(model, text, pace, SAMPLE_RATE, seed))
        return np.frombuffer(pcm, "<i2").astype(np.float64)

    spoken = [at_level(say(text, 1.0, 0), PROMPT_DBOV) for text in prompts]
    said = []
    for n, text in enumerate(phrases):
        _, pace, longer = CALLERS[n % len(CALLERS)]
        said.append(at_level(soxr.resample(say(text, pace, n + 1), SAMPLE_RATE, SAMPLE_RATE * longer), 0))
    return Clips(spoken, said)


def at_level(samples: Samples, dbov: float) -> Samples:
    """Scaled, so that its active part (frames within 20 dB of the loudest) has this level."""
    levels = frame_levels(samples)
    active = levels[levels > levels.max() / 10]
    return np.asarray(samples * (level_of(dbov) / np.sqrt(np.mean(active**2))))


def frame_levels(samples: Samples) -> Samples:
    """Root mean square of each whole frame."""
    frames = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    return np.asarray(np.sqrt(np.mean(frames**2, axis=1)))


def echo_response(room: str, seed: int) -> Samples:
    """The way from the caller's earpiece to the microphone, of energy 1: direct sound and a decaying tail.

    Amplitude falls by 8.7 dB in `decay_ms`; the tail holds `tail` of the energy.
    """
    decay_ms, length_ms, tail = {"handset": (1.5, 10, 0.5), "room": (25, 150, 0.3)}[room]
    times = np.arange(length_ms * SAMPLE_RATE // 1000) / SAMPLE_RATE * 1000
    response = np.random.default_rng(seed).standard_normal(len(times)) * np.exp(-times / decay_ms)
    response *= np.sqrt(tail / np.sum(response**2))
    response[0] += np.sqrt(1 - tail)
    return np.asarray(response)


def delayed(samples: Samples, delay_ms: float) -> Samples:
    """By whole samples and, linearly between two, by parts of one."""
    exact = delay_ms * SAMPLE_RATE / 1000
    whole = int(exact)
    part = exact - whole
    later = np.concatenate((np.zeros(whole), samples))[: len(samples)]
    return np.asarray(later * (1 - part) + np.concatenate((np.zeros(1), later))[: len(samples)] * part)


def noise_like(kind: str, count: int, clips: Clips, rng: np.random.Generator) -> Samples:
    """Of level 0 dBov."""
    if kind == "babble":
        mixed = np.zeros(count)
        for _ in range(8):
            voices = np.concatenate([clips.phrases[i] for i in rng.permutation(len(clips.phrases))])
            mixed += np.resize(np.roll(voices, rng.integers(len(voices))), count)
    elif kind == "music":
        mixed = music(count, rng)
    else:
        mixed = rng.standard_normal(count)
    return np.asarray(mixed / np.sqrt(np.mean(mixed**2)) * 32768)


def music(count: int, rng: np.random.Generator) -> Samples:
    """Chords of plucked strings, a new one each half second."""
    beat = SAMPLE_RATE // 2
    times = np.arange(beat) / SAMPLE_RATE
    beats = []
    for _ in range(count // beat + 1):
        notes = 220 * 2 ** (rng.choice([0, 3, 5, 7, 10, 12, 15], 3, replace=False) / 12)
        strings = [
            np.sin(2 * np.pi * n * note * times) * np.exp(-n * times * 3) / n for note in notes for n in range(1, 7)
        ]
        beats.append(np.sum(strings, axis=0))
    return np.asarray(np.concatenate(beats)[:count])


def g711(samples: NDArray[Any]) -> bytes:
    """16-bit PCM that went through mu-law."""
    pcm = np.clip(np.round(samples), -32768, 32767).astype("<i2").tobytes()
    return audioop.ulaw2lin(audioop.lin2ulaw(pcm, 2), 2)


def line(scene: Scene, sent: Samples, caller: Samples, clips: Clips, seed: int) -> bytes:
    """What is heard while `sent` is being sent; `caller` of the same length."""
    rng = np.random.default_rng(seed)
    heard = caller.copy()
    if scene.echo_db is not None:
        played = np.frombuffer(g711(sent), "<i2").astype(np.float64)
        echo = np.convolve(played, echo_response(scene.room, seed))[: len(sent)] * 10 ** (-scene.echo_db / 20)
        first = delayed(echo, scene.delay_ms)
        if scene.new_delay_ms is not None:
            half = len(first) // 2
            first[half:] = delayed(echo, scene.new_delay_ms)[half:]
        heard += first
    if scene.noise_dbov is not None:
        heard += noise_like(scene.noise, len(heard), clips, rng) * 10 ** (scene.noise_dbov / 20)
    return g711(heard)


def to_pcm(samples: Samples) -> bytes:
    return np.clip(np.round(samples), -32768, 32767).astype("<i2").tobytes()
