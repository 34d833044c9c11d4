"""Configuration: TOML, overridden by the environment, checked before anything starts.

`CHATTERLINE_SIP__PORT=5261` sets `port` of `[sip]`: the prefix, then the keys joined by two underscores. Lists and
tables are given as JSON. Every key and its default is in configs/chatterline.toml.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from mediaserver.api_config import AgentConfig, ApiConfig, WebhookConfig
from mediaserver.config_section import Network, Section, networks_like, require_ip
from mediaserver.onnx_engine import OnnxConfig
from mediaserver.trunk_config import TrunkConfig

ENV_PREFIX = "CHATTERLINE_"

Port = Annotated[int, Field(ge=1, le=65535)]
Milliseconds = Annotated[int, Field(ge=0, le=600_000)]
Seconds = Annotated[float, Field(ge=0, le=7 * 86_400)]
BargeInPolicy = Literal["none", "speech", "digit", "either"]


class ConfigError(Exception):
    """What is wrong with the configuration, a line for each key."""


class SipConfig(Section):
    """[sip]"""

    host: str = "127.0.0.1"
    port: Port = 5060
    advertised_host: str | None = None
    allow: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
    t1_ms: Annotated[int, Field(ge=10, le=10_000)] = 500

    _hosts_are_ips = field_validator("host")(require_ip)
    _networks = field_validator("allow", mode="before")(networks_like("10.0.0.0/8"))

    @field_validator("advertised_host")
    @classmethod
    def _advertisedrequire_ip(cls, host: str | None) -> str | None:
        return None if not host else require_ip(host)


class RtpConfig(Section):
    """[rtp]"""

    host: str | None = None
    advertised_host: str | None = None
    port_min: Annotated[int, Field(ge=1024, le=65534)] = 16384
    port_max: Annotated[int, Field(ge=1024, le=65535)] = 32766
    codecs: tuple[Literal["PCMU", "PCMA", "G722"], ...] = ("PCMU", "PCMA")
    ptime_ms: Literal[10, 20, 30, 40, 60] = 20
    send_silence: bool = True
    symmetric: Literal["off", "host", "any"] = "host"
    jitter_buffer_max_ms: Annotated[int, Field(ge=40, le=1000)] = 200
    rtcp: bool = True
    rtcp_mux: bool = True
    start_timeout_s: Seconds = 60.0
    stop_timeout_s: Seconds = 60.0
    silence_timeout_s: Seconds = 300.0

    @field_validator("host", "advertised_host")
    @classmethod
    def _hosts_are_ips(cls, host: str | None) -> str | None:
        return None if not host else require_ip(host)

    @model_validator(mode="after")
    def _range_is_a_range(self) -> Self:
        if self.port_max < self.port_min + 1:
            raise ValueError("port_max must be above port_min")
        if not self.codecs:
            raise ValueError("codecs must name at least one codec")
        if len(set(self.codecs)) < len(self.codecs):
            raise ValueError("codecs names a codec twice")
        return self


class DtmfConfig(Section):
    """[dtmf]"""

    method: Literal["auto", "rfc4733", "info", "inband"] = "auto"
    detect_inband: bool = False
    duration_ms: Annotated[int, Field(ge=40, le=8000)] = 100


class BargeInConfig(Section):
    """[barge_in]"""

    policy: BargeInPolicy = "none"
    min_speech_ms: Annotated[int, Field(ge=60, le=240)] = 120
    hold_off_ms: Milliseconds = 500
    energy_floor_db: Annotated[float, Field(ge=-90, le=0)] = -45.0
    aggressiveness: Annotated[int, Field(ge=0, le=3)] = 1
    echo_guard: bool = True


class CallsConfig(Section):
    """[calls]"""

    max_calls: Annotated[int, Field(ge=1, le=100_000)] = 200
    retry_after_s: Annotated[int, Field(ge=1, le=3600)] = 10
    answer_delay_ms: Milliseconds = 0
    greeting: str = "Hello, this is Chatterline. The call works, but nobody has told me yet what to say."
    max_text_chars: Annotated[int, Field(ge=1, le=20_000)] = 2000
    max_queued_chars: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    speech_wait_s: Annotated[float, Field(ge=0, le=300)] = 3.0
    max_duration_s: Seconds = 7200.0
    drain_s: Seconds = 60.0

    @model_validator(mode="after")
    def _queue_holds_a_text(self) -> Self:
        if self.max_queued_chars < self.max_text_chars:
            raise ValueError("max_queued_chars must not be below max_text_chars")
        return self


class VoiceConfig(Section):
    """[tts.voices.NAME]: a voice that callers can ask for by that name."""

    model: str = "heart"
    speed: Annotated[float, Field(ge=0.5, le=2.0)] = 1.0


class ChatterboxConfig(Section):
    """[tts.chatterbox]: what the engines `chatterbox` and `chatterbox-nano` need; see docs/chatterbox.md."""

    model: Annotated[str, Field(min_length=1)] = "ResembleAI/chatterbox-turbo"
    nano_model: Annotated[str, Field(min_length=1)] = "ResembleAI/chatterbox-nano"
    devices: Literal["auto"] | tuple[str, ...] = "auto"
    backend: Literal["auto", "tensorrt", "cuda-graphs", "eager"] = "auto"
    engines_dir: str = ""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    voices_dir: str = ""
    default_voice: str = "default"
    max_streams: Annotated[int, Field(ge=1, le=10_000)] = 200
    max_first_audio_ms: Annotated[int, Field(ge=0, le=60_000)] = 1000
    kv_memory_mb: Annotated[int, Field(ge=64, le=1_000_000)] = 2048
    ahead_s: Annotated[float, Field(ge=2, le=600)] = 12.0
    voices_at_once: Annotated[int, Field(ge=1, le=256)] = 16
    telephone_reading: bool = True
    max_segment_chars: Annotated[int, Field(ge=60, le=400)] = 300
    watermark: bool = False
    temperature: Annotated[float, Field(gt=0, le=2)] = 0.8
    top_k: Annotated[int, Field(ge=0, le=6563)] = 1000
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    repetition_penalty: Annotated[float, Field(ge=1, le=2)] = 1.2

    @field_validator("devices", mode="before")
    @classmethod
    def _devices(cls, given: object) -> object:
        """A tuple of distinct devices, or "auto": every GPU there is."""
        if given == "auto":
            return given
        names = [given] if isinstance(given, str) else given
        if not isinstance(names, list | tuple) or not names or not all(map(_is_device, names)):
            raise ValueError('must be "auto", "cpu", or a list of GPUs such as ["cuda:0", "cuda:1"]')
        devices = tuple("cuda:0" if name == "cuda" else name for name in names)
        if len(set(devices)) < len(devices):
            raise ValueError("names a device twice")
        if "cpu" in devices and len(devices) > 1:
            raise ValueError("cpu stands alone")
        return devices

    @model_validator(mode="after")
    def _backend_has_a_gpu(self) -> Self:
        if self.backend in {"tensorrt", "cuda-graphs"} and self.devices == ("cpu",):
            raise ValueError(f'backend "{self.backend}" needs a GPU: devices is "cpu"')
        return self

    @model_validator(mode="after")
    def _engines_are_of_half_precision(self) -> Self:
        if self.backend == "tensorrt" and self.precision == "float32":
            raise ValueError('backend "tensorrt" has engines of "bfloat16" or "float16"; precision is "float32"')
        return self


def _is_device(name: object) -> bool:
    return isinstance(name, str) and re.fullmatch(r"cpu|cuda(:\d{1,2})?", name) is not None


class PromptsConfig(Section):
    """[tts.prompts]: speech that is synthesised once; see docs/prompts.md."""

    memory_mb: Annotated[int, Field(ge=0, le=100_000)] = 64
    dir: str = ""
    dir_mb: Annotated[int, Field(ge=1, le=1_000_000)] = 512


class TtsConfig(Section):
    """[tts]"""

    engine: Literal["auto", "embedded", "chatterbox", "chatterbox-nano", "chatterbox-onnx"] = "auto"
    overflow: Literal["refuse", "embedded"] = "refuse"
    overflow_max_streams: Annotated[int, Field(ge=1, le=1024)] = 50
    default_voice: str = "heart"
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    seed: int = 0
    voices: dict[str, VoiceConfig] = Field(default_factory=lambda: {"heart": VoiceConfig()}, min_length=1)
    chatterbox: ChatterboxConfig = ChatterboxConfig()
    onnx: OnnxConfig = OnnxConfig()
    prompts: PromptsConfig = PromptsConfig()

    @model_validator(mode="after")
    def _default_exists(self) -> Self:
        if self.default_voice not in self.voices:
            raise ValueError(f"default_voice {self.default_voice!r} is not among the voices: {', '.join(self.voices)}")
        return self


class LogConfig(Section):
    """[log]"""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class MetricsConfig(Section):
    """[metrics]: Prometheus; port 0 is off."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0

    _host_is_ip = field_validator("host")(require_ip)


