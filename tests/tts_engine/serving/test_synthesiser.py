"""What is served against what the plain modules say, and who is hit when something fails: real runners, no threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.tts_engine.serving.runner_cases import fresh_chance
from tests.tts_engine.serving.served import (
    VOICES,
    Plain,
    Serve,
    assert_same_sound,
    pcm_array,
    write_voices,
)
from tts_engine.chatterbox.chunk_plan import ChunkPlanner, ladder
from tts_engine.chatterbox.model import Chatterbox
from tts_engine.chatterbox.text import prepare
from tts_engine.chatterbox.voice import Voice
from tts_engine.chatterbox.voice_store import VoiceStore
from tts_engine.chatterbox.watermark import Watermarker
from tts_engine.resample import Resampler, to_pcm16
from tts_engine.serving.messages import Audio
from tts_engine.serving.roster import VOICE_WAIT_S
from tts_engine.serving.scheduler import StepPlan

TWO_CHUNKS = "Your parcel comes at noon today."
SHORT, SHORTER, SHORTEST = "Hold the line.", "Good morning.", "Hi."
TEXTS = (TWO_CHUNKS, SHORT, SHORTER, SHORTEST, "Your balance is low.")
REQUESTS = [(text, voice) for text in TEXTS for voice in VOICES][:13]
LONGER = "An agent will be with you in just a moment, so please hold."
SEVERAL = "Please hold the line. An agent comes soon. Thank you."
IN_SEGMENTS = {"max_segment_chars": 34}

_FIRST = ladder(0.0).sizes[0]
FIRST_S = ChunkPlanner(ladder(0.0)).next(_FIRST, False).speech_frames / 50  # type: ignore[union-attr]
ALL_S = (len(TWO_CHUNKS) + 3) / 25
"What the chunks of TWO_CHUNKS last."

T3_FAILS, FLOW_FAILS = "t3-fails", "flow-fails"


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two voices more, which make T3's or the flow's numbers overflow: no file with such numbers would be read."""
    read, version = VoiceStore.read, VoiceStore.version
    nan = {T3_FAILS: "speaker_embedding", FLOW_FAILS: "x_vector"}

    def read_poisoned(self: VoiceStore, name: str) -> tuple[Voice, Any]:
        if name not in nan:
            return read(self, name)
        voice, metadata = read(self, "bob")
        return replace(voice, **{nan[name]: torch.full_like(getattr(voice, nan[name]), torch.nan)}), metadata

    monkeypatch.setattr(VoiceStore, "read", read_poisoned)
    monkeypatch.setattr(VoiceStore, "version", lambda self, name: 0 if name in nan else version(self, name))


def fail_once(
    monkeypatch: pytest.MonkeyPatch, runner: object, method: str, when: Callable[..., bool], error: Exception
) -> None:
    """Let a runner's method raise, the first time that `when` says so of its arguments."""
    real, raised = getattr(runner, method), False

    def launch(*arguments: Any) -> Any:
        nonlocal raised
        if not raised and when(*arguments):
            raised = True
            raise error
        return real(*arguments)

    monkeypatch.setattr(runner, method, launch)


