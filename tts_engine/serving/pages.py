"""Who has which page of the KV cache."""

from __future__ import annotations

from collections.abc import Iterable


class PageAllocator:
    """Hands out pages 0 to `pages` - 1, never one to two."""

    def __init__(self, pages: int) -> None:
        if pages < 1:
            raise ValueError(f"there must be at least one page, not {pages}")
        self._free = list(range(pages - 1, -1, -1))
        self._taken = bytearray(pages)

    @property
    def free(self) -> int:
        """Pages that can be had."""
        return len(self._free)

    @property
    def used(self) -> int:
        """Pages that were taken and not given back."""
        return len(self._taken) - len(self._free)

    def take(self, count: int) -> list[int] | None:
        """So many pages, or None, and none taken, if there are fewer."""
        if count > len(self._free):
            return None
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._taken[page] = 1
        return pages

    def give(self, pages: Iterable[int]) -> None:
        """Back. Raises ValueError for a page that nobody has: two would write there."""
        for page in pages:
            if not (0 <= page < len(self._taken) and self._taken[page]):
                raise ValueError(f"page {page} was not taken")
            self._taken[page] = 0
            self._free.append(page)