class Config(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, case_sensitive=False
    )

    sip: SipConfig = SipConfig()
    rtp: RtpConfig = RtpConfig()
    dtmf: DtmfConfig = DtmfConfig()
    barge_in: BargeInConfig = BargeInConfig()
    calls: CallsConfig = CallsConfig()
    tts: TtsConfig = TtsConfig()
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = MetricsConfig()
    api: ApiConfig = ApiConfig()
    agent: AgentConfig = AgentConfig()
    webhooks: WebhookConfig = WebhookConfig()
    trunks: dict[str, TrunkConfig] = Field(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment comes before the file."""
        return env_settings, init_settings

    @property
    def rtp_host(self) -> str:
        return self.rtp.host or self.sip.host


def load(path: Path | None = None) -> Config:
    """Read the file, if one is given, and the environment. Raises ConfigError."""
    _check_environment()
    try:
        return Config(**(_read(path) if path is not None else {}))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem) for problem in error.errors())) from None
    except ValueError:  # pydantic-settings: JSON that is none, in the environment
        raise ConfigError(_explain_environment()) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _check_environment() -> None:
    """A misspelt variable is an error, as a misspelt key in the file is."""
    for name in os.environ:
        if name.upper().startswith(ENV_PREFIX):
            section = name[len(ENV_PREFIX) :].partition("__")[0].lower()
            if section not in Config.model_fields:
                raise ConfigError(f"environment variable {name}: there is no section [{section}]")


def _explain_environment() -> str:
    """Which variable should have been JSON: that of a whole section, of a list or of a table."""
    for name, value in os.environ.items():
        if name.upper().startswith(ENV_PREFIX) and _wants_json(name[len(ENV_PREFIX) :].lower()):
            try:
                json.loads(value)
            except ValueError:
                return f'environment variable {name} must be JSON, such as ["..."] or {{"key": 1}}'
    return "environment: a list or table is not JSON"


def _wants_json(path: str) -> bool:
    section, _, key = path.partition("__")
    model = Config.model_fields[section].annotation
    if not key or not (isinstance(model, type) and issubclass(model, BaseModel)):
        return True
    field = model.model_fields.get(key)
    return field is not None and get_origin(field.annotation) in (tuple, dict)


def _explain(problem: object) -> str:
    details = dict(problem)  # type: ignore[call-overload]  # a TypedDict that pydantic does not export by name
    section, *keys = (str(part) for part in details["loc"])
    where = f"[{section}] {'.'.join(keys)}" if keys else f"[{section}]"
    if details["type"] == "extra_forbidden":
        return f"{where}: unknown {'key' if keys else 'section'}"
    message = str(details["msg"]).removeprefix("Value error, ")
    if details["type"] == "model_type":
        message = "must be a table"
    given = details.get("input")
    return f"{where}: {message}" + (f" (given: {given!r})" if isinstance(given, str | int | float) else "")
