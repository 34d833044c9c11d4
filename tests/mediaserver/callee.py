"""Whom the server calls in tests: SIP in memory beside a Caller's, RTP over the Caller's socket."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from sipmessage import Request, Response

from mediaserver.call.control import CallControl, PlaceOrder
from mediaserver.call.events import CallEvent
from mediaserver.speech.script import Script, Words
from sip.sdp import SessionDescription
from tests.mediaserver.caller import PEER, Caller, running_caller
from tests.sip.doubles import make_request

TRUNK: dict[str, object] = {"host": PEER[0], "port": PEER[1], "from_user": "desk"}


class Callee:
    """Answers one call of the server's."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.events: list[CallEvent] = []
        self.cseq = 0
        self.tag = "callee-1"
        self._seen: set[tuple[str, str]] = set()
        caller.calls.hub.listen(self.events.append)

    # What control does:

    def place(self, text: str | None = None, **order: Any) -> CallControl:
        script: Script = (Words(text),) if text is not None else ()
        return self.caller.calls.place(PlaceOrder(**{"to": "bob", "trunk": "pbx", "script": script, **order}))

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The data of the events of that type."""
        return [dict(event.data) for event in self.events if event.type == kind]

    def kinds(self, prefix: str = "call.") -> list[str]:
        return [event.type for event in self.events if event.type.startswith(prefix)]

    # What the callee does:

    async def ringing(self, code: int = 180, body: bytes = b"") -> Request:
        """Take the INVITE, and ring."""
        await self.invite()
        self.reply(code, body)
        return self.invited

    async def invite(self) -> Request:
        self.invited = await self.next("INVITE")
        return self.invited

    async def next(self, method: str) -> Request:
        """The server's next request of that method, unanswered; retransmissions are passed over."""
        found = await self.caller.message(
            lambda message: (
                isinstance(message, Request)
                and message.method == method
                and (method, message.headers["Via"]) not in self._seen
            )
        )
        assert isinstance(found, Request)
        self._seen.add((method, found.headers["Via"]))
        return found

    def reply(
        self, code: int, body: bytes = b"", *, to: Request | None = None, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """Answer a request; the INVITE if none is named."""
        request = to or self.invited
        response = Response(code, "X")
        for via in request.headers.getlist("Via"):
            response.headers.add("Via", via)
        for name in ("From", "To", "Call-ID", "CSeq"):
            response.headers.set(name, request.headers[name])
        if "tag=" not in request.headers["To"]:
            response.headers.set("To", f"{request.headers['To']};tag={self.tag}")
        response.headers.set("Contact", f"<sip:bob@{PEER[0]}:{PEER[1]}>")
        for name, value in headers:
            response.headers.add(name, value)
        if body:
            response.headers.set("Content-Type", "application/sdp")
        response.headers.set("Content-Length", str(len(body)))
        self.caller.receive(bytes(response) + body)

    async def answer(self, body: bytes | None = None) -> Request:
        """Answer the INVITE; its ACK."""
        self.reply(200, self.caller.sdp() if body is None else body)
        return await self.next("ACK")

    async def takes_the_call(self, text: str | None = None, **order: Any) -> CallControl:
        """A call that the server places and that is answered."""
        call = self.place(text, **order)
        await self.invite()
        await self.answer()
        return call

    async def in_dialog(self, method: str, body: bytes = b"", **headers: str) -> Response:
        """A request of the callee's; its response."""
        self.cseq += 1
        names: dict[str, str | None] = {name.replace("_", "-"): value for name, value in headers.items()}
        names["From"] = f"{self.invited.headers['To']};tag={self.tag}"
        names["To"] = self.invited.headers["From"]
        call_id = self.invited.headers["Call-ID"]
        self.caller.receive(make_request(method, cseq=self.cseq, call_id=call_id, headers=names, body=body))
        return await self.caller.response()

    async def notify(self, status: int, state: str = "active;expires=60") -> Response:
        """How a transfer goes (RFC 3515)."""
        return await self.in_dialog(
            "NOTIFY",
            f"SIP/2.0 {status} X\r\n".encode(),
            Event="refer",
            Subscription_State=state,
            Content_Type="message/sipfrag",
        )


def direction_of(request: Request) -> str:
    description = SessionDescription.parse(request.body)
    return description.direction_of(description.media[0])


@contextlib.asynccontextmanager
async def running_callee(trunk: dict[str, object] | None = None, **sections: Any) -> AsyncIterator[Callee]:
    """A callee at the trunk "pbx", and its node."""
    trunks = {"pbx": {**TRUNK, **(trunk or {})}, **sections.pop("trunks", {})}
    async with running_caller(trunks=trunks, **sections) as caller:
        yield Callee(caller)
