from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tts_engine.chatterbox.voices import make_voice
from tests.tts_engine.serving.small_model import BRIEF_SAMPLES, TOKEN_SAMPLES
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import STOP_TOKEN
from tts_engine.chatterbox.model import Chatterbox
from tts_engine.chatterbox.sampling import SamplingSettings
from tts_engine.chatterbox.text import prepare
from tts_engine.errors import SynthesisError
from tts_engine.resample import Resampler, Samples, to_pcm16
from tts_engine.serving.decoders import MOST_TEXT_TOKENS, DecoderPool
from tts_engine.serving.utterance import Speaker, SpokenVoice, segment_seed, speak


def make_speaker(model: Chatterbox, *, policy: ChunkPolicy | None = None, seed: int = 0) -> Speaker:
    pool = DecoderPool(model.t3, SamplingSettings(), 0.0, graphs=False)
    return Speaker(model, pool, policy or ChunkPolicy(), seed)


@pytest.fixture(scope="module")
def voice(loaded: Chatterbox) -> SpokenVoice:
    return spoken(loaded)


def spoken(model: Chatterbox) -> SpokenVoice:
    voice = make_voice(20, 10)
    with torch.inference_mode():
        return SpokenVoice(model.t3.prefix(voice.speaker_embedding, voice.prompt_tokens), voice)


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


class TestSpeaker:
    def test_segments_are_spoken_in_turn(self, loaded: Chatterbox, voice: SpokenVoice) -> None:
        """Each as if alone, but for its seed: the text said once more sounds otherwise."""
        speaker = make_speaker(loaded)
        together = np.concatenate(list(speaker.chunks(voice, ["Hello.", "Hello."])))
        first = np.concatenate(list(speaker.chunks(voice, ["Hello."])))
        assert len(together) % TOKEN_SAMPLES == 0
        assert np.array_equal(together[: len(first)], first)
        second = together[len(first) :]
        assert len(second) != len(first) or not np.array_equal(second, first)

    def test_chunk_sizes_do_not_change_the_length(self, loaded: Chatterbox, voice: SpokenVoice) -> None:
        lengths = set()
        for sizes in ((14,), (15, 25, 50, 100), (10_000,)):
            chunks = list(make_speaker(loaded, policy=ChunkPolicy(sizes=sizes)).chunks(voice, ["Please hold."]))
            assert all(chunk.dtype == np.float32 for chunk in chunks)
            lengths.add(sum(map(len, chunks)))
        assert len(lengths) == 1

    @pytest.mark.parametrize("text", ["ﷺ" * 300, "ﷺﷺﷺ " * 75])
    def test_a_text_of_too_many_tokens_is_said_in_parts(
        self, loaded_brief: Chatterbox, voice: SpokenVoice, text: str
    ) -> None:
        assert len(loaded_brief.tokenizer.encode(text)) > MOST_TEXT_TOKENS
        speaker = make_speaker(loaded_brief)
        parts = list(speaker._fitting(text))
        assert "".join(part for part, _ in parts).replace(" ", "") == text.replace(" ", "")
        assert all(len(tokens) <= MOST_TEXT_TOKENS for _, tokens in parts)
        assert sum(map(len, speaker.chunks(voice, [text]))) == len(parts) * BRIEF_SAMPLES

    def test_one_that_nobody_wants_any_more_ends_at_the_next_token(
        self, loaded: Chatterbox, voice: SpokenVoice
    ) -> None:
        asked = 0

        def stopped() -> bool:
            nonlocal asked
            asked += 1
            return asked > 7

        assert list(make_speaker(loaded).chunks(voice, ["Please hold.", "And hold."], stopped)) == []
        assert asked == 8

    @pytest.mark.parametrize("module", ["flow.encoder_proj.bias", "vocoder.conv_pre.bias"])
    def test_numbers_that_overflow_after_t3_are_an_error_not_a_sound(
        self, loaded: Chatterbox, voice: SpokenVoice, module: str
    ) -> None:
        part, _, name = module.partition(".")
        broken = copy.deepcopy(getattr(loaded, part))
        broken.get_parameter(name).data.fill_(torch.nan)
        with pytest.raises(SynthesisError, match="numbers overflowed"):
            list(make_speaker(replace(loaded, **{part: broken})).chunks(voice, ["Please hold."]))

    def test_what_its_guard_ended_is_logged_without_the_text(
        self, loaded: Chatterbox, voice: SpokenVoice, caplog: pytest.LogCaptureFixture
    ) -> None:
        t3 = copy.deepcopy(loaded.t3)
        with torch.no_grad():
            t3.speech_head.bias[STOP_TOKEN] = -1e9
        with caplog.at_level("INFO"):
            list(make_speaker(replace(loaded, t3=t3)).chunks(voice, ["Please hold."]))
        assert caplog.messages == ["an utterance was ended by its guard: too_long"]

    def test_one_that_is_left_gives_its_decoder_back(self, loaded: Chatterbox, voice: SpokenVoice) -> None:
        given_back = []

        class Pool(DecoderPool):
            def borrowed(self, prefix, capacity):  # type: ignore[no-untyped-def]
                given_back.append(manager := super().borrowed(prefix, capacity))
                return manager

        speaker = Speaker(loaded, Pool(loaded.t3, SamplingSettings(), 0.0, graphs=False), ChunkPolicy(), 0)
        chunks = speaker.chunks(voice, ["Please hold."])
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]
        assert given_back[0].gen.gi_frame is None  # type: ignore[attr-defined]

    @settings(max_examples=25, deadline=None)
    @given(st.text(max_size=60) | st.text("aB1 .,!?[]\n$%-:/@🙂\ud83d\u200b", max_size=80))
    def test_any_text(self, loaded_brief: Chatterbox, text: str) -> None:
        speaker, segments = make_speaker(loaded_brief), prepare(text)
        samples = sum(len(chunk) for chunk in speaker.chunks(spoken(loaded_brief), segments))
        assert samples == len(segments) * BRIEF_SAMPLES
        assert not segments or all(segment.isprintable() for segment in segments)


class TestSpeak:
    @pytest.mark.parametrize("rate", [8000, 16000, 24000])
    def test_pieces_are_of_one_signal(self, rate: int) -> None:
        signal = np.sin(np.arange(24_000, dtype=np.float32) / 7).astype(np.float32) / 2
        cuts = np.split(signal, [1, 960, 961, 20_000])
        pieces = list(speak(lambda: iter(cuts), rate, None))
        assert [piece.final for piece in pieces] == [False] * 5 + [True]
        whole = to_pcm16(Resampler(24_000, rate).process(signal, final=True))
        joined = b"".join(piece.pcm for piece in pieces)
        assert len(joined) == len(whole)
        assert np.abs(np.frombuffer(joined, "<i2").astype(int) - np.frombuffer(whole, "<i2")).max() <= 1

    def test_nothing_is_nothing(self) -> None:
        assert list(speak(lambda: iter(()), 8000, None)) == []

    def test_it_does_not_work_before_the_first_step(self) -> None:
        begun = []

        def chunks() -> Iterator[Samples]:
            begun.append(True)
            yield np.zeros(960, np.float32)

        pieces = speak(chunks, 8000, None)
        assert begun == []
        assert [piece.final for piece in pieces] == [False, True]
