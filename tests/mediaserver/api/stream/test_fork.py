from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import cast

from mediaserver.api.stream.fork import AudioFork, Bell

PCM = bytes(320)


class FakeLoop:
    """Keeps what was to be called."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.closed = False

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.calls.append(callback)

    def run(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def make(loop: FakeLoop, tracks: int = 1) -> tuple[AudioFork, list[int]]:
    news: list[int] = []
    return AudioFork(Bell(cast(asyncio.AbstractEventLoop, loop)), tracks, lambda: news.append(1)), news


class TestAudioFork:
    def test_frames_come_in_order(self):
        loop = FakeLoop()
        fork, news = make(loop)
        fork.hear("inbound", PCM, 100)
        fork.hear("outbound", PCM, 105)
        assert news == []
        loop.run()
        assert news == [1]  # once for both
        assert [(frame.track, frame.at_ms) for frame in iter(fork.next, None)] == [("inbound", 100), ("outbound", 105)]
        assert fork.lost == 0

    def test_news_come_again_after_they_were_told(self):
        loop = FakeLoop()
        fork, news = make(loop)
        for _ in range(3):
            fork.hear("inbound", PCM, 0)
            loop.run()
        assert len(news) == 3

    def test_who_does_not_take_them_loses_the_oldest_and_each_is_counted(self):
        loop = FakeLoop()
        fork, _ = make(loop)
        for at in range(260):
            fork.hear("inbound", PCM, 20 * at)
        first = fork.next()
        assert first is not None
        assert (first.at_ms, fork.lost) == (200, 10)
        assert len(list(iter(fork.next, None))) == 249
        fork.hear("inbound", PCM, 9999)
        assert fork.next() is not None
        assert fork.lost == 10

    def test_two_tracks_have_twice_the_room(self):
        fork, _ = make(FakeLoop(), tracks=2)
        for at in range(250):
            fork.hear("inbound", PCM, at)
            fork.hear("outbound", PCM, at)
        assert len(list(iter(fork.next, None))) == 500
        assert fork.lost == 0

    def test_what_is_abandoned_is_lost(self):
        fork, _ = make(FakeLoop())
        for at in range(253):
            fork.hear("inbound", PCM, at)
        fork.abandon()
        assert fork.lost == 253


class TestBell:
    def test_one_wake_up_serves_all_who_ring(self):
        loop = FakeLoop()
        bell = Bell(cast(asyncio.AbstractEventLoop, loop))
        told: list[int] = []
        for n in range(50):
            bell.ring(lambda n=n: told.append(n))  # type: ignore[misc]
        assert len(loop.calls) == 1
        loop.run()
        assert told == list(range(50))

    def test_a_closed_loop_harms_nobody(self):
        loop = FakeLoop()
        loop.closed = True
        bell = Bell(cast(asyncio.AbstractEventLoop, loop))
        bell.ring(lambda: None)
        bell.ring(lambda: None)

    async def test_no_ring_is_missed_between_threads(self):
        news = asyncio.Event()
        fork = AudioFork(Bell(asyncio.get_running_loop()), 200, news.set)

        def media_thread() -> None:
            for at in range(20_000):
                fork.hear("inbound", PCM, at)

        thread = threading.Thread(target=media_thread)
        thread.start()
        heard = 0
        async with asyncio.timeout(20):
            while heard + fork.lost < 20_000:
                await news.wait()
                news.clear()
                heard += len(list(iter(fork.next, None)))
        thread.join()
        assert heard == 20_000
