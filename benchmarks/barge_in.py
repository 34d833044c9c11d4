"""How well callers can interrupt: detection rate and delay, false interruptions, and what a frame costs.

    .venv/bin/python -m benchmarks.barge_in
    .venv/bin/python -m benchmarks.barge_in --trials 12 --minutes 0.5 --json

The server speaks; its echo comes back, with a caller and with noise (telephone_line.py). The delay of a detection is
counted from the caller's first frame within 15 dB of the level of that caller's speech, to the decision; the jitter
buffer is not in it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json
from benchmarks.telephone_line import Clips, Scene, frame_levels, g711, line, make_clips, to_pcm
from mediaserver.rtp.barge_in import BargeIn, BargeInSettings, Interruption
from mediaserver.rtp.echo_guard import EchoGuard, heard_samples
from mediaserver.rtp.voice_activity import FRAME_MS, FRAME_SAMPLES, SAMPLE_RATE, is_speech, level_of

PATIENCE_MS = 1500
"After the caller began to speak; a later interruption is a miss."


SCENES = (
    Scene("no echo, quiet line"),
    Scene("no echo, weak caller", caller_dbov=-36),
    Scene("no echo, white noise", noise_dbov=-45),
    Scene("no echo, eight talkers", noise_dbov=-46, noise="babble"),
    Scene("no echo, music", noise_dbov=-36, noise="music"),
    Scene("echo -40 dB, 30 ms", echo_db=40, delay_ms=30),
    Scene("echo -20 dB, 150 ms", echo_db=20),
    Scene("echo -12 dB, 300 ms", echo_db=12, delay_ms=300.4),
    Scene("echo -6 dB, 600 ms", echo_db=6, delay_ms=600),
    Scene("echo -6 dB, loud caller", echo_db=6, delay_ms=90, caller_dbov=-18),
    Scene("echo -6 dB, weak caller", echo_db=6, delay_ms=90, caller_dbov=-32),
    Scene("echo -20 dB, loud caller", echo_db=20, caller_dbov=-16),
    Scene("echo -12 dB, small room", echo_db=12, room="room"),
    Scene("echo -6 dB, small room", echo_db=6, room="room"),
    Scene("echo -12 dB, noise", echo_db=12, noise_dbov=-45),
    Scene("echo -12 dB, re-routed", echo_db=12, delay_ms=110, new_delay_ms=187.3),
    Scene("echo -6 dB, re-routed", echo_db=6, delay_ms=310, new_delay_ms=170),
)


class Call:
    """A leg without a network: plays, listens, notes interruptions."""

    def __init__(self, settings: BargeInSettings) -> None:
        self.playing = True
        self.interruptions: list[Interruption] = []
        self.barge_in = BargeIn(
            settings,
            self.interruptions.append,
            playing=lambda: self.playing,
            halt=lambda: setattr(self, "playing", False),
        )
        self.heard_seconds = 0.0

    def run(self, sent: bytes, heard: bytes, *, goes_on: bool) -> list[Interruption]:
        """Tick by tick to the end, or to the first interruption; with `goes_on` the prompt is taken up again."""
        size = 2 * FRAME_SAMPLES
        for tick in range(len(heard) // size):
            frame = slice(tick * size, (tick + 1) * size)
            started = time.perf_counter()
            self.barge_in.heard(heard[frame], tick * FRAME_MS)
            self.heard_seconds += time.perf_counter() - started
            if not self.playing:
                if not goes_on:
                    break
                self.playing = True
            self.barge_in.sent(sent[frame], tick * FRAME_MS)
        return self.interruptions


def interrupt_once(scene: Scene, clips: Clips, trial: int, settings: BargeInSettings) -> tuple[str, int]:
    """One caller speaks into one prompt: ("heard", delay in ms), ("missed", 0) or ("false", how long before)."""
    rng = np.random.default_rng(trial)
    prompt = clips.prompts[trial % len(clips.prompts)]
    prompt = np.resize(np.roll(prompt, -int(rng.integers(len(prompt)))), 5 * SAMPLE_RATE)
    phrase = clips.phrases[trial % len(clips.phrases)] * 10 ** (scene.caller_dbov / 20)
    start = int(rng.integers(int(1.2 * SAMPLE_RATE), 3 * SAMPLE_RATE))
    caller = np.zeros(len(prompt))
    caller[start : start + len(phrase)] = phrase[: len(prompt) - start]
    levels = frame_levels(caller)
    onset_ms = int(np.argmax(levels > level_of(scene.caller_dbov - 15))) * FRAME_MS
    call = Call(settings)
    found = call.run(to_pcm(prompt), line(scene, prompt, caller, clips, trial), goes_on=False)
    if not found or found[0].at_ms > onset_ms + PATIENCE_MS:
        return "missed", 0
    # Decided when the frame is complete: at_ms is the time of its hearing.
    delay = found[0].at_ms + FRAME_MS - onset_ms
    return ("heard", delay) if delay > 0 else ("false", -delay)


def nobody_speaks(scene: Scene, clips: Clips, minutes: float, settings: BargeInSettings) -> dict[str, float]:
    """Prompts, echo and noise, and no caller; with the cost of listening."""
    speech = np.concatenate(clips.prompts)
    sent = np.resize(speech, int(minutes * 60 * SAMPLE_RATE))
    call = Call(settings)
    heard = line(scene, sent, np.zeros(len(sent)), clips, 1)
    found = call.run(to_pcm(sent), heard, goes_on=True)
    frames = len(heard) // (2 * FRAME_SAMPLES)
    return {
        "false_per_minute": len(found) / minutes,
        "us_per_frame": call.heard_seconds / frames * 1e6,
        "checks_per_second": call.barge_in.checks / (minutes * 60),
    }


def measure(scene: Scene, clips: Clips, trials: int, minutes: float, settings: BargeInSettings) -> dict[str, Any]:
    results = [interrupt_once(scene, clips, trial, settings) for trial in range(trials)]
    delays = [delay for kind, delay in results if kind == "heard"]
    return {
        "scene": scene.name,
        "detected": len(delays) / trials,
        "too_early": sum(kind == "false" for kind, _ in results) / trials,
        "delay_ms_p50": float(np.percentile(delays, 50)) if delays else None,
        "delay_ms_p95": float(np.percentile(delays, 95)) if delays else None,
        **nobody_speaks(scene, clips, minutes, settings),
    }


def cost(clips: Clips) -> dict[str, float]:
    """Microseconds of what every frame goes through on a quiet line, of a known echo's frame, and of a close look."""
    sent = clips.prompts[0][: 2 * SAMPLE_RATE]
    heard = line(Scene("", echo_db=12), sent, np.zeros(len(sent)), clips, 1)
    barge_in = Call(BargeInSettings(policy="speech")).barge_in
    guard = EchoGuard()
    size = 2 * FRAME_SAMPLES
    raw = to_pcm(sent)
    for at_ms in range(0, 1000, FRAME_MS):
        guard.sent.write(raw[at_ms * 16 :][:size], at_ms)
    window = heard_samples(b"", heard[700 * 16 : 1000 * 16])
    quiet, frame = g711(np.full(FRAME_SAMPLES, 8.0)), raw[:size]
    last = heard[980 * 16 :][:size]
    return {
        "heard, quiet": per_call(lambda at_ms: barge_in.heard(quiet, at_ms), 2000),
        "sent, speech": per_call(lambda at_ms: barge_in.sent(frame, at_ms), 2000),
        "sent, silence": per_call(lambda at_ms: barge_in.sent(None, at_ms), 2000),
        "close look: echo path of 300 ms": per_call(lambda _: guard.subtract(window, 700), 20),
        "close look: is it speech": per_call(lambda _: is_speech(window, 1.0), 20),
        "a frame of known echo": per_call(lambda _: guard.explains(last, last, 980, 100.0), 200),
    }


