"""The OpenAPI document, and that what is served is as it says: schemathesis sends what it allows."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mediaserver.api.problems import MEDIA_TYPE
from mediaserver.api.state import ApiState, make_state
from mediaserver.api.stream.manager import StreamManager
from mediaserver.call.engines import CallEngines
from mediaserver.config import Config
from tests.mediaserver.api.conftest import app_of, bearer, shared_app, token_of
from tests.mediaserver.api.fake_calls import FakeCalls
from tests.mediaserver.fake_engine import FakeEngine

CALL_ID = "CA" + "0" * 32

schema = schemathesis.openapi.from_dict(shared_app().openapi())
tried = schema.exclude(path="/v1/events").exclude(path="/v1/audio/speech")
"Their answers have no end, or are audio."


@pytest.fixture
async def documented(state: ApiState) -> dict[str, Any]:
    document: dict[str, Any] = app_of(state).openapi()
    return document


async def test_every_operation_is_explained(documented: dict[str, Any]) -> None:
    for path, operations in documented["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert operation["description"], where
            assert operation["tags"], where
            assert set(operation["tags"]) <= {tag["name"] for tag in documented["tags"]}, where


async def test_every_error_is_a_problem(documented: dict[str, Any]) -> None:
    for path, operations in documented["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                openai = path.startswith(("/v1/audio/", "/v1/models"))  # they have its errors
                if int(status) >= 400 and not openai and path != "/healthz":
                    assert set(response["content"]) == {MEDIA_TYPE}, (method, path, status)
    assert "HTTPValidationError" not in json.dumps(documented)


async def test_every_operation_says_what_it_needs(documented: dict[str, Any]) -> None:
    scheme = documented["components"]["securitySchemes"]["token"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    without = [
        path for path, operations in documented["paths"].items() for op in operations.values() if not op.get("security")
    ]
    assert without == ["/healthz"]
    assert documented["paths"]["/v1/calls"]["post"]["security"] == [{"token": ["calls:write"]}]


async def test_every_post_takes_an_idempotency_key(documented: dict[str, Any]) -> None:
    for path, operations in documented["paths"].items():
        if "post" in operations and not path.startswith("/v1/audio/"):
            names = [parameter["name"] for parameter in operations["post"]["parameters"]]
            assert names.count("Idempotency-Key") == 1, path


AUDIO = "audio/"


async def test_everything_has_examples_that_fit_its_schema(documented: dict[str, Any]) -> None:
    """Requests, answers and errors of every operation; speech is audio, of which there are none."""
    seen = 0
    for path, operations in documented["paths"].items():
        for method, operation in operations.items():
            bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
            for kind, content in (item for body in bodies for item in body.get("content", {}).items()):
                where = (method, path, kind)
                named = [example["value"] for example in content.get("examples", {}).values()]
                examples = named or [content["example"]] if "example" in content or named else []
                assert bool(examples) != kind.startswith(AUDIO), where
                validator = jsonschema_rs.validator_for({**content["schema"], "components": documented["components"]})
                for example in examples:
                    assert not [error.message for error in validator.iter_errors(example)], where
                    seen += 1
    assert seen > 150


async def test_an_errors_example_is_of_its_status(documented: dict[str, Any]) -> None:
    for path, operations in documented["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                example = response.get("content", {}).get(MEDIA_TYPE, {}).get("example")
                if example is not None:
                    assert example["status"] == int(status), (method, path)
                    assert "{" not in example["instance"], (method, path)


async def test_operations_have_names_for_generated_clients(documented: dict[str, Any]) -> None:
    names = [operation["operationId"] for path in documented["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))
    assert {"place_call", "say", "hang_up", "begin_stream", "create_speech", "enrol_voice"} <= set(names)


async def test_examples_are_taken(client: httpx.AsyncClient, calls: FakeCalls, documented: dict[str, Any]) -> None:
    schemas = documented["components"]["schemas"]
    call = calls.arrive()
    for example in schemas["SayRequest"]["examples"]:
        assert (await client.post(f"/v1/calls/{call.id}/say", json=example)).status_code == 202, example
    (plain, *_) = schemas["PlaceRequest"]["examples"]
    assert (await client.post("/v1/calls", json=plain)).status_code == 201


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[ApiState, str]:
    """A state with all its parts, and a token for everything."""
    file = tmp_path_factory.mktemp("openapi") / "tokens.jsonl"
    config = Config(api={"tokens_file": str(file), "requests_per_s": 0})
    state = make_state(config, FakeCalls(), CallEngines(FakeEngine()))
    state.streams = StreamManager(state)
    return state, token_of(state, "admin")


def no_fault_of_ours(_context: object, response: schemathesis.Response, _case: schemathesis.Case) -> None:
    """501 and 503 are answers: the engine cannot enrol voices, or there is no room now."""
    assert response.status_code < 500 or response.status_code in (501, 503)


CHECKS = [no_fault_of_ours, status_code_conformance, content_type_conformance, response_schema_conformance]


@tried.parametrize()
@settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_what_is_served_is_as_documented(case: schemathesis.Case, served: tuple[ApiState, str]) -> None:
    """There is a call, so that more than 404 is seen."""
    state, secret = served
    calls = state.calls = FakeCalls()
    calls.arrive(call_id=CALL_ID)
    app = app_of(state)
    if "call_id" in (case.path_parameters or {}):
        case.path_parameters["call_id"] = CALL_ID
    case.call_and_validate(app=app, headers=bearer(secret), checks=CHECKS)
