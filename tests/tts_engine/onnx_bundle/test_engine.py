"""The engine speaks: whole, in chunks, repeatably, without torch; and refuses in words."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.tts_engine.onnx_bundle.speaking import TEXT, pcm_of, running, samples, settings, spoken
from tests.tts_engine.onnx_bundle.synthetic_bundle import STOP_AFTER, write_bundle, write_recording
from tts_engine.chatterbox.guards import max_tokens
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.engine import Engine, SpeechRequest
from tts_engine.errors import EngineBusyError, EngineNotReadyError, SynthesisError, UnknownVoiceError
from tts_engine.onnx_bundle.bundle import Bundle, SpeechDecoder
from tts_engine.onnx_bundle.engine import OnnxBundleEngine
from tts_engine.onnx_bundle.faults import BundleError
from tts_engine.onnx_bundle.files import find_files
from tts_engine.onnx_bundle.language_model import LanguageModel
from tts_engine.onnx_bundle.pace import Pace
from tts_engine.onnx_bundle.sessions import choose_providers, open_part, provider_options, thread_count
from tts_engine.onnx_bundle.speech import early


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
async def test_speaks(fp32: Path, fp16: Path, precision: str) -> None:
    directory = fp32 if precision == "fp32" else fp16
    async with running(settings(directory, precision=precision)) as engine:
        chunks = await spoken(engine)
        assert len(chunks) == 2  # two segments, each whole
        for chunk in chunks:
            assert len(chunk.pcm) % 1920 == 0  # whole tokens
            assert chunk.seconds >= 8 * 0.04  # 5 tokens at least, and the silence
            assert np.abs(samples(chunk.pcm)).max() > 3000
        counted = {measure.name: measure for measure in engine.measures}
        assert counted["utterances"].value == 1


async def test_the_same_again_and_another_with_another_seed(fp32: Path, whole: np.ndarray) -> None:
    assert await pcm_of(settings(fp32)) == whole.tobytes()
    assert await pcm_of(settings(fp32, seed=1)) != whole.tobytes()


async def test_stop_ends_a_segment(fp32: Path) -> None:
    """After the tokens that the model has for it, and three of silence."""
    async with running(settings(fp32)) as engine:
        [chunk] = await spoken(engine, "Yes.")
    assert chunk.seconds == pytest.approx((STOP_AFTER + 3) * 0.04)


async def test_a_model_that_never_stops_is_stopped(tmp_path: Path) -> None:
    pcm = await pcm_of(settings(write_bundle(tmp_path, stop_after=None)), "Yes.")
    assert len(pcm) == (max_tokens("Yes.") + 3) * 1920


@pytest.mark.parametrize("chunks", [(12,), (12, 13), (24,), (25,), (26,), (100,)])
async def test_stop_within_a_chunk_and_at_its_end(fp32: Path, whole: np.ndarray, chunks: tuple[int, ...]) -> None:
    joined = samples(await pcm_of(settings(fp32, chunk_tokens=chunks)))
    assert len(joined) == len(whole)
    assert np.abs(joined.astype(int) - whole).max() <= 1


async def test_company_changes_nothing(fp32: Path, whole: np.ndarray) -> None:
    alone = whole.tobytes()
    async with running(settings(fp32, workers=2), max_streams=3) as engine:
        together = await asyncio.gather(*(spoken(engine) for _ in range(3)))
        assert [b"".join(chunk.pcm for chunk in chunks) for chunks in together] == [alone] * 3


async def test_greedily_it_says_what_the_model_cards_loop_says(fp32: Path) -> None:
    """Top-k of 1: the example of the model card, but for its penalty, which counts START in place of each new token."""
    chosen = settings(fp32, sampling=SamplingSettings(1.0, 1, 1.0, 1.0))
    async with running(chosen) as engine:
        [chunk] = await spoken(engine, "Yes.")
        bundle = engine._bundle
    assert bundle is not None
    graphs = find_files(fp32, "fp32").graphs
    opened = {part: open_part(part, graphs[part], ["CPUExecutionProvider"], 1) for part in graphs}
    model = LanguageModel(opened["embed_tokens"], opened["language_model"])
    speaker = bundle.speakers["default"]
    logits, cache = model.begin(speaker.prefix, bundle.tokenizer.encode("Yes."))
    tokens: list[int] = []
    while len(tokens) < round(chunk.seconds * 25) - 3:
        token = int(np.argmax(logits))
        tokens.append(token)
        logits, cache = model.step(token, cache)
    wave = SpeechDecoder(opened["conditional_decoder"])(speaker.voice, [*tokens, 4299, 4299, 4299])
    np.testing.assert_allclose(samples(chunk.pcm), wave * 32767, atol=1)


async def test_chunks_joined_are_the_whole(fp32: Path, whole: np.ndarray) -> None:
    """A decoder that says the same of a token whatever follows: the chunks must not be heard at all."""
    async with running(settings(fp32, chunk_tokens=(12, 6))) as engine:
        chunks = await spoken(engine)
    assert len(chunks) > 4
    joined = samples(b"".join(chunk.pcm for chunk in chunks))
    assert len(joined) == len(whole)
    assert np.abs(joined.astype(int) - whole).max() <= 1
    assert chunks[0].seconds == pytest.approx(0.08)  # 12 tokens, 10 of them held


async def test_chunks_of_a_decoder_that_moves(tmp_path: Path) -> None:
    """A steady tone, in each decode shifted against the last: neither a click nor a dip where they meet."""
    directory = write_bundle(tmp_path, drift=True, stop_after=100)
    joined = samples(await pcm_of(settings(directory, chunk_tokens=(12, 25)), "Please hold the line.")) / 32767
    assert len(joined) > 100 * 960
    assert np.abs(np.diff(joined)).max() <= 1.1 * 0.3 * 2 * np.pi * 200 / 24000
    period = 120
    levels = np.sqrt(np.convolve(np.square(joined), np.ones(period) / period, mode="valid"))
    assert levels.min() > 0.95 * 0.3 * np.sqrt(0.5)


@pytest.mark.parametrize("rate", [8000, 16000])
async def test_the_rate_asked_for(fp32: Path, whole: np.ndarray, rate: int) -> None:
    full = whole.tobytes()
    pcm = await pcm_of(settings(fp32, chunk_tokens=(12,)), rate=rate)
    assert abs(len(pcm) - len(full) * rate // 24000) <= 8
    # A 200 Hz tone: its amplitude survives.
    assert np.std(samples(pcm)) == pytest.approx(np.std(samples(full)), rel=0.02)


@pytest.mark.parametrize("text", ["", "  \n", "...", "[", "?!"])
async def test_nothing_to_say(fp32: Path, text: str) -> None:
    async with running(settings(fp32)) as engine:
        assert await spoken(engine, text) == []


async def test_half_a_surrogate_ends_its_own_utterance_only(fp32: Path) -> None:
    async with running(settings(fp32)) as engine:
        try:
            await spoken(engine, "Hello \ud800 there")
        except SynthesisError as error:
            assert "Hello" not in str(error)
        assert await spoken(engine, "Hello there.")


async def test_cancelling_frees_the_room(fp32: Path) -> None:
    async with running(settings(fp32, chunk_tokens=(12,)), max_streams=1) as engine:
        stream = engine.synthesize(SpeechRequest(TEXT, sample_rate=8000))
        with pytest.raises(EngineBusyError):
            engine.synthesize(SpeechRequest(TEXT))
        await anext(aiter(stream))
        stream.cancel()
        assert [chunk async for chunk in stream] == []
        assert await spoken(engine, "Yes.")


def heavy(directory: Path, part: str, seconds: float) -> None:
    """Make a part of a bundle take about so long for each run: a loop in the graph, that nothing but its end needs."""
    path = directory / "onnx" / f"{part}.onnx"
    model = onnx.load(path)
    graph, helper, types = model.graph, onnx.helper, onnx.TensorProto
    [output] = [port.name for port in graph.output if port.name in ("logits", "waveform")]
    for node in graph.node:
        node.output[:] = [f"{name}_light" if name == output else name for name in node.output]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["still"]),
            helper.make_node("MatMul", ["slow", "slow"], ["product"]),
            helper.make_node("Clip", ["product", "low", "high"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("at", types.INT64, []),
            helper.make_tensor_value_info("go_on", types.BOOL, []),
            helper.make_tensor_value_info("slow", types.FLOAT, [256, 256]),
        ],
        [
            helper.make_tensor_value_info("still", types.BOOL, []),
            helper.make_tensor_value_info("next", types.FLOAT, [256, 256]),
        ],
        [onnx.numpy_helper.from_array(np.float32(value), name) for name, value in (("low", -1), ("high", 1))],
    )
    for name, value in {
        "rounds": np.int64(seconds * 3000),
        "yes": np.bool_(True),
        "ones": np.ones((256, 256), np.float32),
        "nothing": np.float32(0),
    }.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    graph.node.extend(
        [
            helper.make_node("Loop", ["rounds", "yes", "ones"], ["worn"], body=body),
            helper.make_node("ReduceMax", ["worn"], ["most"], keepdims=0),
            helper.make_node("Mul", ["most", "nothing"], ["none"]),
            helper.make_node("Add", [f"{output}_light", "none"], [output]),
        ]
    )
    onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}_data", size_threshold=200)


@pytest.mark.parametrize("stopping", [False, True])
async def test_a_decode_under_way_ends_at_once(
    tmp_path: Path, fp32: Path, monkeypatch: pytest.MonkeyPatch, stopping: bool
) -> None:
    """When its caller hangs up the worker is free; at a shutdown no thread is left within a run."""
    directory = Path(shutil.copytree(fp32, tmp_path / "heavy"))
    heavy(directory, "conditional_decoder", 60)
    endless = open_part("conditional_decoder", directory / "onnx/conditional_decoder.onnx", ["CPUExecutionProvider"], 1)
    async with running(settings(fp32)) as engine:
        assert engine._bundle is not None
        light = engine._bundle.decoder._session
        engine._bundle.decoder._session = endless
        began = asyncio.Event()
        loop = asyncio.get_running_loop()
        decode = SpeechDecoder.__call__

        def noted(*arguments: object) -> object:
            loop.call_soon_threadsafe(began.set)
            return decode(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(SpeechDecoder, "__call__", noted)
        stream = engine.synthesize(SpeechRequest("Yes."))
        await began.wait()
        await asyncio.sleep(0.1)
        since = time.monotonic()
        if stopping:
            await engine.stop()
        else:
            stream.cancel()
            engine._bundle.decoder._session = light
            assert await spoken(engine, "Yes.")
        assert time.monotonic() - since < 1
        assert [chunk async for chunk in stream] == []
        assert not [thread for thread in threading.enumerate() if stopping and "onnx-tts" in thread.name]


async def test_a_stop_while_it_loads(fp32: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No further part is opened; and it can be started again."""
    opened: list[str] = []
    began, go_on = threading.Event(), threading.Event()

    def slow(part: str, *arguments: object) -> object:
        opened.append(part)
        began.set()
        go_on.wait(10)
        return open_part(part, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("tts_engine.onnx_bundle.bundle.open_part", slow)
    engine = OnnxBundleEngine(settings(fp32))
    starting = asyncio.ensure_future(engine.start())
    await asyncio.to_thread(began.wait)
    starting.cancel()
    asyncio.get_running_loop().call_later(0.05, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert opened == ["speech_encoder"]
    assert not engine.ready
    await engine.start()
    assert await spoken(engine, "Yes.")
    await engine.stop()


async def test_a_call_that_would_hear_its_text_late_is_refused(fp32: Path) -> None:
    async with running(settings(fp32, max_first_audio_ms=2000), max_streams=5) as engine:
        assert engine._bundle is not None
        # Alone a first sound takes 1.5 s, beside another that is silent 3 s.
        pace = Pace(begin=0.3, step=0.01, decode=0.6, decoded=60, prompt=0)
        engine._bundle = replace(engine._bundle, pace=pace)
        assert engine.available() is None
        first = engine.synthesize(SpeechRequest(TEXT))
        fault = engine.available()
        assert isinstance(fault, EngineBusyError)
        assert str(fault) == "a text would be heard after 3.0 s, more than 2 s"
        assert fault.retry_after == pytest.approx(1.0)
        second = engine.synthesize(SpeechRequest("Yes."))  # of a call that is there already
        assert [chunk async for chunk in second]
        first.cancel()
        assert engine.available() is None


@pytest.mark.parametrize("limit", [1, 0])
async def test_an_idle_engine_and_one_without_a_limit_take_a_call(fp32: Path, limit: int) -> None:
    async with running(settings(fp32, max_first_audio_ms=limit), max_streams=5) as engine:
        assert engine._bundle is not None
        engine._bundle = replace(engine._bundle, pace=Pace(9, 9, 9, 35, 10))
        assert engine.available() is None
        stream = engine.synthesize(SpeechRequest(TEXT))
        assert (engine.available() is None) is (limit == 0)
        stream.cancel()


@pytest.mark.parametrize(
    ("step", "said"),
    [(0.001, "INFO real-time factor"), (0.03, "WARNING max_streams = 4"), (0.05, "WARNING keep up with one listener")],
)
def test_what_the_log_says_of_the_pace(fp32: Path, caplog: pytest.LogCaptureFixture, step: float, said: str) -> None:
    engine = OnnxBundleEngine(settings(fp32), max_streams=4)
    pace = Pace(0.01, step, 0.01, 35, 10)
    with caplog.at_level("INFO"):
        engine._log_pace(Bundle(None, None, None, {}, (), pace, "CPUExecutionProvider"))  # type: ignore[arg-type]
    level, _, words = said.partition(" ")
    assert [record for record in caplog.records if record.levelname == level and words in record.getMessage()]
    assert (step > 0.01) is any(record.levelname == "WARNING" for record in caplog.records)


@pytest.mark.parametrize(
    ("segment", "pieces"),
    [
        ("Yes.", ["Yes."]),
        ("Thank you for calling Acme, my name is Anna.", ["Thank you for calling Acme,", "My name is Anna."]),
        ("We close at nine.", ["We close at nine."]),
    ],
)
def test_a_first_segment_is_short(segment: str, pieces: list[str]) -> None:
    assert early(segment) == pieces


async def test_it_stops_and_starts_again(fp32: Path) -> None:
    engine = OnnxBundleEngine(settings(fp32))
    assert not engine.ready
    for _ in range(2):
        await engine.start()
        assert engine.ready
        assert await spoken(engine, "Yes.")
        await engine.stop()
    with pytest.raises(EngineNotReadyError):
        engine.synthesize(SpeechRequest("Yes."))


async def test_voices(fp32: Path, tmp_path: Path) -> None:
    write_recording(tmp_path / "anna.wav", pitch=210)
    chosen = settings(fp32, voices={"anna": tmp_path / "anna.wav"}, voice_cache=tmp_path / "cache")
    async with running(chosen) as engine:
        assert engine.voices == ("anna", "default")
        assert engine.default_voice == "default"
        anna = await spoken(engine, voice="anna")
        assert await spoken(engine) != anna
        with pytest.raises(UnknownVoiceError, match="anna, default"):
            engine.synthesize(SpeechRequest(TEXT, "bert"))
    assert len(list((tmp_path / "cache").iterdir())) == 2


async def test_the_encoder_is_not_loaded_for_voices_that_are_kept(
    fp32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def recorded(part: str, *arguments: object) -> object:
        opened.append(part)
        return open_part(part, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("tts_engine.onnx_bundle.bundle.open_part", recorded)
    chosen = settings(fp32, voice_cache=tmp_path / "cache")
    first = await pcm_of(chosen)
    assert "speech_encoder" in opened
    opened.clear()
    assert await pcm_of(chosen) == first
    assert sorted(opened) == ["conditional_decoder", "embed_tokens", "language_model"]


async def test_a_shorter_prompt_speaks_on(fp32: Path, whole: np.ndarray) -> None:
    assert len(await pcm_of(settings(fp32, prompt_seconds=1.0))) == 2 * len(whole)


async def test_steps_are_short_enough_to_take_turns(fp32: Path) -> None:
    """One worker, two utterances: the second does not wait for the end of the first."""
    ends: list[str] = []

    async def say(engine: Engine, text: str, name: str) -> None:
        await spoken(engine, text)
        ends.append(name)

    async with running(settings(fp32)) as engine:
        await asyncio.gather(say(engine, TEXT * 3, "long"), say(engine, "Yes.", "short"))
    assert ends == ["short", "long"]


def test_no_voice(fp32: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(fp32, tmp_path / "bare"))
    (bare / "default_voice.wav").unlink()
    with pytest.raises(BundleError, match=r"no voice.*\[tts\.onnx\.voices\].*default_voice\.wav"):
        OnnxBundleEngine(settings(bare))


def test_a_default_voice_that_is_not_there(fp32: Path) -> None:
    with pytest.raises(UnknownVoiceError, match="'anna'"):
        OnnxBundleEngine(settings(fp32, default_voice="anna"))


def test_files_that_are_missing(fp32: Path) -> None:
    with pytest.raises(BundleError, match="lacks"):
        OnnxBundleEngine(settings(fp32, precision="q8"))


async def test_a_graph_with_another_interface(fp32: Path, tmp_path: Path) -> None:
    wrong = Path(shutil.copytree(fp32, tmp_path / "wrong"))
    shutil.copy(wrong / "onnx" / "embed_tokens.onnx", wrong / "onnx" / "conditional_decoder.onnx")
    engine = OnnxBundleEngine(settings(wrong))
    with pytest.raises(BundleError, match=r"conditional_decoder.*no input speech_tokens.*no output waveform"):
        await engine.start()
    assert not engine.ready


async def test_a_graph_that_is_damaged(fp32: Path, tmp_path: Path) -> None:
    wrong = Path(shutil.copytree(fp32, tmp_path / "wrong"))
    (wrong / "onnx" / "language_model.onnx").write_bytes(b"language_model.onnx_data but no graph")
    with pytest.raises(BundleError, match=r"language_model\.onnx cannot be loaded"):
        await OnnxBundleEngine(settings(wrong)).start()


async def test_weights_that_are_cut_short(fp32: Path, tmp_path: Path) -> None:
    wrong = Path(shutil.copytree(fp32, tmp_path / "wrong"))
    data = wrong / "onnx" / "embed_tokens.onnx_data"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(BundleError, match=r"embed_tokens\.onnx cannot be loaded"):
        await OnnxBundleEngine(settings(wrong)).start()


def test_a_cache_of_links_as_the_hub_client_makes_it(fp32: Path, whole: np.ndarray, tmp_path: Path) -> None:
    """Files are links to blobs there; ONNX Runtime must find the weights beside the link."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    blobs.mkdir()
    for index, path in enumerate(sorted(path for path in fp32.rglob("*") if path.is_file())):
        blob = Path(shutil.copy(path, blobs / f"blob{index}"))
        link = snapshot / path.relative_to(fp32)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    assert asyncio.run(pcm_of(settings(snapshot))) == whole.tobytes()


def test_providers() -> None:
    assert choose_providers([])[-1] == "CPUExecutionProvider"
    assert choose_providers(["CPUExecutionProvider"]) == ("CPUExecutionProvider",)
    with pytest.raises(BundleError, match=r"no QuantumExecutionProvider here, only .*CPUExecutionProvider"):
        choose_providers(["QuantumExecutionProvider"])


def test_cudas_options() -> None:
    """One exhaustive search for each new length would be seconds of silence."""
    [(name, options), cpu] = provider_options(["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert (name, cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options == {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}


def test_cudas_libraries_are_looked_for_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[bool] = []

    def preload() -> None:
        print("Failed to load libcublas")
        called.append(True)

    monkeypatch.setattr("onnxruntime.preload_dlls", preload, raising=False)
    choose_providers(["CPUExecutionProvider"])
    assert not called
    monkeypatch.setattr(
        "onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    assert choose_providers([]) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert called
    assert capsys.readouterr().out == ""  # standard output may be speech
    monkeypatch.delattr("onnxruntime.preload_dlls")  # before 1.21
    choose_providers([])


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_cannot_start_names_the_remedy(fp32: Path) -> None:
    """What ONNX Runtime says of it is a warning; it goes on with the CPU."""
    path = fp32 / "onnx" / "embed_tokens.onnx"
    with pytest.raises(BundleError, match=r"cannot start here.*CPUExecutionProvider: it needs an NVIDIA driver.*pip"):
        open_part("embed_tokens", path, ["CUDAExecutionProvider", "CPUExecutionProvider"], 1)


def test_threads() -> None:
    cores = len(os.sched_getaffinity(0))
    assert thread_count(3, 7) == 3
    assert thread_count(0, 1) == cores
    assert thread_count(0, 10 * cores) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"workers": 0},
        {"threads": -1},
        {"prompt_seconds": 0.5},
        {"prompt_seconds": 11},
        {"chunk_tokens": (0,)},
        {"max_first_audio_ms": -1},
    ],
)
def test_settings_that_mean_nothing(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        settings(Path(), **changes)


_WITHOUT_TORCH = """
import asyncio, sys
from pathlib import Path

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "safetensors", "transformers", "onnx", "librosa"):
            raise ImportError(f"{name} must not be imported")

sys.meta_path.insert(0, Blocker())
from tts_engine.engine import SpeechRequest
from tts_engine.onnx_bundle.engine import OnnxBundleEngine
from tts_engine.onnx_bundle.settings import OnnxBundleSettings
import tts_engine.onnx_bundle.hub

async def main():
    engine = OnnxBundleEngine(OnnxBundleSettings(Path(sys.argv[1]), "fp32", threads=1))
    await engine.start()
    seconds = sum([chunk.seconds async for chunk in engine.synthesize(SpeechRequest("Hello there.", sample_rate=8000))])
    await engine.stop()
    return seconds

assert asyncio.run(main()) > 0.3
assert "torch" not in sys.modules
print("spoken")
"""


def test_without_torch(fp32: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, str(fp32)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "spoken\n", done.stderr
