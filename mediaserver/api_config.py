"""[api], [agent] and [webhooks]: the control interfaces and who may use them."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from mediaserver.call.events import matching_types
from mediaserver.config_section import Network, Section, networks_like, require_ip
from mediaserver.config_url import require_url, require_websocket_url

Megabytes = Annotated[int, Field(ge=1, le=100_000)]


class ApiConfig(Section):
    """[api]: HTTP and WebSocket control; docs/control-api.md."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    "0 for off."
    socket: str = ""
    "Path of a Unix socket to listen on instead."
    tls_certificate: str = ""
    tls_key: str = ""
    tokens_file: str = ""
    'What `chatterline tokens` writes; "" for that in the data directory.'
    max_body_kb: Annotated[int, Field(ge=16, le=1_000_000)] = 1024
    max_upload_mb: Annotated[int, Field(ge=1, le=1000)] = 20
    "Of a voice's recording."
    max_connections: Annotated[int, Field(ge=1, le=100_000)] = 1000
    requests_per_s: Annotated[float, Field(ge=0, le=100_000)] = 200.0
    "Of each token, on average; 0 for no limit."
    max_speech_streams: Annotated[int, Field(ge=0, le=10_000)] = 8
    "POST /v1/audio/speech at once."
    max_watchers: Annotated[int, Field(ge=0, le=10_000)] = 20
    "Subscribers of /v1/events at once."
    allow_urls: tuple[str, ...] = ()
    """What agents, media streams, webhooks and played sounds may be at: prefixes of URLs, such as
    "wss://agent.example.com/". Of those that a request names; what the configuration names is allowed by that."""
    allow_networks: tuple[Network, ...] = ()
    "Of addresses that are not public, those that such URLs may lead to."

    _host_is_ip = field_validator("host")(require_ip)
    _networks = field_validator("allow_networks", mode="before")(networks_like("10.0.0.0/8"))

    @field_validator("allow_urls")
    @classmethod
    def _prefixes(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            require_url(url, "http", "https", "ws", "wss")
            _scheme, _, rest = url.partition("://")
            host, slash, _path = rest.partition("/")
            if not slash or "@" in host:
                raise ValueError(
                    f'{url!r} is not the beginning of a URL up to its path, such as "https://example.com/"'
                )
        return urls

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key go together")
        if (
            self.port
            and not self.socket
            and not self.tls_certificate
            and not ipaddress.ip_address(self.host).is_loopback
        ):
            raise ValueError("beyond this machine tokens need TLS: set tls_certificate and tls_key, or a loopback host")
        return self


class AgentConfig(Section):
    """[agent]: applications that speak on calls over a WebSocket; docs/agents.md."""

    url: str = ""
    "Dialled for each call of which neither its trunk nor whoever placed it names one; empty for none."
    secret: SecretStr = SecretStr("")
    "Signs our connections (X-Twilio-Signature and X-Chatterline-Signature)."
    connect_timeout_s: Annotated[float, Field(ge=0.1, le=60)] = 5.0
    reconnects: Annotated[int, Field(ge=0, le=100)] = 3
    "Attempts after a connection is lost or could not be made."
    reconnect_s: Annotated[float, Field(ge=0.01, le=60)] = 0.5
    "Before the first of them; twice as long before each further one, up to 10 s."
    fallback: str = "I am sorry, something went wrong. Please call again later."
    "Said when the agent is lost for good."
    fallback_transfer: str = ""
    "Where the call then goes; empty: it is ended."
    barge_in: Literal["none", "speech", "digit", "either"] = "either"
    "For speech that an agent marks as interruptible."
    prompt_timeout_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    "A connected agent that says nothing at the beginning of a call for so long is lost; 0 for never."
    max_message_kb: Annotated[int, Field(ge=1, le=10_000)] = 64
    messages_per_s: Annotated[int, Field(ge=10, le=100_000)] = 500
    "That an agent may send."

    _url_is_websocket = field_validator("url")(require_websocket_url)


class WebhookConfig(Section):
    """[webhooks]: events posted to an application."""

    url: str = ""
    "Empty for none."
    secret: SecretStr = SecretStr("")
    "Signs each request (HMAC-SHA256)."
    events: tuple[str, ...] = ()
    'Of which types, such as "call.ended" or "speech.*"; empty for all.'
    spool_dir: str = ""
    'Where events wait for an application that is away; "" for that in the data directory.'
    spool_mb: Megabytes = 64
    "Of that directory; beyond it the oldest events are dropped, and counted."
    retry_hours: Annotated[float, Field(ge=0, le=720)] = 24.0
    timeout_s: Annotated[float, Field(ge=0.1, le=120)] = 10.0

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        return require_url(url, "http", "https")

    @field_validator("events")
    @classmethod
    def _are_types(cls, events: tuple[str, ...]) -> tuple[str, ...]:
        matching_types(events)
        return events

    @model_validator(mode="after")
    def _is_signed(self) -> Self:
        if self.url and not self.secret.get_secret_value():
            raise ValueError("url needs a secret: events are signed")
        return self
