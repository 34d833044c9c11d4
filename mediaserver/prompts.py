"""Speech engines with a memory, as [tts.prompts] has it."""

from __future__ import annotations

from pathlib import Path

from mediaserver.config import Config, TtsConfig
from mediaserver.engine_identity import EngineIdentity
from mediaserver.engines import Kind, data_directory
from tts_engine.engine import Engine, SpeechRequest
from tts_engine.prompts import CachedEngine, PromptStore

TELEPHONE_RATE = 8000
WIDEBAND_RATE = 16_000  # G.722

OVERFLOW_SHARE = 4
"The overflow engine, which speaks seldom, has this part of the memory."


def prompts_directory(config: TtsConfig) -> Path:
    """Where prompts lie: as configured, else below data_directory()."""
    return Path(config.prompts.dir or data_directory() / "prompts").expanduser()


def prompt_store(config: TtsConfig) -> PromptStore:
    """The prompts on disk; the directory need not exist."""
    return PromptStore(prompts_directory(config), config.prompts.dir_mb << 20)


def configured_kinds(config: TtsConfig, kind: Kind) -> tuple[Kind, ...]:
    """The engines that speak for calls, where the first is of that kind."""
    return (kind, "embedded") if config.overflow == "embedded" and kind != "embedded" else (kind,)


def call_rates(config: Config) -> tuple[int, ...]:
    """Sample rates in Hz that calls ask for, with the codecs configured."""
    return (TELEPHONE_RATE, WIDEBAND_RATE) if "G722" in config.rtp.codecs else (TELEPHONE_RATE,)


def with_prompts(engine: Engine, overflow: Engine | None, config: Config, kind: Kind) -> tuple[Engine, Engine | None]:
    """The engines for calls, the first of that kind, each behind its prompts; as given where none are to be kept.

    The greeting is said in the background once an engine has started, at each rate that calls ask for.
    """
    memory = config.tts.prompts.memory_mb << 20
    if not memory:
        return engine, overflow
    if overflow is None:
        return _cached(engine, config, kind, memory), None
    spare = memory // OVERFLOW_SHARE
    return _cached(engine, config, kind, memory - spare), _cached(overflow, config, "embedded", spare)


def _cached(engine: Engine, config: Config, kind: Kind, memory_bytes: int) -> Engine:
    greetings = [SpeechRequest(config.calls.greeting, None, rate) for rate in call_rates(config)]
    identity = EngineIdentity(config.tts, kind)
    return CachedEngine(engine, identity, memory_bytes, prompt_store(config.tts), greetings)
