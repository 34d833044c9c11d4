"""A bundle with the names, types and dynamic axes of the released one, and tiny graphs that really compute.

- embed_tokens: the last two ids are speech (<|endoftext|> is START), those before them text, as in the released graph.
- language_model: attention over the cache and itself, causal by position_ids, masked by attention_mask; so a mistake in
  cache, mask or positions changes the logits.
  STOP comes after some tokens, which the last layer's cache counts.
- conditional_decoder: 960 samples a token after the prompt, a tone in which each token has an amplitude of its own.
  With `drift` the amplitude is 0.3, and the tone's phase another with each number of tokens.
- speech_encoder: its outputs are pieces of the recording.

Weights lie beside the graphs in NAME.onnx_data, as the released ones do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import soundfile
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from benchmarks.synthetic_tokenizer import byte_characters
from tts_engine.onnx_bundle.files import PARTS, SUFFIXES
from tts_engine.text.tags import TAGS

LAYERS, HEADS, HEAD_WIDTH, WIDTH = 3, 2, 4, 8
VOCABULARY = 6563
TEXT_ROWS = 50276
POSITIONS = 1500
SPEECH_MARK = 100.0  # added to the first channel of a speech token's embedding, and taken off again
STOP_TOKEN = 6562
STOP_AFTER = 25
FEATURES = 6
PROMPT_TOKENS = 10
SAMPLES_PER_TOKEN = 960

Ports = Sequence[tuple[str, int, Sequence[str | int]]]


class Graph:
    """An ONNX graph that is written down node by node."""

    def __init__(self, name: str, inputs: Ports, outputs: Ports) -> None:
        self._name = name
        self._inputs = [helper.make_tensor_value_info(*port) for port in inputs]
        self._outputs = [helper.make_tensor_value_info(*port) for port in outputs]
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._count = 0

    def constant(self, value: NDArray[np.generic] | Sequence[int] | float) -> str:
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        self._count += 1
        name = f"c{self._count}"
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def __call__(self, op: str, *inputs: str, name: str | None = None, **attributes: object) -> str:
        self._count += 1
        output = name or f"t{self._count}"
        self._nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def save(self, path: Path) -> None:
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        data = f"{path.name}_data"
        (path.parent / data).unlink(missing_ok=True)
        onnx.save_model(model, path, save_as_external_data=True, location=data, size_threshold=200)


def write_bundle(
    directory: Path,
    precision: str = "fp32",
    *,
    voice: bool = True,
    drift: bool = False,
    forgets: bool = False,
    split_read: bool = True,
    stop_after: int | None = STOP_AFTER,
    seed: int = 0,
) -> Path:
    """Write a bundle in that precision and give its directory.

    `stop_after`: so many tokens the language model gives STOP; None: it never does.
    `forgets`: the language model ignores its cache. `split_read` False: it fails where several ids follow a cache.
    """
    folder = directory / "onnx"
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    half = precision in ("fp16", "q4f16")
    made = {
        "speech_encoder": speech_encoder(),
        "embed_tokens": embed_tokens(random),
        "language_model": language_model(
            random, half=half, forgets=forgets, split_read=split_read, stop_after=stop_after
        ),
        "conditional_decoder": conditional_decoder(drift=drift),
    }
    for part in PARTS:
        made[part].save(folder / f"{part}{SUFFIXES[precision]}.onnx")
    write_tokenizer(directory / "tokenizer.json")
    if voice:
        write_recording(directory / "default_voice.wav")
    return directory


def write_tokenizer(path: Path, *, end: bool = True) -> None:
    """Bytes and tags; ids as in the released one (<|endoftext|> 50256); the two of them at the end of a text."""
    vocabulary = {character: index for index, character in enumerate(byte_characters())}
    # Filled up to the released size, so that the tags get their ids.
    vocabulary |= {f"{index}_": index for index in range(len(vocabulary), 50256)}
    vocabulary["<|endoftext|>"] = 50256
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.add_tokens(list(TAGS))
    if end:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <|endoftext|> <|endoftext|>", special_tokens=[("<|endoftext|>", 50256)]
        )
    tokenizer.enable_truncation(20)
    tokenizer.save(str(path))


def write_recording(path: Path, seconds: float = 6.0, rate: int = 24000, pitch: float = 140.0) -> None:
    """A hum of a few partials that comes and goes as syllables do."""
    at = np.arange(int(seconds * rate)) / rate
    hum = sum(np.sin(2 * np.pi * pitch * partial * at) / partial for partial in range(1, 6))
    soundfile.write(path, (0.15 * hum * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * at))).astype(np.float32), rate)


def embed_tokens(random: np.random.Generator) -> Graph:
    graph = Graph(
        "embed_tokens",
        [("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])],
        [("inputs_embeds", TensorProto.FLOAT, ["batch_size", "sequence_length", WIDTH])],
    )
    axis, start, last, beyond = (graph.constant(np.array([n], np.int64)) for n in (1, 0, -2, 2**31))
    text = graph("Slice", "input_ids", start, last, axis)
    speech = graph("Slice", "input_ids", last, beyond, axis)
    is_end = graph("Equal", speech, graph.constant(np.int64(50256)))
    speech = graph("Where", is_end, graph.constant(np.int64(6561)), speech)
    texts = graph("Gather", graph.constant(random.normal(size=(TEXT_ROWS, WIDTH))), text)
    table = random.normal(size=(VOCABULARY, WIDTH))
    table[:, 0] += SPEECH_MARK
    speeches = graph("Gather", graph.constant(table), speech)
    graph("Concat", texts, speeches, axis=1, name="inputs_embeds")
    return graph


def language_model(
    random: np.random.Generator,
    *,
    half: bool = False,
    forgets: bool = False,
    split_read: bool = True,
    stop_after: int | None = STOP_AFTER,
) -> Graph:
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    past = ["batch_size", HEADS, "past_sequence_length", HEAD_WIDTH]
    present = ["batch_size", HEADS, "total_sequence_length", HEAD_WIDTH]
    names = [f"{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
    graph = Graph(
        "language_model",
        [
            ("inputs_embeds", TensorProto.FLOAT, ["batch_size", "sequence_length", WIDTH]),
            ("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"]),
            ("position_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
            *((f"past_key_values.{name}", kind, past) for name in names),
        ],
        [
            ("logits", TensorProto.FLOAT, ["batch_size", "sequence_length", VOCABULARY]),
            *((f"present.{name}", kind, present) for name in names),
        ],
    )

    def matrix(rows: int, columns: int) -> str:
        return graph.constant(random.normal(size=(rows, columns)) / np.sqrt(rows))

    def by_head(x: str) -> str:
        split = graph("Reshape", x, graph.constant(np.array([0, 0, HEADS, HEAD_WIDTH], np.int64)))
        return graph("Transpose", split, perm=[0, 2, 1, 3])

    positions = graph("Gather", graph.constant(random.normal(size=(POSITIONS, WIDTH)) / 2), "position_ids")
    first = np.zeros(WIDTH, np.float32)
    first[0] = 1
    marks = graph("Mul", "inputs_embeds", graph.constant(first))
    marks = graph("Cast", graph("Greater", marks, graph.constant(SPEECH_MARK / 2)), to=TensorProto.FLOAT)
    unmarked = graph("Sub", "inputs_embeds", graph("Mul", marks, graph.constant(SPEECH_MARK)))
    x = graph("Add", unmarked, positions)
    if not split_read:
        # An index that is 0 unless there are a cache and several new ids: beyond that the table has nothing.
        cached, new = graph("Shape", "past_key_values.0.key", start=2, end=3), graph("Shape", "position_ids", start=1)
        one = graph.constant(np.array([1], np.int64))
        index = graph("Mul", graph("Min", cached, one), graph("Sub", new, one))
        x = graph("Mul", x, graph("Gather", graph.constant(np.ones(1, np.float32)), index))
    total = graph("Shape", "attention_mask", start=1, end=2)
    zero, step = graph.constant(np.int64(0)), graph.constant(np.int64(1))
    keys_at = graph("Range", zero, graph("Squeeze", total), step)
    queries_at = graph("Unsqueeze", "position_ids", graph.constant(np.array([1, 3], np.int64)))  # (B, 1, T, 1)
    later = graph("Greater", keys_at, queries_at)
    unmasked = graph("Unsqueeze", "attention_mask", graph.constant(np.array([1, 2], np.int64)))
    hidden = graph("Or", later, graph("Equal", unmasked, zero))
    bias = graph("Where", hidden, graph.constant(np.float32(-1e4)), graph.constant(np.float32(0)))
    # The last layer's keys only count: the sum of those cached is how many speech tokens came, and STARTs, two of them.
    counted = graph("Concat", f"past_key_values.{LAYERS - 1}.key", graph("Cast", by_head(marks), to=kind), axis=2)
    graph("Identity", counted, name=f"present.{LAYERS - 1}.key")
    grown = graph("Cast", by_head(marks), to=kind)
    grown = graph("Concat", f"past_key_values.{LAYERS - 1}.value", grown, axis=2)
    graph("Identity", grown, name=f"present.{LAYERS - 1}.value")
    count = graph("ReduceSum", graph("Cast", counted, to=TensorProto.FLOAT), keepdims=0)
    for layer in range(LAYERS - 1):
        queries, keys, values = (by_head(graph("MatMul", x, matrix(WIDTH, WIDTH))) for _ in range(3))
        attended = []
        for part, own in (("key", keys), ("value", values)):
            cached = f"past_key_values.{layer}.{part}"
            if forgets:
                cached = graph("Mul", cached, graph.constant(np.zeros((), np.float16 if half else np.float32)))
            whole = graph("Concat", cached, graph("Cast", own, to=kind), axis=2)
            graph("Identity", whole, name=f"present.{layer}.{part}")
            attended.append(graph("Cast", whole, to=TensorProto.FLOAT))
        scores = graph("MatMul", queries, graph("Transpose", attended[0], perm=[0, 1, 3, 2]))
        weights = graph("Softmax", graph("Add", scores, bias), axis=-1)
        mixed = graph("Transpose", graph("MatMul", weights, attended[1]), perm=[0, 2, 1, 3])
        merged = graph("Reshape", mixed, graph.constant(np.array([0, 0, WIDTH], np.int64)))
        x = graph("Add", x, graph("Tanh", graph("MatMul", merged, matrix(WIDTH, WIDTH))))
    logits = graph("MatMul", x, graph.constant(random.normal(size=(WIDTH, VOCABULARY))))
    stop = np.zeros(VOCABULARY, np.float32)
    stop[STOP_TOKEN] = 40
    enough = graph.constant(np.float32(1e9 if stop_after is None else stop_after + 1.5))
    sign = graph("Where", graph("Greater", count, enough), graph.constant(1.0), graph.constant(-1.0))
    graph("Add", logits, graph("Mul", graph.constant(stop), sign), name="logits")
    return graph


def conditional_decoder(*, drift: bool = False) -> Graph:
    graph = Graph(
        "conditional_decoder",
        [
            ("speech_tokens", TensorProto.INT64, ["batch_size", "num_speech_tokens"]),
            ("speaker_embeddings", TensorProto.FLOAT, ["batch_size", 192]),
            ("speaker_features", TensorProto.FLOAT, ["batch_size", "feature_dim", 80]),
        ],
        [("waveform", TensorProto.FLOAT, ["batch_size", "num_samples"])],
    )
    frames = graph("Shape", "speaker_features", start=1, end=2)
    two, one = graph.constant(np.array([2], np.int64)), graph.constant(np.array([1], np.int64))
    prompt = graph("Div", frames, two)
    beyond = graph.constant(np.array([2**31], np.int64))
    tokens = graph("Slice", "speech_tokens", prompt, beyond, one)
    level = graph("Cast", graph("Mod", tokens, graph.constant(np.int64(97))), to=TensorProto.FLOAT)
    scale, least = (0.0, 0.3) if drift else (0.004, 0.1)
    level = graph("Add", graph("Mul", level, graph.constant(scale)), graph.constant(least))
    held = graph.constant(np.ones((1, 1, SAMPLES_PER_TOKEN), np.float32))
    levels = graph("Mul", graph("Unsqueeze", level, graph.constant(np.array([2], np.int64))), held)
    shape = graph.constant(np.array([1, -1], np.int64))
    levels = graph("Reshape", levels, shape)
    # A tone of 200 Hz: 8 periods a token.
    count = graph("Squeeze", graph("Shape", levels, start=1, end=2))
    at = graph("Range", graph.constant(np.int64(0)), count, graph.constant(np.int64(1)))
    at = graph("Cast", at, to=TensorProto.FLOAT)
    if drift:
        many = graph("Cast", graph("Shape", tokens, start=1, end=2), to=TensorProto.FLOAT)
        at = graph(
            "Add",
            at,
            graph("Mod", graph("Mul", many, graph.constant(np.float32(7))), graph.constant(np.float32(48)), fmod=1),
        )
    tone = graph("Sin", graph("Mul", at, graph.constant(np.float32(2 * np.pi * 200 / 24000))))
    speaker = graph("ReduceMean", "speaker_embeddings", keepdims=1)
    tinted = graph("Add", tone, graph("Mul", speaker, graph.constant(0.05)))
    graph("Mul", levels, tinted, name="waveform")
    return graph


def speech_encoder() -> Graph:
    graph = Graph(
        "speech_encoder",
        [("audio_values", TensorProto.FLOAT, ["batch_size", "num_samples"])],
        [
            ("audio_features", TensorProto.FLOAT, ["batch_size", "sequence_length", WIDTH]),
            ("audio_tokens", TensorProto.INT64, ["batch_size", "audio_sequence_length"]),
            ("speaker_embeddings", TensorProto.FLOAT, ["batch_size", 192]),
            ("speaker_features", TensorProto.FLOAT, ["batch_size", "feature_dim", 80]),
        ],
    )

    def piece(start: int, shape: Sequence[int], name: str | None = None) -> str:
        ends = [np.array([n], np.int64) for n in (start, start + int(np.prod(shape)), 1)]
        cut = graph("Slice", "audio_values", *(graph.constant(end) for end in ends))
        return graph("Reshape", cut, graph.constant(np.array([1, *shape], np.int64)), name=name)

    piece(1000, [FEATURES, WIDTH], "audio_features")
    loud = graph("Mul", graph("Abs", piece(2000, [PROMPT_TOKENS])), graph.constant(np.float32(5000)))
    graph("Cast", loud, name="audio_tokens", to=TensorProto.INT64)
    piece(3000, [192], "speaker_embeddings")
    piece(4000, [2 * PROMPT_TOKENS, 80], "speaker_features")
    return graph