def per_call(work: Callable[[int], object], count: int) -> float:
    """The best of 30 rounds, less the loop: others use this machine too."""

    def best(of: Callable[[int], object]) -> float:
        times = []
        for first in range(0, 30 * count, count):
            started = time.perf_counter()
            for tick in range(first, first + count):
                of(tick * FRAME_MS)
            times.append(time.perf_counter() - started)
        return min(times) / count * 1e6

    return best(work) - best(lambda _: None)


def arguments() -> argparse.Namespace:
    defaults = BargeInSettings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60, help="interruptions a scene (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=2.0, help="of nobody speaking, a scene (default %(default)s)")
    parser.add_argument("--min-speech-ms", type=int, default=defaults.min_speech_ms)
    parser.add_argument("--aggressiveness", type=int, default=defaults.aggressiveness)
    parser.add_argument("--energy-floor-dbov", type=float, default=defaults.energy_floor_dbov)
    parser.add_argument("--no-echo-guard", action="store_true", help="what it would be without")
    parser.add_argument("--json", action="store_true", help=f"write a file to {RESULTS}")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    settings = BargeInSettings(
        policy="speech",
        min_speech_ms=options.min_speech_ms,
        aggressiveness=options.aggressiveness,
        energy_floor_dbov=options.energy_floor_dbov,
        echo_guard=not options.no_echo_guard,
    )
    clips = make_clips()
    costs = cost(clips)
    print(table([(name, value) for name, value in costs.items()], ("cost", "us")), end="\n\n")
    rows = [measure(scene, clips, options.trials, options.minutes, settings) for scene in SCENES]
    print(table([list(row.values()) for row in rows], list(rows[0])))
    if options.json:
        now = datetime.now(UTC)
        path = RESULTS / f"barge_in-{now:%Y%m%dT%H%M%SZ}.json"
        about = {"benchmark": "barge_in", "when": now.isoformat(), **commit(), "machine": machine()}
        told = {"versions": versions(), "settings": asdict(settings), "trials": options.trials}
        write_json(path, {**about, **told, "minutes": options.minutes, "cost_us": costs, "scenes": rows})
        print(f"\n{path}")


if __name__ == "__main__":
    main()
