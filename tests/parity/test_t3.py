"""T3 against Resemble AI's: logits, greedy tokens, batches of different lengths; what half precision costs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity import figures
from tests.parity.reference import reference_t3
from tts_engine.chatterbox.constants import START_TOKEN
from tts_engine.chatterbox.t3 import T3, KVCache, T3Sizes, VoicePrefix

TEACHER_FORCED = 64
UNUSED = ("tfmr.wte.", "text_head.")
"In the reference's module, not needed for inference."


@lru_cache(maxsize=2)
def ours(reference: Any) -> T3:
    """Ours over the reference's own memory."""
    state = {name: tensor for name, tensor in reference.state_dict().items() if not name.startswith(UNUSED)}
    with torch.device("meta"):
        t3 = T3(T3Sizes.from_shapes({name: tuple(tensor.shape) for name, tensor in state.items()}))
    t3.load_state_dict(state, assign=True)
    return t3


class Case:
    """A voice and five texts of different lengths."""

    def __init__(self, prompt: int = 375) -> None:
        generator = torch.Generator().manual_seed(11)
        self.speaker = torch.randn(256, generator=generator)
        self.prompt = torch.randint(6561, (prompt,), generator=generator)
        self.texts = [torch.randint(50276, (length,), generator=generator) for length in (37, 1, 80, 12, 55)]
        self.speech = torch.randint(6561, (5, TEACHER_FORCED), generator=generator)

    def conditioning(self) -> Any:
        from chatterbox.models.t3.modules.cond_enc import T3Cond

        return T3Cond(
            speaker_emb=self.speaker[None], cond_prompt_speech_tokens=self.prompt[None], emotion_adv=torch.tensor(0.5)
        )

    def reference_embeddings(self, reference: Any, text: Tensor, *, unconditional: bool = False) -> Tensor:
        start = torch.tensor([[START_TOKEN]])
        embedded, conditioning = reference.prepare_input_embeds(
            t3_cond=self.conditioning(), text_tokens=text[None], speech_tokens=start
        )
        if unconditional:
            embedded[:, conditioning : conditioning + len(text)] = 0
        return embedded

    def reference_logits(
        self, reference: Any, text: Tensor, feed: Callable[[int, Tensor], Tensor], steps: int, **options: bool
    ) -> Tensor:
        """The reference's loop: after a prefill, `feed(step, logits)` gives the next token. (steps + 1, V)."""
        out = reference.tfmr(inputs_embeds=self.reference_embeddings(reference, text, **options), use_cache=True)
        logits = [reference.speech_head(out[0][:, -1])[0]]
        for step in range(steps):
            embedded = reference.speech_emb(feed(step, logits[-1]).view(1, 1))
            out = reference.tfmr(inputs_embeds=embedded, past_key_values=out.past_key_values, use_cache=True)
            logits.append(reference.speech_head(out[0][:, -1])[0])
        return torch.stack(logits)