class TestSamples:
    """Issue 4: batched serving against the plain modules with the same draws."""

    @pytest.mark.parametrize("rate", [8000, 16000, 24000])
    def test_they_are_those_of_the_plain_modules(self, serve: Serve, plain: Plain, rate: int) -> None:
        served = serve()
        served.speak(1, TWO_CHUNKS, sample_rate=rate)
        served.run()
        assert len(served.heard(1)) == 2
        assert_same_sound(served.pcm(1), plain(TWO_CHUNKS, "anna", rate))
        served.assert_nothing_is_held()

    def test_a_stream_gives_the_same_alone_and_among_twelve_others(self, serve: Serve, plain: Plain) -> None:
        """Of other texts, lengths, rates and voices, whose prompts differ in length."""
        served = serve()
        for id, (text, voice) in enumerate(REQUESTS):
            served.speak(id, text, voice, (8000, 8000, 16000)[id % 3])
        served.run()
        rows = served.loaded.measures.step_rows
        assert rows.sum / rows.count > 6, "they were decoded together"
        for id, (text, voice) in enumerate(REQUESTS):
            assert_same_sound(served.pcm(id), plain(text, voice, (8000, 8000, 16000)[id % 3]))
        served.assert_nothing_is_held()

    def test_a_stream_gives_the_same_among_a_hundred_others(self, serve: Serve, plain: Plain) -> None:
        served = serve(streams=101)
        served.speak(0, TWO_CHUNKS)
        for id in range(1, 101):
            served.speak(id, SHORTEST[: 3 + id % 8], "anna" if id % 2 else "bob")
        served.run()
        assert served.loaded.measures.step_rows.cumulative()[-1] > 0
        assert_same_sound(served.pcm(0), plain(TWO_CHUNKS))
        served.assert_nothing_is_held()

    def test_in_whatever_order_they_arrive(self, serve: Serve, plain: Plain) -> None:
        """Some while others are half way, and more than there is room for: they wait their turn."""
        served, order = serve(streams=4, voices=2), fresh_chance()
        requests = order.sample(list(enumerate(REQUESTS)), 7)
        for id, (text, voice) in requests:
            served.speak(id, text, voice)
            for _ in range(order.randrange(12)):
                served.turn()
        served.run()
        assert served.failed == {}
        for id, (text, voice) in requests:
            assert_same_sound(served.pcm(id), plain(text, voice))
        served.assert_nothing_is_held()

    def test_with_a_voice_whose_pitch_magnifies_rounding(
        self, serve: Serve, loaded: Chatterbox, voices_dir: Any
    ) -> None:
        """The model as its random weights are: the phase adds up what float32 rounds otherwise in a batch."""
        served, plain = serve(loaded), Plain(loaded, voices_dir)
        for id, (text, voice) in enumerate(REQUESTS[4:11:3]):
            served.speak(id, text, voice, 24_000)
        served.run()
        for id, (text, voice) in enumerate(REQUESTS[4:11:3]):
            expected = plain(text, voice, 24_000).astype(float)
            difference = served.pcm(id) - expected
            assert np.sqrt((difference**2).mean() / (expected**2).mean()) < 0.01

    def test_segments_of_a_text_follow_each_other_as_one_signal(self, serve: Serve, plain: Plain) -> None:
        segments = prepare(SEVERAL, max_chars=34)
        assert len(segments) == 3
        served = serve(**IN_SEGMENTS)
        served.speak(1, SEVERAL)
        served.speak(2, SHORT)
        served.run()
        assert_same_sound(served.pcm(1), plain(SEVERAL, max_chars=34))
        assert_same_sound(served.pcm(2), plain(SHORT))
        said_again = plain(segments[0]), plain(SEVERAL, max_chars=34)[: len(plain(segments[0])) - 200]
        assert np.abs(said_again[0][: len(said_again[1])].astype(int) - said_again[1]).max() <= 1
        served.assert_nothing_is_held()

    def test_a_listener_who_holds_audio_gets_larger_chunks(self, serve: Serve, plain: Plain) -> None:
        """Chosen when the request comes, whatever happens later."""
        served = serve()
        served.speak(1, TWO_CHUNKS, held=7.0)
        served.now += 3
        served.run()
        assert len(served.heard(1)) == 1
        assert_same_sound(served.pcm(1), plain(TWO_CHUNKS, held=7.0))

    def test_whether_chunks_are_decoded_together_or_each_alone(
        self, serve: Serve, plain: Plain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As the runner wants it, which puts very long ones aside."""
        served = serve()
        monkeypatch.setattr(
            served.loaded.synthesiser._speech, "batches", lambda tokens, _: [[at] for at in range(len(tokens))]
        )
        for id, (text, voice) in enumerate(REQUESTS[5:9]):
            served.speak(id, text, voice)
        served.run()
        rows = served.loaded.measures.chunk_rows
        assert rows.count == rows.sum == 4
        for id, (text, voice) in enumerate(REQUESTS[5:9]):
            assert_same_sound(served.pcm(id), plain(text, voice))

    def test_with_guidance(self, serve: Serve, plain: Plain) -> None:
        served = serve(cfg_scale=0.7)
        for id, (text, voice) in enumerate(REQUESTS[2:5]):
            served.speak(id, text, voice)
        served.run()
        for id, (text, voice) in enumerate(REQUESTS[2:5]):
            assert_same_sound(served.pcm(id), plain(text, voice, cfg_scale=0.7))
        guided, unguided = plain(SHORT, cfg_scale=0.7), plain(SHORT)
        assert len(guided) != len(unguided) or not np.array_equal(guided, unguided)

    @pytest.mark.parametrize("rate", [8000, 24_000])
    def test_with_a_watermark(self, serve: Serve, plain: Plain, rate: int) -> None:
        """It is put on at the model's rate, chunk by chunk, as on the whole; nothing is lost at the end."""
        served = serve(watermark=True)
        served.speak(1, TWO_CHUNKS, sample_rate=rate)
        served.run()
        signal = pcm_array(to_pcm16(plain.signal(TWO_CHUNKS))).astype(np.float32) / np.float32(32767)
        stream = Watermarker().stream()
        marked = np.concatenate([stream.process(signal), stream.flush()])
        expected = pcm_array(to_pcm16(Resampler(24_000, rate).process(marked, final=True)))
        assert_same_sound(served.pcm(1), expected)
        assert len(expected) == len(plain(TWO_CHUNKS, sample_rate=rate))
        assert np.abs(expected.astype(int) - plain(TWO_CHUNKS, sample_rate=rate)).max() > 2, "there is a mark"

    def test_nothing_to_say_is_an_end_without_a_sound(self, serve: Serve) -> None:
        served = serve()
        served.speak(1, " ... ")
        assert served.reports == [Audio(1, b"", final=True, deadline=served.now)]
        served.assert_nothing_is_held()


class TestFailures:
    @pytest.mark.usefixtures("poisoned")
    @pytest.mark.parametrize("voice", [T3_FAILS, FLOW_FAILS])
    def test_numbers_that_overflow_fail_those_they_belong_to(self, serve: Serve, plain: Plain, voice: str) -> None:
        served = serve(streams=3)
        served.speak(1, TWO_CHUNKS)
        served.speak(2, TWO_CHUNKS, voice)
        served.speak(3, SHORT, "bob")
        served.run()
        assert served.failed == {2: "the model's numbers overflowed; try another precision (bfloat16 or float32)"}
        assert served.failures("overflow") == 1
        served.assert_nothing_is_held()
        # Slots, pages and what S3Gen kept of it go to others, who do not meet its NaN.
        runners = served.loaded.synthesiser
        assert runners._t3._cache.keys_values.isfinite().all()
        assert runners._speech._state.mel.isfinite().all()
        assert runners._speech._state.tail.isfinite().all()
        for id in (4, 5, 6):
            served.speak(id, TWO_CHUNKS if id < 6 else SHORT, "anna" if id < 6 else "bob")
        served.run()
        for id, text, name in ((1, TWO_CHUNKS, "anna"), (3, SHORT, "bob"), (4, TWO_CHUNKS, "anna"), (6, SHORT, "bob")):
            assert_same_sound(served.pcm(id), plain(text, name))

    @pytest.mark.usefixtures("poisoned")
    def test_what_was_said_before_stands(self, serve: Serve, plain: Plain) -> None:
        served = serve(**IN_SEGMENTS)
        served.speak(1, SEVERAL)
        served.run(lambda: len(served.heard(1)) == 1)
        flow = served.loaded.synthesiser._speech._flow
        voice = flow._voices[served.loaded.synthesiser._roster.utterances[1].voice]  # type: ignore[attr-defined]
        voice.x_vector.fill_(torch.nan)
        served.run()
        assert set(served.failed) == {1}
        heard = pcm_array(served.heard(1)[0].pcm)
        assert_same_sound(heard, plain(SEVERAL, max_chars=34)[: len(heard)])
        served.assert_nothing_is_held()

    @pytest.mark.parametrize(
        ("runner", "method", "when"),
        [
            ("_t3", "begin", lambda rows: len(rows) == 2),
            ("_t3", "step", lambda slots, pages: len(slots) == 3),
            ("_speech", "speak", lambda rows, rate: len(rows) == 2),
        ],
    )
    def test_a_batch_that_does_not_fit_into_memory_fails_and_no_other(
        self,
        serve: Serve,
        plain: Plain,
        monkeypatch: pytest.MonkeyPatch,
        runner: str,
        method: str,
        when: Callable[..., bool],
    ) -> None:
        served = serve()
        fail_once(
            monkeypatch, getattr(served.loaded.synthesiser, runner), method, when, torch.OutOfMemoryError("CUDA ...")
        )
        served.speak(1, TWO_CHUNKS)
        served.turn()
        served.speak(2, SHORT, "bob")
        served.speak(3, SHORT, "carol")
        served.run(lambda: bool(served.failed))
        expected = {1, 2, 3} if method == "step" else {2, 3}
        assert served.failed == dict.fromkeys(expected, "the GPU's memory is used up")
        served.speak(4, SHORT, "bob")
        served.run()
        for id, text, voice in ((1, TWO_CHUNKS, "anna"), (4, SHORT, "bob")):
            if id not in expected:
                assert_same_sound(served.pcm(id), plain(text, voice))
        assert served.failures("memory") == len(expected)
        served.assert_nothing_is_held()

    def test_a_voice_that_does_not_fit_into_memory(
        self, serve: Serve, plain: Plain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        served = serve()
        fail_once(
            monkeypatch,
            served.loaded.synthesiser._roster.bank,
            "_put",
            lambda index, voice: True,
            torch.OutOfMemoryError(),
        )
        served.speak(1, SHORT, "bob")
        served.speak(2, SHORT)
        served.run()
        assert served.failed == {1: "the GPU's memory is used up"}
        served.speak(3, SHORT, "bob")
        served.run()
        assert_same_sound(served.pcm(2), plain(SHORT))
        assert_same_sound(served.pcm(3), plain(SHORT, "bob"))

    def test_who_is_given_up_for_want_of_pages(
        self, serve: Serve, plain: Plain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        served = serve()
        scheduler = served.loaded.scheduler
        plan_step = scheduler.plan_step

        def give_up(now: float) -> StepPlan:
            ids = [sequence.id for sequence in scheduler]
            if len(ids) == 2 and served.turns > 5:
                scheduler.fail(ids[0])
                return replace(plan_step(now), failed=(ids[0],))
            return plan_step(now)

        monkeypatch.setattr(scheduler, "plan_step", give_up)
        served.speak(1, SHORT)
        served.speak(2, SHORTER)
        served.run()
        assert served.failed == {1: "the GPU's memory for speech under way is used up"}
        assert served.failures("pages") == 1
        assert_same_sound(served.pcm(2), plain(SHORTER))
        served.assert_nothing_is_held()

    def test_a_voice_that_is_not_there_or_broken(self, serve: Serve, plain: Plain, tmp_path: Any) -> None:
        directory = write_voices(tmp_path / "voices")
        (directory / "dora.safetensors").write_text("no voice")
        served = serve(voices_dir=directory)
        for id, voice in enumerate(("bob", "nobody", "dora")):
            served.speak(id, SHORT, voice)
        served.run()
        assert served.failed == {
            1: "unknown voice 'nobody'; available: anna, bob, carol, dora",
            2: served.failed[2],
        }
        assert served.failed[2].startswith("dora.safetensors is not a voice file")
        assert str(tmp_path) not in served.failed[2]
        assert_same_sound(served.pcm(0), plain(SHORT, "bob"))
        assert served.failures("voice") == 2

    @pytest.mark.parametrize(("runner", "method"), [("_t3", "step"), ("_speech", "speak")])
    def test_any_other_error_is_the_worker_s_to_handle(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, runner: str, method: str
    ) -> None:
        served = serve(streams=1)
        fault = RuntimeError("CUDA error: an illegal memory access was encountered")
        fail_once(monkeypatch, getattr(served.loaded.synthesiser, runner), method, lambda *_: True, fault)
        served.speak(1, SHORT)
        served.speak(2, SHORT)
        with pytest.raises(RuntimeError, match="illegal memory access"):
            served.run()
        assert not served.failed


class TestCancel:
    def test_at_any_moment_it_frees_what_was_held(self, serve: Serve, plain: Plain) -> None:
        served = serve(streams=2)
        served.speak(0, SHORT)
        served.speak(1, TWO_CHUNKS, "bob")
        served.run()
        turns, id = served.turns, 2
        for moment in sorted({0, 1, 2, turns - 1, *fresh_chance().sample(range(3, turns - 1), 2)}):
            stays, goes, id = id, id + 1, id + 2
            served.speak(stays, SHORT)
            served.speak(goes, TWO_CHUNKS, "bob")
            for _ in range(moment):
                served.turn()
            served.loaded.synthesiser.cancel(goes)
            told = len(served.heard(goes))
            bank = served.loaded.synthesiser._roster.bank
            assert all(not voice.users for (name, _), voice in bank._voices.items() if name == "bob")
            served.run()
            assert len(served.heard(goes)) == told, "nothing more of it is told"
            assert_same_sound(served.pcm(stays), plain(SHORT))
            served.assert_nothing_is_held()
        assert served.failed == {}

    def test_nothing_of_it_is_launched_any_more(self, serve: Serve) -> None:
        served = serve()
        served.speak(1, TWO_CHUNKS)
        served.run(lambda: len(served.heard(1)) == 1)
        measures = served.loaded.measures
        before = measures.step_rows.count, measures.chunk_rows.count
        served.loaded.synthesiser.cancel(1)
        served.run()
        assert (measures.step_rows.count, measures.chunk_rows.count) == before

    def test_one_that_waits_never_begins(self, serve: Serve) -> None:
        served = serve(streams=1)
        served.speak(1, SHORT)
        served.speak(2, SHORT, "bob")
        served.turn()
        assert served.loaded.synthesiser.streams == 2
        served.loaded.synthesiser.cancel(2)
        served.loaded.synthesiser.cancel(2)
        served.loaded.synthesiser.cancel(77)
        assert served.loaded.synthesiser.streams == 1
        served.run()
        assert served.heard(2) == []
        assert ("bob" in {name for name, _ in served.loaded.synthesiser._roster.bank._voices}) is False

    def test_between_two_segments(self, serve: Serve) -> None:
        """While the first is still heard, and T3 is at the second."""
        served = serve(**IN_SEGMENTS)
        served.speak(1, SEVERAL)
        served.run(lambda: len(served.loaded.scheduler) == 2)
        served.loaded.synthesiser.cancel(1)
        served.run()
        served.assert_nothing_is_held()


class TestRoom:
    def test_no_more_streams_than_there_is_room_for(self, serve: Serve, plain: Plain) -> None:
        served = serve(streams=2)
        for id in range(5):
            served.speak(id, SHORTEST)
        most = 0
        while not served.loaded.synthesiser.idle:
            served.turn()
            most = max(most, len(served.loaded.synthesiser._roster.utterances))
        assert most == 2
        for id in range(5):
            assert_same_sound(served.pcm(id), plain(SHORTEST))

    def test_a_voice_waits_until_another_can_make_room(self, serve: Serve, plain: Plain) -> None:
        served = serve(voices=1)
        served.speak(1, SHORT)
        served.turn()
        served.speak(2, SHORTEST, "bob")
        served.turn()
        assert served.loaded.synthesiser.load(served.now).waiting == 1
        served.run()
        assert_same_sound(served.pcm(1), plain(SHORT))
        assert_same_sound(served.pcm(2), plain(SHORTEST, "bob"))

    def test_who_waits_for_a_voice_keeps_nobody_waiting_and_not_for_ever(self, serve: Serve, plain: Plain) -> None:
        served = serve(voices=1)
        served.speak(1, SHORT)
        served.turn()
        served.speak(2, SHORTEST, "bob")
        served.speak(3, SHORTEST)
        served.turn()
        assert set(served.loaded.synthesiser._roster.utterances) == {1, 3}
        served.now += VOICE_WAIT_S + 1
        served.turn()
        assert served.failed == {2: "as many different voices are spoken as the GPU has room for"}
        served.run()
        assert_same_sound(served.pcm(3), plain(SHORTEST))


class TestListeners:
    def test_it_does_not_run_far_ahead_of_who_listens(self, serve: Serve, plain: Plain) -> None:
        """It rests, says when it goes on, and the samples are the same."""
        served = serve(ahead_seconds=2.5)
        served.speak(1, LONGER, held=1.0)
        while served.turn():
            pass
        made = served.loaded.measures.step_rows.count
        assert 39 <= made < 45, "a first chunk of 40 tokens; with the second held as it is, the listener has 2.5 s"
        wake = served.loaded.synthesiser.next_wake(served.now)
        assert wake is not None
        assert served.now + 0.5 < wake < served.now + 1
        assert not served.turn(), "until then there is nothing to do"
        assert served.loaded.measures.step_rows.count == made
        served.run()
        assert served.now >= wake
        assert_same_sound(served.pcm(1), plain(LONGER, held=1.0))

    def test_a_cleared_buffer_brings_it_forward(self, serve: Serve) -> None:
        served = serve(ahead_seconds=2.5)
        served.speak(1, LONGER, held=1.0)
        while served.turn():
            pass
        before = served.loaded.measures.step_rows.count
        served.loaded.synthesiser.set_deadline(1, served.now)
        assert served.turn()
        assert served.loaded.measures.step_rows.count > before
        served.loaded.synthesiser.set_deadline(77, served.now)  # gone meanwhile

    def test_a_chunk_says_when_it_has_been_heard(self, serve: Serve) -> None:
        served = serve()
        served.speak(1, TWO_CHUNKS)
        served.run(lambda: len(served.heard(1)) == 1)
        assert served.heard(1)[0].deadline == pytest.approx(served.now + FIRST_S)
        served.now += FIRST_S + 0.22
        served.run()
        assert served.heard(1)[1].deadline == pytest.approx(served.now + ALL_S - FIRST_S)
        measures = served.loaded.measures
        assert measures.late_chunks.value == 1
        assert measures.slack.sum == pytest.approx(-0.22)
        assert (measures.first_chunk.count, measures.slack.count) == (1, 1)

    def test_one_in_time_is_not_late(self, serve: Serve) -> None:
        served = serve()
        served.speak(1, TWO_CHUNKS)
        served.run(lambda: len(served.heard(1)) == 1)
        assert served.heard(1)[0].pcm
        served.now += 0.1
        served.run()
        assert served.heard(1)[1].deadline == pytest.approx(served.now - 0.1 + ALL_S)
        assert served.loaded.measures.late_chunks.value == 0
        assert served.loaded.measures.slack.sum == pytest.approx(FIRST_S - 0.1)


class TestFigures:
    def test_what_was_done_is_measured(self, serve: Serve) -> None:
        served = serve()
        for id in range(3):
            served.speak(id, SHORT)
        served.run()
        served.loaded.refresh()
        measures = served.loaded.measures
        assert (measures.prefill_rows.count, measures.prefill_rows.sum) == (1, 3)
        assert measures.step_rows.sum >= 3 * (len(SHORT) - 1)
        assert measures.step_seconds.count == measures.step_rows.count
        assert measures.audio_seconds.value == pytest.approx(sum(len(served.pcm(id)) for id in range(3)) / 8000)
        assert measures.ends["stop"].value == 3
        assert (measures.flow_tokens.count, measures.chunk_rows.sum) == (measures.flow_seconds.count, 3)
        assert measures.vocoder_frames.value == pytest.approx(measures.audio_seconds.value * 50)
        assert (measures.flow_padding.value, measures.step_padding.value) == (0, 0)
        assert measures.pages.value == served.loaded.scheduler.limits.pages
        assert {measure.labels["device"] for measure in served.loaded.snapshot()} == {"cpu"}

    def test_load_while_it_works_and_when_it_is_done(self, serve: Serve) -> None:
        served = serve(streams=2)
        for id in range(3):
            served.speak(id, SHORT)
        served.turn()
        load = served.loaded.load(served.now + 0.5)
        assert (load.streams, load.decoding, load.waiting, load.slots) == (3, 2, 1, 2)
        assert load.slack == pytest.approx(-0.5)
        assert load.pages_free == served.loaded.scheduler.limits.pages - served.loaded.scheduler.pages_used
        served.run()
        load = served.loaded.load(served.now)
        assert (load.streams, load.decoding, load.waiting, load.slack) == (0, 0, 0, None)
        assert load.tokens_a_sequence < 150, "from what was spoken, which was short"
        assert load.step_seconds > 0
        assert load.chunk_fixed_seconds > 0
