"""Dialogs: RFC 3261 section 12. State only; messages are made from it and checked against it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace

from sipmessage import Request, Response

from .address import DEFAULT_PORT, Uri, parse_name_addr, parse_uri
from .errors import Fault
from .message import BRANCH_COOKIE, IncomingRequest, SocketAddress, VerbatimURI, header_values, with_tag

DialogId = tuple[str, str, str]
"Call-ID, local tag, remote tag."


def new_tag() -> str:
    """Section 19.3 asks for 32 bits of randomness; this has 64."""
    return secrets.token_hex(8)


def new_branch() -> str:
    return BRANCH_COOKIE + secrets.token_hex(10)


@dataclass(slots=True)
class Dialog:
    """A dialog as we see it: "local" is ours, whichever side has called."""

    call_id: str
    local_tag: str
    remote_tag: str
    local_address: str
    "Our From, with our tag; of a dialog that a peer set up the To of its INVITE, verbatim."
    remote_address: str
    "Our To; of a dialog that a peer set up the From of its INVITE, verbatim."
    remote_target: str
    "The URI of the peer's latest Contact, verbatim (section 12.2.2: a re-INVITE may move it)."
    route_set: list[str] = field(default_factory=list)
    remote_cseq: int = 0
    local_cseq: int = 0

    @classmethod
    def from_invite(cls, invite: IncomingRequest, local_tag: str) -> Dialog:
        """Section 12.1.1. Raises ValueError if the INVITE's Contact or Record-Route cannot be used."""
        return cls(
            call_id=invite.call_id,
            local_tag=local_tag,
            remote_tag=invite.from_tag,
            local_address=with_tag(invite.message.headers["To"], local_tag),
            remote_address=invite.message.headers["From"],
            remote_target=contact_uri(invite),
            route_set=_route_set(invite),
            remote_cseq=invite.cseq,
        )

    @classmethod
    def to_be(cls, from_address: str, target: str) -> Dialog:
        """What an INVITE of ours is made from: there is no dialog yet, and no remote tag."""
        tag = new_tag()
        return cls(
            call_id=secrets.token_hex(16),
            local_tag=tag,
            remote_tag="",
            local_address=f"{from_address};tag={tag}",
            remote_address=f"<{target}>",
            remote_target=target,
            remote_cseq=-1,  # the peer may begin with 0
        )

    def answered(self, response: Response) -> Dialog:
        """The dialog that a 2xx to our INVITE makes (section 12.1.2).

        Lenient where no harm is done: without a Contact that can be used, the target stays who was called. Raises
        ValueError if the Record-Route cannot be used.
        """
        return replace(
            self,
            remote_tag=response_tag(response),
            remote_address=response.headers.get("To") or self.remote_address,
            remote_target=response_target(response) or self.remote_target,
            route_set=_usable_routes(header_values(response, "Record-Route"))[::-1],
        )

    @property
    def id(self) -> DialogId:
        return self.call_id, self.local_tag, self.remote_tag

    def check(self, request: IncomingRequest) -> Fault | None:
        """Section 12.2.2: requests are numbered upwards. An ACK has its INVITE's number and is not checked."""
        if request.cseq <= self.remote_cseq:
            return Fault(500, "CSeq Is Out Of Order")
        self.remote_cseq = request.cseq
        return None

    def next_hop(self) -> SocketAddress:
        """The host and port that a request of ours goes to (section 12.2.1.1); the host may be a name."""
        uri = _uri(self.route_set[0]) if self.route_set else parse_uri(self.remote_target)
        return uri.host.strip("[]"), uri.port or DEFAULT_PORT

    def create_request(self, method: str, sent_by: str, headers: tuple[tuple[str, str], ...] = ()) -> Request:
        """Make the next request of ours in this dialog (section 12.2.1.1).

        sent_by: host and port that the response is to come to, for the Via.
        """
        self.local_cseq += 1
        return self._create(method, self.local_cseq, sent_by, headers)

    def create_ack(self, cseq: int, sent_by: str, headers: tuple[tuple[str, str], ...] = ()) -> Request:
        """Make the ACK of a 2xx (section 13.2.2.4): of its INVITE's number, but of a branch of its own."""
        return self._create("ACK", cseq, sent_by, headers)

    @property
    def request_uri(self) -> str:
        """The Request-URI of requests in this dialog."""
        return self._target_and_routes()[0]

    def _create(self, method: str, cseq: int, sent_by: str, headers: tuple[tuple[str, str], ...]) -> Request:
        target, routes = self._target_and_routes()
        request = Request(method, VerbatimURI.of(target))
        request.headers.set("Via", f"SIP/2.0/UDP {sent_by};branch={new_branch()};rport")
        request.headers.set("Max-Forwards", "70")
        for route in routes:
            request.headers.add("Route", route)
        request.headers.set("From", self.local_address)
        request.headers.set("To", self.remote_address)
        request.headers.set("Call-ID", self.call_id)
        request.headers.set("CSeq", f"{cseq} {method}")
        for name, value in headers:
            request.headers.add(name, value)
        request.headers.set("Content-Length", "0")
        return request

    def _target_and_routes(self) -> tuple[str, list[str]]:
        if not self.route_set:
            return self.remote_target, []
        first = _uri(self.route_set[0])
        if "lr" in first.parameters:
            return self.remote_target, self.route_set
        # A strict router (RFC 2543) wants itself in the Request-URI and the target at the end of the route.
        return str(first), [*self.route_set[1:], f"<{self.remote_target}>"]


def _uri(address: str) -> Uri:
    return parse_name_addr(address).uri


def contact_uri(request: IncomingRequest) -> str:
    """The URI of a request's Contact, verbatim. Raises ValueError that says what is wrong with it."""
    contacts = request.values("Contact")
    if len(contacts) != 1:
        raise ValueError("Missing Contact" if not contacts else "More Than One Contact")
    try:
        uri = _uri(contacts[0])
    except ValueError:
        raise ValueError("Contact Is Not Valid") from None
    if uri.scheme not in ("sip", "sips"):
        raise ValueError("Contact Is Not Valid")
    return uri.text


def response_tag(response: Response) -> str:
    """The To tag of a response, "" if it has none: a peer of RFC 2543, or one that is broken."""
    try:
        return parse_name_addr(response.headers.get("To", "") or "").parameters.get("tag", "")
    except ValueError:
        return ""


def response_target(response: Response) -> str | None:
    """The URI of a response's first Contact; None if there is none that a request could be sent to."""
    try:
        uri = _uri(next(iter(header_values(response, "Contact")), ""))
    except ValueError:
        return None
    return uri.text if uri.scheme in ("sip", "sips") else None


def _route_set(request: IncomingRequest) -> list[str]:
    return _usable_routes(request.values("Record-Route"))


def _usable_routes(routes: list[str]) -> list[str]:
    try:
        usable = all(_uri(route).host for route in routes)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("Record-Route Is Not Valid")
    return routes
