"""T3 as it is served, in bfloat16 and at full size, against the plain module in float32. On a GPU."""

from __future__ import annotations

import pytest
import torch

from tts_engine.chatterbox.paged_t3 import PAGE, BatchDecoder, PagedCache
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.chatterbox.t3 import T3, T3Sizes

ROWS, STEPS = 64, 100
PAGES = -(-(41 + STEPS) // PAGE)


def confident_model() -> T3:
    """Random blocks; the head prefers the token that a permutation gives of the last one, as a trained model prefers
    few tokens to all others. With a random head logits are nearly equal, and any rounding decides.
    """
    torch.manual_seed(0)
    with torch.device("cuda"):
        t3 = T3(T3Sizes(24, 1024, 16))
        for parameter in t3.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.02)
        t3.speech_emb.weight.data.normal_()
        t3.speech_head.weight.data.copy_(t3.speech_emb.weight[torch.randperm(len(t3.speech_emb.weight))])
    return t3


@torch.inference_mode()
def greedy(t3: T3, *, fused: bool) -> torch.Tensor:
    """(STEPS + 1, ROWS) tokens of texts of 3 to 39 tokens; the same texts every time."""
    generator = torch.Generator().manual_seed(7)
    dtype = t3.speech_head.weight.dtype
    cache = PagedCache(
        t3.sizes, slots=ROWS, pages=ROWS * PAGES, positions=PAGES * PAGE, voices=1, dtype=dtype, device="cuda"
    )
    decoder = BatchDecoder(t3, cache, SamplingSettings(top_k=1), most_tokens=STEPS + 1, fused=fused)
    speaker = torch.randn(256, generator=generator).cuda()
    prompt = torch.randint(0, 6561, (375,), generator=generator).cuda()
    cache.set_voice(0, t3.prefix(speaker.to(dtype), prompt))
    cache.tables[:ROWS] = torch.arange(ROWS * PAGES, dtype=torch.int32, device="cuda").view(ROWS, PAGES)
    decoder.forbid_until.fill_(STEPS + 1)
    text = torch.randint(0, 50_000, (ROWS, 40), generator=generator).cuda()
    lengths = torch.randint(3, 40, (ROWS,), generator=generator).int().cuda()
    slots = torch.arange(ROWS, dtype=torch.int32, device="cuda")
    chosen = [decoder.prefill(text, lengths, slots)] + [decoder.step(slots) for _ in range(STEPS)]
    return torch.stack(chosen)[..., 0].cpu()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_greedy_tokens_for_a_hundred_steps() -> None:
    t3 = confident_model()
    plain, fused = greedy(t3, fused=False), greedy(t3, fused=True)
    assert torch.equal(plain, fused)
    half = greedy(t3.to(torch.bfloat16), fused=True)
    identical = (plain == half).all(0).float().mean().item()
    print(f"identical for {STEPS} steps in bfloat16: {identical:.1%}")
    assert identical >= 0.95
