"""CHATTERBOX_CFG_SCALE: guidance strength for the whole process, never for one request.

A strength above 0 doubles T3's batch, so it decides how many callers a GPU holds. Turbo was not trained for it.
"""

from __future__ import annotations

import math
import os
from functools import cache

from tts_engine.errors import EngineError

VARIABLE = "CHATTERBOX_CFG_SCALE"
HIGHEST = 10.0
"Beyond that a logit's error alone decides what is said."


class CfgScaleError(EngineError, ValueError):
    """The variable is set to something that is not a strength."""


@cache
def cfg_scale() -> float:
    """Read once, at the first call. 0.0, no guidance, where unset or empty; `CfgScaleError` (a ValueError) if unfit."""
    return parse_cfg_scale(os.environ.get(VARIABLE, ""))


def parse_cfg_scale(value: str) -> float:
    """The variable's text to a strength from 0 to 10."""
    if not value.strip():
        return 0.0
    try:
        scale = float(value)
    except ValueError:
        scale = math.nan
    if not 0 <= scale <= HIGHEST:  # NaN is neither
        raise CfgScaleError(f"{VARIABLE} is {value!r}; it must be a number from 0 (no guidance) to {HIGHEST:g}")
    return abs(scale)  # -0.0
