"""Logits with a cache are those of reading everything at once, whoever else speaks meanwhile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tts_engine.onnx_bundle.synthetic_bundle import FEATURES, HEAD_WIDTH, HEADS, LAYERS, WIDTH, write_bundle
from tts_engine.onnx_bundle.language_model import Cache, LanguageModel, VoicePrefix, relative_difference
from tts_engine.onnx_bundle.sessions import open_part, run

TEXT = [72, 300, 17, 50274, 50256, 50256]
TOLERANCE = {"": 1e-5, "_fp16": 5e-3}


class Whole:
    """The same graphs, with everything read at once from an empty cache."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.suffix = suffix
        self.embed = open_part("embed_tokens", folder / f"embed_tokens{suffix}.onnx", ["CPUExecutionProvider"], 1)
        self.model = open_part("language_model", folder / f"language_model{suffix}.onnx", ["CPUExecutionProvider"], 1)

    def logits(self, features: np.ndarray, tokens: list[int]) -> np.ndarray:
        embeds = [features, run(self.embed, {"input_ids": np.array([TEXT])})["inputs_embeds"]]
        embeds += [run(self.embed, {"input_ids": np.array([[token]])})["inputs_embeds"] for token in tokens]
        whole = np.concatenate(embeds, axis=1)
        count = whole.shape[1]
        nothing = np.zeros((1, HEADS, 0, HEAD_WIDTH))
        caches = {f"past_key_values.{layer}.{part}": nothing for layer in range(LAYERS) for part in ("key", "value")}
        feeds = {"attention_mask": np.ones((1, count)), "position_ids": np.arange(count)[None]}
        return run(self.model, {"inputs_embeds": whole, **feeds, **caches})["logits"][0, -1]


@pytest.fixture(params=["", "_fp16"], ids=["fp32", "fp16"])
def whole(request: pytest.FixtureRequest, fp32: Path, fp16: Path) -> Whole:
    return Whole((fp16 if request.param else fp32) / "onnx", request.param)


def features(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, FEATURES, WIDTH)).astype(np.float32)


def model_of(whole: Whole) -> LanguageModel:
    return LanguageModel(whole.embed, whole.model)


@pytest.mark.parametrize("read_ahead", [True, False])
def test_every_step_sees_all_before_it(whole: Whole, read_ahead: bool) -> None:
    model = model_of(whole)
    voice = features(1)
    prefix = model.prefix(voice, TEXT) if read_ahead else VoicePrefix(voice, None)
    assert (prefix.cache is not None) is read_ahead
    logits, cache = model.begin(prefix, TEXT)
    tokens: list[int] = []
    tolerance = TOLERANCE[whole.suffix]
    for token in [3, 6560, 3, 17, 6561]:
        np.testing.assert_allclose(logits, whole.logits(voice, tokens), rtol=0, atol=tolerance * np.abs(logits).max())
        logits, cache = model.step(token, cache)
        tokens.append(token)
    assert cache.positions == FEATURES + len(TEXT) + len(tokens)
    assert logits.dtype == np.float32


def test_utterances_of_one_voice_do_not_disturb_each_other(whole: Whole) -> None:
    model = model_of(whole)
    voices = [features(1), features(2)]
    prefixes = [model.prefix(voice, TEXT) for voice in voices]
    plan = [(0, [5, 6, 7]), (0, [900, 901, 902]), (1, [5, 6, 7])]
    state = [model.begin(prefixes[voice], TEXT) for voice, _ in plan]
    for step in range(3):
        for index, (_, tokens) in enumerate(plan):
            state[index] = model.step(tokens[step], state[index][1])
    logits = [given for given, _ in state]
    for (voice, tokens), given in zip(plan, logits, strict=True):
        assert relative_difference(given, whole.logits(voices[voice], tokens)) < 1e-2
    assert relative_difference(logits[0], logits[1]) > 0.1
    assert relative_difference(logits[0], logits[2]) > 0.1


def test_the_caches_layout(whole: Whole) -> None:
    layout = model_of(whole).layout
    assert (layout.layers, layout.heads, layout.width) == (LAYERS, HEADS, HEAD_WIDTH)
    assert layout.dtype == (np.float16 if whole.suffix else np.float32)


def loaded(directory: Path) -> LanguageModel:
    return model_of(Whole(directory / "onnx", ""))


def test_a_model_that_forgets_is_not_read_ahead(tmp_path: Path) -> None:
    """Which also shows that the tests above would find a cache that is lost."""
    model = loaded(write_bundle(tmp_path, forgets=True))
    voice = features(1)
    prefix = model.prefix(voice, TEXT)
    assert prefix.cache is None
    lost, _ = model.begin(VoicePrefix(voice, model._run(voice, model._empty())[1]), TEXT)
    kept, _ = model.begin(prefix, TEXT)
    assert relative_difference(lost, kept) > 0.05


def test_a_model_that_refuses_several_ids_after_a_cache(tmp_path: Path) -> None:
    directory = write_bundle(tmp_path, split_read=False)
    model = loaded(directory)
    voice = features(1)
    prefix = model.prefix(voice, TEXT)
    assert prefix.cache is None
    assert model.prefix(features(2), TEXT).cache is None  # found out once
    logits, cache = model.begin(prefix, TEXT)
    logits, cache = model.step(8, cache)
    expected = Whole(directory / "onnx", "").logits(voice, [8])
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert isinstance(cache, Cache)


def test_relative_difference() -> None:
    some = np.array([1.0, 2.0, 3.0], np.float32)
    assert relative_difference(some, some) == 0
    assert relative_difference(some + 5, some) == pytest.approx(0)  # softmax does not see it
    assert relative_difference(-some, some) == pytest.approx(2)
