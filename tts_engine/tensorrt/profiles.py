"""For which sizes each engine is built, and with which the server calls it.

A plan holds kernels and scratch memory for ranges of sizes, its optimisation profiles. Scratch grows with the product
of rows and length (the encoder's scores by distance even with its square), so long rows go in small batches: a profile
`short` of many rows, one `long` of few, some between. All of it, with the KV cache of 200 calls, is to fit in 10 GB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Range = tuple[int, int, int]
"Least, usual and most."


@dataclass(frozen=True)
class Profile:
    """Ranges of the sizes that vary, by their names in the stage's ports."""

    name: str
    dims: Mapping[str, Range]


PREFIX_TILE = 16
"Rows of T3's step that read the prefix of their voice together."

MOST_VOICES = 64
MOST_PAGES = 1 << 13
"Of the KV cache, the scratch page included: 26 GB of Turbo's, and no tensor of 2^31 elements."

# T3: pages of 32 positions; 44 are MOST_TEXT_TOKENS + START + MOST_TOKENS, the longest sequence there is.
STEP_SHORT_ROWS, STEP_SHORT_PAGES = 256, 12
STEP_LONG_ROWS, STEP_LONG_PAGES = 64, 44
PREFILL_ROWS, PREFILL_TEXT = 8, 400

# S3Gen: tokens of [prompt | new] for the flow, frames of a window for the vocoder.
FLOW_SHORT_ROWS, FLOW_SHORT_TOKENS = 16, 448
FLOW_MIDDLE_ROWS, FLOW_MIDDLE_TOKENS = 8, 704
FLOW_LONG_ROWS, FLOW_LONG_TOKENS = 2, 1440
VOCODER_SHORT_ROWS, VOCODER_SHORT_FRAMES = 16, 128
VOCODER_MIDDLE_ROWS, VOCODER_MIDDLE_FRAMES = 8, 448
VOCODER_LONG_ROWS, VOCODER_LONG_FRAMES = 2, 1152

_VOICES: Range = (1, 16, MOST_VOICES)

PROFILES: Mapping[str, tuple[Profile, ...]] = {
    "t3_prefill": (Profile("all", {"rows": (1, 4, PREFILL_ROWS), "text": (1, 64, PREFILL_TEXT), "voices": _VOICES}),),
    "t3_step": (
        Profile(
            "short",
            {
                "rows": (1, 64, STEP_SHORT_ROWS),
                "pages": (1, 8, STEP_SHORT_PAGES),
                "tiles": (1, 8, STEP_SHORT_ROWS // PREFIX_TILE + MOST_VOICES),
                "pool": (1, 1024, MOST_PAGES),
                "voices": _VOICES,
            },
        ),
        Profile(
            "long",
            {
                "rows": (1, 8, STEP_LONG_ROWS),
                "pages": (1, 24, STEP_LONG_PAGES),
                "tiles": (1, 4, STEP_LONG_ROWS // PREFIX_TILE + MOST_VOICES),
                "pool": (1, 1024, MOST_PAGES),
                "voices": _VOICES,
            },
        ),
    ),
    "flow_encoder": (
        Profile("short", {"rows": (1, 8, FLOW_SHORT_ROWS), "tokens": (4, 300, FLOW_SHORT_TOKENS)}),
        Profile("middle", {"rows": (1, 4, FLOW_MIDDLE_ROWS), "tokens": (4, 640, FLOW_MIDDLE_TOKENS)}),
        Profile("long", {"rows": (1, 1, FLOW_LONG_ROWS), "tokens": (4, 1152, FLOW_LONG_TOKENS)}),
    ),
    "estimator": (
        Profile("short", {"rows": (1, 8, FLOW_SHORT_ROWS), "frames": (8, 600, 2 * FLOW_SHORT_TOKENS)}),
        Profile("middle", {"rows": (1, 4, FLOW_MIDDLE_ROWS), "frames": (8, 1280, 2 * FLOW_MIDDLE_TOKENS)}),
        Profile("long", {"rows": (1, 1, FLOW_LONG_ROWS), "frames": (8, 2304, 2 * FLOW_LONG_TOKENS)}),
    ),
    "vocoder": (
        Profile("short", {"rows": (1, 8, VOCODER_SHORT_ROWS), "frames": (4, 96, VOCODER_SHORT_FRAMES)}),
        Profile("middle", {"rows": (1, 4, VOCODER_MIDDLE_ROWS), "frames": (4, 256, VOCODER_MIDDLE_FRAMES)}),
        Profile("long", {"rows": (1, 1, VOCODER_LONG_ROWS), "frames": (4, 704, VOCODER_LONG_FRAMES)}),
    ),
}
"By stage, the profile for the smallest work first: a call takes the first that it fits."
