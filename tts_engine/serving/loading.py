"""From settings to a synthesiser that is warm: engines and weights read, memory taken, every graph captured."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.guards import MOST_TOKENS
from tts_engine.chatterbox.hub import find_model
from tts_engine.chatterbox.model import Chatterbox, device_of
from tts_engine.chatterbox.model import load as load_model
from tts_engine.chatterbox.padded import PaddedFlow, PaddedVocoder
from tts_engine.chatterbox.paged_t3 import MOST_PREFIX, PAGE, BatchDecoder, PagedCache
from tts_engine.chatterbox.step_attention import HEAD
from tts_engine.chatterbox.tokenizer import TextTokenizer
from tts_engine.chatterbox.voice import Voice
from tts_engine.chatterbox.voice_store import VoiceStore
from tts_engine.chatterbox.watermark import Watermarker
from tts_engine.chatterbox.windows import SpeechState
from tts_engine.errors import EngineError, UnknownVoiceError
from tts_engine.measures import Measure
from tts_engine.serving import speech_shapes
from tts_engine.serving.admission import Load
from tts_engine.serving.backends import Backends, choose_backends
from tts_engine.serving.device import use_device
from tts_engine.serving.messages import Report
from tts_engine.serving.scheduler import Limits, Scheduler
from tts_engine.serving.serving_measures import ServingMeasures
from tts_engine.serving.settings import WorkerSettings
from tts_engine.serving.speech_runner import PackedFlowDecoder, PackedRenderer, SpeechRunner
from tts_engine.serving.synthesiser import Synthesiser
from tts_engine.serving.t3_runner import T3Runner
from tts_engine.serving.utterance import MOST_TEXT_TOKENS
from tts_engine.serving.voice_bank import NoBuiltInVoiceError, VoiceBank
from tts_engine.tensorrt import step_shapes
from tts_engine.tensorrt.engine_flow import EngineFlow
from tts_engine.tensorrt.engine_t3 import EnginePasses
from tts_engine.tensorrt.engine_vocoder import EngineVocoder
from tts_engine.tensorrt.engines import in_a_line
from tts_engine.tensorrt.faults import TensorRtError
from tts_engine.tensorrt.profiles import MOST_PAGES

logger = logging.getLogger(__name__)

POSITIONS = MOST_TEXT_TOKENS + 1 + MOST_TOKENS
"Own positions of a sequence, at most."

MOST_SLOTS = 256
"Sequences that T3 decodes at once; with more, steps would be slow and no fuller: each is done in a second."

CHUNK_ROWS = 64
CHUNK_TOKENS = 11520
WINDOW_FRAMES = 6144
"Of a batch of S3Gen, at most."


MEMORY_S = 1.0
"Between two looks at the GPU's memory."


class EnginesLostError(EngineError):
    """TensorRT's engines failed, and have left the GPU useless for this process: another can do without them."""


@dataclass(frozen=True)
class Loaded:
    """All that a worker works with."""

    synthesiser: Synthesiser
    scheduler: Scheduler
    measures: ServingMeasures
    tokenizer: TextTokenizer
    watermarker: Watermarker | None
    built_in_voice: bool
    summary: str
    device: torch.device
    refresh: Callable[[], None]

    def load(self, now: float) -> Load:
        """What admission wants to know."""
        return self.synthesiser.load(now)

    def snapshot(self) -> tuple[Measure, ...]:
        """The measures, as they are now."""
        self.refresh()
        return self.measures.all()


def load(settings: WorkerSettings, send: Callable[[Report], None]) -> Loaded:
    """Raises EngineError with what is missing."""
    try:
        return _load(settings, send)
    except torch.OutOfMemoryError:
        raise EngineError(
            "the GPU has no room for the model and its streams: lower [tts.chatterbox] kv_memory_mb or max_streams"
        ) from None


def _load(settings: WorkerSettings, send: Callable[[Report], None]) -> Loaded:
    directory = find_model(settings.engine.model)
    if directory is None:
        raise EngineError(not_here(settings.engine.model))
    device = device_of(settings.device)
    use_device(device)
    backends = choose_backends(settings, directory, device, settings.engines_failed)
    try:
        return _load_with(backends, settings, send, directory)
    except (TensorRtError, RuntimeError) as fault:  # RuntimeError: a GPU's, out of memory among them
        if settings.engine.backend != "auto" or not backends.engines.tried:
            raise
        failed = in_a_line(fault)
    # Out of the handler, which would keep alive what was loaded.
    logger.warning("TensorRT engines are given up: %s", failed)
    backends.engines.keep_kernels()
    del backends
    try:
        _free(device)
        return _load_with(choose_backends(settings, directory, device, failed), settings, send, directory)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as again:
        # A fault on the device is final for the process that met it.
        raise EnginesLostError(
            f"TensorRT engines failed ({failed}) and have left {device} useless for this process: {in_a_line(again)}"
        ) from again


