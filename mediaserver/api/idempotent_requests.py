"""The header Idempotency-Key on requests: mediaserver.api.idempotency, as ASGI middleware."""

from __future__ import annotations

import hashlib
from time import monotonic, time

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mediaserver.api.auth import authorize, bearer_of
from mediaserver.api.idempotency import Answer
from mediaserver.api.problems import Problem
from mediaserver.api.state import state_of

MAX_KEY_CHARS = 255

MAX_ANSWER_BYTES = 16 * 1024
"Longer ones are not kept: those of calls are well below."

NOT_KEPT = ("/v1/audio/",)
"Paths whose answers are streams of audio, and change nothing."


class Idempotency:
    """ASGI middleware: heeds the header on every POST that has a bearer token."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"].startswith(NOT_KEPT):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        key, secret = request.headers.get("idempotency-key"), bearer_of(request)
        token = state_of(request).tokens.find(secret, time()) if key is not None and secret else None
        if key is None or token is None:  # who is nobody gets a 401 of the application
            await self._app(scope, receive, send)
            return
        try:
            response = await self._answered(request, key, secret, token.id, send)
        except Problem as problem:
            response = problem.response(request.url.path)
        except ClientDisconnect:
            return  # before all of the body had come: nothing is done, and nobody to be told
        if response is not None:
            await response(scope, receive, send)

    async def _answered(
        self, request: Request, key: str, secret: str | None, owner: str, send: Send
    ) -> Response | None:
        """The response that is to be sent; None: it has been. Raises Problem."""
        if not 1 <= len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable():
            raise Problem(
                400, "bad-idempotency-key", f"Idempotency-Key is not 1 to {MAX_KEY_CHARS} printable ASCII characters"
            )
        body = await request.body()
        answer = state_of(request).idempotency.begin(owner, key, _fingerprint(request, body), monotonic())
        if answer is not None:
            authorize(request, state_of(request), secret, ())  # a repetition counts for the rate
            response = Response(answer.body, answer.status)
            response.raw_headers = [*answer.headers, (b"idempotency-replayed", b"true")]
            return response
        recorder = _Recorder(send)
        try:
            await self._app(request.scope, _replay(body, request.receive), recorder.send)
        finally:
            state_of(request).idempotency.finish(owner, key, recorder.answer)
        return None


class _Recorder:
    """Keeps a response while it is sent."""

    def __init__(self, send: Send) -> None:
        self.answer: Answer | None = None
        self._send = send
        self._start: Message = {}
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body" and len(self._body) <= MAX_ANSWER_BYTES:
            self._body += message.get("body", b"")
            complete = not message.get("more_body", False) and len(self._body) <= MAX_ANSWER_BYTES
            if complete and 200 <= self._start["status"] < 300:
                self.answer = Answer(self._start["status"], tuple(self._start["headers"]), self._body)
        await self._send(message)


def _fingerprint(request: Request, body: bytes) -> bytes:
    """What has to be the same for a request to be the same."""
    digest = hashlib.sha256()
    kind = request.headers.get("content-type", "")
    for part in (request.url.path.encode(), request.url.query.encode(), kind.encode(), body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body that has been read already; then what else comes: that the client is gone."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
