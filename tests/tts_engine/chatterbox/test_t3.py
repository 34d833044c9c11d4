"""T3's mechanics at a small width; that it is the reference's function is tests/parity's matter."""

from __future__ import annotations

import pytest
import torch

from tts_engine.chatterbox.constants import START_TOKEN
from tts_engine.chatterbox.t3 import T3, T3Sizes, VoicePrefix, attend

SMALL = T3Sizes(layers=2, width=128, heads=2, positions=200, text_vocabulary=50, speech_vocabulary=6563)


def small_t3(seed: int = 0) -> T3:
    torch.manual_seed(seed)
    t3 = T3(SMALL).eval()
    for parameter in t3.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return t3


def voice(t3: T3, prompt: int = 9, seed: int = 1) -> VoicePrefix:
    generator = torch.Generator().manual_seed(seed)
    return t3.prefix(torch.randn(256, generator=generator), torch.randint(6561, (prompt,), generator=generator))


def shapes(sizes: T3Sizes = SMALL) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in T3(sizes).state_dict().items()}


TEXT = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0], [9, 0, 0, 0]])
LENGTHS = torch.tensor([4, 2, 1])


class TestSizes:
    def test_they_are_read_off_the_shapes(self) -> None:
        assert T3Sizes.from_shapes(shapes()) == SMALL

    def test_turbo_and_nano_are_told_apart(self) -> None:
        nano = T3Sizes(layers=12, width=768, heads=12)
        assert T3Sizes.from_shapes(shapes(nano)) == nano

    def test_tensors_without_use_do_not_matter(self) -> None:
        more = {**shapes(), "tfmr.wte.weight": (50276, 128), "text_head.weight": (50, 128), "tfmr.h.0.attn.bias": (1,)}
        assert T3Sizes.from_shapes(more) == SMALL

    @pytest.mark.parametrize("name", ["tfmr.wpe.weight", "text_emb.weight", "speech_emb.weight"])
    def test_a_missing_table_is_named(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"{name} is missing"):
            T3Sizes.from_shapes({key: shape for key, shape in shapes().items() if key != name})

    @pytest.mark.parametrize(
        ("changed", "says"),
        [
            ({"text_emb.weight": (50,)}, r"text_emb.weight is of shape \(50,\)"),
            ({"text_emb.weight": (50, 192)}, r"widths \[128, 192\] should be one"),
            ({"speech_emb.weight": (1000, 128)}, "1000 speech tokens do not include START"),
            ({"tfmr.h.7.ln_1.weight": (128,)}, r"numbered \[0, 1, 7\]"),
        ],
    )
    def test_another_model_is_refused_in_words(self, changed: dict[str, tuple[int, ...]], says: str) -> None:
        with pytest.raises(ValueError, match=says):
            T3Sizes.from_shapes({**shapes(), **changed})

    def test_a_width_that_is_no_multiple_of_a_head_is_refused(self) -> None:
        tables = dict.fromkeys(("tfmr.wpe.weight", "text_emb.weight", "speech_emb.weight"), (9000, 100))
        with pytest.raises(ValueError, match="N x 64"):
            T3Sizes.from_shapes({**tables, "tfmr.h.0.ln_1.weight": (100,)})

    def test_nothing_is_no_checkpoint(self) -> None:
        with pytest.raises(ValueError, match="not a T3 checkpoint"):
            T3Sizes.from_shapes({})


def test_attention_over_two_parts_is_attention_over_both() -> None:
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    query, own, prefix = draw(3, 2, 5, 64), (draw(3, 2, 7, 64), draw(3, 2, 7, 64)), (draw(2, 4, 64), draw(2, 4, 64))
    visible = torch.rand(3, 1, 5, 7, generator=generator) < 0.5
    bias = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)
    whole = [torch.cat((shared.expand(3, -1, -1, -1), rest), 2) for shared, rest in zip(prefix, own, strict=True)]
    mask = torch.cat((torch.ones(3, 1, 5, 4, dtype=torch.bool), visible), -1)
    expected = torch.nn.functional.scaled_dot_product_attention(query, whole[0], whole[1], attn_mask=mask)
    torch.testing.assert_close(attend(query, own, bias, prefix), expected)


def test_a_step_equals_a_longer_prompt() -> None:
    """[prompt 1..9 | no text | START | token] is the last position of a prompt that goes on so."""
    t3 = small_t3()
    generator = torch.Generator().manual_seed(4)
    speaker, prompt = torch.randn(256, generator=generator), torch.randint(6561, (9,), generator=generator)
    cache = t3.new_cache(t3.prefix(speaker, prompt), 1, 4)
    t3.prefill(torch.zeros(1, 0, dtype=torch.int64), torch.tensor([0]), cache)
    t3.step(torch.tensor([77]), cache)
    longer = t3.prefix(speaker, torch.cat((prompt, torch.tensor([START_TOKEN, 77]))))
    torch.testing.assert_close(cache.keys[:, 0, :, :2], longer.keys[:, :, -2:])
    torch.testing.assert_close(cache.values[:, 0, :, :2], longer.values[:, :, -2:])


def test_lengths_count_in_place() -> None:
    t3 = small_t3()
    cache = t3.new_cache(voice(t3), 3, 8)
    lengths = cache.lengths
    t3.prefill(TEXT, LENGTHS, cache)
    assert lengths.tolist() == [5, 3, 2]
    t3.step(torch.tensor([1, 2, 3]), cache)
    assert lengths.tolist() == [6, 4, 3]
    assert cache.lengths is lengths


