from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np
import pytest

from mediaserver.api.stream import playback
from mediaserver.api.stream.playback import MAX_BUFFERED_S, MAX_MARKS, MediaFeed, Playback, PlaybackFullError
from mediaserver.refusal import RefusedError
from mediaserver.rtp.codec import audioop
from mediaserver.speech.script import Mark, Sound
from tests.mediaserver.api.fake_calls import FakeCall, FakeCalls

ULAW = bytes(range(256)) * 10


async def taken(feed: MediaFeed, rate: int = 8000) -> bytes:
    return b"".join([chunk.pcm async for chunk in feed.open(rate)])


class TestMediaFeed:
    async def test_gives_what_was_put_before_and_while_it_is_read(self):
        feed = MediaFeed()
        feed.put(ULAW[:1000])
        reader = asyncio.create_task(taken(feed))
        await asyncio.sleep(0)
        assert feed.waiting == 0
        feed.put(ULAW[1000:])
        feed.end()
        assert await reader == audioop.ulaw2lin(ULAW, 2)

    async def test_it_begins_with_60_ms(self):
        feed = MediaFeed()
        chunks = feed.open(8000)
        first = asyncio.create_task(anext(chunks))  # type: ignore[arg-type]
        for _ in range(3):
            await asyncio.sleep(0)
            assert not first.done()
            feed.put(ULAW[:160])
        assert len((await first).pcm) == 960
        feed.put(ULAW[:160])
        assert len((await anext(chunks)).pcm) == 320

    async def test_but_not_if_they_do_not_come(self):
        feed = MediaFeed()
        feed.put(ULAW[:160])
        assert len((await anext(feed.open(8000))).pcm) == 320

    async def test_long_audio_comes_in_chunks_of_a_second(self):
        feed = MediaFeed()
        feed.put(bytes(20_000))
        feed.end()
        assert [len(chunk.pcm) async for chunk in feed.open(8000)] == [16_000, 16_000, 8000]

    async def test_at_16_khz_it_is_the_same_sound(self):
        tone = (np.sin(2 * np.pi * 440 * np.arange(8000) / 8000) * 16000).astype("<i2").tobytes()
        feed = MediaFeed()
        for start in range(0, 8000, 160):
            feed.put(audioop.lin2ulaw(tone, 2)[start : start + 160])
        feed.end()
        pcm = np.frombuffer(await taken(feed, 16000), "<i2")
        assert len(pcm) == pytest.approx(16000, abs=50)
        assert np.argmax(np.abs(np.fft.rfft(pcm[:16000], 16000))) == pytest.approx(440, abs=2)

    async def test_what_is_forgotten_is_not_given(self):
        feed = MediaFeed()
        feed.put(ULAW)
        feed.forget()
        assert await taken(feed) == b""


@pytest.fixture
def call() -> FakeCall:
    return FakeCalls().arrive()


@pytest.fixture
def echoed() -> list[str]:
    return []


@pytest.fixture
def player(call: FakeCall, echoed: list[str]) -> Playback:
    player = Playback(call, echoed.append)
    call.on_event(player.on_event)
    return player


def parts(call: FakeCall, index: int = 0) -> list[str]:
    return [part.name if isinstance(part, Mark) else "sound" for part in call.said[index].script]


