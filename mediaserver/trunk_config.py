"""[trunks.NAME]: the SIP peers that calls are placed through, and what their calls are given."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from mediaserver.config_section import Network, Section, networks_like
from mediaserver.config_url import require_websocket_url


class TrunkConfig(Section):
    """One SIP peer: a PBX, a carrier, a proxy."""

    host: Annotated[str, Field(min_length=1)]
    "Name or address that INVITEs go to."
    port: Annotated[int, Field(ge=1, le=65535)] = 5060
    domain: str = ""
    "Of the URIs of who is called; empty for `host`."
    from_user: str = "chatterline"
    from_name: str = ""
    username: str = ""
    "For digest authentication; empty for none."
    password: SecretStr = SecretStr("")
    networks: tuple[Network, ...] = ()
    "Whose INVITEs are of this trunk: they get its agent and its greeting. [sip] allow has to let them in."
    max_calls: Annotated[int, Field(ge=0, le=100_000)] = 0
    "Placed through it at once; 0 for no limit of its own."
    answer_timeout_s: Annotated[float, Field(ge=1, le=600)] = 60.0
    agent_url: str = ""
    greeting: str | None = None
    "Instead of [calls] greeting; an agent's calls have none unless it is set here."
    stream_url: str = ""
    "Where the audio of its calls is forked to."
    stream_tracks: Literal["inbound", "outbound", "both"] = "inbound"
    parameters: dict[str, str] = Field(default_factory=dict)
    "customParameters of the agent's setup and of the stream's start."

    _urls = field_validator("agent_url", "stream_url")(require_websocket_url)
    _networks = field_validator("networks", mode="before")(networks_like("192.0.2.10/32"))

    @model_validator(mode="after")
    def _password_has_a_user(self) -> Self:
        if self.password.get_secret_value() and not self.username:
            raise ValueError("password needs a username")
        return self