def test_what_padding_holds_does_not_matter() -> None:
    t3, other = small_t3(), TEXT.clone()
    other[TEXT == 0] = 49
    logits = []
    for text in (TEXT, other):
        cache = t3.new_cache(voice(t3), 3, 8)
        logits.append([t3.prefill(text, LENGTHS, cache), t3.step(torch.tensor([1, 2, 3]), cache)])
    torch.testing.assert_close(logits[0], logits[1], atol=0, rtol=0)


def test_the_span_read_does_not_matter_where_it_covers_all() -> None:
    t3 = small_t3()
    logits = []
    for span in (None, 6, 10):
        cache = t3.new_cache(voice(t3), 3, 64)
        t3.prefill(TEXT, LENGTHS, cache)
        logits.append(t3.step(torch.tensor([1, 2, 3]), cache, span))
    torch.testing.assert_close(logits[1], logits[0])
    torch.testing.assert_close(logits[2], logits[0])


def test_unconditional_rows_do_not_hear_the_text() -> None:
    t3 = small_t3()
    cache = t3.new_cache(voice(t3), 2, 8)
    both = torch.tensor([[3, 4, 5], [9, 9, 9]])
    deaf = t3.prefill(both, torch.tensor([3, 3]), cache, unconditional=torch.tensor([True, True]))
    torch.testing.assert_close(deaf[0], deaf[1])
    hearing = t3.prefill(both, torch.tensor([3, 3]), cache, unconditional=torch.tensor([True, False]))
    torch.testing.assert_close(hearing[0], deaf[0])
    assert (hearing[1] - deaf[1]).abs().max() > 0.01


def test_rows_are_begun_and_begun_again_one_by_one() -> None:
    t3 = small_t3()
    prefix = voice(t3)
    alone = t3.new_cache(prefix, 3, 12)
    expected = t3.prefill(TEXT, LENGTHS, alone)

    cache = t3.new_cache(prefix, 5, 12)
    t3.prefill(TEXT.flip(0), LENGTHS.flip(0), cache, rows=torch.tensor([0, 3, 4]))
    t3.step(torch.zeros(5, dtype=torch.int64), cache)
    assert cache.lengths.tolist() == [3, 1, 1, 4, 6]
    torch.testing.assert_close(t3.prefill(TEXT, LENGTHS, cache, rows=torch.tensor([4, 1, 3])), expected)
    assert cache.lengths.tolist() == [3, 3, 1, 2, 5]
    tokens = torch.tensor([5, 11, 6, 12, 10])
    stepped = t3.step(tokens, cache)
    torch.testing.assert_close(stepped[[4, 1, 3]], t3.step(tokens[[4, 1, 3]], alone))


def test_a_full_row_may_be_stepped_and_harms_no_other() -> None:
    t3 = small_t3()
    logits = []
    for steps in (0, 20):
        cache = t3.new_cache(voice(t3), 3, 5)
        t3.prefill(TEXT, LENGTHS, cache)
        for _ in range(steps):
            t3.step(torch.tensor([1, 2, 3]), cache)
            cache.lengths[1:] = torch.tensor([3, 2])
        assert cache.lengths.tolist() == [5, 3, 2]
        logits.append(t3.step(torch.tensor([1, 2, 3]), cache))
        assert cache.lengths.tolist() == [5, 4, 3]
    torch.testing.assert_close(logits[0][1:], logits[1][1:])
    assert logits[1].isfinite().all()


def test_text_that_does_not_fit_is_refused() -> None:
    t3 = small_t3()
    with pytest.raises(ValueError, match="4 text tokens and START do not fit a cache of 4 positions"):
        t3.prefill(TEXT, LENGTHS, t3.new_cache(voice(t3), 3, 4))


def test_a_cache_beyond_the_models_positions_is_refused() -> None:
    t3 = small_t3()
    t3.new_cache(voice(t3), 1, 190)
    with pytest.raises(ValueError, match="a prefix of 10 and 191 positions more are over the model's 200"):
        t3.new_cache(voice(t3), 1, 191)


def test_it_is_built_without_memory_and_then_loaded() -> None:
    state = small_t3().state_dict()
    with torch.device("meta"):
        t3 = T3(SMALL)
    t3.load_state_dict(state, assign=True)
    assert not any(parameter.requires_grad for parameter in t3.parameters())
    cache, other = t3.new_cache(voice(t3), 3, 8), small_t3().new_cache(voice(small_t3()), 3, 8)
    torch.testing.assert_close(t3.prefill(TEXT, LENGTHS, cache), small_t3().prefill(TEXT, LENGTHS, other))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype_and_gives_float32_logits(dtype: torch.dtype) -> None:
    t3 = small_t3().to(dtype)
    cache = t3.new_cache(voice(t3), 3, 8)
    assert cache.keys.dtype == cache.prefix.keys.dtype == dtype
    exact = small_t3()
    other = exact.new_cache(voice(exact), 3, 8)
    for got, expected in [
        (t3.prefill(TEXT, LENGTHS, cache), exact.prefill(TEXT, LENGTHS, other)),
        (t3.step(torch.tensor([1, 2, 3]), cache), exact.step(torch.tensor([1, 2, 3]), other)),
    ]:
        assert got.dtype == torch.float32
        assert (got - expected).abs().max() < 0.1 * expected.std()
