"""The node: is it well, how busy is it, and drain."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Response
from prometheus_client.core import Metric
from pydantic import BaseModel, Field

from mediaserver import __version__
from mediaserver.api.auth import Admin, CallsRead
from mediaserver.api.problems import problem_responses
from mediaserver.api.state import ApiState, State

router = APIRouter(tags=["node"])

PREFIX = "chatterline_"

FRESH_S = 0.5
"To read all metrics costs milliseconds: however many look, it is done so often at most."


class Health(BaseModel):
    """GET /healthz."""

    status: Annotated[str, Field(description="ok, draining, or engine_down.", examples=["ok"])]


class EngineStatus(BaseModel):
    """One speech engine."""

    name: str
    ready: bool
    available: Annotated[str | None, Field(description="Why a further stream would not be served now; null: it would.")]
    voices: list[str]
    default_voice: str
    features: list[str]


class HistogramStatus(BaseModel):
    """A distribution, as Prometheus has it: counts are cumulative, the last one of all values."""

    labels: dict[str, str]
    bounds: Annotated[list[float], Field(description="Upper bounds, included; seconds unless its name says otherwise.")]
    counts: list[float]
    sum: float | None


class Sample(BaseModel):
    """One number."""

    labels: dict[str, str]
    value: Annotated[float | None, Field(description="null where it cannot be read.")]


class CallsStatus(BaseModel):
    """How many calls there are."""

    running: int
    max: int
    by_state: dict[str, int]


class Status(BaseModel):
    """The node, now. Metrics are those of Prometheus, without the prefix `chatterline_`."""

    version: str
    started_at: Annotated[float, Field(description="Seconds since 1970, UTC.")]
    now: Annotated[float, Field(description="Seconds since 1970, UTC.")]
    draining: bool
    load: Annotated[float | None, Field(description="Share of the last second that the media thread was at work.")]
    calls: CallsStatus
    engines: Annotated[list[EngineStatus], Field(description="The primary one first.")]
    first_audio: Annotated[
        list[HistogramStatus],
        Field(description="Seconds from a text's arrival to the first packet with its speech, by engine and queued."),
    ]
    underruns: Annotated[dict[str, float], Field(description="Gaps within utterances since the start, by cause.")]
    metrics: dict[str, list[Sample]]
    histograms: dict[str, list[HistogramStatus]]
    api: Annotated[dict[str, int], Field(description="What the control interfaces have counted.")]


class Draining(BaseModel):
    """Whether calls are refused, and how many still run."""

    draining: bool
    calls: int


@router.get(
    "/healthz",
    summary="Whether calls are taken",
    responses={503: {"model": Health, "description": "Draining, or no engine is ready."}},
)
async def healthz(state: State, response: Response) -> Health:
    """For load balancers; needs no token."""
    if state.calls.draining:
        status = "draining"
    elif not any(engine.ready for engine in state.engines.all):
        status = "engine_down"
    else:
        return Health(status="ok")
    response.status_code = 503
    return Health(status=status)


@router.get(
    "/v1/status", summary="How busy the node is", response_model=Status, responses=problem_responses(401, 403, 429)
)
async def get_status(state: State, _token: CallsRead) -> Response:
    """Load, engines, how long callers wait for speech, and all metrics; at most half a second old."""
    now = time.monotonic()
    if state.status is None or now - state.status[0] > FRESH_S:
        state.status = now, status_of(state, list(state.registry.collect())).model_dump_json().encode()
    return Response(state.status[1], media_type="application/json")


@router.post("/v1/drain", status_code=202, summary="Drain", responses=problem_responses(401, 403, 429))
async def drain(state: State, _token: Admin) -> Draining:
    """Take no more calls; those that run go on."""
    state.calls.begin_drain()
    state.status = None
    return _draining(state)


@router.delete("/v1/drain", summary="End the drain", responses=problem_responses(401, 403, 429))
async def end_drain(state: State, _token: Admin) -> Draining:
    """Take calls again."""
    state.calls.end_drain()
    state.status = None
    return _draining(state)


def _draining(state: ApiState) -> Draining:
    return Draining(draining=state.calls.draining, calls=len(state.calls.running()))


def status_of(state: ApiState, families: Iterable[Metric]) -> Status:
    """The node, from what Prometheus would be told."""
    metrics: dict[str, list[Sample]] = {}
    histograms: dict[str, list[HistogramStatus]] = {}
    for family in families:
        name = family.name.removeprefix(PREFIX)
        if family.type == "histogram":
            histograms[name] = histograms_of(family)
        else:
            metrics[name] = [Sample(labels=dict(one.labels), value=_finite(one.value)) for one in family.samples]
    calls = [call.view().state for call in state.calls.running()]
    return Status(
        version=__version__,
        started_at=state.started_at,
        now=time.time(),
        draining=state.calls.draining,
        load=_single(metrics, "pacer_load"),
        calls=CallsStatus(
            running=len(calls),
            max=state.config.calls.max_calls,
            by_state={name: calls.count(name) for name in sorted(set(calls))},
        ),
        engines=[
            EngineStatus(
                name=engine.name,
                ready=engine.ready,
                available=None if (fault := engine.available()) is None else str(fault),
                voices=list(engine.voices),
                default_voice=engine.default_voice,
                features=sorted(engine.features),
            )
            for engine in state.engines.all
        ],
        first_audio=histograms.get("speech_first_packet_seconds", []),
        underruns={
            cause: value
            for cause in ("engine", "engine_busy", "event_loop", "sound")
            if (value := _single(metrics, f"underruns_{cause}")) is not None
        },
        metrics=metrics,
        histograms=histograms,
        api={**state.counts, "watchers": state.watchers},
    )


def histograms_of(family: Metric) -> list[HistogramStatus]:
    """A family's histograms, one for each set of labels."""
    found: dict[tuple[tuple[str, str], ...], HistogramStatus] = {}
    for sample in family.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        one = found.setdefault(
            tuple(sorted(labels.items())), HistogramStatus(labels=labels, bounds=[], counts=[], sum=None)
        )
        if sample.name.endswith("_bucket"):
            if math.isfinite(bound := float(sample.labels["le"])):
                one.bounds.append(bound)
            one.counts.append(sample.value)
        elif sample.name.endswith("_sum"):
            one.sum = _finite(sample.value)
    return list(found.values())


def _single(metrics: dict[str, list[Sample]], name: str) -> float | None:
    samples = metrics.get(name)
    return samples[0].value if samples else None


def _finite(value: float) -> float | None:
    """JSON has no others."""
    return value if math.isfinite(value) else None
