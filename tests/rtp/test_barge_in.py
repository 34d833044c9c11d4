"""Interruption by speech and by digits, with real speech, echo and noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.barge_in import SCENES, Call, interrupt_once, nobody_speaks
from benchmarks.telephone_line import Clips, Scene, frame_levels, line, make_clips, to_pcm
from mediaserver.rtp.barge_in import (
    CALM_MS,
    CHECK_INTERVAL_MS,
    LONGEST_INTERVAL_MS,
    TALKSPURT_GAP_MS,
    BargeIn,
    BargeInSettings,
    Interruption,
    Policy,
)
from mediaserver.rtp.look_budget import LOOK_MS, LookBudget
from mediaserver.rtp.voice_activity import FRAME_MS, FRAME_SAMPLES, SAMPLE_RATE, Samples, level_of

SPEECH = BargeInSettings(policy="speech")
QUIET = bytes(2 * FRAME_SAMPLES)


@pytest.fixture(scope="session")
def clips() -> Clips:
    """Made by the embedded voice."""
    return make_clips()


def scene(name: str) -> Scene:
    return next(scene for scene in SCENES if scene.name == name)


def frames(samples: Samples) -> list[bytes]:
    raw = to_pcm(samples)
    size = 2 * FRAME_SAMPLES
    return [raw[at : at + size] for at in range(0, len(raw) - size + 1, size)]


class Leg:
    """A leg whose caller says what the test wants."""

    def __init__(self, settings: BargeInSettings = SPEECH, budget: LookBudget | None = None) -> None:
        self.looked_at: list[int] = []
        self.playing = True
        self.at_ms = 1000
        self.calls: list[str] = []
        self.interruptions: list[Interruption] = []
        self.barge_in = BargeIn(settings, self.interrupted, playing=lambda: self.playing, halt=self.halt, budget=budget)

    def halt(self) -> None:
        self.playing = False
        self.calls.append("halt")

    def interrupted(self, interruption: Interruption) -> None:
        self.calls.append(interruption.cause)
        self.interruptions.append(interruption)

    def hear(self, *said: bytes) -> None:
        for frame in said:
            looks = self.barge_in.checks
            self.barge_in.heard(frame, self.at_ms)
            if self.barge_in.checks > looks:
                self.looked_at.append(self.at_ms)
            self.barge_in.sent(None, self.at_ms)
            self.at_ms += FRAME_MS

    def quiet(self, ms: int) -> None:
        self.hear(*[QUIET] * (ms // FRAME_MS))


@pytest.fixture
def words(clips: Clips) -> list[bytes]:
    """A caller who speaks from the first frame on."""
    phrase = clips.phrases[4] * 10 ** (-26 / 20)
    onset = int(np.argmax(frame_levels(phrase) > level_of(-41)))
    return frames(phrase)[onset:]


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_speech_ms": 40},
        {"min_speech_ms": 260},
        {"hold_off_ms": -1},
        {"energy_floor_dbov": 1.0},
        {"energy_floor_dbov": -91.0},
        {"aggressiveness": 4},
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(SPEECH, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("policy", "wanted"), [("none", False), ("speech", True), ("digit", False), ("either", True)])
def test_who_wants_audio(policy: Policy, wanted: bool) -> None:
    leg = Leg(BargeInSettings(policy=policy))

    assert leg.barge_in.wants_audio is wanted


@pytest.mark.parametrize(("policy", "interrupts"), [("none", 0), ("speech", 0), ("digit", 1), ("either", 1)])
def test_a_digit(policy: Policy, interrupts: int) -> None:
    leg = Leg(BargeInSettings(policy=policy))
    leg.barge_in.digit(1040)

    assert leg.interruptions == [Interruption("digit", 1040, 1040)] * interrupts
    leg.barge_in.digit(1060)  # halted: nothing is played any more
    assert len(leg.interruptions) == interrupts


@pytest.mark.parametrize(("policy", "interrupts"), [("none", 0), ("speech", 1), ("digit", 0), ("either", 1)])
def test_speech(policy: Policy, interrupts: int, words: list[bytes]) -> None:
    leg = Leg(BargeInSettings(policy=policy))
    leg.quiet(1000)
    began = leg.at_ms
    leg.hear(*words)

    assert leg.calls == ["halt", "speech"] * interrupts
    if interrupts:
        found = leg.interruptions[0]
        assert abs(found.onset_ms - began) <= 40
        assert 100 <= found.at_ms - began <= 200


def test_the_policy_may_change(words: list[bytes]) -> None:
    leg = Leg(BargeInSettings(policy="none"))
    leg.quiet(1000)
    leg.hear(*words)
    assert not leg.interruptions

    leg.barge_in.policy = "either"
    leg.quiet(500)
    leg.hear(*words)
    assert [found.cause for found in leg.interruptions] == ["speech"]


def test_nothing_is_decided_while_nothing_plays(words: list[bytes]) -> None:
    leg = Leg()
    leg.playing = False
    leg.hear(*words)
    leg.barge_in.digit(leg.at_ms)

    assert leg.calls == []


def test_hold_off(words: list[bytes]) -> None:
    """The hello that answers, 400 ms of it, is not for interrupting; the same a little later is."""
    leg = Leg()
    leg.hear(*words[:20])
    leg.quiet(400)
    assert leg.calls == []

    leg.hear(*words[:20])
    assert leg.calls == ["halt", "speech"]


def test_who_does_not_stop_talking_interrupts_after_the_hold_off(words: list[bytes]) -> None:
    leg = Leg()
    began = leg.at_ms
    leg.hear(*words)

    assert SPEECH.hold_off_ms <= leg.interruptions[0].onset_ms - began
    assert leg.interruptions[0].at_ms - began <= SPEECH.hold_off_ms + 240


@pytest.mark.parametrize(("pause_ms", "held_off"), [(TALKSPURT_GAP_MS - 100, False), (TALKSPURT_GAP_MS + 40, True)])
def test_a_talkspurt_spans_short_pauses(pause_ms: int, held_off: bool, words: list[bytes]) -> None:
    leg = Leg()
    leg.quiet(1000)
    leg.playing = False
    leg.quiet(pause_ms)
    leg.playing = True
    leg.hear(*words[:20])

    assert (leg.calls == []) is held_off


def test_the_reply_after_an_interruption_has_its_own_hold_off(words: list[bytes]) -> None:
    leg = Leg()
    leg.quiet(1000)
    leg.hear(*words[:14])
    assert len(leg.interruptions) == 1

    leg.playing = True
    leg.hear(*words[14:34])
    assert len(leg.interruptions) == 1
    leg.quiet(400)
    leg.hear(*words[:20])
    assert len(leg.interruptions) == 2


def click(_: int) -> Samples:
    burst = np.zeros(FRAME_SAMPLES)
    burst[40:60] = 12000
    return burst


def white(seed: int) -> Samples:
    return np.random.default_rng(seed).standard_normal(SAMPLE_RATE) * level_of(-30)


def hum(seed: int) -> Samples:
    times = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    return np.asarray(sum(np.sin(2 * np.pi * 50 * n * times + seed) / n for n in range(1, 8)) * level_of(-42))


def digits(seed: int) -> Samples:
    times = np.arange(int(0.1 * SAMPLE_RATE)) / SAMPLE_RATE
    low, high = 697 + 10 * seed, 1336 + 20 * seed
    both = (np.sin(2 * np.pi * low * times) + np.sin(2 * np.pi * high * times)) * level_of(-18)
    return np.tile(np.concatenate((both, np.zeros(800))), 4)


@pytest.mark.parametrize("sound", [click, white, digits], ids=lambda sound: sound.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_no_speech(sound: Callable[[int], Samples], seed: int) -> None:
    leg = Leg()
    leg.quiet(1000)
    for _ in range(3):
        leg.hear(*frames(sound(seed)))
        leg.quiet(300)

    assert leg.calls == []


def test_a_hum_that_was_there_before(words: list[bytes]) -> None:
    leg = Leg()
    leg.playing = False
    leg.hear(*frames(np.tile(hum(1), 3)))
    leg.playing = True
    leg.hear(*frames(hum(1)))

    assert leg.calls == []
    leg.hear(*words)
    assert leg.calls == ["halt", "speech"]


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("no echo, quiet line", 10),
        ("no echo, white noise", 9),
        ("echo -20 dB, 150 ms", 10),
        ("echo -6 dB, 600 ms", 9),
        ("echo -6 dB, weak caller", 9),
        ("echo -20 dB, loud caller", 10),
        ("echo -12 dB, small room", 9),
        ("echo -12 dB, re-routed", 9),
    ],
)
def test_callers_interrupt(name: str, least: int, clips: Clips) -> None:
    results = [interrupt_once(scene(name), clips, trial, SPEECH) for trial in range(10)]
    delays = sorted(delay for kind, delay in results if kind == "heard")

    assert [kind for kind, _ in results if kind == "false"] == []
    assert len(delays) >= least
    # Of the caller's sound, consonants included; of the voiced part it is less.
    assert delays[len(delays) // 2] <= 160


@pytest.mark.parametrize(
    "name", ["no echo, white noise", "echo -20 dB, 150 ms", "echo -6 dB, 600 ms", "echo -12 dB, small room"]
)
def test_the_echo_does_not_interrupt(name: str, clips: Clips) -> None:
    assert nobody_speaks(scene(name), clips, 0.3, SPEECH)["false_per_minute"] == 0


def test_without_the_guard_the_echo_does(clips: Clips) -> None:
    unguarded = replace(SPEECH, echo_guard=False)

    assert nobody_speaks(scene("echo -12 dB, 300 ms"), clips, 0.3, unguarded)["false_per_minute"] > 10


def test_close_looks_are_rare(clips: Clips) -> None:
    """A known echo costs none: one path, found once or a few times."""
    sent = np.concatenate(clips.prompts)[: 12 * SAMPLE_RATE]
    call = Call(SPEECH)
    call.run(to_pcm(sent), line(scene("echo -12 dB, 300 ms"), sent, np.zeros(len(sent)), clips, 3), goes_on=True)

    assert 1 <= call.barge_in.checks <= 6
    assert call.barge_in.echoes == call.barge_in.checks


def two_tones(dbov: float, seconds: float, low: float = 770.0) -> list[bytes]:
    """The detector of frames takes it for speech; the close look does not. One level all through."""
    times = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return frames((np.sin(2 * np.pi * low * times) + np.sin(2 * np.pi * 1336 * times)) * level_of(dbov))


@pytest.fixture
def toned() -> Leg:
    """A leg whose last looks, all at -30 dBov, found no caller."""
    leg = Leg()
    leg.quiet(1000)
    leg.hear(*two_tones(-30, 2))
    assert len(leg.looked_at) >= 6
    return leg


def test_who_is_no_caller_is_looked_at_less_often(toned: Leg) -> None:
    between = np.diff(toned.looked_at)

    assert list(between[:2]) == [CHECK_INTERVAL_MS, 2 * CHECK_INTERVAL_MS]
    assert set(between[2:]) == {LONGEST_INTERVAL_MS}
    assert toned.barge_in.echoes == len(toned.looked_at)
    assert toned.calls == []


def test_a_louder_sound_is_looked_at_at_once(toned: Leg) -> None:
    """Six decibels over what was no caller may be one."""
    toned.hear(*two_tones(-30, 0.04))
    before = len(toned.looked_at)
    rose = toned.at_ms
    toned.hear(*two_tones(-22, 0.5))
    after = toned.looked_at[before:]

    assert after[0] - rose <= CHECK_INTERVAL_MS
    assert list(np.diff(after)[:2]) == [CHECK_INTERVAL_MS, 2 * CHECK_INTERVAL_MS]


def test_a_softer_sound_is_not(toned: Leg) -> None:
    before = len(toned.looked_at)
    toned.hear(*two_tones(-33, 1))

    assert len(toned.looked_at) - before <= 1000 // LONGEST_INTERVAL_MS + 1


@pytest.mark.parametrize(("pause_ms", "interval"), [(CALM_MS, CHECK_INTERVAL_MS), (CALM_MS // 2, LONGEST_INTERVAL_MS)])
def test_after_a_second_without_a_candidate_looks_begin_anew(pause_ms: int, interval: int, toned: Leg) -> None:
    toned.quiet(pause_ms)
    before = len(toned.looked_at)
    toned.hear(*two_tones(-30, 0.8))

    assert np.diff(toned.looked_at[before:])[0] == interval


def test_a_caller_who_speaks_over_it_interrupts(toned: Leg, words: list[bytes]) -> None:
    began = toned.at_ms
    toned.hear(*words)

    assert toned.calls == ["halt", "speech"]
    assert toned.interruptions[0].at_ms - began <= 200 + LONGEST_INTERVAL_MS


def run_together(legs: list[Leg], said: list[list[bytes]]) -> None:
    """All in the same ticks."""
    for tick in range(max(map(len, said))):
        for leg, heard in zip(legs, said, strict=True):
            leg.hear(heard[tick] if tick < len(heard) else QUIET)


def test_the_legs_of_a_thread_share_one_budget() -> None:
    """Twenty callers with tones at once: one look a tick, and the share of the time."""
    budget = LookBudget()
    legs = [Leg(budget=budget) for _ in range(20)]
    tones = [[QUIET] * 50 + two_tones(-30, 3, 700 + 4 * place) for place in range(20)]
    run_together(legs, tones)
    looked_at = sorted(at_ms for leg in legs for at_ms in leg.looked_at)

    assert len(set(looked_at)) == len(looked_at)
    assert len(looked_at) * LOOK_MS <= 2 * LOOK_MS + 3000 * 0.08
    assert min(len(leg.looked_at) for leg in legs) >= 3
    alone = Leg()
    alone.hear(*tones[0])
    assert len(alone.looked_at) > len(legs[0].looked_at)


def test_a_caller_interrupts_among_many_who_are_none(words: list[bytes]) -> None:
    budget = LookBudget()
    legs = [Leg(budget=budget) for _ in range(20)]
    said = [[QUIET] * 50 + two_tones(-30, 2.5, 700 + 4 * place) for place in range(19)]
    run_together(legs, [*said, [QUIET] * 100 + words])

    assert [leg.calls for leg in legs[:-1]] == [[]] * 19
    assert legs[-1].calls == ["halt", "speech"]
    assert legs[-1].interruptions[0].at_ms - 3000 <= 200 + 2 * CHECK_INTERVAL_MS


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([20, 20, 20, 40, 500]), st.booleans()), max_size=80),
    st.sampled_from([0, 1_000_000_007]),
)
def test_whatever_comes(steps: list[tuple[int, int, bool]], at_ms: int) -> None:
    """Stalls, talkspurts that come and go, loud and quiet: at most one interruption while playing, in order."""
    leg = Leg(replace(SPEECH, hold_off_ms=0))
    leg.at_ms = at_ms
    rng = np.random.default_rng(len(steps))
    sounds = [np.zeros(160), rng.standard_normal(160) * 3000, np.sin(np.arange(160) / 9) * 9000, np.full(160, 32767.0)]
    for sound, step, playing in steps:
        leg.playing = playing
        leg.hear(*frames(sounds[sound]))
        leg.barge_in.sent(frames(sounds[sound])[0], leg.at_ms - FRAME_MS)
        leg.at_ms += step - FRAME_MS
    assert len(leg.calls) == 2 * len(leg.interruptions)
    for found in leg.interruptions:
        assert at_ms <= found.onset_ms <= found.at_ms < leg.at_ms
