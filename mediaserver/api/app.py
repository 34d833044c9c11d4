"""The application: all interfaces together, as ASGI."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI

from mediaserver import __version__
from mediaserver.api import audio_speech, calls, events, page, problems, status, voices
from mediaserver.api.agent import endpoint as agent
from mediaserver.api.idempotent_requests import Idempotency
from mediaserver.api.middleware import SERVER_HEADERS, BodyLimit, ServerHeaders
from mediaserver.api.openapi import document
from mediaserver.api.state import ApiState
from mediaserver.api.stream import endpoint as stream


def make_app(state: ApiState) -> FastAPI:
    """Serves `state`. Neither CORS nor interactive documentation: that would be a page of another's scripts."""
    app = FastAPI(
        title="Chatterline",
        version=__version__,
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,  # operationId: what generated clients call it
    )
    app.state.api = state
    app.openapi = partial(document, app)  # type: ignore[method-assign]  # as FastAPI documents it
    problems.install(app, SERVER_HEADERS)
    for router in (
        calls.router,
        events.router,
        status.router,
        stream.router,
        agent.router,
        audio_speech.router,
        voices.router,
        page.router,
    ):
        app.include_router(router)
    # The last one added is the outermost.
    app.add_middleware(Idempotency)
    app.add_middleware(BodyLimit)
    app.add_middleware(ServerHeaders)
    return app