class TestPlay:
    async def test_media_without_a_gap_is_one_utterance(self, call: FakeCall, player: Playback):
        player.play(ULAW[:160])
        player.play(ULAW[160:])
        assert parts(call) == ["sound"]
        assert (call.said[0].barge_in, call.turns[0].open) == ("none", True)
        player.close()
        assert call.turns[0].ended
        sound = cast(Sound, call.said[0].script[0])
        assert b"".join([chunk.pcm async for chunk in sound.open(8000)]) == audioop.ulaw2lin(ULAW, 2)

    async def test_after_a_gap_the_turn_is_complete_and_the_next_is_another(
        self, call: FakeCall, player: Playback, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(playback, "LINGER_S", 0.0)
        player.play(ULAW)
        while not call.turns[0].ended:
            await asyncio.sleep(0)
        player.play(ULAW)
        assert len(call.said) == 2

    async def test_nothing_is_nothing(self, call: FakeCall, player: Playback):
        player.play(b"")
        assert call.said == []

    async def test_there_is_a_bound(self, call: FakeCall, player: Playback):
        for _ in range(MAX_BUFFERED_S):
            player.play(bytes(8000))
        with pytest.raises(PlaybackFullError, match="300 s"):
            player.play(b"\xff")
        sound = cast(Sound, call.said[0].script[0])
        await anext(cast(Any, sound.open(8000)))
        player.play(b"\xff")  # there is room again

    async def test_what_the_call_refuses_is_told_and_forgotten(self, call: FakeCall, player: Playback):
        call.refusal = RefusedError(413, "Queue Is Full")
        with pytest.raises(RefusedError):
            player.play(ULAW)
        player.play(ULAW)
        assert parts(call) == ["sound"]

    async def test_a_call_that_has_ended(self, call: FakeCall, player: Playback):
        call.end()
        with pytest.raises(RefusedError):
            player.play(ULAW)


class TestMark:
    async def test_with_nothing_before_it_it_comes_back_at_once(self, player: Playback, echoed: list[str]):
        player.mark("a")
        assert echoed == ["a"]

    async def test_it_comes_back_when_what_is_before_it_was_heard(
        self, call: FakeCall, player: Playback, echoed: list[str]
    ):
        player.play(ULAW)
        player.mark("a")
        player.play(ULAW)
        player.mark("b")
        assert parts(call) == ["sound", "a", "sound", "b"]
        assert echoed == []
        call.publish("mark.reached", name="a", utterance=1)
        assert echoed == ["a"]
        player.close()
        call.pass_utterance()
        assert echoed == ["a", "b"]
        player.mark("c")
        assert echoed == ["a", "b", "c"]

    async def test_the_sound_before_it_ends(self, call: FakeCall, player: Playback):
        player.play(ULAW)
        player.mark("a")
        sound = cast(Sound, call.said[0].script[0])
        assert b"".join([chunk.pcm async for chunk in sound.open(8000)]) == audioop.ulaw2lin(ULAW, 2)

    async def test_behind_a_complete_turn_it_comes_back_with_its_end(
        self, call: FakeCall, player: Playback, echoed: list[str]
    ):
        player.play(ULAW)
        player.close()
        player.mark("late")
        assert (parts(call), echoed) == (["sound"], [])
        call.pass_utterance()
        assert echoed == ["late"]

    async def test_equal_names_come_back_as_often_as_they_were_sent(
        self, call: FakeCall, player: Playback, echoed: list[str]
    ):
        for _ in range(3):
            player.play(ULAW)
            player.mark("x")
        player.close()
        call.pass_utterance()
        assert echoed == ["x", "x", "x"]

    async def test_others_marks_are_not_ours(self, call: FakeCall, player: Playback, echoed: list[str]):
        call.say((Mark("a"),))
        player.play(ULAW)
        player.mark("a")
        call.pass_utterance()
        assert echoed == []

    async def test_without_room_in_the_queue_it_comes_back_later(
        self, call: FakeCall, player: Playback, echoed: list[str]
    ):
        player.play(ULAW)
        call.refusal = RefusedError(413, "Queue Is Full")
        player.mark("a")
        player.play(ULAW)
        assert parts(call) == ["sound"]
        player.close()
        call.pass_utterance()
        assert echoed == ["a"]

    async def test_there_is_a_bound(self, player: Playback):
        player.play(ULAW)
        for _ in range(MAX_MARKS):
            player.mark("x")
        with pytest.raises(PlaybackFullError, match="1000 marks"):
            player.mark("x")


class TestClear:
    async def test_sends_back_all_marks_and_silences_the_call(
        self, call: FakeCall, player: Playback, echoed: list[str]
    ):
        player.play(ULAW)
        player.mark("a")
        player.play(ULAW)
        player.mark("b")
        player.clear()
        assert (echoed, call.done) == (["a", "b"], ["clear"])
        player.play(ULAW)
        assert len(call.said) == 2

    async def test_with_nothing_of_its_own_it_silences_nobody(self, call: FakeCall, player: Playback):
        call.say((Mark("other"),))
        player.clear()
        assert call.done == []

    async def test_what_waits_is_not_heard(self, call: FakeCall, player: Playback):
        player.play(ULAW)
        player.clear()
        sound = cast(Sound, call.said[0].script[0])
        assert [chunk async for chunk in sound.open(8000)] == []

    async def test_an_interruption_by_the_caller_is_one_too(self, call: FakeCall, player: Playback, echoed: list[str]):
        player.play(ULAW)
        player.mark("a")
        call.interrupt()
        assert echoed == ["a"]
        player.play(ULAW)
        assert parts(call, 1) == ["sound"]

    async def test_of_other_speech_leaves_ours(self, call: FakeCall, player: Playback, echoed: list[str]):
        player.play(ULAW)
        player.mark("a")
        call.publish("speech.cleared", utterance=99, played_ms=0, utterances=1)
        assert echoed == []