def _free(device: torch.device) -> None:
    """What nothing refers to any more. RuntimeError if the device has failed."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


@contextmanager
def _engine_faults(backends: Backends) -> Iterator[None]:
    """What goes wrong here is told as the engines' fault, where some are in use: without them it may go well."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError) as fault:  # CUDA's, and what bindings raise
        if not backends.engines.sessions:
            raise
        raise TensorRtError(f"TensorRT engines: {in_a_line(fault)}") from fault


def _load_with(backends: Backends, settings: WorkerSettings, send: Callable[[Report], None], directory: Path) -> Loaded:
    engine, device = settings.engine, torch.device(settings.device)
    dtype = backends.dtype
    watermarker = Watermarker() if engine.watermark else None
    model = load_model(directory, device=device, dtype=dtype)
    limits = _limits(settings, model, backends)
    scheduler, measures = Scheduler(limits), ServingMeasures(str(device))
    backends.measure(measures)
    with _engine_faults(backends):
        t3 = _t3_runner(settings, model, limits, backends)
        speech = _speech_runner(settings, model, backends)
    flavour, tokenizer, built_in = model.flavour, model.tokenizer, model.default_voice
    prefix_of = model.t3.prefix
    del model  # what engines took the place of is not needed any more; T3 is, for prefixes
    store = VoiceStore(engine.voices_dir)

    def put(index: int, voice: Voice) -> None:
        with torch.inference_mode():
            moved = voice.to(device, dtype)
            prefix = prefix_of(moved.speaker_embedding, moved.prompt_tokens)
        if device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # the runners have streams of their own
        t3.set_voice(index, prefix)
        speech.set_voice(index, moved)
        # They read these later, and the allocator must not give the memory away before.
        _keep_for(t3.stream, prefix.keys, prefix.values)
        _keep_for(speech.stream, *vars(moved).values())

    bank = VoiceBank(engine.voices, store, built_in, put)
    _speak_with(engine.default_voice, bank, store, str(directory))
    with _engine_faults(backends):
        t3.capture()
        backends.engines.keep_kernels()
        speech.capture()
        backends.engines.settle()
    synthesiser = Synthesiser(scheduler, t3, speech, bank, measures, send, streams=settings.streams)
    summary = f"{flavour} of {directory} on {device} as {str(dtype).removeprefix('torch.')}, {backends.summary}"

    looked = -MEMORY_S

    def refresh() -> None:
        nonlocal looked
        synthesiser.refresh()
        if device.type == "cuda" and time.monotonic() - looked >= MEMORY_S:
            looked = time.monotonic()
            measures.memory.set(memory_in_use(device))

    if device.type == "cuda":
        _free(device)
        logger.info(
            "%.1f GB of %s are in use, by all processes; PyTorch has reserved %.1f GB of it here",
            memory_in_use(device) / 1e9,
            device,
            torch.cuda.memory_reserved(device) / 1e9,
        )
    return Loaded(
        synthesiser=synthesiser,
        scheduler=scheduler,
        measures=measures,
        tokenizer=tokenizer,
        watermarker=watermarker,
        built_in_voice=built_in is not None,
        summary=summary + (f", guidance {settings.cfg_scale:g}" if settings.cfg_scale else ""),
        device=device,
        refresh=refresh,
    )


def memory_in_use(device: torch.device) -> int:
    """Bytes of the whole GPU, as the driver counts: PyTorch's, TensorRT's, CUDA's own, and other processes'."""
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def _keep_for(stream: torch.cuda.Stream | None, *tensors: torch.Tensor) -> None:
    if stream is not None:
        for tensor in tensors:
            tensor.record_stream(stream)


