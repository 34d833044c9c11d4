"""What routes ask for is found in the event loop."""

from __future__ import annotations

import httpx
import pytest
from anyio import to_thread

from tests.mediaserver.api.fake_calls import FakeCalls


@pytest.fixture
def threaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was run in a thread."""
    names: list[str] = []
    run_sync = to_thread.run_sync

    async def noted(call: object, *args: object, **options: object) -> object:
        names.append(str(call))
        return await run_sync(call, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(to_thread, "run_sync", noted)
    return names


async def test_no_request_about_a_call_waits_for_a_thread(
    client: httpx.AsyncClient, calls: FakeCalls, threaded: list[str]
) -> None:
    """Calls belong to the event loop; and a thread gets its turn behind those that synthesise."""
    call = calls.arrive()
    for method, path, body in (
        ("GET", "", None),
        ("GET", f"/{call.id}", None),
        ("POST", f"/{call.id}/say", {"text": "hello"}),
        ("POST", f"/{call.id}/clear", None),
        ("POST", f"/{call.id}/dtmf", {"digits": "1"}),
        ("DELETE", f"/{call.id}", None),
    ):
        response = await client.request(method, f"/v1/calls{path}", json=body)
        assert response.is_success, response.text
    assert threaded == []
