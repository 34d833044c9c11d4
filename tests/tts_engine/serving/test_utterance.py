from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tts_engine.serving.guards import OneTokenACharacter
from tts_engine.chatterbox import counter
from tts_engine.chatterbox.constants import SILENCE_TOKEN, SPEECH_TOKENS, STOP_TOKEN
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.guards import EndReason, TokenGuard
from tts_engine.chatterbox.watermark import Watermarker
from tts_engine.resample import Resampler, to_pcm16
from tts_engine.serving.messages import Speak
from tts_engine.serving.utterance import (
    MOST_TEXT_TOKENS,
    Finish,
    Guard,
    Segment,
    Speaking,
    Utterance,
    cut_to_fit,
    segment_seed,
)


def speaking(guard: Guard, *, more: int = 0) -> Speaking:
    segment = Segment([1, 2], 5, guard)
    utterance = Utterance(
        order=Speak(1, "Hello.", "anna", 8000, 0.0, 0.0),
        segments=deque([segment] * more),
        voice=0,
        prompt=np.zeros(3, np.int32),
        slot=0,
        deadline=0.0,
        finish=Finish(8000, None),
    )
    return Speaking(7, utterance, segment)


class TestSeed:
    def test_is_the_text_s_own(self) -> None:
        seeds = {
            segment_seed(seed, text, number)
            for seed in (0, 1)
            for number in (0, 1, 10)
            for text in ("Hello.", "Hello", "0/Hello.", "")
        }
        assert len(seeds) == 24
        assert all(0 <= seed < 2**63 for seed in seeds)

    def test_is_the_same_in_every_process(self) -> None:
        assert segment_seed(0, "Hello.", 0) == 1_487_485_062_899_807_791


class TestCutting:
    def test_what_fits_is_left_alone(self) -> None:
        assert cut_to_fit("Hello there.", lambda text: list(range(len(text)))) == [("Hello there.", list(range(12)))]

    @given(st.text("ab ", min_size=1, max_size=3000), st.integers(1, 4))
    def test_parts_fit_and_nothing_is_lost(self, text: str, tokens_a_character: int) -> None:
        def encode(part: str) -> list[int]:
            return [0] * (tokens_a_character * len(part))

        parts = cut_to_fit(text, encode)
        assert "".join(part for part, _ in parts).replace(" ", "") == text.replace(" ", "")
        assert all(len(tokens) <= MOST_TEXT_TOKENS and tokens == encode(part) for part, tokens in parts)

    def test_between_words_where_there_are_some(self) -> None:
        text = "word " * 200
        parts = [part for part, _ in cut_to_fit(text, lambda part: [0] * len(part))]
        assert all(set(part.split()) == {"word"} for part in parts)


class TestSpeaking:
    def test_tokens_are_as_the_guard_lets_them_go(self) -> None:
        one = speaking(TokenGuard(10, limit=100))
        assert one.accept(5).tokens == (5,)
        assert one.accept(SPEECH_TOKENS).tokens == ()
        assert one.tokens == [5]
        assert one.accept(STOP_TOKEN).end is EndReason.STOPPED
        assert one.ended
        assert one.tokens == [5, *[SILENCE_TOKEN] * 3]

    def test_at_its_limit_it_ends_with_silence_too(self) -> None:
        one = speaking(OneTokenACharacter("eight ch"))
        ends = [one.accept(9).end for _ in range(8)]
        assert ends == [None] * 7 + [EndReason.STOPPED]
        assert one.tokens == [9] * 8 + [SILENCE_TOKEN] * 3

    def test_its_draws_are_its_seed_s(self) -> None:
        one = speaking(OneTokenACharacter("x" * 40))
        assert np.array_equal(one.uniforms(), Draws(5).uniforms(40))
        assert one.keys == tuple(
            counter.key(5, stream) for stream in (counter.PROMPT, counter.FLOW, counter.SOURCE, counter.PHASE)
        )

    @pytest.mark.parametrize(("more", "last"), [(0, True), (1, False)])
    def test_whether_it_is_the_last_of_its_text(self, more: int, last: bool) -> None:
        assert speaking(OneTokenACharacter("x"), more=more).last is last


class TestFinish:
    def test_without_a_watermark_there_is_nothing_left_to_do(self) -> None:
        finish = Finish(8000, None)
        assert finish.gpu_rate == 8000
        assert finish(b"\x01\x02", final=False) == b"\x01\x02"
        assert finish(b"", final=True) == b""

    @pytest.mark.parametrize("rate", [8000, 16000, 24000])
    def test_with_one_pieces_are_of_one_signal(self, rate: int) -> None:
        signal = (np.sin(np.arange(24_000) / 7) * 16_000).astype("<i2")
        finish = Finish(rate, Watermarker().stream())
        assert finish.gpu_rate == 24_000
        cuts = np.split(signal, [1, 960, 961, 20_000])
        joined = b"".join(finish(cut.tobytes(), final=number == 4) for number, cut in enumerate(cuts))
        stream = Watermarker().stream()
        marked = np.concatenate([stream.process(signal.astype(np.float32) / np.float32(32767)), stream.flush()])
        whole = to_pcm16(Resampler(24_000, rate).process(marked, final=True))
        assert len(joined) == len(whole) == 2 * rate
        assert np.abs(np.frombuffer(joined, "<i2").astype(int) - np.frombuffer(whole, "<i2")).max() <= 1
