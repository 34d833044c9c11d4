from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.playout_depth import FRAME, PlayoutDepth


def seen(*windows: list[int], maximum: int = 1600) -> PlayoutDepth:
    """A depth that has seen windows of leads."""
    depth = PlayoutDepth(maximum)
    for leads in windows:
        for lead in leads:
            depth.note(lead)
        depth.end_window()
    return depth


def test_a_depth_that_is_right_is_left_alone() -> None:
    assert seen(*[[160, 320, 480]] * 6).adjust == 0
    assert seen(*[[319] * 100] * 6).adjust == 0


def test_it_grows_after_one_window_whose_least_lead_is_below_a_frame() -> None:
    assert seen([320, 0, 320]).adjust == 1


def test_it_shrinks_only_when_all_windows_have_leads_to_spare() -> None:
    assert [seen(*[[320] * 100] * windows).adjust for windows in (1, 2, 3, 4, 5)] == [0, 0, 0, 0, -1]
    assert seen([320], [320], [200], [320], [320]).adjust == 0


def test_a_great_excess_is_worked_off_sooner_by_half_of_it() -> None:
    assert seen([1600], [1600]).adjust == -5


def test_it_does_not_grow_beyond_the_bound() -> None:
    depth = seen([1600] * 200 + [0])
    assert depth.adjust == 0
    assert not depth.may_grow


def test_no_packets_say_nothing() -> None:
    assert seen([], [], [], [], [], []).adjust == 0
    assert seen([320], [], [], [], [320]).adjust == -1


def test_an_adjustment_waits_for_quiet() -> None:
    depth = seen([0])
    assert depth.take_adjustment(quiet=False) == 0
    assert depth.take_adjustment(quiet=True) == 1
    assert depth.adjust == 0


def test_after_long_without_quiet_it_is_made_anyway() -> None:
    depth = seen([0])
    windows = 0
    while not depth.take_adjustment(quiet=False):
        depth.note(0)
        depth.end_window()
        windows += 1
    assert windows == 5


def test_leads_remembered_move_with_the_playout_point() -> None:
    depth = seen([0])
    depth.moved(FRAME)
    depth.note(160)
    depth.end_window()
    assert depth.adjust == 0


def test_a_talkspurt_starts_at_40_ms_and_later_at_the_spread_and_a_frame() -> None:
    assert PlayoutDepth(1600).start_talkspurt() == 320
    steady = seen([320] * 100)
    assert steady.start_talkspurt() == 160
    jittery = seen([600, 200] * 200)
    assert jittery.start_talkspurt() == 160 + 320
    assert jittery.mean == pytest.approx(480, abs=1)


@given(leads=st.lists(st.integers(0, 2400), max_size=200), maximum=st.integers(320, 1600))
def test_a_talkspurt_starts_within_the_bound(leads: list[int], maximum: int) -> None:
    depth = seen(leads, maximum=maximum)
    assert 0 < depth.start_talkspurt() <= maximum
    assert depth.mean >= 0
