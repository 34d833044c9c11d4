"""The RTP timeout: what ends a leg, and all that must not."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.health import MAX_STEP_S, QUIET_S, HealthLimits, LegHealth, MediaFailure

START_S, STOP_S, SILENCE_S = 30.0, 10.0, 60.0
LIMITS = HealthLimits(START_S, STOP_S, SILENCE_S)
LOOK_S = 0.5


@dataclass
class Watched:
    """A leg that is looked at every half second."""

    limits: HealthLimits = LIMITS
    now: float = 1000.0
    owed: bool = True
    rtp: float | None = None
    rtcp: float | None = None
    comfort_noise: bool = False
    health: LegHealth = field(init=False)

    def __post_init__(self) -> None:
        self.health = LegHealth(self.limits)
        assert self.look() is None

    def look(self) -> MediaFailure | None:
        return self.health.check(self.now, self.rtp, self.rtcp, owed=self.owed, comfort_noise=self.comfort_noise)

    def suppresses(self) -> bool:
        return self.health.suppresses

    def run(self, seconds: float, *, rtp: bool = False, rtcp_every: float = 0.0) -> MediaFailure | None:
        """Time goes by, with what comes in it; the first failure ends it."""
        end = self.now + seconds
        while self.now < end:
            self.now += LOOK_S
            if rtp:
                self.rtp = self.now - 0.01
            if rtcp_every and self.now - (self.rtcp or 0.0) >= rtcp_every:
                self.rtcp = self.now - 0.01
            if (failure := self.look()) is not None:
                return failure
        return None


def test_a_leg_that_never_hears_anything() -> None:
    leg = Watched()
    assert leg.run(START_S - LOOK_S) is None
    assert leg.run(LOOK_S) is MediaFailure.NEVER_STARTED
    assert leg.look() is MediaFailure.NEVER_STARTED  # and it stays so


def test_a_leg_whose_peer_falls_silent() -> None:
    leg = Watched()
    assert leg.run(300, rtp=True) is None
    assert leg.run(STOP_S - LOOK_S) is None
    assert leg.run(LOOK_S) is MediaFailure.STOPPED


def test_the_watch_begins_with_the_first_look() -> None:
    """The ACK may come long after the leg was made."""
    health = LegHealth(LIMITS)
    assert health.check(1e6, None, None, owed=True) is None


def test_a_late_start_is_a_start() -> None:
    leg = Watched()
    assert leg.run(START_S - 1) is None
    assert leg.run(60, rtp=True) is None
    assert not leg.suppresses()


def test_rtcp_alone_keeps_a_leg_alive() -> None:
    """A muted phone; a peer that only reports."""
    leg = Watched()
    assert leg.run(300, rtcp_every=7.5) is None
    assert leg.run(STOP_S) is MediaFailure.STOPPED


def test_rtcp_keeps_a_leg_alive_whose_rtp_has_stopped() -> None:
    leg = Watched()
    leg.run(5, rtp=True)
    assert leg.run(300, rtcp_every=7.5) is None


@pytest.mark.parametrize("heard", [True, False])
def test_a_hold_may_last(heard: bool) -> None:
    leg = Watched()
    leg.run(5, rtp=heard)
    leg.owed = False
    assert leg.run(3600) is None


def test_a_leg_that_is_held_from_the_beginning() -> None:
    leg = Watched(owed=False)
    assert leg.run(3600) is None
    leg.owed = True
    assert leg.run(START_S - LOOK_S) is None
    assert leg.run(2 * LOOK_S) is MediaFailure.NEVER_STARTED


def test_the_end_of_a_hold_starts_the_clock_anew() -> None:
    leg = Watched()
    leg.run(5, rtp=True)
    leg.owed = False
    leg.run(600)
    leg.owed = True
    assert leg.run(STOP_S - LOOK_S) is None
    assert leg.run(2 * LOOK_S) is MediaFailure.STOPPED


def test_music_on_hold_and_a_slow_resume_are_no_silence_suppression() -> None:
    leg = Watched()
    leg.run(5, rtp=True)
    leg.owed = False
    leg.run(600)
    leg.run(5, rtp=True)
    leg.owed = True
    leg.run(QUIET_S + 2)
    leg.run(5, rtp=True)
    assert not leg.suppresses()


def test_after_comfort_noise_nothing_more_is_due() -> None:
    leg = Watched()
    leg.run(5, rtp=True)
    leg.comfort_noise = True
    assert leg.run(SILENCE_S - LOOK_S) is None
    assert leg.run(2 * LOOK_S) is MediaFailure.STOPPED


def test_a_peer_that_pauses_and_goes_on_suppresses_silence() -> None:
    """Without comfort noise: the only sign is that it came back."""
    leg = Watched()
    leg.run(5, rtp=True)
    leg.run(QUIET_S + 1)
    assert not leg.suppresses()
    leg.run(5, rtp=True)
    assert leg.suppresses()
    assert leg.run(SILENCE_S - LOOK_S) is None
    assert leg.run(2 * LOOK_S) is MediaFailure.STOPPED


def test_our_own_stall_ends_no_call() -> None:
    leg = Watched()
    leg.run(60, rtp=True)
    leg.now += 3600
    assert leg.look() is None
    assert leg.run(5, rtp=True) is None
    assert not leg.suppresses()
    assert leg.run(STOP_S + MAX_STEP_S) is MediaFailure.STOPPED  # but a dead peer is still found


def test_a_stall_counts_a_little() -> None:
    """So that looks which are all too rare still find a dead leg, later."""
    leg = Watched()
    looks = 0
    while leg.look() is None:
        leg.now += 20
        looks += 1
    assert looks == START_S / MAX_STEP_S


def test_a_clock_that_goes_back_is_harmless() -> None:
    leg = Watched()
    leg.now -= 500
    assert leg.look() is None
    assert leg.run(START_S + LOOK_S) is MediaFailure.NEVER_STARTED


def test_what_was_heard_is_not_unheard() -> None:
    """A session that starts its counters anew, as for another peer address."""
    leg = Watched()
    leg.run(5, rtp=True)
    leg.rtp = None
    assert leg.run(STOP_S + LOOK_S) is MediaFailure.STOPPED


@pytest.mark.parametrize("heard", [True, False])
def test_nought_is_never(heard: bool) -> None:
    leg = Watched(HealthLimits(0, 0, 0))
    leg.run(5, rtp=heard)
    assert leg.run(5000) is None


def test_a_silence_limit_of_nought_spares_who_suppresses_silence() -> None:
    leg = Watched(HealthLimits(START_S, STOP_S, 0))
    leg.run(5, rtp=True)
    leg.comfort_noise = True
    assert leg.run(3600) is None
    leg.comfort_noise = False
    assert leg.look() is MediaFailure.STOPPED


def test_a_silence_limit_below_that_of_stopping_takes_nothing_away() -> None:
    leg = Watched(HealthLimits(START_S, STOP_S, 1))
    leg.run(5, rtp=True)
    leg.comfort_noise = True
    assert leg.run(STOP_S - LOOK_S) is None


STEPS = st.lists(
    st.tuples(
        st.floats(0.0, 50.0),  # time to the next look
        st.booleans(),  # RTP came
        st.booleans(),  # RTCP came
        st.booleans(),  # owed
        st.booleans(),  # comfort noise
    ),
    max_size=40,
)


@given(STEPS)
def test_no_leg_is_given_up_before_its_time(steps: list[tuple[float, bool, bool, bool, bool]]) -> None:
    """Whatever happens: a failure means that nothing came for the shortest limit, in time that was looked at."""
    health = LegHealth(LIMITS)
    now, quiet, heard, was_owed = 0.0, 0.0, False, False
    rtp: float | None = None
    rtcp: float | None = None
    for step, rtp_came, rtcp_came, owed, noise in steps:
        now += step
        rtp, rtcp = (now if rtp_came else rtp), (now if rtcp_came else rtcp)
        quiet += min(step, MAX_STEP_S)
        if rtp_came or rtcp_came or (owed and not was_owed):
            quiet = 0.0
        heard, was_owed = heard or rtp_came or rtcp_came, owed
        failure = health.check(now, rtp, rtcp, owed=owed, comfort_noise=noise)
        if failure is not None:
            assert owed
            assert failure is (MediaFailure.STOPPED if heard else MediaFailure.NEVER_STARTED)
            assert quiet >= (STOP_S if heard else START_S) - 1e-9


@given(st.floats(0.05, MAX_STEP_S), st.booleans(), st.booleans())
def test_a_dead_peer_is_found_in_time(step: float, heard: bool, noise: bool) -> None:
    health = LegHealth(LIMITS)
    rtp = 1.0 if heard else None
    limit = (SILENCE_S if noise else STOP_S) if heard else START_S
    looks = 0
    while health.check(looks * step, rtp, None, owed=True, comfort_noise=noise) is None:
        looks += 1
    assert limit - 1e-6 <= looks * step <= limit + 2 * step
