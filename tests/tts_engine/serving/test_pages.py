from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.serving.pages import PageAllocator


def test_what_was_given_back_can_be_had_again() -> None:
    pages = PageAllocator(3)
    first = pages.take(2)
    assert first is not None
    assert (pages.used, pages.free) == (2, 1)
    pages.give(first)
    everything = pages.take(3)
    assert everything is not None
    assert sorted(everything) == [0, 1, 2]


def test_too_many_are_none_at_all() -> None:
    pages = PageAllocator(2)
    assert pages.take(3) is None
    assert pages.free == 2
    assert pages.take(0) == []


@pytest.mark.parametrize("page", [-1, 1, 2])
def test_a_page_that_nobody_has_is_refused(page: int) -> None:
    pages = PageAllocator(2)
    assert pages.take(1) == [0]
    with pytest.raises(ValueError, match=f"page {page} was not taken"):
        pages.give([page])


def test_a_page_is_given_back_once() -> None:
    pages = PageAllocator(2)
    taken = pages.take(2)
    assert taken is not None
    pages.give(taken[:1])
    with pytest.raises(ValueError, match="was not taken"):
        pages.give(taken[:1])
    assert pages.used == 1


def test_no_pages_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one page, not 0"):
        PageAllocator(0)


@given(st.integers(1, 30), st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=60))
def test_no_page_is_ever_two_s(count: int, actions: list[tuple[bool, int]]) -> None:
    pages = PageAllocator(count)
    taken: list[list[int]] = []
    for take, number in actions:
        if take:
            more = pages.take(number)
            assert (more is None) == (number > count - sum(map(len, taken)))
            if more is not None:
                assert len(more) == number
                taken.append(more)
        elif taken:
            pages.give(taken.pop(number % len(taken)))
        out = [page for each in taken for page in each]
        assert len(set(out)) == len(out) == pages.used
        assert set(out) <= set(range(count))
        assert pages.used + pages.free == count