def padded(texts: list[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.nn.utils.rnn.pad_sequence(texts, batch_first=True), torch.tensor([len(text) for text in texts])


def our_logits(
    t3: T3, prefix: VoicePrefix, texts: list[Tensor], feed: Callable[[int, Tensor], Tensor], steps: int, **options: Any
) -> Tensor:
    """(steps + 1, B, V)."""
    tokens, lengths = padded(texts)
    cache = t3.new_cache(prefix, len(texts), tokens.shape[1] + 1 + steps)
    logits = [t3.prefill(tokens, lengths, cache, **options)]
    for step in range(steps):
        logits.append(t3.step(feed(step, logits[-1]), cache, span=tokens.shape[1] + 2 + step))
    return torch.stack(logits)


@pytest.fixture(scope="module", params=["turbo", "nano"])
def models(request: pytest.FixtureRequest) -> tuple[Any, T3]:
    reference = reference_t3(4, nano=request.param == "nano")
    return reference, ours(reference)


def test_the_sizes_are_read_off_the_checkpoint() -> None:
    assert ours(reference_t3(4)).sizes == T3Sizes(layers=4, width=1024, heads=16)


def test_every_name_is_the_references_and_only_unused_ones_are_missing(models: tuple[Any, T3]) -> None:
    reference, t3 = models
    missing = set(reference.state_dict()) - set(t3.state_dict())
    assert {name.split(".weight")[0] for name in missing} == {"tfmr.wte", "text_head"}


@torch.inference_mode()
def test_logits_over_a_prefill_and_64_teacher_forced_steps(
    models: tuple[Any, T3], record_property: figures.Record
) -> None:
    reference, t3 = models
    case = Case()
    expected = case.reference_logits(reference, case.texts[0], lambda step, _: case.speech[0, step], TEACHER_FORCED)
    prefix = t3.prefix(case.speaker, case.prompt)
    got = our_logits(t3, prefix, case.texts[:1], lambda step, _: case.speech[:1, step], TEACHER_FORCED)
    figures.error(record_property, f"T3, width {t3.sizes.width}: logits of 65 steps", got[:, 0], expected)
    assert expected.std() > 0.3
    assert (got[:, 0] - expected).abs().max() <= 1e-4


@torch.inference_mode()
def test_unconditional_rows_have_their_text_zeroed_and_the_others_not() -> None:
    reference, case = reference_t3(4), Case(prompt=50)
    t3 = ours(reference)
    text = case.texts[3]
    expected = [
        case.reference_logits(reference, text, lambda step, _: case.speech[0, step], 4, unconditional=unconditional)
        for unconditional in (False, True)
    ]
    assert (expected[0] - expected[1]).abs().max() > 0.1
    got = our_logits(
        t3,
        t3.prefix(case.speaker, case.prompt),
        [text, text],
        lambda step, _: case.speech[:1, step].expand(2),
        4,
        unconditional=torch.tensor([False, True]),
    )
    torch.testing.assert_close(got, torch.stack(expected, 1), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_200_greedy_tokens_are_the_same() -> None:
    reference, case = reference_t3(4), Case(prompt=100)
    t3 = ours(reference)
    # A random model soon repeats one token: penalise what was chosen, alike for both.
    chosen: list[list[int]] = [[], []]

    def greedy(to: list[int]) -> Callable[[int, Tensor], Tensor]:
        def feed(_: int, logits: Tensor) -> Tensor:
            scores = logits.flatten().clone()
            scores[to] -= 1.0
            to.append(int(scores.argmax()))
            return torch.tensor(to[-1:])

        return feed

    case.reference_logits(reference, case.texts[4], greedy(chosen[0]), 200)
    our_logits(t3, t3.prefix(case.speaker, case.prompt), case.texts[4:], greedy(chosen[1]), 200)
    assert len(set(chosen[0])) > 100
    assert chosen[0] == chosen[1]


@torch.inference_mode()
def test_a_batch_of_five_lengths_equals_five_single_runs(models: tuple[Any, T3]) -> None:
    _, t3 = models
    case, steps = Case(prompt=120), 12
    prefix = t3.prefix(case.speaker, case.prompt)
    together = our_logits(t3, prefix, case.texts, lambda step, _: case.speech[:, step], steps)
    for row, text in enumerate(case.texts):
        speech = case.speech[row : row + 1]
        alone = our_logits(t3, prefix, [text], lambda step, _, speech=speech: speech[:, step], steps)  # type: ignore[misc]
        torch.testing.assert_close(together[:, row], alone[:, 0], atol=2e-5, rtol=0)


@torch.inference_mode()
def test_a_row_begun_again_while_the_others_run_is_as_if_alone() -> None:
    case = Case(prompt=60)
    t3 = ours(reference_t3(4))
    prefix = t3.prefix(case.speaker, case.prompt)
    tokens, lengths = padded(case.texts[:3])
    cache = t3.new_cache(prefix, 3, 120)
    t3.prefill(tokens, lengths, cache)
    for step in range(3):
        t3.step(case.speech[:3, step], cache)
    newcomer = case.texts[3][None]
    begun = t3.prefill(newcomer, torch.tensor([newcomer.shape[1]]), cache, rows=torch.tensor([1]))
    after = t3.step(case.speech[2:5, 20], cache)

    alone = our_logits(t3, prefix, [case.texts[3]], lambda *_: case.speech[3:4, 20], 1)
    torch.testing.assert_close(begun, alone[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(after[1:2], alone[1], atol=2e-5, rtol=0)
    fed = torch.cat((case.speech[0, :3], case.speech[2, 20:21]))
    neighbour = our_logits(t3, prefix, [case.texts[0]], lambda step, _: fed[step : step + 1], 4)
    torch.testing.assert_close(after[:1], neighbour[4], atol=2e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.2), (torch.float16, 0.03)])
def test_half_precision(dtype: torch.dtype, bound: float, record_property: figures.Record) -> None:
    """The error against float32 as a figure; the bound only tells rounding from a fault."""
    # Short: without instructions for it a CPU takes seconds for a float16 product.
    reference, case = reference_t3(4), Case(prompt=4)
    text, steps = case.texts[3][:3], 2
    expected = case.reference_logits(reference, text, lambda step, _: case.speech[0, step], steps)
    t3 = copy.deepcopy(ours(reference)).to(dtype)
    prefix = t3.prefix(case.speaker, case.prompt)
    got = our_logits(t3, prefix, [text], lambda step, _: case.speech[:1, step], steps)
    assert got.dtype == torch.float32
    difference = (got[:, 0] - expected).abs()
    agreement = torch.cosine_similarity(got[:, 0], expected, dim=-1).min().item()
    figures.error(record_property, "T3: logits", got[:, 0], expected, dtype)
    assert difference.max() < bound
    assert agreement > 0.99


@torch.inference_mode()
def test_the_prefix_is_not_copied_for_each_sequence() -> None:
    t3, case = ours(reference_t3(4)), Case()
    prefix = t3.prefix(case.speaker, case.prompt)
    cache: KVCache = t3.new_cache(prefix, 8, 100)
    assert prefix.keys.shape == prefix.values.shape == (4, 16, 376, 64)
    assert cache.keys.shape == cache.values.shape == (4, 8, 16, 100, 64)
    assert cache.prefix is prefix
