"""All stages of a model, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tts_engine.chatterbox.model import Chatterbox
from tts_engine.tensorrt.flow_stages import encoder_stage, estimator_stage
from tts_engine.tensorrt.ports import Stage
from tts_engine.tensorrt.t3_stages import prefill_stage, step_stage
from tts_engine.tensorrt.vocoder_stage import vocoder_stage

MAKERS: Mapping[str, Callable[[Chatterbox], Stage]] = {
    "t3_prefill": lambda model: prefill_stage(model.t3),
    "t3_step": lambda model: step_stage(model.t3),
    "flow_encoder": lambda model: encoder_stage(model.flow),
    "estimator": lambda model: estimator_stage(model.flow),
    "vocoder": lambda model: vocoder_stage(model.vocoder),
}
"In the order of profiles.PROFILES. A stage shares the model's weights."