def _limits(settings: WorkerSettings, model: Chatterbox, backends: Backends) -> Limits:
    sizes, slots = model.sizes, min(MOST_SLOTS, settings.streams)
    page_bytes = sizes.layers * 2 * sizes.heads * PAGE * HEAD * model.dtype.itemsize * (2 if settings.cfg_scale else 1)
    most = slots * -(-POSITIONS // PAGE)
    pages = min(most, settings.engine.kv_memory_mb * 1_000_000 // page_bytes)
    if backends.by_engine("t3"):
        # The scratch page, and twins' pages, are of the same pool.
        taken = (MOST_PAGES - 1) // (2 if settings.cfg_scale else 1)
        if pages > taken:
            logger.warning(
                "kv_memory_mb holds %d pages, and T3's TensorRT engines take %d: so many are used", pages, taken
            )
            pages = taken
    least = -(-POSITIONS // PAGE)
    if pages < least:
        raise EngineError(f"[tts.chatterbox] kv_memory_mb holds {pages} pages; one long sequence takes {least}")
    return Limits(
        slots=slots,
        pages=pages,
        page=PAGE,
        positions=POSITIONS,
        prefill_rows=8,
        step_rows=slots,
        chunk_rows=CHUNK_ROWS,
        chunk_tokens=CHUNK_TOKENS,
        urgent_tokens=CHUNK_TOKENS // 4,
        urgent_seconds=0.15,
        window_frames=WINDOW_FRAMES,
        ahead_seconds=settings.engine.ahead_seconds,
    )


def _t3_runner(settings: WorkerSettings, model: Chatterbox, limits: Limits, backends: Backends) -> T3Runner:
    twins = bool(settings.cfg_scale)
    cache = PagedCache(
        model.sizes,
        slots=limits.slots,
        pages=limits.pages * (2 if twins else 1),
        positions=POSITIONS,
        voices=settings.engine.voices,
        most_prefix=MOST_PREFIX,
        dtype=model.dtype,
        device=model.device,
        twins=twins,
    )
    sessions = backends.engines.sessions
    passes = shapes = None
    if backends.by_engine("t3"):
        passes = EnginePasses(model.t3, cache, sessions["t3_prefill"], sessions["t3_step"])
        shapes = step_shapes.EngineShapes(limits.slots, POSITIONS, settings.engine.voices, twins=twins)
    decoder = BatchDecoder(
        model.t3,
        cache,
        settings.engine.sampling,
        settings.cfg_scale,
        most_tokens=MOST_TOKENS,
        fused=backends.fused,
        passes=passes,
    )
    return T3Runner(decoder, cache, graphs=backends.captured("t3"), shapes=shapes)


def _speech_runner(settings: WorkerSettings, model: Chatterbox, backends: Backends) -> SpeechRunner:
    flow, vocoder = _flow(settings, model, backends), _vocoder(model, backends)
    by_engine = backends.by_engine("flow"), backends.by_engine("vocoder")
    captured = backends.captured("flow"), backends.captured("vocoder")
    shapes: speech_shapes.SpeechShapes | None = None
    if any(by_engine):
        shapes = speech_shapes.EngineShapes(
            CHUNK_TOKENS,
            WINDOW_FRAMES,
            flow=by_engine[0],
            vocoder=by_engine[1],
            capture_flow=captured[0],
            capture_vocoder=captured[1],
        )
    return SpeechRunner(
        flow,
        vocoder,
        SpeechState(settings.streams, ChunkPolicy(), model.device),
        slots=settings.streams,
        rows=CHUNK_ROWS,
        tokens=CHUNK_TOKENS,
        frames=WINDOW_FRAMES,
        device=model.device,
        graphs=any(captured),
        shapes=shapes,
    )


def _flow(settings: WorkerSettings, model: Chatterbox, backends: Backends) -> PackedFlowDecoder:
    voices = settings.engine.voices
    if backends.by_engine("flow"):
        sessions = backends.engines.sessions
        return EngineFlow(model.flow, sessions["flow_encoder"], sessions["estimator"], voices=voices)
    if not backends.captured("flow"):
        return PaddedFlow(model.flow, voices=voices)
    from tts_engine.chatterbox.packed_flow import PackedFlow  # noqa: PLC0415  only where there is Triton

    try:
        return PackedFlow(model.flow, voices=voices)
    except ValueError as fault:
        raise EngineError(f'{fault}: [tts.chatterbox] backend = "eager" runs such a model') from None


def _vocoder(model: Chatterbox, backends: Backends) -> PackedRenderer:
    if backends.by_engine("vocoder"):
        return EngineVocoder(backends.engines.sessions["vocoder"])
    if not backends.captured("vocoder"):
        return PaddedVocoder(model.vocoder)
    from tts_engine.chatterbox.packed_vocoder import PackedVocoder  # noqa: PLC0415  only where there is Triton

    return PackedVocoder(model.vocoder)


def _speak_with(name: str, bank: VoiceBank, store: VoiceStore, directory: str) -> None:
    """Put the default voice into the bank. Raises EngineError if the engine cannot speak with it."""
    stored = ", ".join(store.names()) or "none"
    try:
        voice = bank.acquire(name)
    except UnknownVoiceError:
        raise EngineError(
            f"there is no voice {name!r}: {store.directory} holds {stored}; see `chatterline voices add`"
        ) from None
    except NoBuiltInVoiceError:
        raise EngineError(
            f"there is no voice {name!r}: the model in {directory} brings none along (conds.pt), and "
            f"{store.directory} holds {stored}; see `chatterline voices add`"
        ) from None
    if voice is not None:
        bank.release(voice)


def not_here(model: str) -> str:
    """What to do about a model that is not on this machine."""
    if model.startswith(("/", "~", ".")):
        return f"there is no directory {model} with a model: `chatterline fetch-model --to {model}` makes it"
    return f"the model {model} is not here: run `chatterline fetch-model {model}`"
